"""What a localization returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Camera, Pose

RgbImage: TypeAlias = NDArray[np.uint8]


class Way(str, Enum):
    """How a pose came about."""

    FOUND = "found"
    """By rendered descriptors alone."""
    FINISHED = "finished"
    """Found by descriptors, then made exact on patches."""
    PATCHES = "patches"
    """On patches alone, from a prior that was good enough."""


@dataclass(frozen=True)
class Matches:
    """Correspondences between an image and the map, for solving, drawing and gating.

    Attributes:
        pixels: ``[n, 2]`` in the query image, centres at .5.
        points: ``[n, 3]`` in the map frame, metres.
        scores: ``[n]`` confidence in [0, 1].
        inlier: ``[n]`` bool, which ones agree with the pose.
    """

    pixels: NDArray[np.float64]
    points: NDArray[np.float64]
    scores: NDArray[np.float64]
    inlier: NDArray[np.bool_]


@dataclass(frozen=True)
class PoseEstimate:
    """The outcome of localizing one image.

    Attributes:
        ok: whether the pose passed its gates; only then may it be used.
        reason: empty if ok, else one line for people.
        map_from_camera: the best pose found, also when it failed a gate, or None.
        covariance: ``[6, 6]`` of (x, y, z, rx, ry, rz): position of the camera and small
            rotation about the axes of the map, metres and radians; None without a pose.
        inliers: matches that agree with the pose, or with the one that patches then made exact;
            spread, residual and details are of the same.
        matches: matches that went into the solver.
        spread: share of a 4x4 grid over the image that holds an inlier, 0 to 1.
        residual_px: median reprojection error of the inliers, pixels of the query image.
        iterations: how often rendering, matching and solving ran.
        timings_ms: milliseconds by stage (``features``, ``render``, ``match``, ``solve``...).
        details: the last iteration's matches, or None.
        patches: how many of the map's patches fit at the pose, and of how many that were tried.
        way: how the pose came about.
        evidence: that it is in this place: decimal digits by which so much agreement is too much
            for a chance, see :mod:`.evidence`. 6 says that one image in a million of another
            place would agree as well.
    """

    ok: bool
    reason: str
    map_from_camera: Pose | None = None
    covariance: NDArray[np.float64] | None = None
    inliers: int = 0
    matches: int = 0
    spread: float = 0.0
    residual_px: float = float("nan")
    iterations: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)
    details: Matches | None = None
    patches: tuple[int, int] = (0, 0)
    way: Way = Way.FOUND
    evidence: float = 0.0

    @property
    def confidence(self) -> float:
        """Probability that another place would not have agreed as well, 0 to 1."""
        return 1.0 - float(10.0**-self.evidence)


@dataclass(frozen=True)
class Search:
    """How an image is looked for from a prior.

    Attributes:
        sigma: standard deviations of the prior (metres, radians), which narrow the matching; None
            searches the whole image.
        iterations: overrides the configured number.
        follow: the prior is within some centimetres: the map's patches may do by themselves;
            where they do not, the map is rendered as always.
    """

    sigma: tuple[float, float] | None = None
    iterations: int | None = None
    follow: bool = False


WIDE = Search()


class ImageLocalizer(Protocol):
    """What the tracker needs of a localizer; :class:`~.localizer.Localizer` is the real one."""

    def localize(
        self, image: RgbImage, camera: Camera, prior: Pose | None = None, *, search: Search = WIDE
    ) -> PoseEstimate:
        """Find the pose of one image.

        Args:
            image: ``[height, width, 3]`` uint8 RGB, of the camera's size.
            camera: its calibration.
            prior: ``map_from_camera`` to start from, or None for a global search.
            search: how to look from there.
        """
        ...
