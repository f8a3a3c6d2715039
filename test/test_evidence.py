"""Evidence: agreement by image cells, and how surprising it is."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from crossfire_core.geometry import Camera
from crossfire_core.localization.estimate import PoseEstimate
from crossfire_core.localization.evidence import Agreement, digits, measured_chance, together
from crossfire_core.maps.chance import Chance

CAMERA = Camera(640, 400, 500.0, 510.0, 320.0, 200.0)  # cells of 40 px
NOTHING = Agreement(0, 0.0)


def tail(agreed: int, cells: int, chance: float) -> float:
    """Probability of at least so many of so many, summed by hand."""
    return sum(
        comb(cells, k) * chance**k * (1 - chance) ** (cells - k) for k in range(agreed, cells + 1)
    )


def test_a_crowd_in_one_cell_is_one_witness() -> None:
    rng = np.random.default_rng(0)
    crowd = rng.uniform([0, 0], [40, 40], (900, 2))
    others = np.array([[60.0, 20.0], [20.0, 60.0], [100.0, 20.0]])
    pixels = np.concatenate([crowd, others])
    agrees = np.concatenate([np.ones(900, bool), np.zeros(3, bool)])
    assert Agreement.of(pixels, agrees, CAMERA) == Agreement(4, 0.25)


def test_a_cell_agrees_where_three_in_ten_do_and_what_lies_outside_has_no_say() -> None:
    half, quarter = [[10.0, 10.0], [20.0, 20.0]], [[100.0, 10.0 + i] for i in range(4)]
    pixels = np.array([*half, *quarter, [-5.0, 10.0], [np.nan, 3.0]])
    agrees = np.array([True, False, True, False, False, False, True, True])
    assert Agreement.of(pixels, agrees, CAMERA) == Agreement(2, 0.5)
    assert Agreement.of(np.zeros((0, 2)), np.zeros(0, bool), CAMERA) == NOTHING


@pytest.mark.parametrize(("agreed", "cells"), [(10, 40), (5, 20), (40, 40), (20, 90)])
def test_digits_are_the_binomial_tail(agreed: int, cells: int) -> None:
    chance = Chance(matches=0.1, patches=0.05)
    one = tail(agreed, cells, 0.05)  # and nothing at all from the other witness
    found = digits(chance, NOTHING, Agreement(cells, agreed / cells))
    assert found == pytest.approx(-np.log10(one * (1.0 - np.log(one))), rel=1e-6)


def test_two_witnesses_together_are_as_surprising_as_chance_says() -> None:
    """Fisher's method against a simulation of images of another place."""
    rng = np.random.default_rng(0)
    chance, cells = Chance(0.2, 0.1), 50
    both = rng.binomial(cells, [0.2, 0.1], (4000, 2)) / cells
    found = [digits(chance, Agreement(cells, m), Agreement(cells, p)) for m, p in both]
    assert np.mean(np.array(found) > 1.0) < 0.1
    assert np.mean(np.array(found) > 2.0) < 0.01


def test_more_agreement_more_cells_and_fewer_trials_are_more_evidence() -> None:
    chance = Chance()
    found = [digits(chance, NOTHING, Agreement(60, share)) for share in (0.05, 0.1, 0.2, 0.4)]
    assert found == sorted(found) and found[0] == 0.0 < found[1] < 6.0 < found[3]
    assert digits(chance, NOTHING, Agreement(80, 0.2)) > found[2]
    assert digits(chance, NOTHING, Agreement(60, 0.2), trials=100) == pytest.approx(found[2] - 2)


def test_two_sure_witnesses_are_more_than_one() -> None:
    chance = Chance()
    sure, unsure = Agreement(60, 0.3), Agreement(60, 0.04)
    one = digits(chance, sure, unsure)
    assert one == pytest.approx(digits(chance, unsure, sure)) and one > 6.0
    assert digits(chance, sure, sure) > 1.5 * one


def test_a_map_whose_like_agrees_by_chance_asks_for_more() -> None:
    seen = Agreement(60, 0.25)
    few = measured_chance([(0.0, 0.0)] * 20 + [(0.5, 0.5)])
    assert (few.matches, few.patches) == (0.03, 0.03)
    alike = measured_chance([(0.2, 0.02)] * 10 + [(0.0, 0.1)] * 10)
    assert (alike.matches, alike.patches) == pytest.approx((0.3, 0.15))
    assert digits(alike, NOTHING, seen) < 2.0 < 6.0 < digits(few, NOTHING, seen)
    assert measured_chance([]) == Chance()


def test_confidence_is_the_probability_that_goes_with_the_digits() -> None:
    assert PoseEstimate(True, "", evidence=2.0).confidence == pytest.approx(0.99)
    assert PoseEstimate(False, "nothing").confidence == 0.0


def test_cameras_of_a_rig_together_are_as_surprising_as_chance_says() -> None:
    """Three cameras of another place: their digits are those of even chances."""
    rng = np.random.default_rng(0)
    found = np.array([together(-np.log10(rng.uniform(size=3))) for _ in range(20000)])
    for digit in (0.5, 1.0, 2.0):
        assert np.mean(found > digit) < 1.2 * 10.0**-digit
    assert np.mean(found > 0.5) > 0.05  # and no more careful than it must be


def test_weak_cameras_add_up_and_blind_ones_cost_little() -> None:
    # the product of two chances of 1e-4 is smaller than 1e-8 with chance 1e-8 (1 + ln 1e8)
    by_hand = 8.0 - np.log10(1.0 + 8.0 * np.log(10.0)) - np.log10(4.0)
    assert together([4.0, 4.0]) == pytest.approx(by_hand)
    assert together([9.0, 0.0]) == pytest.approx(9.0 - np.log10(4.0))
    assert together([]) == together([0.0, 0.0]) == 0.0
