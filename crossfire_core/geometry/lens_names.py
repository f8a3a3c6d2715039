"""The names that ROS, drivers, kalibr and data sets give to one lens model.

A new lens model of :class:`~crossfire_core.geometry.Camera` needs its other names here, nothing
else: readers ask :func:`lens_named`.
"""

from __future__ import annotations

# Our model -> what others call it, in lower case and with "_" for "-" and blanks.
_OTHER_NAMES = {
    "none": ("", "none", "no_distortion", "pinhole", "perspective", "undistorted"),
    "radtan": (
        "radtan",
        "plumb_bob",
        "brown",
        "brown_conrady",
        "radial_tangential",
        "opencv",
    ),
    "rational": ("rational", "rational_polynomial", "full_opencv"),
    "equidistant": (
        "equidistant",
        "equi",
        "fisheye",
        "opencv_fisheye",
        "kannala_brandt",
        "kannala_brandt4",
        "kb4",
    ),
    "fov": ("fov",),
    # of kalibr; the numbers of its projection come before those of the distortion
    "omni": ("omni", "mei"),
    "eucm": ("eucm",),
    "ds": ("ds", "double_sphere"),
}
_MODELS = {name: model for model, names in _OTHER_NAMES.items() for name in names}


def lens_named(name: str) -> str | None:
    """Our name of a lens model, or None where there is no such model here.

    Args:
        name: as a driver, kalibr or a data set writes it; upper and lower case are alike.
    """
    return _MODELS.get("_".join(name.lower().replace("-", " ").split()))


def known_names() -> str:
    """All names, for messages."""
    return ", ".join(name for name in _MODELS if name)
