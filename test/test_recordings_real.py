"""The real recordings, where they are at hand: counts, poses, odometry, calibration."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from recording_samples import INFO, recorded_info, replaced

from crossfire_core.geometry import Camera, Pose
from crossfire_core.recordings import Frame, Recording, RecordingOptions, open_recording
from crossfire_core.recordings.bag_writer import BagWriter

BAGS = {
    "redkitchen/mapping_bag": (469, 780, (640, 480)),
    "redkitchen/query_bag": (229, 380, (640, 480)),
    "euroc_mh05/bag": (585, 1461, (752, 480)),
}


@pytest.mark.parametrize("name", BAGS)
def test_bags(data_dir: Path, name: str) -> None:
    images, odometry_samples, size = BAGS[name]
    recording = open_recording(data_dir / name)
    assert len(recording) == images
    assert recording.world_frame == "map"
    assert recording.pose_source == "/ground_truth/pose"
    assert recording.notes == ()
    assert all(info.world_from_camera is not None for info in recording.infos)
    assert all(info.camera.size == size for info in recording.infos)
    odometry = recording.odometry()
    assert odometry is not None
    assert len(odometry) == odometry_samples
    frame = next(recording.frames([images // 2]))
    assert frame.image.shape == (size[1], size[0], 3)
    assert frame.image.std() > 10


def test_odometry_moves_as_the_truth_does(data_dir: Path) -> None:
    recording = open_recording(data_dir / "redkitchen/mapping_bag")
    odometry = recording.odometry()
    mounted = recording.base_from_camera
    steps = []
    for first, second in zip(recording.infos[:-30:30], recording.infos[30::30], strict=False):
        truth = first.world_from_camera.inverse() @ second.world_from_camera
        start, end = odometry.at(first.stamp_ns), odometry.at(second.stamp_ns)
        if start is None or end is None:
            continue
        moved = (start @ mounted).inverse() @ (end @ mounted)
        steps.append(moved.distance(truth)[0])
    assert len(steps) > 10
    assert np.median(steps) < 0.05


@pytest.mark.parametrize(
    ("name", "gap"), [("redkitchen/mapping_bag", 20), ("euroc_mh05/bag", 12), ("fox", 1)]
)
def test_poses_and_calibration_agree_with_the_pictures(data_dir: Path, name: str, gap: int) -> None:
    """Axes, mounting, distortion and pixel centres all enter the epipolar error."""
    recording = open_recording(data_dir / name)
    errors = [pair_error(recording, start, start + gap) for start in starts(recording, gap)]
    assert np.median(errors) < 1.5


def test_the_folder_of_frames_holds_the_bags_poses(data_dir: Path) -> None:
    folder = open_recording(data_dir / "redkitchen/frames")
    bag = open_recording(data_dir / "redkitchen/mapping_bag")
    assert len(folder) == 157
    assert folder.infos[0].camera.matrix == pytest.approx(bag.infos[0].camera.matrix)
    for info in folder.infos[:50]:
        number = int(info.name.split("-")[1].split(".")[0])
        distance, angle = info.world_from_camera.distance(bag.infos[number].world_from_camera)
        assert distance < 1e-3
        assert angle < 1e-3


def test_published_poses_and_depth_of_the_folder(data_dir: Path) -> None:
    options = RecordingOptions(pose_file="pose_slam.txt", use_depth=True, max_frames=5)
    frames = list(open_recording(data_dir / "redkitchen/frames", options))
    assert len(frames) == 5
    for frame in frames:
        known = frame.depth[frame.depth > 0]
        assert 0.3 < np.median(known) < 5.0
        assert known.max() < 30.0


def test_fox_lists_absent_photos(data_dir: Path) -> None:
    recording = open_recording(data_dir / "fox")
    assert len(recording) == 50
    assert len(recording.notes) == 1 and "17 of 67 listed images are absent" in recording.notes[0]
    assert recording.infos[0].camera.distortion == "radtan"


def starts(recording: Recording, gap: int) -> range:
    """A few pairs, spread over the recording."""
    return range(0, len(recording) - gap, max(1, (len(recording) - gap) // 4))


def pair_error(recording: Recording, first: int, second: int) -> float:
    """Median distance of SIFT matches of two frames to their epipolar line, in pixels."""
    a, b = recording.frames([first, second])
    sift, matcher = cv2.SIFT.create(1500), cv2.BFMatcher()
    found = [sift.detectAndCompute(grey(frame), None) for frame in (a, b)]
    matches = matcher.knnMatch(found[0][1], found[1][1], k=2)
    good = [m for m, n in matches if m.distance < 0.7 * n.distance]
    assert len(good) > 30
    pixels_a = np.array([found[0][0][m.queryIdx].pt for m in good]) + 0.5
    pixels_b = np.array([found[1][0][m.trainIdx].pt for m in good]) + 0.5
    return epipolar_error(a.camera, pixels_a, pixels_b, relative(a, b))


def relative(a: Frame, b: Frame) -> Pose:
    """``b_from_a`` of two posed frames."""
    assert a.world_from_camera is not None
    assert b.world_from_camera is not None
    return b.world_from_camera.inverse() @ a.world_from_camera


def epipolar_error(camera: Camera, a: np.ndarray, b: np.ndarray, b_from_a: Pose) -> float:
    """Median distance of pixels of b to the lines that those of a give, in pixels."""
    bearings_a, bearings_b = camera.bearings(a), camera.bearings(b)
    normals = np.cross(b_from_a.translation, bearings_a @ b_from_a.rotation.T)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return float(np.median(np.abs((normals * bearings_b).sum(axis=1))) * camera.fx)


def grey(frame: Frame) -> np.ndarray:
    """For SIFT."""
    return cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)


@pytest.mark.parametrize("rectified", [False, True])
def test_images_say_whether_they_are_rectified(
    data_dir: Path, tmp_path: Path, rectified: bool
) -> None:
    source = open_recording(data_dir / "euroc_mh05/bag")
    camera = source.infos[0].camera
    k, d = camera.opencv_matrix, np.array(camera.coefficients)
    straight = cv2.getOptimalNewCameraMatrix(k, d, camera.size, 0)[0]
    p = np.hstack([straight, np.zeros((3, 1))])
    with BagWriter(tmp_path / "bag") as writer:
        known = replaced(writer, recorded_info(writer, camera), p=p.ravel())
        for frame in source.frames(range(200, 240, 2)):
            grey = frame.image[..., 0].copy()
            seen = cv2.undistort(grey, k, d, None, straight) if rectified else grey
            writer.image("/cam/image", frame.stamp_ns, "cam", seen)
            writer.write(INFO, frame.stamp_ns, known)
    found = open_recording(tmp_path / "bag", RecordingOptions(require_poses=False))
    assert found.infos[0].camera.distortion == ("none" if rectified else "radtan")
    word = "rectified" if rectified else "raw"
    assert any(f"taken for {word}" in note for note in found.notes)
