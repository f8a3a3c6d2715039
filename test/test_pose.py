"""Rigid transforms: what must hold for every pose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm

from crossfire_core.geometry import Pose
from crossfire_core.geometry.pose import left_jacobian, nearest_rotation, rotation_angle, skew

metres = st.floats(-100, 100)
vectors = st.tuples(metres, metres, metres).map(np.array)


@st.composite
def rotation_vectors(draw: st.DrawFn, largest: float = np.pi - 1e-3) -> np.ndarray:
    """Any axis; angles over many magnitudes, tiny ones included."""
    axis = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 3)))
    length = np.linalg.norm(axis)
    axis = axis / length if length > 1e-3 else np.array([0.0, 0.0, 1.0])
    angle = draw(st.one_of(st.just(0.0), st.floats(1e-12, 1e-4), st.floats(1e-4, largest)))
    return axis * angle


@st.composite
def twists(draw: st.DrawFn) -> np.ndarray:
    """Elements of se(3), translation first."""
    return np.concatenate([draw(vectors), draw(rotation_vectors())])


poses = twists().map(Pose.exp)


@given(twists())
def test_log_undoes_exp(twist: np.ndarray) -> None:
    np.testing.assert_allclose(Pose.exp(twist).log(), twist, atol=1e-7)


@given(twists())
def test_exp_is_the_matrix_exponential(twist: np.ndarray) -> None:
    generator = np.zeros((4, 4))
    generator[:3, :3], generator[:3, 3] = skew(twist[3:]), twist[:3]
    np.testing.assert_allclose(Pose.exp(twist).matrix(), expm(generator), atol=1e-9)


@given(poses, poses, poses, vectors)
def test_chains(a: Pose, b: Pose, c: Pose, point: np.ndarray) -> None:
    np.testing.assert_allclose(((a @ b) @ c).matrix(), (a @ (b @ c)).matrix(), atol=1e-9)
    np.testing.assert_allclose((a @ b).apply(point), a.apply(b.apply(point)), atol=1e-9)
    np.testing.assert_allclose((a @ b).matrix(), a.matrix() @ b.matrix(), atol=1e-9)


@given(poses)
def test_inverse(pose: Pose) -> None:
    for product in (pose @ pose.inverse(), pose.inverse() @ pose):
        np.testing.assert_allclose(product.matrix(), np.eye(4), atol=1e-9)


@given(poses)
def test_every_other_form_reads_back(pose: Pose) -> None:
    for again in (
        Pose.from_matrix(pose.matrix()),
        Pose.from_matrix(pose.matrix()[:3]),
        Pose.from_quaternion(pose.quaternion(), pose.translation),
        Pose.from_json(pose.to_json()),
    ):
        np.testing.assert_allclose(again.matrix(), pose.matrix(), atol=1e-12)
    assert pose.quaternion()[3] >= 0


@given(poses, poses, poses)
def test_distance_is_symmetric_and_does_not_depend_on_the_frame(a: Pose, b: Pose, c: Pose) -> None:
    np.testing.assert_allclose(a.distance(b), b.distance(a), atol=1e-9)
    np.testing.assert_allclose((c @ a).distance(c @ b), a.distance(b), atol=1e-7)
    assert a.distance(a) == pytest.approx((0.0, 0.0), abs=1e-9)


@given(rotation_vectors())
def test_rotation_angle_is_exact_at_both_ends(vector: np.ndarray) -> None:
    rotation = Pose.exp(np.concatenate([np.zeros(3), vector])).rotation
    assert rotation_angle(rotation) == pytest.approx(np.linalg.norm(vector), abs=1e-12, rel=1e-9)


@given(poses, poses, st.floats(0, 1))
def test_interpolation(a: Pose, b: Pose, fraction: float) -> None:
    distance, angle = a.distance(b)
    middle = a.interpolate(b, fraction)
    np.testing.assert_allclose(a.distance(middle)[0], fraction * distance, atol=1e-8)
    if angle < np.pi - 1e-3:  # at a half turn the way round is a matter of taste
        np.testing.assert_allclose(a.distance(middle)[1], fraction * angle, atol=1e-7)
    assert a.interpolate(b, 0.0).distance(a) == pytest.approx((0, 0), abs=1e-7)
    assert a.interpolate(b, 1.0).distance(b) == pytest.approx((0, 0), abs=1e-7)


@given(rotation_vectors(), vectors)
def test_left_jacobian_moves_the_rotation_from_the_left(
    vector: np.ndarray, direction: np.ndarray
) -> None:
    step = 1e-6 * direction / max(1.0, float(np.linalg.norm(direction)))
    moved = Pose.exp(np.concatenate([np.zeros(3), vector + step])).rotation
    predicted = Pose.exp(np.concatenate([np.zeros(3), left_jacobian(vector) @ step])).rotation
    still = Pose.exp(np.concatenate([np.zeros(3), vector])).rotation
    np.testing.assert_allclose(moved, predicted @ still, atol=1e-10)


def test_left_jacobian_of_a_tiny_turn() -> None:
    """Half the turn to the left, and a sixth of its square less along x and y."""
    angle = 8e-6
    expected = np.array([[1.0, -4e-6, 0.0], [4e-6, 1.0, 0.0], [0.0, 0.0, 1.0]])
    expected[[0, 1], [0, 1]] -= angle**2 / 6.0
    np.testing.assert_allclose(left_jacobian([0.0, 0.0, angle]), expected, rtol=0, atol=1e-14)


@given(poses, st.floats(0.5, 2.0))
def test_nearest_rotation_undoes_scale_and_never_mirrors(pose: Pose, scale: float) -> None:
    np.testing.assert_allclose(nearest_rotation(scale * pose.rotation), pose.rotation, atol=1e-9)
    assert np.linalg.det(nearest_rotation(-pose.rotation)) == pytest.approx(1.0)


@given(vectors, vectors)
def test_skew_is_the_cross_product(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(skew(a) @ b, np.cross(a, b), atol=1e-9)


@pytest.mark.parametrize(
    ("quaternion", "translation"),
    [
        ((0, 0, 0, 0), (0, 0, 0)),
        ((np.nan, 0, 0, 1), (0, 0, 0)),
        ((0, 0, 0, 1), (np.inf, 0, 0)),
    ],
)
def test_poses_that_are_none(quaternion: tuple, translation: tuple) -> None:
    with pytest.raises(ValueError, match=r"NaN|zero"):
        Pose.from_quaternion(quaternion, translation)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_noticed(bad: float) -> None:
    turned = np.eye(3)
    turned[2, 1] = bad
    assert Pose.identity().is_finite()
    assert not Pose(turned, np.zeros(3)).is_finite()
    assert not Pose(np.eye(3), np.array([0.0, bad, 0.0])).is_finite()


@pytest.mark.parametrize("matrix", [np.eye(3), np.full((4, 4), np.nan), np.zeros(16)])
def test_matrices_that_are_none(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="pose matrix"):
        Pose.from_matrix(matrix)


@pytest.mark.parametrize("turn", [1.1 * np.eye(3), np.diag([1.0, 1, -1]), np.full((3, 3), 1e300)])
def test_scaled_mirrored_and_huge_matrices_are_no_rotations(turn: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no rotation"):
        Pose.from_matrix(np.hstack([turn, np.zeros((3, 1))]))


def test_a_pose_cannot_be_changed_from_outside() -> None:
    translation = np.zeros(3)
    pose = Pose(np.eye(3), translation)
    translation[0] = 5.0
    assert pose.translation[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        pose.translation[0] = 1.0
    with pytest.raises(ValueError, match="shape"):
        Pose(np.eye(4), np.zeros(3))
