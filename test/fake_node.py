"""The localization node as a process of its own, with a localizer that needs no map file."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

from recording_samples import BASE_FROM_CAMERA, base_pose
from ros_graph import FakeLocalizer

from crossfire_core.errors import ConfigError
from crossfire_core.localization.estimate import WIDE
from crossfire_ros import localization_node
from crossfire_ros.map_loading import LoadedMap, ReadMap
from crossfire_ros.settings import Settings


class PictureLocalizer(FakeLocalizer):
    """Knows from the first pixel of :func:`recording_samples.picture` which image it is."""

    def localize(self, image, camera, prior=None, *, search=WIDE):
        there = base_pose(int(image[0, 0, 0]) / 9.0) @ BASE_FROM_CAMERA
        return replace(super().localize(image, camera, prior), map_from_camera=there)


def load(settings: Settings) -> ReadMap:
    if settings.node.map.endswith("missing.map"):
        raise ConfigError("there is no map missing.map")
    readers = {"endless.map": endless, "busy.map": busy}
    return readers.get(settings.node.map.rpartition("/")[2], fake)


def endless() -> LoadedMap:
    print("loading without end", file=sys.stderr, flush=True)
    threading.Event().wait()
    raise AssertionError("nobody ends this")


def busy() -> LoadedMap:
    print("loading without end", file=sys.stderr, flush=True)
    while True:  # keeps the interpreter to itself as well
        pass


def fake() -> LoadedMap:
    return LoadedMap(PictureLocalizer(), "map", BASE_FROM_CAMERA, "fake.map")


if __name__ == "__main__":
    localization_node.main(sys.argv, load)
