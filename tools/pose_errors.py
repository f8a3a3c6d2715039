"""How good the poses are that ``crossfire train`` would map with, where the truth is known.

``python tools/pose_errors.py RECORDING --poses sfm`` finds the poses as ``crossfire train
--poses sfm`` does and compares them with the recording's own: as they are, after a rigid
alignment and after a similarity. ``--poses odometry`` does the same. ``--poses given --pose-file
pose_slam.txt --refine-poses`` starts from another set of poses of a folder of 7-Scenes. ``--set
keyframes=235`` changes a setting of structure from motion. ``--truth-every 2`` compares with the
truth of every second frame only, where those between are interpolated.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from crossfire_core.cli.shell import configured
from crossfire_core.config import SfmConfig
from crossfire_core.evaluation.metrics import Alignment, align
from crossfire_core.geometry import Pose
from crossfire_core.mapping_poses.sources import MODES, open_for_mapping
from crossfire_core.recordings import open_recording
from crossfire_core.recordings.options import RecordingOptions


def errors(found: Sequence[Pose], truths: Sequence[Pose], alignment: Alignment) -> str:
    """Median and 90th percentile in words."""
    metres, radians = np.array(
        [alignment.apply(a).distance(b) for a, b in zip(found, truths, strict=True)]
    ).T
    values = [f"{100 * np.percentile(metres, p):.2f} cm" for p in (50, 90)]
    values += [f"{np.degrees(np.percentile(radians, p)):.3f} deg" for p in (50, 90)]
    return f"{values[0]} / {values[2]} (90 %: {values[1]} / {values[3]})"


def main() -> None:
    """Find the poses and print a line for each alignment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--poses", choices=MODES, default="sfm")
    parser.add_argument("--pose-file", default="pose.txt", help="poses to start from")
    parser.add_argument("--refine-poses", action="store_true")
    parser.add_argument("--set", action="append", help="NAME=VALUE, e.g. keyframes=235")
    parser.add_argument("--truth-every", type=int, default=1, help="of the recording's frames")
    arguments = parser.parse_args()
    settings = configured(SfmConfig(), None, arguments.set)
    infos = open_recording(arguments.recording).infos[:: arguments.truth_every]
    truth = {info.name: info.world_from_camera for info in infos}
    with tempfile.TemporaryDirectory() as folder:
        source = open_for_mapping(
            [arguments.recording], RecordingOptions(pose_file=arguments.pose_file),
            arguments.poses, settings, Path(folder), refine=arguments.refine_poses,
        )  # fmt: skip
        pairs = [
            (info.world_from_camera, known)
            for info in source.infos
            if info.world_from_camera is not None and (known := truth.get(info.name)) is not None
        ]
    found, truths = [a for a, _ in pairs], [b for _, b in pairs]
    print(f"{len(pairs)} of {len(truth)} images, poses: {source.pose_source}")
    print("as they are:", errors(found, truths, Alignment(Pose.identity(), 1.0)))
    for name, with_scale in (("rigid", False), ("similarity", True)):
        alignment = align(found, truths, with_scale)
        print(f"{name}, scale {alignment.scale:.4f}:", errors(found, truths, alignment))


if __name__ == "__main__":
    main()
