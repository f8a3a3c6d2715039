"""The map that serves, and another one that is on its way to take its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rclpy.parameter import Parameter

from crossfire_core.errors import CrossfireError
from crossfire_ros.map_loading import LoadedMap, Loading, MapLoader, ReadMap
from crossfire_ros.settings import Settings, check_frames
from crossfire_ros.worker import Worker

if TYPE_CHECKING:
    from crossfire_ros.localization_node import LocalizationNode

_POLL_S = 0.05  # between two looks at a map on its way


class MapSlot:
    """Loads maps beside the node's callbacks.

    Attributes:
        loaded: the map that serves, or None.
        file: where it is, as the parameter has it.
        loading: a map on its way, or None.
        change_failed: why another map did not take the place of the one that serves.
        loader: the thread that reads further maps, once there was one.
    """

    def __init__(self, node: LocalizationNode, load: MapLoader) -> None:
        """Hold none.

        Args:
            node: that localizes in it.
            load: makes the localizer from the settings.
        """
        self._node, self.load = node, load
        self._timer: Any = None
        self.loader: Worker[None] | None = None
        self.loading: Loading | None = None
        self.clear()

    def clear(self) -> None:
        """Forget the map, and the one on its way."""
        self._end_loading()
        self.loaded: LoadedMap | None = None
        self.file = self.change_failed = ""

    @property
    def configured(self) -> bool:
        """Whether there is a map, or will be."""
        return self.loading is not None or self.loaded is not None

    @property
    def name(self) -> str:
        """Of the map that serves."""
        return self.loaded.name if self.loaded is not None else ""

    @property
    def frame(self) -> str:
        """In which poses are published."""
        frame_id = self.loaded.frame_id if self.loaded is not None else ""
        return self._node.settings.node.map_frame or frame_id

    def begin(self, read: ReadMap, worker: Worker[Any]) -> None:
        """Have a map read."""
        self._end_loading()
        self.loading = Loading(read, self._node.settings.node.map)
        worker.call(self.loading.run)
        self._timer = self._node.create_timer(_POLL_S, self._look, clock=self._node.steady)

    def judge(self, asked: Settings) -> str:
        """Why a changed parameter `map` cannot be taken, or an empty string."""
        if self.configured and asked.node.map not in (self.file, self._node.settings.node.map):
            try:
                self.load(asked)  # looks whether it is there, no more
            except (CrossfireError, OSError) as error:
                return str(error)
        return ""

    def change(self) -> None:
        """Load another map while the one there is serves, on a thread kept for all that follow."""
        self.change_failed = ""
        settings = self._node.settings
        if settings.node.map == self.file:
            self._end_loading()  # the one that serves after all
        elif self.loaded is None:  # not even the first one is there
            self.begin(lambda: self.load(settings)(), self._node.worker)
        else:
            self.loader = self.loader or Worker(lambda _: None, lambda: None, self._node.complain)
            self.begin(lambda: self.load(settings)(), self.loader)
            self._node.get_logger().info(f"loading {settings.node.map}, {self.name} serves on")

    def take(self, found: LoadedMap, file: str) -> None:
        """Let a map serve from now on."""
        self.loaded, self.file = found, file
        self._node.get_logger().info(
            f"map {found.name or 'loaded'} is ready, poses are in frame {self.frame!r}"
        )

    def _look(self) -> None:
        loading = self.loading
        if loading is None or not loading.done:
            return
        self._end_loading()
        found, failure = loading.result, loading.failure
        if found is not None:
            try:
                config = self._node.settings.node
                check_frames(config, config.map_frame or found.frame_id)
            except CrossfireError as error:
                failure = str(error)
        if found is not None and not failure:
            self._node.serve(found, loading.file)
        elif self.loaded is None:
            self._node.give_up(failure)
        else:
            self._keep(f"{loading.file} does not take the map's place: {failure}")
        self._node.status.publish()

    def _keep(self, failure: str) -> None:
        """The map that serves goes on, and the parameter says so."""
        self._node.get_logger().error(failure)
        self._node.set_parameters([Parameter("map", value=self.file)])
        self.change_failed = failure

    def _end_loading(self) -> None:
        self.loading = None
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
