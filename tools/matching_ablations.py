"""Other rules for matches and another solver: what they would change in a map that is there.

``python tools/matching_ablations.py MAP QUERY`` localizes images with matches that are chosen or
weighted by other rules than the program's own. Rules apply to the searches in a window around the
prior, which decide the pose; the first look over the whole image stays as it is. Rows named
"told" use the true pose and are no method: they bound what any better rule could give. Prints a
table for ``docs/notes/parts.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ablations
import cv2
import numpy as np
import torch
from torch import Tensor

from crossfire_core.config import LocalizationConfig
from crossfire_core.features.network import DenseDescriptors
from crossfire_core.geometry import Camera, Pose
from crossfire_core.geometry.sights import directions
from crossfire_core.localization.localizer import Localizer
from crossfire_core.localization.matching import CellMatches, match_points
from crossfire_core.localization.pose_solver import SolvedPose, refine_pose, solve_pose
from crossfire_core.maps.neural_map import NeuralMap
from crossfire_core.recordings import open_recording

_TEMPERATURE = 0.05  # of the program's own confidence
_RATIO_CELLS = 2  # a rival peak is further than this from the best


class Rule:
    """The program's matcher with another rule for the matches of a window."""

    def __call__(
        self, descriptors: Tensor, dense: Tensor, centre: Tensor | None, radius: int | None
    ) -> CellMatches:
        """Find points, then choose among the matches."""
        found = match_points(descriptors, dense, centre, radius)
        if centre is None or radius is None or len(found.index) == 0:
            return found
        return self.chosen(found, descriptors, dense, centre, radius)

    def chosen(
        self, found: CellMatches, descriptors: Tensor, dense: Tensor, centre: Tensor, radius: int
    ) -> CellMatches:
        """The matches that take part, with their confidence."""
        raise NotImplementedError


class Alike(Rule):
    """Every match weighs the same."""

    def chosen(self, found: CellMatches, *_: Any) -> CellMatches:
        """All of them."""
        return replace(found, confidence=np.ones_like(found.confidence))


class WholeCells(Rule):
    """No peak between cells."""

    def chosen(self, found: CellMatches, *_: Any) -> CellMatches:
        """All of them, at the cells' centres."""
        return replace(found, cell=np.rint(found.cell))


class Rivals(Rule):
    """What the points say that could also be seen where a match is."""

    def likeness(
        self, found: CellMatches, descriptors: Tensor, dense: Tensor, centre: Tensor, radius: int
    ) -> Tensor:
        """Cosines ``[points, matches]`` at the matches' cells, -inf where out of the window."""
        cell = torch.from_numpy(np.rint(found.cell)).long()
        values = dense[:, cell[:, 1], cell[:, 0]]
        reach = (centre.round()[:, None] - cell[None]).abs().amax(dim=-1)
        return (descriptors @ values).masked_fill(reach > radius, float("-inf"))


class DualSoftmax(Rivals):
    """The share among all cells times the share among all points."""

    def chosen(self, found: CellMatches, *window: Any) -> CellMatches:
        """All of them, weighted."""
        share = torch.softmax(self.likeness(found, *window) / _TEMPERATURE, dim=0)
        own = share[torch.from_numpy(found.index), torch.arange(len(found.index))]
        return replace(found, confidence=found.confidence * own.numpy())


class Mutual(Rivals):
    """Only matches whose cell prefers no other point."""

    def chosen(self, found: CellMatches, *window: Any) -> CellMatches:
        """Those that are nearest to each other."""
        return taken(found, self.likeness(found, *window).argmax(dim=0).numpy() == found.index)


class Ratio(Rule):
    """Only matches whose second best peak is clearly worse."""

    def __init__(self, least: float) -> None:
        """With a limit of the ratio."""
        self.least = least

    def chosen(
        self, found: CellMatches, descriptors: Tensor, dense: Tensor, centre: Tensor, radius: int
    ) -> CellMatches:
        """By the ratio of distances, as for SIFT."""
        index = torch.from_numpy(found.index)
        step = torch.arange(-radius, radius + 1)
        middle = centre[index].round().long()
        x, y = middle[:, 0, None, None] + step, middle[:, 1, None, None] + step[:, None]
        x, y = torch.broadcast_tensors(x, y)
        inside = (x >= 0) & (y >= 0) & (x < dense.shape[2]) & (y < dense.shape[1])
        values = dense[:, y.clamp(0, dense.shape[1] - 1), x.clamp(0, dense.shape[2] - 1)]
        likeness = torch.einsum("dnij,nd->nij", values, descriptors[index])
        best = torch.from_numpy(np.rint(found.cell))[:, :, None, None]
        near = torch.maximum((x - best[:, 0]).abs(), (y - best[:, 1]).abs()) <= _RATIO_CELLS
        rival = likeness.masked_fill(near | ~inside, -1.0).amax(dim=(1, 2)).numpy()
        distance = np.sqrt(np.maximum(2 - 2 * found.similarity, 0.0))
        return taken(found, distance < self.least * np.sqrt(2 - 2 * rival))


class Told(Localizer):
    """Knows the truth, and leaves out what is further than so many pixels (of 640) from it."""

    truth: Pose | None = None
    limit = np.inf

    def localize(self, image: Any, camera: Camera, *rest: Any, **options: Any) -> Any:
        """As ever; the camera is remembered."""
        self.camera = camera
        return super().localize(image, camera, *rest, **options)

    def _match(
        self, dense: DenseDescriptors, pixels: Tensor, points: Tensor, radius: int | None
    ) -> tuple[CellMatches, Tensor]:
        found, descriptors = super()._match(dense, pixels, points, radius)
        if self.truth is None or radius is None:
            return found, descriptors
        local = self.frame.trained(self.truth).inverse().apply(points.double()[found.index])
        seen = (found.cell.astype(np.float64) + 0.5) / np.array(dense.scale)
        off = np.linalg.norm(seen - self.camera.project(local), axis=1)
        return taken(found, off * 640.0 / max(self.camera.size) < self.limit), descriptors


def taken(found: CellMatches, keep: np.ndarray) -> CellMatches:
    """Some of the matches."""
    return CellMatches(
        found.index[keep], found.cell[keep], found.similarity[keep], found.confidence[keep]
    )


def told(pixels: float) -> type[Told]:
    """A localizer that is told which matches are further off than this."""
    return type("Told", (Told,), {"limit": pixels})


def magsac(
    pixels: np.ndarray, points: np.ndarray, weights: np.ndarray, camera: Camera,
    max_error_px: float, max_iterations: int, seed: int = 0, start: Pose | None = None,
) -> SolvedPose | None:  # fmt: skip
    """MAGSAC++ of OpenCV in place of PoseLib's LO-RANSAC, the same refinement after it."""
    if start is not None or len(pixels) < 6:
        return solve_pose(
            pixels, points, weights, camera, max_error_px, max_iterations, seed, start
        )
    sights, focal = camera.sights(pixels), 0.5 * (camera.fx + camera.fy)
    ideal = directions(sights)[:, :2]
    good, turn, shift, inliers = cv2.solvePnPRansac(
        points, ideal * focal, np.diag([focal, focal, 1.0]), None,
        iterationsCount=max_iterations, reprojectionError=max_error_px, confidence=0.9999,
        flags=cv2.USAC_MAGSAC,
    )  # fmt: skip
    if not good or inliers is None or len(inliers) < 6:
        return None
    pose = Pose(cv2.Rodrigues(turn)[0], shift[:, 0])
    return refine_pose(pose, sights, points, weights, focal, max_error_px)


RULES: dict[str, Callable[..., Localizer]] = {
    "defaults": Localizer,
    "all matches weigh alike": partial(Localizer, matcher=Alike()),
    "dual softmax": partial(Localizer, matcher=DualSoftmax()),
    "mutual nearest neighbours": partial(Localizer, matcher=Mutual()),
    "ratio of 0.95": partial(Localizer, matcher=Ratio(0.95)),
    "ratio of 0.9": partial(Localizer, matcher=Ratio(0.9)),
    "whole cells": partial(Localizer, matcher=WholeCells()),
    "MAGSAC++ of OpenCV": partial(Localizer, solver=magsac),
    "told: none further than 32 px": told(32.0),
    "told: none further than 16 px": told(16.0),
    "told: none further than 8 px": told(8.0),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("map", type=Path)
    parser.add_argument("query", help="the recording whose frames are localized")
    parser.add_argument("--every", type=int, default=6, help="take every n-th frame")
    parser.add_argument("--only", default="", help="rows whose name holds this; by commas")
    given = parser.parse_args(arguments)
    query, neural_map = open_recording(given.query), NeuralMap.load(given.map, "cpu")
    frames = list(query.frames(range(0, len(query), given.every)))
    config = LocalizationConfig(method="crossfire")
    print(f"| {' | '.join(ablations.HEADER)} |\n|{' --- |' * len(ablations.HEADER)}")
    for name in ablations.chosen(RULES, given.only):
        row = ablations.measure(name, given.map, neural_map, config, frames, RULES[name])
        print(f"| {' | '.join(row.cells())} |", flush=True)


if __name__ == "__main__":
    main()
