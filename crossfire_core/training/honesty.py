"""How far off a finished map's answers really are, and how surely they are answers at all.

A pose's covariance follows from how well its matches agree. But neighbouring matches share errors,
by how much differs from place to place, and no single image shows it. Frames of the recording that
were not trained on do: each has a pose to compare with.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import stats

from crossfire_core.localization.estimate import ImageLocalizer
from crossfire_core.localization.evidence import measured_chance
from crossfire_core.localization.localizer import Localizer
from crossfire_core.localization.uncertainty import mahalanobis_squared
from crossfire_core.maps.chance import Chance
from crossfire_core.recordings.frame import Frame

_LEAST = 20  # fewer frames say too little
_SHARE = 0.9  # of answers shall lie in the ellipsoid that should hold so many
_RANGE = (0.1, 10.0)  # a factor outside says that something else is wrong
_FREEDOM = 6  # of a pose


def measured_chance_of(localizer: Localizer, frames: Iterable[Frame]) -> Chance:
    """How much of an image of another place agrees with a map.

    Images in a mirror show a place that does not exist, under the light and with the surfaces and
    shapes of the map's own: no other images are as hard that a recording has.

    Args:
        localizer: of the finished map.
        frames: some of the recording.
    """
    shares = []
    for frame in frames:
        image = np.ascontiguousarray(frame.image[:, ::-1])
        shares.append(localizer.agreement(image, frame.camera.mirrored()))
    return measured_chance(shares)


def covariance_factor(localizer: ImageLocalizer, frames: Iterable[Frame]) -> float:
    """The factor on covariances that makes them right on some frames of known pose.

    With it nine in ten of these lie in the ellipsoid that a normal distribution puts nine in ten
    into: the 90 % quantile of squared normalized errors is that of chi-square with six degrees.

    Args:
        localizer: of the finished map.
        frames: not trained on.

    Returns:
        1 where too few frames are localized to say.
    """
    squared = []
    for frame in frames:
        found = localizer.localize(frame.image, frame.camera)
        pose, truth, covariance = found.map_from_camera, frame.world_from_camera, found.covariance
        if found.ok and pose is not None and truth is not None and covariance is not None:
            squared.append(mahalanobis_squared(pose, truth, covariance))
    if len(squared) < _LEAST:
        return 1.0
    # a high quantile rather than the mean: errors have long tails, and a recording has outliers
    scale = np.quantile(squared, _SHARE) / stats.chi2.ppf(_SHARE, _FREEDOM)
    return float(np.clip(round(float(scale), 3), *_RANGE))
