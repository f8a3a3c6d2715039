"""How surely a pose is in the place that it says.

Another place can agree with a map by chance: a corridor has the doors and lamps of the next one.
So an answer is judged a contrario (Desolneux, Moisan and Morel, "Meaningful alignments", 2000): how
often would so much agreement be expected where there is nothing to agree with? The image is cut
into cells, because neighbouring matches are no independent witnesses; a cell agrees where three in
ten of its matches, or of its patches, do: the others may be hidden or changed. How many cells
agree in a place that is not this one is measured when a map is made, on its own mapping images seen
in a mirror: the same light, surfaces and shapes, in a place that does not exist
(:mod:`crossfire_core.training.honesty`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from crossfire_core.geometry import Camera
from crossfire_core.maps.chance import Chance

FloatArray = NDArray[np.float64]
PATCH_CELLS = 16  # along an image's longer side, 40 px of 640: two patches side by side
MATCH_CELLS = 24  # matches lie on a grid, about three to a cell
_AGREES = 0.3  # of a cell's witnesses; half of a place that is partly hidden still has as many
_MOST_DIGITS = 99.0  # what is surer than any doubt
_USUAL, _MORE_ALIKE = 0.9, 1.5  # a quantile of what was measured, and a factor on it
_RANGE = (0.03, 0.9)  # within which a measured chance is believed


@dataclass(frozen=True)
class Agreement:
    """How much of an image agrees with a pose.

    Attributes:
        cells: of the image that have a say.
        share: of them that agree, 0 to 1.
    """

    cells: int
    share: float

    @staticmethod
    def of(
        pixels: FloatArray, agrees: NDArray[np.bool_], camera: Camera, along: int = PATCH_CELLS
    ) -> Agreement:
        """Of matches, or of patches.

        Args:
            pixels: ``[n, 2]`` where in the image each is looked for or found.
            agrees: ``[n]`` whether it is there, under the pose.
            camera: of the image.
            along: cells along the image's longer side.
        """
        inside = ((pixels >= 0) & (pixels < np.array(camera.size))).all(axis=1)  # not NaN
        if not inside.any():
            return Agreement(0, 0.0)
        at = (pixels[inside] * (along / max(camera.size))).astype(np.int64) @ np.array([1, along])
        _, cell, count = np.unique(at, return_inverse=True, return_counts=True)
        good = np.bincount(cell, agrees[inside], minlength=len(count))
        return Agreement(len(count), float((good > _AGREES * count).mean()))


def digits(chance: Chance, matches: Agreement, patches: Agreement, trials: int = 1) -> float:
    """Decimal digits of evidence: 6 where so much agreement is a millionth of a chance.

    Both witnesses are heard together by Fisher's method (1925): the product of ``n``
    probabilities is below ``q`` with probability ``q`` times the sum of ``(-ln q)^i / i!`` over
    ``i < n``; of two, ``q (1 - ln q)``.

    Args:
        chance: what agrees in a place that is not the map's.
        matches: what the finder's matches say; those of another place agree by chance.
        patches: what the map's patches say.
        trials: poses of which this one is the best.
    """
    witnesses = [_log10_tail(matches, chance.matches), _log10_tail(patches, chance.patches)]
    return float(np.clip(-_log10_fisher(witnesses) - np.log10(trials), 0.0, _MOST_DIGITS))


def together(cameras: Sequence[float]) -> float:
    """Digits of evidence of several cameras for one pose of their robot.

    Fisher's method over those that agree best. A camera before a white wall says nothing, and is
    not counted; that any of the ``2^n`` choices of cameras might be taken is paid for.

    Args:
        cameras: digits of each, under the common pose.
    """
    best_first = -np.sort(-np.asarray(cameras, dtype=np.float64))
    found = [-_log10_fisher(-best_first[: n + 1]) for n in range(len(best_first))]
    paid = max(found, default=0.0) - len(found) * np.log10(2.0)
    return float(np.clip(paid, 0.0, _MOST_DIGITS))


def _log10_fisher(log10_probabilities: Sequence[float] | FloatArray) -> float:
    """log10 of the probability that the product of so many probabilities is so small by chance."""
    product = float(np.sum(log10_probabilities))
    terms = np.arange(len(log10_probabilities))
    powers = special.xlogy(terms, -product * np.log(10.0)) - special.gammaln(terms + 1.0)
    return float(product + special.logsumexp(powers) / np.log(10.0))


def _log10_tail(seen: Agreement, chance: float) -> float:
    """log10 of the probability that so many cells agree, each by chance: the binomial tail."""
    agreed = seen.share * seen.cells
    if seen.cells == 0 or agreed <= chance * seen.cells:
        return 0.0
    # the regularized incomplete beta function is the tail for fractions of cells, too
    tail = special.betainc(agreed, seen.cells - agreed + 1.0, chance)
    return float(np.log10(max(tail, 10.0**-_MOST_DIGITS)))


def measured_chance(shares: Sequence[tuple[float, float]]) -> Chance:
    """Chances from what agreed in images of other places, an image each.

    Those of nine images in ten, and half as much again, because a place may be more alike than
    those that were looked at.

    Args:
        shares: of matches and of patches that agreed.
    """
    if not shares:
        return Chance()
    usual = np.quantile(np.array(shares), _USUAL, axis=0)
    matches, patches = np.clip(_MORE_ALIKE * usual, *_RANGE)
    return Chance(float(matches), float(patches))
