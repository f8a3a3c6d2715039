"""What the mapping cameras saw, and which of them saw the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossfire_core.field.scene_box import SceneBox
from crossfire_core.localization.covisibility import SeenSpace, grouped, shared_views

BOX = SceneBox((1.0, -2.0, 0.5), 3.0)


def surface(count: int, seed: int, x: float = 0.0) -> torch.Tensor:
    """Points of a wall at a distance along x from the box's centre."""
    rng = torch.Generator().manual_seed(seed)
    across = (torch.rand((count, 2), generator=rng) - 0.5) * 4.0
    return torch.cat([torch.full((count, 1), x), across], dim=1) + torch.tensor(BOX.centre)


@pytest.mark.parametrize("distance", [0.0, 2.0, 20.0, 500.0], ids=str)
def test_what_was_seen_is_known_again_and_what_lies_elsewhere_is_not(distance: float) -> None:
    seen = SeenSpace(BOX, surface(2000, 0, distance))
    assert seen.contains(surface(500, 1, distance)).all()
    if distance < 10.0:  # beyond, cells are as deep as the rest of the world
        assert not seen.contains(surface(500, 1, 1.5 * distance + 1.5)).any()
    assert not seen.contains(surface(500, 1, -distance - 1.5)).any()


def test_a_map_that_is_being_trained_has_no_points_and_leaves_nothing_out() -> None:
    none = torch.zeros(0, 3)
    assert SeenSpace(BOX, none).contains(surface(10, 0)).all()
    assert not shared_views(BOX, none, none[:, 0].long(), 3).any()


def test_views_of_one_wall_share_it_and_views_of_another_do_not() -> None:
    points = torch.cat([surface(100, 0), surface(100, 1), surface(100, 2, 2.5)])
    view = torch.arange(3).repeat_interleave(100)
    np.testing.assert_array_equal(
        shared_views(BOX, points, view, 4),
        [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]],
    )


def test_groups_are_linked_directly_or_through_others_and_keep_the_order() -> None:
    shared = np.eye(7, dtype=bool)
    for a, b in ((0, 4), (4, 2), (5, 3)):
        shared[a, b] = shared[b, a] = True
    assert grouped([5, 0, 1, 2, 3, 4], shared) == [[5, 3], [0, 4, 2], [1]]
    assert grouped([], shared) == []


@pytest.mark.parametrize("seed", range(5))
def test_every_view_is_in_one_group(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shared = rng.random((20, 20)) < 0.05
    shared |= shared.T
    groups = grouped(rng.permutation(20).tolist(), shared)
    assert sorted(view for group in groups for view in group) == list(range(20))
    number = np.empty(20, dtype=int)
    for i, group in enumerate(groups):
        number[group] = i
    assert not (shared & (number[:, None] != number[None])).any()
