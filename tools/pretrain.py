"""What the image network starts from: weights learnt in rooms that do not exist.

``python tools/pretrain.py OUT.safetensors --minutes 30`` photographs random rooms
(``tools/random_rooms.py``, needs the extra [demo]) and teaches the network to give the same
descriptor to the same point in two photographs, with the loss of the second stage. No image of a
real place and no weights of others take part. ``--pictures FOLDER`` writes some of the pairs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
import torch
from random_rooms import Photograph, photographs
from safetensors.torch import save_file
from torch import Tensor

from crossfire_core.config import TrainingConfig
from crossfire_core.features.augmentation import relight, shake
from crossfire_core.features.network import STRIDE, DenseDescriptors, ImageNetwork
from crossfire_core.field.threads import side_by_side
from crossfire_core.training.losses import metric_loss
from crossfire_core.training.schedule import (
    Budget,
    one_torch_thread_a_share,
    rate_factor,
    share_count,
    sum_of,
)

CPU = torch.device("cpu")
STEPS_A_ROOM = 100
WINDOW = (224, 168)  # pixels of each photograph that a step looks at
PIXELS, OTHERS, CLUSTERED, CLUSTERS, CLUSTER_SIDE = 1200, 600, 0.5, 10, 14
MARGIN = 0.004  # of the median distance
RATE, FINAL_RATE, WARM_UP = 2e-3, 0.02, 0.01
_LEAST = 64

Pair = tuple[Photograph, Photograph]


def shared_pixels(
    pair: Pair, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where both photographs show the same, and what else the second one shows.

    Returns:
        Pixels ``[n, 2]`` of the first, of the second, their points ``[n, 3]``, further pixels
        ``[m, 2]`` of the second and their points.
    """
    a, b = pair
    height, width = a.distance.shape
    near = round(CLUSTERED * PIXELS * 2)
    middle = rng.uniform([0, 0], [width, height], (CLUSTERS, 2))
    close = middle[rng.integers(CLUSTERS, size=near)] + rng.uniform(
        -CLUSTER_SIDE / 2, CLUSTER_SIDE / 2, (near, 2)
    )
    anywhere = rng.uniform([0, 0], [width, height], (2 * PIXELS - near, 2))
    pixels = np.floor(rng.permutation(np.concatenate([close, anywhere]))) + 0.5
    pixels = pixels[((pixels > 3) & (pixels < [width - 3, height - 3])).all(axis=1)]
    points = seen_at(a, pixels)
    there = b.camera.project(b.room_from_camera.inverse().apply(points))
    inside = ((there > 3) & (there < [width - 3, height - 3])).all(axis=1)
    pixels, points, there = pixels[inside], points[inside], there[inside]
    at = np.floor(there).astype(int)
    distance = np.linalg.norm(points - b.room_from_camera.translation, axis=1)
    same = np.abs(b.distance[at[:, 1], at[:, 0]] / distance - 1.0) < 0.02
    use = np.flatnonzero(same)[:PIXELS]
    others = np.floor(rng.uniform([3, 3], [width - 3, height - 3], (OTHERS, 2))) + 0.5
    return pixels[use], there[use], points[use], others, seen_at(b, others)


def seen_at(photograph: Photograph, pixels: np.ndarray) -> np.ndarray:
    """The points ``[n, 3]`` behind pixel centres."""
    at = np.floor(pixels).astype(int)
    distance = photograph.distance[at[:, 1], at[:, 0]].astype(np.float64)
    local = photograph.camera.bearings(pixels) * np.minimum(distance, 1e3)[:, None]
    return photograph.room_from_camera.apply(local)


def gradients(
    network: ImageNetwork, pair: Pair, seed: int, temperature: float
) -> tuple[list[Tensor | None], Tensor]:
    """Of one pair of photographs, its loss and the agreement of true pairs ``[2]``."""
    rng, torch_rng = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    first, second, points, others, other_points = shared_pixels(pair, rng)
    middle = rng.integers(len(first))
    corners = [window_at(p, at[middle]) for p, at in zip(pair, (first, second), strict=True)]
    first, second, others = first - corners[0], second - corners[1], others - corners[1]
    use, use_others = within(first) & within(second), within(others)
    first, second, points = first[use], second[use], points[use]
    others, other_points = others[use_others], other_points[use_others]
    images = []
    for photograph, (x, y) in zip(pair, corners, strict=True):
        cut = photograph.image[y : y + WINDOW[1], x : x + WINDOW[0]]
        image = torch.from_numpy(cut).permute(2, 0, 1)[None].float() / 255.0
        images.append(relight(shake(image, 4.0, torch_rng), 0.3, torch_rng))
    dense = network(torch.cat(images).contiguous(memory_format=torch.channels_last))
    scale = (1.0 / STRIDE, 1.0 / STRIDE)
    as_tensor = lambda a: torch.from_numpy(a).float()  # noqa: E731
    mine = DenseDescriptors(dense[0], scale).sample(as_tensor(first))
    theirs = DenseDescriptors(dense[1], scale).sample(as_tensor(np.concatenate([second, others])))
    median = float(np.median(np.linalg.norm(points - pair[0].room_from_camera.translation, axis=1)))
    loss = metric_loss(
        mine, theirs[: len(mine)], as_tensor(points), theirs[len(mine) :],
        as_tensor(other_points), temperature, MARGIN * median,
    )  # fmt: skip
    agreement = (mine * theirs[: len(mine)]).sum(dim=1).mean()
    found = torch.autograd.grad(loss, list(network.parameters()))
    return list(found), torch.stack([loss.detach(), agreement.detach()])


def window_at(photograph: Photograph, pixel: np.ndarray) -> np.ndarray:
    """Top left corner ``[2]`` of a window around a pixel, within the image."""
    room = np.array(photograph.camera.size) - WINDOW
    return np.clip((pixel - np.array(WINDOW) / 2).astype(int), 0, room)


def within(pixels: np.ndarray) -> np.ndarray:
    """Which pixels ``[n, 2]`` of a window lie well inside it."""
    return ((pixels > 3) & (pixels < np.array(WINDOW) - 3)).all(axis=1)


def pairs_of(groups: list[list[Photograph]], rng: np.random.Generator) -> Iterator[Pair]:
    """Pairs from one room that share enough, without end."""
    while True:
        group = groups[rng.integers(len(groups))]
        i, j = rng.choice(len(group), 2, replace=False)
        pair = (group[i], group[j])
        if len(shared_pixels(pair, rng)[0]) >= _LEAST:
            yield pair


def endless_pairs(seed: int) -> Iterator[Pair]:
    """Pairs from one room after the other."""
    number = 0
    while True:
        rng = np.random.default_rng((seed, number))
        number += 1
        groups = list(photographs(rng))
        if not groups:
            continue
        room = pairs_of(groups, rng)
        for _ in range(STEPS_A_ROOM * share_count(CPU)):
            yield next(room)


def train(minutes: float, seed: int, tell: Callable[[str], None]) -> ImageNetwork:
    """Train until the time is over."""
    config = TrainingConfig()
    torch.manual_seed(seed)
    network = ImageNetwork(config.features, config.field.descriptor_size)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, betas=(0.9, 0.99), fused=True)
    budget, pairs, smooth = Budget(None, 60.0 * minutes), endless_pairs(seed), np.array([6.0, 0.0])
    budget.start()
    last = time.monotonic()
    with one_torch_thread_a_share(CPU):
        while not budget.over:
            optimizer.param_groups[0]["lr"] = RATE * rate_factor(
                budget.fraction, WARM_UP, FINAL_RATE
            )
            step = [
                partial(gradients, network, next(pairs), seed + 7 * budget.done + i,
                        config.descriptor.temperature)
                for i in range(share_count(CPU))
            ]  # fmt: skip
            parts, figures = zip(*side_by_side(step), strict=True)
            for parameter, *each in zip(network.parameters(), *parts, strict=True):
                total = sum_of(each)
                parameter.grad = None if total is None else total / len(each)
            optimizer.step()
            budget.advance()
            smooth = 0.99 * smooth + 0.01 * torch.stack(figures).mean(dim=0).numpy()
            if time.monotonic() - last > 30:
                last = time.monotonic()
                tell(f"{budget.spent:.0f} s, step {budget.done}: loss {smooth[0]:.3f}, "
                     f"agreement {smooth[1]:.3f}")  # fmt: skip
    return network


def draw(folder: Path, seed: int, count: int = 8) -> None:
    """Some pairs with the pixels that they share."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        pair = next(pairs_of(list(photographs(rng, groups=2)), rng))
        first, second = shared_pixels(pair, rng)[:2]
        both = np.concatenate([p.image for p in pair], axis=1)[:, :, ::-1].copy()
        shift = np.array([pair[0].image.shape[1], 0])
        for a, b in zip(first[::40], second[::40] + shift, strict=True):
            cv2.line(both, a.astype(int).tolist(), b.astype(int).tolist(), (0, 255, 255), 1)
        cv2.imwrite(str(folder / f"pair_{number}.png"), both)


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    if arguments.pictures:
        draw(arguments.pictures, arguments.seed)
    network = train(arguments.minutes, arguments.seed, lambda text: print(text, flush=True))
    weights = {k: v.detach().half().contiguous() for k, v in network.state_dict().items()}
    save_file(weights, arguments.output)


if __name__ == "__main__":
    main()
