"""A map of the toy room, trained once for all tests of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from toy_room import ToyRoom

from crossfire_core.config import (
    DescriptorTraining,
    FeatureConfig,
    FieldConfig,
    GeometryTraining,
    GridConfig,
    RenderConfig,
    TrainingConfig,
)
from crossfire_core.training.schedule import Course
from crossfire_core.training.trainer import train_map

SMALL = TrainingConfig(
    field=FieldConfig(
        GridConfig(4, 2, 12, 8, 1.7), GridConfig(8, 2, 14, 8, 1.5), GridConfig(8, 2, 14, 8, 1.5),
        16, 32, 16, 2, 16,
    ),
    render=RenderConfig(32, 16),
    features=FeatureConfig(160, 16, 32),
    geometry=GeometryTraining(
        rays=192, patches=2, patch_size=6, depth_rays=384, grid_rate=2e-2, distortion_weight=0.02,
        depth_weight=1.0,
    ),
    descriptor=DescriptorTraining(
        window_share=0.9, zoom=0.1, turn_deg=3.0, pixels=256, clustered=0.25, others=128,
        margin=0.01, network_rate=3e-3, brightness=0.1, surface_nodes=48,
    ),
    image_side=160,
    geometry_share=0.2,
)  # fmt: skip
TINY = replace(
    SMALL,
    geometry=replace(SMALL.geometry, rays=64, depth_rays=256),
    descriptor=replace(SMALL.descriptor, pixels=64, others=32, surface_nodes=32),
    geometry_share=0.8,
    final_rate=0.5,
)
HELD_OUT = 5
STEPS = 600


def train_toy_map(path: Path) -> None:
    """Train the map that the fixture ``toy_map`` hands out."""
    train_map(
        ToyRoom(30, depth=True), path, SMALL,
        Course(STEPS, holdout_every=HELD_OUT, use_depth=True, device="cpu", seed=1),
    )  # fmt: skip
