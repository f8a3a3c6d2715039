"""The places that ``crossfire sample`` knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crossfire_core.errors import ConfigError
from crossfire_core.sample import building, corridor, rig
from crossfire_core.sample.recording import CAMERA, MAPPING, QUERY, PassSettings, write_sample


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        place: a name in :data:`PLACES`.
        rooms: how many; None takes the place's own number.
        floors: how many storeys; None takes the place's own number.
        alike: whether rooms are alike but for small things.
        only: names of the passes to make; empty makes all.
        seed: of everything that is drawn at random.
    """

    place: str
    rooms: int | None = None
    floors: int | None = None
    alike: bool = False
    only: tuple[str, ...] = ()
    seed: int = 1

    def passes(self) -> tuple[PassSettings, ...]:
        """What is to be recorded.

        Raises:
            ConfigError: no such place or pass, or an option that the place does not have.
        """
        if self.place not in PLACES:
            raise ConfigError(f"place {self.place!r} is unknown: choose {', '.join(PLACES)}")
        made = PLACES[self.place][0](self)
        known = [each.name for each in made]
        for name in self.only:
            if name not in known:
                raise ConfigError(f"{self.place} has no pass {name!r}: choose {', '.join(known)}")
        return tuple(each for each in made if not self.only or each.name in self.only)


def _room(request: Request) -> tuple[PassSettings, ...]:
    if request.rooms is not None or request.alike:
        raise ConfigError("the room is one room: --rooms and --alike belong to --place corridor")
    _one_floor(request)
    return (MAPPING, QUERY)


def _corridor(request: Request) -> tuple[PassSettings, ...]:
    _one_floor(request)
    rooms = 6 if request.rooms is None else request.rooms
    return corridor.corridor_passes(rooms, request.alike, request.seed)


def _building(request: Request) -> tuple[PassSettings, ...]:
    rooms = 12 if request.rooms is None else request.rooms
    floors = 2 if request.floors is None else request.floors
    return building.building_passes(rooms, floors, request.seed)


def _rig(request: Request) -> tuple[PassSettings, ...]:
    if request.rooms is not None or request.alike:
        raise ConfigError("a rig is in one room: --rooms and --alike belong to --place corridor")
    _one_floor(request)
    return rig.rig_passes()


def _one_floor(request: Request) -> None:
    if request.floors is not None:
        raise ConfigError(f"a {request.place} has one floor: --floors belongs to --place building")


PLACES: dict[str, tuple[Callable[[Request], tuple[PassSettings, ...]], tuple[int, int]]] = {
    "room": (_room, CAMERA.size),
    "corridor": (_corridor, corridor.SIZE),
    "building": (_building, building.SIZE),
    "rig": (_rig, rig.IMAGE_SIZE),
}


def place_of(folder: Path) -> str:
    """The place that a folder is named after, else the room."""
    return folder.name if folder.name in PLACES else "room"


def write_place(
    folder: Path, request: Request, on_frame: Callable[[int, int, str], None] | None = None
) -> dict[str, Path]:
    """Write a place's passes; see :func:`~.recording.write_sample`.

    Raises:
        ConfigError: the request cannot be met.
        MissingDependencyError: trimesh or embreex is not installed.
        RecordingError: the bag cannot be written.
    """
    passes = request.passes()
    size = PLACES[request.place][1]
    return write_sample(folder, request.seed, on_frame, passes=passes, size=size)
