"""Images of a rig's cameras, taken at one time: one pose of the robot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossfire_core.errors import CalibrationError, ConfigError

if TYPE_CHECKING:
    from crossfire_core.geometry import Pose
    from crossfire_core.localization.estimate import PoseEstimate
    from crossfire_core.localization.rig import RigEstimate, RigImage
    from crossfire_core.maps.header import MapHeader, RigCamera


def localize_together(
    localizer: Any, images: Sequence[Path], cameras: Sequence[str], prior: Pose | None
) -> dict[str, Any]:
    """Localize a robot by image files.

    Args:
        localizer: of a map that was made by a rig.
        images: one of each camera.
        cameras: their names in the map.
        prior: ``map_from_base`` to start from, or None.

    Returns:
        The outcome as plain types: ``map_from_base``, and why cameras have no say.

    Raises:
        ConfigError: the map has no such cameras, or there are not as many as images.
        CrossfireError: an image cannot be read or is of another shape than its camera's.
    """
    from crossfire_core.localization.rig import RigLocalizer, RigWitness

    if not isinstance(localizer, RigWitness):
        raise ConfigError("--cameras needs a map of one file: localize each image by itself")
    known = _cameras(localizer.neural_map.header, cameras, len(images))  # type: ignore[attr-defined]
    seen = [_image(path, camera) for path, camera in zip(images, known, strict=True)]
    found = RigLocalizer(localizer).localize(seen, prior)
    left_out = found.left_out or ("no place of the map looks like this image",) * len(seen)
    return {
        **outcome_json(found, "map_from_base"),
        "evidence": found.evidence,
        "left_out": dict(zip(cameras, left_out, strict=True)),
    }


def outcome_json(found: PoseEstimate | RigEstimate, name: str) -> dict[str, Any]:
    """Whether an image or a rig was found, and its pose under a name, as plain types."""
    pose, covariance = getattr(found, name), found.covariance
    return {
        "ok": found.ok,
        "reason": found.reason,
        name: pose.to_json() if pose else None,
        "covariance": covariance.tolist() if covariance is not None else None,
    }


def _cameras(header: MapHeader, names: Sequence[str], count: int) -> list[RigCamera]:
    rig = {each.name: each for each in header.rig}
    for name in names:
        if name not in rig:
            has = f"its cameras are {', '.join(rig)}" if rig else "it was made by one camera"
            raise ConfigError(f"the map has no camera {name!r}: {has}")
    if len(names) != count or len(set(names)) != count:
        raise ConfigError(
            f"--cameras names {len(set(names))} cameras for {count} images: one for each image"
        )
    return [rig[name] for name in names]


def _image(path: Path, known: RigCamera) -> RigImage:
    from crossfire_core.localization.rig import RigImage
    from crossfire_core.recordings.image_file import read_fitted

    try:
        image, camera = read_fitted(path, lambda size: known.camera)
    except CalibrationError as error:
        raise CalibrationError(f"{path}, of camera {known.name} of the map: {error}") from error
    return RigImage(image, camera, known.base_from_camera, known.name)
