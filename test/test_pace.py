"""Which way an image goes while a robot is followed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from crossfire_core.config import TrackingConfig
from crossfire_core.localization.estimate import PoseEstimate, Way
from crossfire_core.localization.pace import Pace

AUTO = TrackingConfig()
FULL, PATCHES = replace(AUTO, way="full"), replace(AUTO, way="patches")
CHECKED = PoseEstimate(True, "", way=Way.FINISHED, timings_ms={"render": 60.0, "match": 40.0})
FOLLOWED = PoseEstimate(True, "", way=Way.PATCHES, timings_ms={"patches": 20.0})


def ways(camera_ms: int, count: int = 40, config: TrackingConfig = AUTO) -> list[bool]:
    """For each image of a camera, whether it was followed on patches; the full way takes 0.1 s."""
    pace, out = Pace(), []
    for number in range(count):
        stamp = number * camera_ms * 1_000_000
        pace.seen(stamp)
        out.append(pace.follows(config, stamp))
        pace.gone(stamp, FOLLOWED if out[-1] else CHECKED)
    return out


def test_a_slow_camera_goes_the_full_way_always() -> None:
    assert not any(ways(camera_ms=200))
    assert any(ways(camera_ms=200, config=PATCHES))


def test_a_fast_camera_is_followed_on_patches_and_checked_once_a_second() -> None:
    found = ways(camera_ms=40, count=101)  # 4 s
    assert not found[0] and sum(found) > 90
    full = [number for number, followed in enumerate(found) if not followed]
    gaps = [b - a for a, b in pairwise(full)]
    assert max(gaps) == 25  # images in a second


def test_images_that_are_lost_to_the_full_way_do_not_make_a_camera_slow() -> None:
    """At 30 Hz the full way looks at every fourth image: 132 ms lie between those that it sees."""
    pace, free_at, followed = Pace(), 0, []
    for stamp in range(0, 4_000, 33):
        if stamp < free_at:
            continue
        now = stamp * 1_000_000
        pace.seen(now)
        followed.append(pace.follows(AUTO, now))
        pace.gone(now, FOLLOWED if followed[-1] else CHECKED)
        free_at = stamp + (20 if followed[-1] else 100)
    assert len(followed) > 95 and sum(followed) > 90


def test_either_way_can_be_forced() -> None:
    assert not any(ways(camera_ms=10, config=FULL))
    assert ways(camera_ms=100, count=5, config=PATCHES) == [False, True, True, True, True]


@pytest.mark.parametrize("failed", [PoseEstimate(False, "no", way=Way.FOUND), FOLLOWED])
def test_only_the_finders_answer_is_a_check(failed: PoseEstimate) -> None:
    pace = Pace()
    pace.seen(0)
    pace.gone(0, failed)
    assert not pace.follows(PATCHES, 1)
    pace.gone(2, CHECKED)
    assert pace.follows(PATCHES, 3)
    assert not pace.follows(PATCHES, 1)  # a clock that went back
