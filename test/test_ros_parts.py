"""Parts of the node that need no graph."""

from __future__ import annotations

import json
import math
import threading
import time

import numpy as np
import pytest

from crossfire_core.geometry import Pose
from crossfire_core.localization.tracker import Tracker
from crossfire_core.localization.uncertainty import diagonal
from crossfire_ros import bonds, runtime
from crossfire_ros.image_gate import RateLimit
from crossfire_ros.map_loading import LoadedMap
from crossfire_ros.pose_file import KeptPose, PoseFileError, load_pose, save_pose
from crossfire_ros.worker import Worker

HERE = Pose(Pose.exp([0, 0, 0, 0, 0, 0.5]).rotation, np.array([3.0, 4.0, 0.0]))
SMALL = diagonal(0.02, 0.01)


class TestWorker:
    def test_ticks_also_while_items_keep_coming(self):
        """An empty queue is no condition: refused images must not keep a dead pose alive."""
        ticked = threading.Event()
        worker = Worker(lambda _: None, ticked.set, print, tick_s=0.02)
        deadline = time.monotonic() + 60.0
        while not ticked.is_set() and time.monotonic() < deadline:
            worker.submit(1)
        assert ticked.is_set() and worker.stop(60.0)

    def test_clear_waits_for_the_item_in_hand_and_drops_the_one_behind_it(self):
        begun, go_on, done = threading.Event(), threading.Event(), []

        def process(item: int) -> None:
            begun.set()
            go_on.wait(60.0)
            done.append(item)

        worker = Worker(process, lambda: None, print)
        worker.submit(1)
        assert begun.wait(60.0)
        worker.submit(2)
        threading.Timer(0.02, go_on.set).start()
        worker.clear()
        assert done == [1]
        assert worker.stop(60.0) and done == [1]

    def test_clear_does_not_wait_for_a_map_that_is_being_read(self):
        begun, go_on = threading.Event(), threading.Event()
        worker = Worker(lambda _: None, lambda: None, print)
        worker.call(lambda: begun.set() or go_on.wait(60.0))
        assert begun.wait(60.0)
        worker.clear()
        assert not worker.stop(0.01), "it is told apart from one that has ended"
        go_on.set()
        assert worker.stop(60.0)

    def test_held_waits_for_what_is_in_hand_and_lets_nothing_begin(self):
        """Neither items, nor commands, nor ticks, however long it is held."""
        begun, go_on, done = threading.Event(), threading.Event(), []
        woken = threading.Event()

        def command() -> None:
            begun.set()
            go_on.wait(60.0)
            done.append("command")

        worker = Worker(done.append, lambda: done.append("tick"), print, tick_s=0.01)
        worker.call(command)
        assert begun.wait(60.0)
        threading.Timer(0.02, go_on.set).start()
        with worker.held():
            assert done[-1] == "command"
            before = list(done)
            worker.submit("item")
            worker.call(lambda: done.append("next"))
            assert not woken.wait(0.1) and done == before
        worker.call(woken.set)
        assert woken.wait(60.0) and "next" in done
        assert worker.stop(60.0)


class TestRateLimit:
    def test_every_third_image_of_a_jittering_camera(self):
        """30 Hz with 5 ms of jitter and a limit of 10 Hz: 10 a second on average, not 7.5."""
        rng = np.random.default_rng(0)
        stamps = np.arange(300) / 30.0 + rng.uniform(-0.005, 0.005, 300)
        limit = RateLimit()
        passed = sum(limit.passes(int(1e9 * (5 + s)), 10.0) for s in stamps)
        assert 97 <= passed <= 103

    def test_a_pause_and_a_clock_that_goes_back_begin_anew(self):
        limit = RateLimit()
        assert limit.passes(100_000_000_000, 1.0) and not limit.passes(100_500_000_000, 1.0)
        assert limit.passes(200_000_000_000, 1.0) and not limit.passes(200_500_000_000, 1.0)
        assert limit.passes(5_000_000_000, 1.0) and not limit.passes(5_500_000_000, 1.0)

    def test_no_limit(self):
        limit = RateLimit()
        assert all(limit.passes(stamp, 0.0) for stamp in (5, 5, 4))


class TestPoseFile:
    def test_everything_comes_back(self, tmp_path):
        path, odometry = tmp_path / "pose.json", Pose(np.eye(3), np.array([1.0, 2.0, 0.0]))
        covariance = np.diag([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) * 1e-4
        save_pose(path, "map", "abc", KeptPose(123, time.time(), HERE, covariance, odometry))
        found = load_pose(path, "map", "abc")
        assert found is not None and found.stamp_ns == 123
        assert found.map_from_base.distance(HERE)[0] < 1e-12
        assert found.odom_from_base.distance(odometry)[0] < 1e-12
        assert np.allclose(found.covariance, covariance)

    @pytest.mark.parametrize(
        ("age_s", "sigma_m"), [(0.0, 0.3), (10.0, 0.5), (1e6, 1.0), (-1e6, 1.0)]
    )
    def test_uncertainty_grows_with_the_age(self, age_s, sigma_m):
        """0.3 m at once, 0.02 m a second more, 1 m at most; a clock that went back: the most."""
        kept = KeptPose(0, time.time() - age_s, HERE, np.zeros((6, 6)))
        assert math.sqrt(kept.widened()[0, 0]) == pytest.approx(sigma_m, abs=0.01)

    @pytest.mark.parametrize(
        "change",
        [
            {"stamp_ns": "soon"},
            {"stamp_ns": float("inf")},
            {"saved_s": None},
            {"saved_s": float("nan")},
            {"covariance": [[1.0]]},
            {"pose": {"quaternion_xyzw": [0, 0, 0, 0], "translation": [0, 0, 0]}},
            {"odometry": 5},
        ],
    )
    def test_nonsense_is_refused_with_a_reason(self, tmp_path, change):
        path = tmp_path / "pose.json"
        save_pose(path, "map", "abc", KeptPose(123, time.time(), HERE, SMALL))
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(PoseFileError, match="ignored"):
            load_pose(path, "map", "abc")

    def test_odometry_that_was_restarted_adds_nothing(self):
        """Kept at 5 m of odometry; the driver begins anew at zero: the pose itself is tried."""
        there = Pose(np.eye(3), np.array([5.0, 0.0, 0.0]))
        now = 100_000_000_000
        kept = KeptPose(now - 10_000_000_000, time.time() - 10.0, HERE, SMALL, there)
        tracker = Tracker(None)
        kept.start(tracker, now)
        for i in range(3):
            tracker.add_odometry(now + i * 20_000_000, Pose.identity())
        moved = tracker._move(tracker._hint, now + 40_000_000)
        assert moved.map_from_base.distance(HERE)[0] < 1e-9

    def test_pose_of_a_simulation_that_was_started_again(self):
        """Its stamp lies in the future of the new clock: odometry of then says nothing."""
        kept = KeptPose(90_000_000_000, time.time() - 5.0, HERE, SMALL, Pose.identity())
        tracker = Tracker(None)
        kept.start(tracker, 1_000_000_000)
        assert tracker.odometry.empty and tracker._hint is not None


class TestFastDds:
    @pytest.mark.parametrize(
        "name", ["FASTDDS_BUILTIN_TRANSPORTS", "FASTDDS_DEFAULT_PROFILES_FILE"]
    )
    def test_what_the_user_has_chosen_is_left_alone(self, monkeypatch, name):
        for other in (runtime._PROFILE, runtime._OLD_PROFILE, runtime._TRANSPORTS):
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(name, "mine")
        runtime.use_large_messages()
        chosen = runtime.os.environ.get(runtime._PROFILE)
        assert chosen == ("mine" if name == runtime._PROFILE else None)


class TestBond:
    def test_without_bondpy_there_is_none(self):
        assert bonds.start_bond(None) is None

    def test_is_that_of_nav2(self, monkeypatch):
        """Topic, name and times as Nav2's manager expects them, with a stand-in for bondpy."""
        import sys
        import types

        class Bond:
            def __init__(self, topic, name, node):
                self.made, self.started = (topic, name), False

            def start(self):
                self.started = True

        module = types.ModuleType("bondpy.bondpy")
        module.Bond = Bond
        monkeypatch.setitem(sys.modules, "bondpy", types.ModuleType("bondpy"))
        monkeypatch.setitem(sys.modules, "bondpy.bondpy", module)
        node = types.SimpleNamespace(get_name=lambda: "crossfire_localization")
        bond = bonds.start_bond(node)
        assert bond.made == ("bond", "crossfire_localization") and bond.started
        assert (bond.heartbeat_period, bond.heartbeat_timeout) == (0.1, 4.0)


class TestUpward:
    def test_is_the_z_axis_of_the_robot_that_mapped(self):
        """A camera that looks along the robot's x axis, on a robot that stands in the map."""
        forward = Pose(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([0.2, 0, 0.5]))
        views = [HERE @ forward, Pose(np.eye(3), np.array([1.0, 0, 0])) @ forward]
        upward = LoadedMap(None, base_from_camera=forward, mapping_views=views).upward
        assert np.allclose(upward, [0, 0, 1])

    def test_is_not_known_of_a_camera_in_a_hand(self):
        assert LoadedMap(None, mapping_views=[HERE]).upward is None
