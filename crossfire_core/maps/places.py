"""One vector for a whole image: which of the scene's words it shows.

The dense descriptors are specific to the scene, so a handful of them spread over its surfaces
makes a vocabulary, and how strongly an image answers each word is its signature. Nothing more
has to be trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_SHARPNESS = 12.0  # how fast a word fades with its distance; maps are compared by it


@dataclass(frozen=True)
class Places:
    """What the mapping images say: finds a place without a prior.

    Attributes:
        words: ``[k, d]`` unit descriptors spread over the scene.
        signatures: ``[views, k]`` unit: how strongly each view shows each word.
        points: ``[n, 3]`` surface points seen by the mapping views, metres.
        point_view: ``[n]`` int64, which view saw each.
    """

    words: Tensor
    signatures: Tensor
    points: Tensor
    point_view: Tensor


def choose_words(descriptors: Tensor, count: int) -> Tensor:
    """Farthest-point sampling on the descriptor sphere.

    Args:
        descriptors: ``[n, d]`` unit, of points spread over the scene.
        count: number of words, or fewer if there are not as many descriptors.

    Returns:
        ``[count, d]``.
    """
    chosen = [0]
    nearest = descriptors @ descriptors[0]
    for _ in range(min(count, len(descriptors)) - 1):
        index = int(nearest.argmin())
        chosen.append(index)
        nearest = torch.maximum(nearest, descriptors @ descriptors[index])
    return descriptors[chosen]


def signature(dense: Tensor, words: Tensor) -> Tensor:
    """How strongly an image shows each word.

    Args:
        dense: ``[d, rows, columns]`` unit descriptors of the image.
        words: ``[k, d]``.

    Returns:
        ``[k]`` unit vector; two images of the same place have a large dot product.
    """
    coarse = functional.normalize(functional.avg_pool2d(dense[None], 2)[0].flatten(1), dim=0)
    best = (words @ coarse).amax(dim=1)
    shown = torch.exp(_SHARPNESS * (best - 1.0))
    return functional.normalize(shown, dim=0)
