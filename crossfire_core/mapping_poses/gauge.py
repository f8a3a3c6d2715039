"""Scale, gravity and origin of a reconstruction, from odometry or from known poses.

Structure from motion knows all but these seven numbers. Odometry drifts, so no single transform
fits it: the scale is a median over pieces of the path, the direction of gravity a median over all
frames, and the origin lies where the odometry began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossfire_core.errors import TrainingError
from crossfire_core.geometry import Pose
from crossfire_core.geometry.pose import nearest_rotation
from crossfire_core.localization.recorded_frame import RecordedFrame

FloatArray = NDArray[np.float64]
_ROUNDS = 10  # of reweighting
_PIECE_M = 5.0  # odometry drifts little over so much
_LEAST_POSES = 3  # fix a similarity
_MEDIAN_DEPTH = 3.0  # metres, a usual room, where nothing gives a length
_OUTLIER = 5.0  # known poses off by more than this many medians are not believed
_AGREES = (0.001, float(np.radians(0.05)))  # metres, radians: off by less than this is not off
_BESIDE = 2  # neighbours on each side, of which one must be off alike


@dataclass(frozen=True)
class Gauge:
    """``map_from_sfm``: ``p_map = scale * R p_sfm + t``.

    Attributes:
        scale: metres in one unit of the reconstruction.
        map_from_sfm: rotation and translation.
        scale_spread: relative spread of the scale over pieces of the path, NaN where unknown.
    """

    scale: float
    map_from_sfm: Pose
    scale_spread: float = float("nan")

    def points(self, points: FloatArray) -> FloatArray:
        """Points ``[n, 3]`` of the reconstruction in the map."""
        return self.map_from_sfm.apply(self.scale * points)

    def pose(self, sfm_from_camera: Pose) -> Pose:
        """``map_from_camera``."""
        scaled = Pose(sfm_from_camera.rotation, self.scale * sfm_from_camera.translation)
        return self.map_from_sfm @ scaled


def from_odometry(sfm: Sequence[Pose], odometry: Sequence[Pose]) -> Gauge:
    """Metric scale, upright axes and origin from odometry that drifts.

    Args:
        sfm: ``sfm_from_camera`` in order of time, of one session.
        odometry: ``odom_from_camera`` of the same frames.

    Raises:
        TrainingError: too few frames, or odometry that does not move.
    """
    scale, spread = _piecewise_scale(_centres(sfm), _centres(odometry))
    up = _common_up(sfm, odometry)
    first = odometry[0].rotation @ sfm[0].rotation.T
    rotation = _turned_upright(first, up)
    origin = odometry[0].translation - scale * rotation @ sfm[0].translation
    return Gauge(scale, Pose(rotation, origin), spread)


def from_poses(sfm: Sequence[Pose], known: Sequence[Pose]) -> Gauge:
    """The similarity onto poses that do not drift; outliers lose their say.

    Args:
        sfm: ``sfm_from_camera``.
        known: ``map_from_camera`` of the same frames.

    Raises:
        TrainingError: too few frames, or frames that do not move.
    """
    _enough(sfm)
    source, target = _centres(sfm), _centres(known)
    weights = np.ones(len(source))
    for _ in range(_ROUNDS):
        scale, rotation, shift = similarity(source, target, weights)
        error = np.linalg.norm(target - (scale * source @ rotation.T + shift), axis=1)
        limit = max(1.5 * float(np.median(error)), 1e-9)
        weights = 1.0 / np.maximum(error / limit, 1.0) ** 2
    return Gauge(scale, Pose(rotation, shift))


def from_depth(poses: Sequence[Pose], depths: FloatArray) -> Gauge:
    """Where nothing says what a metre is: the scene's median depth becomes three of them.

    Args:
        poses: ``sfm_from_camera``; the first becomes level with the map's axes.
        depths: ``[n]`` distances of points from the cameras that see them.
    """
    scale = _MEDIAN_DEPTH / max(float(np.median(depths)), 1e-12) if len(depths) else 1.0
    # the mean of the cameras' downward axes is the best guess of gravity
    down = np.mean([pose.rotation[:, 1] for pose in poses], axis=0)
    rotation = _turned_upright(np.eye(3), -down / max(float(np.linalg.norm(down)), 1e-9))
    return Gauge(scale, Pose(rotation, -scale * rotation @ poses[0].translation))


def bent_to_known(
    placed: Mapping[int, Pose], known: Sequence[Pose | None], median_distance: float
) -> tuple[dict[int, Pose], list[int]]:
    """Poses as the known ones would have them, and the known ones as they are.

    Structure from motion bends a long path a little, which one similarity cannot take back: others
    are moved by what the known poses around them were off. Points do not move along.

    Args:
        placed: ``map_from_camera`` by number of the frame, in the known poses' frame by and large.
        known: ``map_from_camera`` of every frame, or None.
        median_distance: of the surfaces from the cameras, metres.

    Returns:
        Poses by number, and the numbers of known poses that are off unlike all their neighbours:
        those are moved too.
    """
    truths = {i: truth for i in sorted(placed) if (truth := known[i]) is not None}
    if not truths:
        return dict(placed), []
    off = np.stack([(placed[i].inverse() @ truth).log() for i, truth in truths.items()])
    good = {i: truths[i] for i, alike in zip(truths, _off_alike(off), strict=True) if alike}
    frame = RecordedFrame([placed[i] for i in good], list(good.values()), median_distance)
    bent = {i: good.get(i) or frame.recorded(pose) for i, pose in placed.items()}
    return bent, [i for i in truths if i not in good]


def _off_alike(off: FloatArray) -> NDArray[np.bool_]:
    """Which of ``[n, 6]`` twists along a path are like one of those beside them.

    A bend moves neighbours alike, however far; a pose that is wrong by itself is far from all.
    """
    count = len(off)
    nearest = np.full((count, 2), np.inf)
    for step in range(1, min(_BESIDE, count - 1) + 1):
        differs = (off[step:] - off[:-step]).reshape(-1, 2, 3)
        apart = np.linalg.norm(differs, axis=2)  # metres, radians
        nearest[step:] = np.minimum(nearest[step:], apart)
        nearest[:-step] = np.minimum(nearest[:-step], apart)
    if count < 2 * _BESIDE + 1:
        return np.ones(count, dtype=bool)  # too few to know better
    limit = np.maximum(_OUTLIER * np.median(nearest, axis=0), _AGREES)
    return np.asarray((nearest <= limit).all(axis=1))


def similarity(
    source: FloatArray, target: FloatArray, weights: FloatArray
) -> tuple[float, FloatArray, FloatArray]:
    """Weighted least squares (Umeyama 1991): (scale, rotation, shift) from source to target.

    Raises:
        TrainingError: the points do not move.
    """
    w = weights / weights.sum()
    mean_s, mean_t = w @ source, w @ target
    s, t = source - mean_s, target - mean_t
    spread = float(w @ (s**2).sum(axis=1))
    if spread < 1e-18:
        raise TrainingError("the camera did not move: structure from motion needs a baseline")
    covariance = (w[:, None] * t).T @ s
    rotation = nearest_rotation(covariance)
    scale = float(np.trace(rotation.T @ covariance)) / spread
    return scale, rotation, mean_t - scale * rotation @ mean_s


def _piecewise_scale(sfm: FloatArray, odometry: FloatArray) -> tuple[float, float]:
    """Median scale and its relative spread over pieces of the path.

    Pieces are short enough that the heading has hardly drifted within them, and long enough that
    the noise of single steps does not lengthen them.
    """
    _enough(sfm)
    steps = np.linalg.norm(np.diff(odometry, axis=0), axis=1)
    travelled = np.concatenate([[0.0], np.cumsum(steps)])
    if travelled[-1] < 1e-3:
        raise TrainingError("the odometry does not move: it cannot tell the scale of the map")
    piece = min(float(travelled[-1]), _PIECE_M)
    found = []
    for start in np.arange(0.0, travelled[-1] - piece + 1e-9, piece / 2):
        inside = (travelled >= start) & (travelled <= start + piece)
        if inside.sum() >= _LEAST_POSES and np.ptp(sfm[inside], axis=0).max() > 1e-9:
            weights = np.ones(int(inside.sum()))
            scale, _, _ = similarity(sfm[inside], odometry[inside], weights)
            found.append((scale, float(np.ptp(odometry[inside], axis=0).max())))
    if not found:
        scale, _, _ = similarity(sfm, odometry, np.ones(len(sfm)))
        return scale, float("nan")
    values, extents = np.array(found).T
    median = _weighted_median(values, extents)
    spread = _weighted_median(np.abs(values - median), extents) / max(median, 1e-12)
    return median, spread


def _weighted_median(values: FloatArray, weights: FloatArray) -> float:
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][int(np.searchsorted(share, 0.5))])


def _common_up(sfm: Sequence[Pose], odometry: Sequence[Pose]) -> FloatArray:
    """Odometry's z axis in the reconstruction, ``[3]`` unit: heading drift leaves it alone."""
    ups = np.stack([a.rotation @ b.rotation.T[:, 2] for a, b in zip(sfm, odometry, strict=True)])
    middle = np.median(ups, axis=0)
    return np.asarray(middle / max(float(np.linalg.norm(middle)), 1e-9))


def _turned_upright(map_from_sfm: FloatArray, up: FloatArray) -> FloatArray:
    """The rotation nearest to one given that takes ``up`` exactly to z."""
    tilted = map_from_sfm @ up
    axis = np.cross(tilted, [0.0, 0.0, 1.0])
    sine, cosine = float(np.linalg.norm(axis)), float(tilted[2])
    if sine < 1e-12:
        return map_from_sfm if cosine > 0 else np.diag([1.0, -1.0, -1.0]) @ map_from_sfm
    angle = np.arctan2(sine, cosine)
    return Pose.exp((0, 0, 0, *(axis / sine * angle))).rotation @ map_from_sfm


def _centres(poses: Sequence[Pose]) -> FloatArray:
    return np.stack([pose.translation for pose in poses])


def _enough(items: Sequence[Pose] | FloatArray) -> None:
    if len(items) < _LEAST_POSES:
        raise TrainingError(
            f"only {len(items)} images were placed, too few to find scale and gravity: "
            "record a longer drive"
        )
