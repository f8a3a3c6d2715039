"""Show a map, its mapping cameras and live localization in Rerun: extra ``[viz]``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import optional
from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import ImageLocalizer, PoseEstimate
from crossfire_core.recordings.frame import Frame
from crossfire_core.reports.pictures import MapRenderer, lift, small_camera

_GREEN, _RED, _GREY, _BLUE = (40, 200, 90), (220, 60, 50), (150, 155, 160), (50, 110, 200)


def rerun() -> Any:
    """The Rerun SDK; raises as :func:`.optional`."""
    return optional(
        "rerun", "the viewer needs Rerun: install it with pip install '.[viz]' in the clone"
    )


class Viewer:
    """Logs to Rerun: a window, or a file to be opened later."""

    def __init__(self, save: Path | None = None) -> None:
        """Open a window, or write to a file.

        Args:
            save: an .rrd file; None opens Rerun's viewer.

        Raises:
            MissingDependencyError: Rerun is not installed.
        """
        self._sdk = rerun()
        self._stream = self._sdk.RecordingStream("crossfire")
        if save is None:
            self._stream.spawn()
        else:
            save.parent.mkdir(parents=True, exist_ok=True)
            self._stream.save(str(save))
        self._trail: list[NDArray[np.float64]] = []

    def close(self) -> None:
        """Write what is still on its way."""
        self._stream.flush()

    def show_map(
        self, renderer: MapRenderer, camera: Camera, poses: list[Pose], views: int = 30
    ) -> int:
        """The map's surface as coloured points, and the mapping cameras.

        Returns:
            How many points are shown.
        """
        sdk = self._sdk
        small = small_camera(camera, 120)
        chosen = [poses[i] for i in np.unique(np.linspace(0, len(poses) - 1, views).astype(int))]
        parts = [lift(renderer, small, pose) for pose in chosen]
        points = np.concatenate([p for p, _ in parts])
        colours = np.concatenate([c for _, c in parts])
        cloud = sdk.Points3D(points, colors=np.clip(colours, 0, 1), radii=0.006)
        self._stream.log("map/surface", cloud, static=True)
        centres = np.stack([p.translation for p in poses])
        path = sdk.LineStrips3D([centres], colors=[_GREY], radii=0.004)
        self._stream.log("map/mapping_path", path, static=True)
        for index, pose in enumerate(chosen):
            self._camera(f"map/cameras/{index:03d}", camera, pose, static=True)
        return len(points)

    def show_frame(self, frame: Frame, estimate: PoseEstimate) -> None:
        """One localized image: camera, image, matches, truth."""
        sdk = self._sdk
        self._stream.set_time("time", timestamp=frame.stamp_ns * 1e-9)
        if frame.world_from_camera is not None:
            at = sdk.Points3D([frame.world_from_camera.translation], colors=[_BLUE], radii=0.02)
            self._stream.log("truth", at)
        self._stream.log("status", sdk.TextLog(estimate.reason or "localized"))
        if not estimate.ok or estimate.map_from_camera is None:
            return
        pose = estimate.map_from_camera
        self._camera("live", frame.camera, pose)
        self._stream.log("live/image", sdk.Image(frame.image).compress())
        self._trail.append(pose.translation)
        self._stream.log("path", sdk.LineStrips3D([self._trail], colors=[_GREEN], radii=0.006))
        self._matches(estimate)

    def _matches(self, estimate: PoseEstimate) -> None:
        found = estimate.details
        if found is None:
            return
        colours = np.where(found.inlier[:, None], _GREEN, _RED)
        pixels = self._sdk.Points2D(found.pixels, colors=colours, radii=1.5)
        self._stream.log("live/image/matches", pixels)
        points = self._sdk.Points3D(found.points[found.inlier], colors=[_GREEN], radii=0.01)
        self._stream.log("matches", points)

    def _camera(self, path: str, camera: Camera, pose: Pose, static: bool = False) -> None:
        transform = self._sdk.Transform3D(translation=pose.translation, mat3x3=pose.rotation)
        self._stream.log(path, transform, static=static)
        lens = self._sdk.Pinhole(
            image_from_camera=camera.matrix,
            resolution=[camera.width, camera.height],
            image_plane_distance=0.12,
        )
        self._stream.log(f"{path}/image", lens, static=static)


def show_recording(
    viewer: Viewer, localizer: ImageLocalizer, frames: Iterable[Frame]
) -> Iterator[PoseEstimate]:
    """Localize frames one after the other, each from the last pose, and show them."""
    last: Pose | None = None
    for frame in frames:
        estimate = localizer.localize(frame.image, frame.camera, last)
        last = estimate.map_from_camera if estimate.ok else None
        viewer.show_frame(frame, estimate)
        yield estimate
