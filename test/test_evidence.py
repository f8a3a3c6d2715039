"""Evidence: agreement by image cells, and how surprising it is."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from crossfire_core.geometry import Camera
from crossfire_core.localization.estimate import PoseEstimate
from crossfire_core.localization.evidence import Agreement, Chance, measured_chance

CAMERA = Camera(600, 400, 500.0, 510.0, 300.0, 200.0)  # cells of 50 px
NOTHING = Agreement(0, 0.0)


def tail(agreed: int, cells: int, chance: float) -> float:
    """Probability of at least so many of so many, summed by hand."""
    return sum(
        comb(cells, k) * chance**k * (1 - chance) ** (cells - k) for k in range(agreed, cells + 1)
    )


def test_a_crowd_in_one_cell_is_one_witness() -> None:
    rng = np.random.default_rng(0)
    crowd = rng.uniform([0, 0], [50, 50], (900, 2))
    others = np.array([[75.0, 25.0], [25.0, 75.0], [125.0, 25.0]])
    pixels = np.concatenate([crowd, others])
    agrees = np.concatenate([np.ones(900, bool), np.zeros(3, bool)])
    assert Agreement.of(pixels, agrees, CAMERA) == Agreement(4, 0.25)


def test_a_cell_in_which_some_agree_counts_in_part_and_what_lies_outside_not_at_all() -> None:
    pixels = np.array([[10.0, 10.0], [20.0, 20.0], [110.0, 10.0], [-5.0, 10.0], [np.nan, 3.0]])
    seen = Agreement.of(pixels, np.array([True, False, True, True, True]), CAMERA)
    assert seen == Agreement(2, 0.75)
    assert Agreement.of(np.zeros((0, 2)), np.zeros(0, bool), CAMERA) == NOTHING


@pytest.mark.parametrize(("agreed", "cells"), [(10, 40), (5, 20), (40, 40), (20, 90)])
def test_digits_are_the_binomial_tail(agreed: int, cells: int) -> None:
    chance = Chance(matches=0.1, patches=0.05)
    expected = -np.log10(2.0 * tail(agreed, cells, 0.05))
    found = chance.digits(NOTHING, Agreement(cells, agreed / cells))
    assert found == pytest.approx(max(0.0, expected), rel=1e-6)


def test_more_agreement_more_cells_and_fewer_trials_are_more_evidence() -> None:
    chance = Chance()
    digits = [chance.digits(NOTHING, Agreement(60, share)) for share in (0.05, 0.1, 0.2, 0.4)]
    assert digits == sorted(digits) and digits[0] == 0.0 < digits[1] < 6.0 < digits[3]
    assert chance.digits(NOTHING, Agreement(80, 0.2)) > digits[2]
    assert chance.digits(NOTHING, Agreement(60, 0.2), trials=100) == pytest.approx(digits[2] - 2)


def test_the_better_witness_is_heard() -> None:
    chance = Chance()
    sure, unsure = Agreement(60, 0.5), Agreement(60, 0.06)
    assert chance.digits(sure, unsure) == chance.digits(sure, NOTHING) > 6.0
    assert chance.digits(unsure, sure) == chance.digits(NOTHING, sure) > 6.0


def test_a_map_whose_like_agrees_by_chance_asks_for_more() -> None:
    seen = Agreement(60, 0.25)
    usual = measured_chance([(0.02, 0.01), (0.0, 0.0)])
    assert usual == Chance()
    alike = measured_chance([(0.3, 0.02), (0.1, 0.2)])
    assert alike == Chance(0.3, 0.2)
    assert alike.digits(NOTHING, seen) < 2.0 < 6.0 < usual.digits(NOTHING, seen)


def test_confidence_is_the_probability_that_goes_with_the_digits() -> None:
    assert PoseEstimate(True, "", evidence=2.0).confidence == pytest.approx(0.99)
    assert PoseEstimate(False, "nothing").confidence == 0.0
