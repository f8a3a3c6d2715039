"""Parts that are chosen by name: the program's own, and those of other installed packages.

A package offers one with an entry point; in its ``pyproject.toml``::

    [project.entry-points."crossfire.matcher"]
    sure = "my_package:sure_matches"

Nothing is imported before it is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from crossfire_core.errors import ConfigError


@dataclass(frozen=True)
class Registry:
    """The parts of one kind.

    Attributes:
        kind: what they are; entry points are in the group ``crossfire.KIND``.
        own: where the program's own ones are, as ``module:name``, in the order of trying.
    """

    kind: str
    own: Mapping[str, str]

    def names(self) -> tuple[str, ...]:
        """All names, the program's own first."""
        return tuple(self._found())

    def load(self, name: str) -> Any:
        """The part of a name.

        Raises:
            ConfigError: nobody offers it, or its package cannot be imported.
        """
        group = f"crossfire.{self.kind}"
        point = EntryPoint(name, self.own[name], group) if name in self.own else None
        point = point or self._found().get(name)
        if point is None:
            raise ConfigError(
                f"{self.kind} {name!r} is unknown: choose from {', '.join(self.names())}"
            )
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{self.kind} {name} cannot be imported: {error}") from error

    def _found(self) -> dict[str, EntryPoint]:
        group = f"crossfire.{self.kind}"
        own = {name: EntryPoint(name, value, group) for name, value in self.own.items()}
        return own | {p.name: p for p in entry_points(group=group) if p.name not in own}


_CORE = "crossfire_core"

MATCHERS = Registry("matcher", {"nearest": f"{_CORE}.localization.matching:match_points"})
SOLVERS = Registry(
    "solver",
    {
        "ransac": f"{_CORE}.localization.pose_solver:solve_pose",
        "opencv": f"{_CORE}.localization.pose_solver:solve_pose_by_opencv",
    },
)
NETWORKS = Registry("network", {"pyramid": f"{_CORE}.features.network:ImageNetwork"})
BACKENDS = Registry(
    "backend",
    {
        name: f"{_CORE}.field.encoding_{name}:encode"
        for name in ("tinycudann", "triton", "numba", "torch")
    },
)
READERS = Registry(
    "reader",
    {
        name: f"{_CORE}.recordings.{module}:READER"
        for name, module in (
            # those with the clearest marks first
            ("rosbag2", "bag"),
            ("transforms", "images"),
            ("euroc", "euroc"),
            ("kapture", "kapture"),
            ("cambridge", "cambridge"),
            ("tum", "tum"),
            ("ace", "ace"),
            ("7scenes", "seven_scenes"),
            ("colmap", "colmap"),
        )
    },
)
PEERS = Registry(
    "peer",
    {
        name: f"{_CORE}.evaluation.peers.methods:{name.upper()}"
        for name in ("sift", "xfeat", "lighterglue", "lightglue", "retrieval")
    },
)
