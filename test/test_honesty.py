"""The factor that makes a map's covariances right, against errors of known size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from crossfire_core.geometry import Camera, Pose
from crossfire_core.localization.estimate import PoseEstimate
from crossfire_core.localization.uncertainty import diagonal
from crossfire_core.recordings.frame import Frame
from crossfire_core.training.honesty import covariance_factor

CAMERA = Camera(8, 6, 8.0, 8.0, 4.0, 3.0)
TRUTH = Pose.exp((1.0, 2.0, 0.5, 0.2, -0.4, 0.1))
SIGMA = np.repeat([0.01, 0.002], 3)


@dataclass
class WrongLocalizer:
    """Errors of ``SIGMA``, of which it says that they are ``factor`` times as large."""

    factor: float = 1.0
    blind: bool = False
    outliers: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(4))

    def localize(
        self, image: NDArray[np.uint8], camera: Camera, prior: Pose | None = None, **_: object
    ) -> PoseEstimate:
        error = SIGMA * self.rng.normal(size=6)
        if self.outliers > 0:
            self.outliers, error = self.outliers - 1, 30.0 * SIGMA
        turned = Pose.exp((0, 0, 0, *error[3:])).rotation @ TRUTH.rotation
        said = diagonal(self.factor * SIGMA[0], self.factor * SIGMA[3])
        pose = Pose(turned, TRUTH.translation + error[:3])
        return PoseEstimate(not self.blind, "", pose, said)


def frames(count: int) -> Iterator[Frame]:
    image = np.zeros((6, 8, 3), np.uint8)
    for number in range(count):
        yield Frame(str(number), image, CAMERA, number, TRUTH)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_covariances_that_are_wrong_by_a_factor_are_made_right(factor: float) -> None:
    found = covariance_factor(WrongLocalizer(factor), frames(400))
    assert found == pytest.approx(1.0 / factor**2, rel=0.15)


def test_frames_whose_own_pose_is_wrong_do_not_decide() -> None:
    found = covariance_factor(WrongLocalizer(outliers=12), frames(400))
    assert found == pytest.approx(1.0, rel=0.2)


def test_a_map_is_neither_believed_nor_doubted_without_limit() -> None:
    assert covariance_factor(WrongLocalizer(100.0), frames(50)) == 0.1
    assert covariance_factor(WrongLocalizer(0.01), frames(50)) == 10.0


@pytest.mark.parametrize(
    ("localizer", "count"), [(WrongLocalizer(3.0), 19), (WrongLocalizer(3.0, blind=True), 60)]
)
def test_too_few_answers_say_nothing(localizer: WrongLocalizer, count: int) -> None:
    assert covariance_factor(localizer, frames(count)) == 1.0
