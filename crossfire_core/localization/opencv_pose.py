"""A pose among wrong matches by OpenCV, where PoseLib is not: it has no wheel for aarch64.

OpenCV's USAC draws from all matches alike and knows one flat image only; PoseLib draws from the
best first. The refinement that follows is the same, so that poses agree where both find one.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from crossfire_core.geometry import Pose

FloatArray = NDArray[np.float64]


def sampled_pose_by_opencv(
    plane: FloatArray,
    points: FloatArray,
    focal: float,
    max_error_px: float,
    max_iterations: int,
    seed: int,
) -> tuple[Pose, NDArray[np.bool_]]:
    """``camera_from_map`` by USAC, and which matches agree ``[n]``; none where nothing was found.

    Args:
        plane: ``[n, 2]`` where the matches lie on the plane z = 1.
        points: ``[n, 3]`` map frame, metres.
        focal: pixels, turns coordinates into pixels.
        max_error_px: inlier threshold.
        max_iterations: of RANSAC.
        seed: of RANSAC.
    """
    inlier = np.zeros(len(plane), dtype=bool)
    if len(plane) < 6:
        return Pose.identity(), inlier
    options = cv2.UsacParams()
    options.threshold, options.maxIterations = max_error_px, max_iterations
    options.confidence, options.randomGeneratorState = 0.9999, seed
    options.loMethod, options.sampler = cv2.LOCAL_OPTIM_INNER_AND_ITER_LO, cv2.SAMPLING_UNIFORM
    options.score = cv2.SCORE_METHOD_MSAC
    camera = np.diag([focal, focal, 1.0])
    found = None
    try:
        ok, _, turn, shift, found = cv2.solvePnPRansac(
            np.array(points), np.array(plane * focal), camera, None, params=options
        )
    except cv2.error:  # degenerate matches: all on one line, say
        ok = False
    if not ok or found is None:
        return Pose.identity(), inlier
    inlier[found.ravel().astype(int)] = True
    rotation = np.asarray(cv2.Rodrigues(turn)[0], dtype=np.float64)
    return Pose(rotation, np.asarray(shift, dtype=np.float64).ravel()), inlier
