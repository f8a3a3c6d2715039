"""What an interrupted reconstruction leaves behind, so that the next one goes on from it.

A folder beside the map file: keyframes, features, matches (COLMAP's database of them where COLMAP
places the images), and the outcome. It is removed when the map is done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfire_core.files import read_arrays, write_arrays, write_text
from crossfire_core.geometry import Camera, Pose
from crossfire_core.mapping_poses.reconstruction import Reconstruction
from crossfire_core.vision.sparse_points import SparsePoints


def workspace_path(map_path: Path) -> Path:
    """Where the workspace of a map lies: beside it."""
    return map_path.with_name(map_path.name + ".sfm")


class Workspace:
    """The files of one reconstruction; those of another are thrown away."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Open or make it.

        Args:
            folder: where.
            fingerprint: of everything that decides the outcome.
        """
        self.folder = folder
        mark = folder / "fingerprint"
        if not mark.is_file() or mark.read_text(encoding="utf-8") != fingerprint:
            self.remove()
            folder.mkdir(parents=True)
            write_text(mark, fingerprint)

    @property
    def database(self) -> Path:
        """COLMAP's database."""
        return self.folder / "matches.db"

    def features(self, number: int) -> Path:
        """The features of a keyframe."""
        return self.folder / f"features-{number:06d}.npz"

    def matches(self, first: int) -> dict[tuple[int, int], NDArray[np.uint32]] | None:
        """Matches of all pairs whose first image this is, or None."""
        stored = read_arrays(self._matches(first))
        return None if stored is None else {(first, int(j)): found for j, found in stored.items()}

    def keep_matches(
        self, first: int, matches: Mapping[tuple[int, int], NDArray[np.uint32]]
    ) -> None:
        """Remember the matches of all pairs whose first image this is."""
        write_arrays(self._matches(first), **{str(j): found for (_, j), found in matches.items()})

    def _matches(self, first: int) -> Path:
        return self.folder / f"matches-{first:06d}.npz"

    def remove(self) -> None:
        """Throw everything away."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def keyframes(self) -> list[int] | None:
        """The keyframes chosen earlier."""
        file = self.folder / "keyframes.json"
        return [int(i) for i in json.loads(file.read_text())] if file.is_file() else None

    def keep_keyframes(self, keyframes: Sequence[int]) -> None:
        """Remember the choice."""
        write_text(self.folder / "keyframes.json", json.dumps(list(keyframes)))

    def keep(self, found: Reconstruction) -> None:
        """Remember the outcome."""
        header = {
            "images": list(found.poses),
            "cameras": [[a.to_json(), b.to_json()] for a, b in found.cameras.items()],
            "mean_error_px": found.mean_error_px,
            "models": list(found.models),
        }
        write_arrays(
            self.folder / "outcome.npz",
            header=np.frombuffer(json.dumps(header).encode(), np.uint8),
            poses=np.stack([pose.matrix() for pose in found.poses.values()]),
            **vars(found.points),
        )

    def outcome(self) -> Reconstruction | None:
        """The outcome of an earlier run, or None."""
        stored = read_arrays(self.folder / "outcome.npz")
        try:
            return _outcome(json.loads(stored["header"].tobytes()), stored) if stored else None
        except (ValueError, KeyError):
            return None


def _outcome(header: dict[str, Any], stored: Any) -> Reconstruction:
    poses = {
        int(i): Pose.from_matrix(matrix)
        for i, matrix in zip(header["images"], stored["poses"], strict=True)
    }
    cameras = {Camera.from_json(a): Camera.from_json(b) for a, b in header["cameras"]}
    points = SparsePoints(*(stored[k] for k in ("view", "pixel", "point", "sigma_m")))
    return Reconstruction(
        poses, cameras, points, float(header["mean_error_px"]), tuple(header["models"])
    )
