"""Messages to core types and back, without a graph."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose as PoseMsg
from hypothesis import given
from hypothesis import strategies as st
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from crossfire_core.geometry import Pose
from crossfire_core.recordings.image_message import PixelDepth
from crossfire_ros import conversions as c

RNG = np.random.default_rng(0)
numbers = st.floats(-100.0, 100.0)


@given(st.lists(numbers, min_size=3, max_size=3), st.lists(numbers, min_size=4, max_size=4))
def test_poses_survive_the_round_trip(position, quaternion):
    if np.linalg.norm(quaternion) < 1e-3:
        return
    pose = Pose.from_quaternion(quaternion, position)
    back = c.pose_from_message(c.pose_to_message(pose))
    metres, radians = back.distance(pose)
    assert metres < 1e-9 and radians < 1e-7
    stamped = c.transform_from_pose(pose, "map", "odom", Time(sec=3))
    assert (stamped.header.frame_id, stamped.child_frame_id) == ("map", "odom")
    assert c.pose_from_transform(stamped.transform).distance(pose)[0] < 1e-9


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_survive_the_round_trip(stamp_ns):
    assert c.stamp_to_ns(c.stamp_from_ns(stamp_ns)) == stamp_ns


@pytest.mark.parametrize("broken", ["nan", "zero"])
def test_pose_that_is_none_is_refused(broken):
    message = PoseMsg()
    if broken == "nan":
        message.position.z = float("nan")
    else:
        message.orientation.w = 0.0
    with pytest.raises(c.MessageError, match=r"NaN|zero quaternion"):
        c.pose_from_message(message)


@pytest.mark.parametrize("nothing", [0.0, -1.0, 1e15, np.finfo(float).max, np.nan, np.inf])
def test_axes_without_a_covariance_get_the_usual_one(nothing):
    told = np.diag([0.04, 0.09, nothing, nothing, nothing, 0.01])
    found = c.covariance_from_message(told.ravel(), np.diag([1.0, 2, 3, 4, 5, 6]))
    np.testing.assert_array_equal(found, np.diag([0.04, 0.09, 3, 4, 5, 0.01]))


@pytest.mark.parametrize("values", [np.full(36, np.nan), np.arange(36.0), np.full(36, -1.0)])
def test_covariance_that_is_none_becomes_the_usual_one(values):
    np.testing.assert_array_equal(c.covariance_from_message(values, np.eye(6)), np.eye(6))


class TestOdometry:
    def message(self) -> Odometry:
        message = Odometry(child_frame_id="base_link")
        message.header.frame_id = "odom"
        message.header.stamp = Time(sec=7, nanosec=5)
        message.pose.pose.position.x = 2.0
        return message

    def test_is_converted(self):
        message = self.message()
        message.pose.covariance = np.arange(36.0)
        stamp, pose, covariance = c.odometry_from_message(message, "odom", "base_link")
        assert stamp == 7_000_000_005 and pose.translation[0] == 2.0
        assert covariance[0].tolist() == [0, 1, 2, 3, 4, 5] and covariance[5, 0] == 30

    def test_slashes_and_empty_frames_are_forgiven_other_frames_are_not(self):
        message = self.message()
        message.header.frame_id, message.child_frame_id = "", ""
        c.odometry_from_message(message, "odom", "base_link")
        message.header.frame_id = "/odom"
        c.odometry_from_message(message, "odom", "base_link")
        message.child_frame_id = "/base_link"
        c.odometry_from_message(message, "odom", "base_link")
        message.child_frame_id = "base_footprint"
        with pytest.raises(c.MessageError, match="set base_frame to 'base_footprint'"):
            c.odometry_from_message(message, "odom", "base_link")
        message.header.frame_id = "robot1/odom"
        both = "set odom_frame to 'robot1/odom' and base_frame to 'base_footprint'"
        with pytest.raises(c.MessageError, match=both):
            c.odometry_from_message(message, "odom", "base_link")

    def test_no_stamp_is_told_from_the_first_nanosecond(self):
        message = self.message()
        message.header.stamp = Time(nanosec=1)
        assert c.odometry_from_message(message, "odom", "base_link")[0] == 1
        message.header.stamp = Time()
        with pytest.raises(c.MessageError, match="has no stamp"):
            c.odometry_from_message(message, "odom", "base_link")


class TestCamera:
    def message(self) -> CameraInfo:
        message = CameraInfo(width=640, height=480, distortion_model="plumb_bob")
        message.k = [500.0, 0, 319.5, 0, 510.0, 239.5, 0, 0, 1]
        message.d = [0.1, 0.0, 0.0, 0.0, 0.0]
        return message

    def test_pixel_centres_move_to_one_half(self):
        camera = c.view_from_message(self.message(), "", False)[0].camera
        assert (camera.cx, camera.cy, camera.fx, camera.fy) == (320.0, 240.0, 500.0, 510.0)
        assert camera.distortion == "radtan"

    def test_binning_and_region_of_interest_are_applied(self):
        message = self.message()
        message.binning_x = message.binning_y = 2
        camera = c.view_from_message(message, "", False)[0].camera
        assert camera.size == (320, 240) and camera.fx == 250.0 and camera.cx == 160.0

    def test_what_the_user_says_about_rectified_images_holds(self):
        message = self.message()
        message.p = [400.0, 0, 309.5, 0, 0, 410.0, 229.5, 0, 0, 0, 1, 0]
        view, other = c.view_from_message(message, "image_raw", True)
        assert (view.camera.fx, view.camera.fy, view.camera.cx) == (400.0, 410.0, 310.0)
        assert view.camera.distortion == "none" and other is None
        view, other = c.view_from_message(message, "image_rect", False)
        assert view.camera.fx == 500.0 and other is None

    @pytest.mark.parametrize("d", [[0.1], [0.1] * 15])
    def test_wrong_number_of_coefficients_is_refused(self, d):
        message = self.message()
        message.d = d
        with pytest.raises(c.MessageError, match="coefficients"):
            c.view_from_message(message, "", False)


class TestImages:
    PIXELS = RNG.integers(0, 255, (6, 8, 3), dtype=np.uint8)

    def test_round_trip(self):
        message = c.image_to_message(self.PIXELS, "camera", 42)
        assert (message.encoding, message.step, c.stamp_to_ns(message.header.stamp)) == (
            "rgb8",
            24,
            42,
        )
        assert (c.image_from_message(message) == self.PIXELS).all()

    def test_padded_rows(self):
        padded = np.zeros((6, 40), np.uint8)
        padded[:, :24] = self.PIXELS[..., ::-1].reshape(6, 24)
        message = Image(height=6, width=8, encoding="bgr8", step=40)
        message.data.frombytes(padded.tobytes())
        assert (c.image_from_message(message) == self.PIXELS).all()

    def test_a_dark_image_is_scaled_as_the_bright_one_before_it(self):
        """A pixel of 4,000 needs 12 bits: then 160 is 160 / 16."""
        depth, seen = PixelDepth(), []
        for value in (4000, 160):
            message = Image(height=2, width=2, encoding="mono16", step=4)
            message.data.frombytes(np.full((2, 2), value, np.uint16).tobytes())
            seen.append(int(c.image_from_message(message, depth)[0, 0, 0]))
        assert seen == [250, 10]

    def test_compressed(self):
        png = cv2.imencode(".png", self.PIXELS[..., ::-1])[1].tobytes()
        message = CompressedImage(format="png", data=png)
        assert (c.image_from_message(message) == self.PIXELS).all()

    @pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"GIF89a", bytes(1000)])
    def test_bytes_that_are_no_image(self, data):
        with pytest.raises(c.MessageError, match="image"):
            c.image_from_message(CompressedImage(format="jpeg", data=data))

    @given(
        st.integers(0, 50),
        st.integers(0, 50),
        st.integers(0, 200),
        st.sampled_from(["rgb8", "mono16", "bayer_rggb8", "yuv422", "32FC1", "", "é"]),
        st.binary(max_size=400),
        st.booleans(),
    )
    def test_any_message_gives_an_image_or_a_reason(self, h, w, step, encoding, data, big):
        message = Image(height=h, width=w, step=step, encoding=encoding, is_bigendian=int(big))
        message.data.frombytes(data)
        try:
            image = c.image_from_message(message)
        except c.MessageError as error:
            assert str(error) and "\n" not in str(error)
        else:
            assert image.shape == (h, w, 3) and image.dtype == np.uint8
