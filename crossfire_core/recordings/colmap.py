"""COLMAP models with the photographs that they were made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from crossfire_core.errors import CalibrationError, RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.camera import DistortionModel
from crossfire_core.recordings.colmap_model import (
    PARAMETERS,
    Model,
    ModelImage,
    Values,
    ending_of,
    pose_of,
    read_model,
)
from crossfire_core.recordings.folder import FolderRecording, ListedImage
from crossfire_core.recordings.frame import Mount
from crossfire_core.recordings.image_file import ImageFinder, Size
from crossfire_core.recordings.options import RecordingOptions
from crossfire_core.recordings.reader import Reader
from crossfire_core.recordings.text import natural_key

# COLMAP and its users put models into these folders, or into folders in them.
_MODEL_PLACES = ("", "sparse", "colmap", "colmap/sparse", "dense/sparse")
# Above a model, how far up its images may lie, and in which folders beside "images".
_IMAGE_LEVELS = 4
_IMAGE_FOLDERS = ("input", "rgb", "frames", ".")
_ONE_FOCAL_LENGTH = (
    "SIMPLE_PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "SIMPLE_FISHEYE",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
)
# Our model and the number of its coefficients; missing ones are zero.
_DISTORTIONS: dict[str, tuple[DistortionModel, int]] = {
    "SIMPLE_PINHOLE": ("none", 0),
    "PINHOLE": ("none", 0),
    "SIMPLE_RADIAL": ("radtan", 4),
    "RADIAL": ("radtan", 4),
    "OPENCV": ("radtan", 4),
    "FULL_OPENCV": ("rational", 8),
    "FOV": ("fov", 1),
    "EUCM": ("eucm", 2),
    "SIMPLE_FISHEYE": ("equidistant", 4),
    "FISHEYE": ("equidistant", 4),
    "OPENCV_FISHEYE": ("equidistant", 4),
    "SIMPLE_RADIAL_FISHEYE": ("equidistant", 4),
    "RADIAL_FISHEYE": ("equidistant", 4),
}


def is_colmap(path: Path) -> bool:
    """Whether a folder is a model, or holds one where COLMAP and its users put it."""
    return path.is_dir() and next(_model_folders(path), None) is not None


def read_colmap(path: Path, options: RecordingOptions) -> FolderRecording:
    """List the images of a model; of several models that with the most images is read.

    Args:
        path: the model's folder, or the one with ``images`` and ``sparse/0``.
        options: how much of it.

    Raises:
        RecordingError: a damaged model, or none of its images is usable.
        CalibrationError: no image has a camera model that is supported.
    """
    name, model, folder, notes = _largest(path)
    finder = _image_finder(folder, [image.name for image in model.images])
    places, together = model.places(), model.moments()
    images = sorted(model.images, key=lambda image: natural_key(image.name))
    numbers = {image.number: number for number, image in enumerate(images)}
    listed = [
        ListedImage(
            image.name,
            min(numbers.get(i, number) for i in together.get(image.number, [image.number])),
            finder.find(image.name),
            partial(_camera, model, image.camera),
            partial(_pose, image, places.get(image.number)),
            mount=_mount(image, places) if image.number in together else None,
        )
        for number, image in enumerate(images)
    ]
    listed.sort(key=lambda image: image.stamp_ns)
    return FolderRecording(
        path.name,
        listed,
        options,
        notes=[*notes, *model.notes],
        pose_source=f"COLMAP model {name}",
        metric=False,
    )


def camera_of(model: str, width: int, height: int, parameters: Sequence[float]) -> Camera:
    """A camera in COLMAP's notation, which kapture shares.

    Args:
        model: name, such as ``SIMPLE_RADIAL``.
        width: pixels.
        height: pixels.
        parameters: of the model, principal point with pixel centres at .5.

    Raises:
        CalibrationError: an unsupported model, or a wrong number of parameters.
    """
    if PARAMETERS.get(model) != len(parameters):
        raise CalibrationError(
            f"camera model {model} with {len(parameters)} parameters is not supported"
        )
    if model not in _DISTORTIONS:
        raise CalibrationError(
            f"camera model {model} is not supported: use OPENCV or OPENCV_FISHEYE"
        )
    fx, *rest = parameters
    fy = fx if model in _ONE_FOCAL_LENGTH else rest.pop(0)
    cx, cy, *k = rest
    distortion, length = _DISTORTIONS[model]
    coefficients = (*k, *[0.0] * (length - len(k)))
    return Camera(width, height, fx, fy, cx, cy, distortion, coefficients)


def _camera(model: Model, number: int, size: Size) -> Camera:
    """A camera of the model, which need not be right before an image uses it."""
    if number not in model.cameras:
        raise CalibrationError(f"the model has no camera {number}")
    camera = model.cameras[number]
    return camera_of(camera.model, camera.width, camera.height, camera.parameters)


def _mount(image: ModelImage, places: Mapping[int, tuple[Values, Values]]) -> Mount | None:
    """Where a rig's camera sits; the rig is its robot's base."""
    if image.number not in places:
        return None
    try:
        return Mount(f"camera{image.camera}", pose_of(places[image.number][0]).inverse())
    except ValueError:
        return None  # as its pose, which is said of the image


def _pose(image: ModelImage, place: tuple[Values, Values] | None) -> Pose:
    """``world_from_camera``, by the image's rig where it has one."""
    if place is None:
        return pose_of(image.values).inverse()
    camera_from_rig, rig_from_world = (pose_of(values) for values in place)
    return (camera_from_rig @ rig_from_world).inverse()


def _model_folders(path: Path) -> Iterator[Path]:
    """All models of a folder, or itself if it is one."""
    if ending_of(path):
        yield path
        return
    for place in _MODEL_PLACES:
        folder = path / place
        if not folder.is_dir():
            continue
        if place and ending_of(folder):
            yield folder
        inside = sorted(folder.iterdir(), key=lambda child: natural_key(child.name))
        yield from (child for child in inside if child.is_dir() and ending_of(child))


def _largest(path: Path) -> tuple[str, Model, Path, list[str]]:
    """Name, model, folder and a note where there was a choice; the first of equals."""
    found: list[tuple[str, Model, Path]] = []
    problems: list[RecordingError | CalibrationError] = []
    for folder in dict.fromkeys(_model_folders(path)):
        try:
            name = str(folder.relative_to(path)) if folder != path else path.resolve().name
            found.append((name, read_model(folder), folder))
        except (RecordingError, CalibrationError) as error:
            problems.append(error)
    if not found:
        raise problems[0] if problems else RecordingError(f"{path} holds no COLMAP model")
    best = max(found, key=lambda item: len(item[1].images))
    others = [f"{name} with {len(model.images)}" for name, model, _ in found if name != best[0]]
    notes = [f"{error}: another model is read" for error in problems]
    if others:
        notes.append(
            f"of {len(found)} COLMAP models {best[0]} with {len(best[1].images)} images is read, "
            f"the largest; passed over: {', '.join(others)}"
        )
    return (*best, notes)


def _image_finder(model: Path, names: Sequence[str]) -> ImageFinder:
    """Looks in the folder that has the most of the images, the nearest of equals."""
    best, most = ImageFinder(model), 0
    levels = (model.resolve(), *model.resolve().parents)[:_IMAGE_LEVELS]
    for level in levels:
        sizes = sorted(level.glob("images*"), key=lambda p: natural_key(p.name))
        for folder in (*sizes, *(level / name for name in _IMAGE_FOLDERS)):
            finder = ImageFinder(folder)
            count = sum(finder.find(name) is not None for name in names)
            if count > most:
                best, most = finder, count
            if most == len(names):
                return best
    if not most and names:
        raise RecordingError(
            f"none of the {len(names)} images of the COLMAP model {model} is found: "
            "put them into a folder images beside it"
        )
    return best


READER = Reader(is_colmap, read_colmap)
