"""A whole image as one vector, from its local features: VLAD.

Jégou et al., "Aggregating local descriptors into a compact image representation" (CVPR 2010),
with the residuals of each word normalised by themselves (Arandjelović and Zisserman, CVPR 2013).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossfire_core.evaluation.peers.features import Descriptors


def words(descriptors: Descriptors, count: int = 32, rounds: int = 12) -> Descriptors:
    """Cluster centres ``[count, d]`` of unit descriptors ``[n, d]``, by seeded k-means."""
    generator = np.random.default_rng(0)
    chosen = generator.permutation(len(descriptors))[:20000]
    sample = descriptors[chosen]
    centres = sample[:count].copy()
    for _ in range(rounds):
        label = np.argmax(sample @ centres.T - 0.5 * np.sum(centres**2, axis=1), axis=1)
        for index in range(len(centres)):
            mine = sample[label == index]
            if len(mine):
                centres[index] = mine.mean(axis=0)
    return centres


def vlad(descriptors: Descriptors, centres: Descriptors) -> NDArray[np.float32]:
    """The vector ``[count * d]`` of one image, unit length."""
    vector = np.zeros_like(centres)
    if len(descriptors):
        label = np.argmax(descriptors @ centres.T - 0.5 * np.sum(centres**2, axis=1), axis=1)
        np.add.at(vector, label, descriptors - centres[label])
        vector /= np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-9)
    flat = vector.ravel()
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-9), dtype=np.float32)


def nearest(vector: NDArray[np.float32], stored: NDArray[np.float32], count: int) -> Sequence[int]:
    """Indices of the most similar of the stored vectors ``[v, k]``, best first."""
    order: list[int] = np.argsort(-(stored @ vector), kind="stable")[:count].tolist()
    return order
