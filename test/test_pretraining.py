"""Random rooms and what the image network learns in them (tools/pretrain.py)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossfire_core.config import FeatureConfig
from crossfire_core.features.network import ImageNetwork

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import pretrain
import random_rooms


@pytest.fixture(scope="module")
def groups() -> list[list[Any]]:
    return list(random_rooms.photographs(np.random.default_rng(4), groups=2, each=4))


def test_no_two_rooms_are_the_same_and_a_seed_gives_one_again(groups: list[list[Any]]) -> None:
    again = list(random_rooms.photographs(np.random.default_rng(4), groups=2, each=4))
    other = list(random_rooms.photographs(np.random.default_rng(5), groups=2, each=4))
    assert np.array_equal(groups[0][0].image, again[0][0].image)
    assert groups[0][0].image.std() > 5
    assert not np.array_equal(groups[0][0].image, other[0][0].image[: len(groups[0][0].image)])


def test_shared_pixels_show_the_same_point(groups: list[list[Any]]) -> None:
    rng = np.random.default_rng(0)
    pair = next(pretrain.pairs_of(groups, rng))
    first, second, points, others, other_points = pretrain.shared_pixels(pair, rng)
    assert len(first) == len(second) == len(points) >= 64
    for photograph, pixels in ((pair[0], first), (pair[1], second)):
        seen = photograph.camera.project(photograph.room_from_camera.inverse().apply(points))
        np.testing.assert_allclose(seen, pixels, atol=1e-3)
        away = np.linalg.norm(points - photograph.room_from_camera.translation, axis=1)
        at = np.floor(pixels).astype(int)
        np.testing.assert_allclose(photograph.distance[at[:, 1], at[:, 0]], away, rtol=0.02)
    back = pair[1].camera.project(pair[1].room_from_camera.inverse().apply(other_points))
    np.testing.assert_allclose(back, others, atol=1e-3)


def test_steps_on_a_pair_teach_it(groups: list[list[Any]]) -> None:
    torch.manual_seed(0)
    network = ImageNetwork(FeatureConfig(stem=16, trunk=16), 16)
    pair = next(pretrain.pairs_of(groups, np.random.default_rng(1)))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for step in range(25):
        found, (loss, _) = pretrain.gradients(network, pair, step, 0.07)
        for parameter, gradient in zip(network.parameters(), found, strict=True):
            parameter.grad = gradient
        optimizer.step()
        losses.append(float(loss))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
