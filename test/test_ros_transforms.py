"""The transform buffer: one set of expectations for tf2_ros and for its stand-in."""

from __future__ import annotations

import numpy as np
import pytest
from rclpy.time import Time
from ros_graph import graph

from crossfire_core.geometry import Pose
from crossfire_ros import tf_fallback, transforms
from crossfire_ros.conversions import stamp_from_ns, transform_from_pose

S = 1_000_000_000
IMPLEMENTATIONS = [pytest.param(tf_fallback, id="fallback")]
if transforms.HAS_TF2:
    IMPLEMENTATIONS.append(pytest.param(transforms, id="tf2_ros"))


def pose(x: float, degrees: float = 0.0) -> Pose:
    turn = Pose.exp([0, 0, 0, 0, 0, np.radians(degrees)]).rotation
    return Pose(turn, np.array([x, 0.0, 0.0]))


def stamped(parent: str, child: str, value: Pose, seconds: float = 0.0):
    return transform_from_pose(value, parent, child, stamp_from_ns(int(seconds * S)))


@pytest.fixture(params=IMPLEMENTATIONS)
def tf(request):
    return request.param


@pytest.fixture
def buffer(tf):
    """Odom to base moves from 0 to 2 m while turning 90 degrees; the camera sits on base."""
    b = tf.Buffer()
    b.set_transform(stamped("odom", "base", pose(0.0), 10.0), "test")
    b.set_transform(stamped("odom", "base", pose(2.0, 90.0), 12.0), "test")
    b.set_transform(stamped("map", "odom", pose(5.0), 10.0), "test")
    b.set_transform(stamped("map", "odom", pose(5.0), 11.0), "test")
    b.set_transform_static(stamped("base", "camera", pose(0.5)), "test")
    b.set_transform_static(stamped("attic", "lamp", pose(0.5)), "test")
    return b


def found(buffer, target, source, seconds):
    answer = buffer.lookup_transform(target, source, Time(nanoseconds=int(seconds * S)))
    assert (answer.header.frame_id, answer.child_frame_id) == (target, source)
    return transforms.pose_from_transform(answer.transform)


def assert_same(a: Pose, b: Pose) -> None:
    metres, radians = a.distance(b)
    assert metres < 1e-6 and radians < 1e-6


def test_interpolates_between_samples(buffer):
    assert_same(found(buffer, "odom", "base", 11.0), pose(1.0, 45.0))


def test_chains_and_inverts(buffer):
    expected = pose(5.0) @ pose(0.5, 22.5) @ pose(0.5)
    assert_same(found(buffer, "map", "camera", 10.5), expected)
    assert_same(found(buffer, "camera", "map", 10.5), expected.inverse())


def test_time_zero_is_the_latest_that_all_know(buffer):
    answer = buffer.lookup_transform("map", "camera", Time())
    assert answer.header.stamp.sec == 11
    assert_same(transforms.pose_from_transform(answer.transform), pose(6.0, 45.0) @ pose(0.5))


def test_what_the_node_asks_for_now_and_then(buffer):
    """After half of the way odom has turned by 45 degrees; the camera is half a metre ahead."""
    newest = Pose(pose(0.0, 45.0).rotation, np.array([6.0 + 0.5**1.5, 0.5**1.5, 0.0]))
    assert_same(transforms.lookup(buffer, "map", "camera"), newest)
    stamp_ns, there = transforms.latest(buffer, "map", "camera")
    assert stamp_ns == 11 * S
    assert_same(there, newest)
    then = transforms.lookup(buffer, "map", "camera", int(10.5 * S))
    assert_same(then, pose(5.0) @ pose(0.5, 22.5) @ pose(0.5))
    assert_same(transforms.lookup(buffer, "nowhere", "nowhere", 1), Pose.identity())


def test_static_ones_hold_at_any_time(buffer):
    assert_same(found(buffer, "base", "camera", 99.0), pose(0.5))
    assert_same(found(buffer, "base", "camera", 0.0), pose(0.5))


@pytest.mark.parametrize(
    ("target", "source", "seconds", "error"),
    [
        ("map", "nowhere", 11.0, "LookupException"),
        ("map", "lamp", 11.0, "ConnectivityException"),
        ("odom", "base", 13.0, "ExtrapolationException"),
        ("odom", "base", 9.0, "ExtrapolationException"),
    ],
)
def test_what_is_not_known_raises(tf, buffer, target, source, seconds, error):
    with pytest.raises(getattr(tf, error)):
        found(buffer, target, source, seconds)
    assert issubclass(getattr(tf, error), tf.TransformException)
    assert not buffer.can_transform(target, source, Time(nanoseconds=int(seconds * S)))


def test_old_samples_are_forgotten(tf):
    b = tf.Buffer()
    for second in range(1, 200):
        b.set_transform(stamped("odom", "base", pose(second), second), "test")
    with pytest.raises(tf.ExtrapolationException):
        found(b, "odom", "base", 100.0)
    assert_same(found(b, "odom", "base", 195.5), pose(195.5))


def test_samples_may_arrive_out_of_order(tf):
    b = tf.Buffer()
    for second in (1, 3, 2):
        b.set_transform(stamped("odom", "base", pose(second**2), second), "test")
    assert_same(found(b, "odom", "base", 2.5), pose(6.5))


def test_clock_that_goes_back_begins_anew():
    b = tf_fallback.Buffer()
    b.set_transform(stamped("odom", "base", pose(1.0), 1000.0), "test")
    b.set_transform(stamped("odom", "base", pose(2.0), 5.0), "test")
    assert_same(found(b, "odom", "base", 5.0), pose(2.0))


@pytest.mark.parametrize("broken", ["nan", "self", "empty"])
def test_senseless_transform_is_refused_by_the_stand_in(broken):
    message = stamped("a", "b", pose(1.0))
    if broken == "nan":
        message.transform.translation.x = float("nan")
    if broken == "self":
        message.child_frame_id = "a"
    if broken == "empty":
        message.child_frame_id = ""
    with pytest.raises(tf_fallback.TransformException):
        tf_fallback.Buffer().set_transform(message, "test")


def test_lookup_in_the_graph_with_late_listener_and_all_statics():
    with graph() as g:
        sender = transforms.tf.StaticTransformBroadcaster(g.peer)
        sender.sendTransform(stamped("base_link", "left", pose(1.0)))
        sender.sendTransform(stamped("base_link", "right", pose(2.0)))
        buffer = transforms.tf.Buffer()
        listener = transforms.tf.TransformListener(buffer, g.node)
        g.wait(lambda: buffer.can_transform("left", "right", Time()))
        assert_same(transforms.lookup(buffer, "left", "right"), pose(1.0))
        moving = transforms.tf.TransformBroadcaster(g.peer)

        def known() -> bool:
            moving.sendTransform(stamped("odom", "base_link", pose(3.0), 5.0))
            return buffer.can_transform("odom", "left", Time())

        g.wait(known)
        assert_same(transforms.lookup(buffer, "odom", "left", 5 * S), pose(4.0))
        listener.unregister()
