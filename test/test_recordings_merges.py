"""Places that poses lay on one another are found by what their images show."""

import cv2
import numpy as np
import pytest

from crossfire_core.errors import RecordingError
from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings import Frame
from crossfire_core.recordings.checks.merges import choose_visits, find_merges, judge_merges
from crossfire_core.recordings.lazy import FrameInfo, Recording

CAMERA = Camera(320, 240, 300.0, 300.0, 160.0, 120.0)
STEP, DEPTH = 0.05, 3.0  # of the camera past a wall at this distance: 5 pixels an image
COUNT = 40  # images there, and as many back


def wall(seed):
    noise = np.random.default_rng(seed).normal(size=(240, 560)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 2.0)
    grey = cv2.normalize(soft, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)


class ThereAndBack(Recording):
    """A camera that looks at a wall, goes along it and comes back, perhaps to another wall."""

    name = "there and back"

    def __init__(self, forth, back):
        self.walls = (forth, back)

    @property
    def infos(self):
        found = []
        for index in range(2 * COUNT):
            x = STEP * min(index, 2 * COUNT - 1 - index) + (0.02 if index >= COUNT else 0.0)
            pose = Pose(np.eye(3), np.array([x, 0.0, 0.0]))
            found.append(FrameInfo(f"image{index}", 10**9 + index, CAMERA, pose))
        return found

    def frames(self, indices):
        infos = self.infos
        for index in sorted(set(indices)):
            info = infos[index]
            left = round(300.0 * info.world_from_camera.translation[0] / DEPTH)
            image = self.walls[index // COUNT][:, left : left + 320].copy()
            yield Frame(info.name, image, CAMERA, info.stamp_ns, info.world_from_camera)


def quiet(done, total):
    pass


def test_a_spot_that_shows_the_same_again_is_no_merge():
    noisy = wall(1).astype(int) + np.random.default_rng(9).integers(-20, 20, (240, 560, 1))
    merges = find_merges(ThereAndBack(wall(1), np.clip(noisy - 10, 0, 255).astype(np.uint8)), quiet)
    assert len(merges.visits) >= 8
    assert min(merges.likeness) > 0.5 and judge_merges(merges) == []


def test_another_place_on_the_same_poses_is_named_with_two_of_its_images():
    other = wall(2)
    other[60:180, 260:320] = wall(1)[60:180, 260:320]  # the same poster hangs in both
    merges = find_merges(ThereAndBack(wall(1), other), quiet)
    (finding,) = judge_merges(merges)
    assert finding.code == "merged" and finding.level == "warning"
    first, second = merges.names[merges.unlike[0]]
    assert first in finding.text and second in finding.text
    assert int(first[5:]) < COUNT <= int(second[5:])
    assert merges.to_json()["unlike_visits"] >= 0.8 * merges.to_json()["visits"]


def test_visits_lie_apart_in_time_and_near_in_space():
    infos = ThereAndBack(wall(1), wall(1)).infos
    visits = choose_visits(infos)
    assert visits
    for visit in visits:
        first, second = (infos[i].world_from_camera for i in (visit.first, visit.second))
        assert first.distance(second)[0] < 4 * STEP
        assert visit.second - visit.first > 20 and 0 < abs(visit.neighbour - visit.first) < 30
    still = [FrameInfo(str(i), i, CAMERA, Pose.identity()) for i in range(60)]
    assert choose_visits(still) == [] and choose_visits(infos[:10]) == []


def test_a_training_ends_with_a_word_about_a_merge_and_never_fails_by_it(capsys, monkeypatch):
    from crossfire_core.cli.mapping import tell_merged

    told = tell_merged(ThereAndBack(wall(1), wall(2)))
    assert len(told) == 1 and "two places" in told[0]
    assert "two places" in " ".join(capsys.readouterr().err.split())
    assert tell_merged(ThereAndBack(wall(1), wall(1))) == []

    def broken(*_):
        raise RecordingError("an image that training did not need is damaged")

    recording = ThereAndBack(wall(1), wall(2))
    monkeypatch.setattr(recording, "frames", broken)
    assert tell_merged(recording) == []


def test_check_names_a_merge(monkeypatch, tmp_path):
    from crossfire_core.recordings import check

    merged = ThereAndBack(wall(1), wall(2))
    monkeypatch.setattr(check, "open_recording", lambda *_: merged)
    report = check.check_recording(tmp_path)
    found = {finding.code for finding in report.findings}
    assert "merged" in found
    assert report.figures["unlike_visits"] == pytest.approx(report.figures["visits"], abs=1)
