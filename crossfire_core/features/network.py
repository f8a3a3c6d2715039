"""The convolutional network that gives an image the descriptors that the field renders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from crossfire_core.config import FeatureConfig
from crossfire_core.field.constants import constant
from crossfire_core.field.precision import short_convolutions
from crossfire_core.geometry import Camera
from crossfire_core.registry import NETWORKS

STRIDE = 2  # pixels of the network's input a descriptor
_COARSEST = 8  # inputs are padded to a multiple of this
_ROOMS = Path(__file__).parent / "initial_network.safetensors"


class ImageNetwork(nn.Module):
    """Descriptors at half the input's resolution, with context from an eighth of it.

    Fine layers place a descriptor exactly, coarse ones tell alike places apart; the coarse path
    is where most of the receptive field (about 150 pixels of 320) costs least.
    """

    def __init__(self, config: FeatureConfig, descriptor_size: int) -> None:
        """Build the layers; initial weights come from torch's global generator."""
        super().__init__()
        s, t = config.stem, config.trunk
        self.stem = nn.Sequential(_conv(3, s, 3, stride=2), _conv(s, s, 3))
        self.quarter = nn.Sequential(_conv(s, t, 3, stride=2), _conv(t, t, 3))
        self.eighth = nn.Sequential(
            _conv(t, t, 3, stride=2), _conv(t, t, 3, dilation=2), _conv(t, t, 3, dilation=4)
        )
        self.join_quarter = _conv(2 * t, t, 1)
        self.mix_quarter = _conv(t, t, 3)
        self.join_half = _conv(t + s, t, 1)
        self.head = nn.Conv2d(t, descriptor_size, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """``[b, 3, h, w]`` in [0, 1] -> unit descriptors ``[b, d, ceil(h/2), ceil(w/2)]``."""
        height, width = images.shape[2:]
        below, right = -height % _COARSEST, -width % _COARSEST
        x = (images - 0.45) * 4.0
        if right or below:
            x = functional.pad(x, (0, right, 0, below), mode="replicate")
        with short_convolutions(images.device):
            half = self.stem(x)
            quarter = self.quarter(half)
            context = _grow(self.eighth(quarter))
            quarter = self.mix_quarter(self.join_quarter(torch.cat([quarter, context], dim=1)))
            out = self.head(self.join_half(torch.cat([half, _grow(quarter)], dim=1)))
        out = out[:, :, : -(-height // STRIDE), : -(-width // STRIDE)].float()
        return functional.normalize(out, dim=1, eps=1e-6)


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Module:
    padding = dilation * (size // 2)
    layer = nn.Conv2d(inputs, outputs, size, stride, padding, dilation)
    return nn.Sequential(layer, nn.ReLU(inplace=True))


def _grow(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def image_network(config: FeatureConfig, descriptor_size: int) -> nn.Module:
    """The configured network; it maps as :meth:`ImageNetwork.forward` does.

    Raises:
        ConfigError: it cannot be loaded.
    """
    network: nn.Module = NETWORKS.load(config.network)(config, descriptor_size)
    return network


def start_from_rooms(network: nn.Module) -> bool:
    """Give a network the weights that ``tools/pretrain.py`` learnt in generated rooms.

    Corners, edges and blots look alike everywhere, so a network that has learnt to recognise
    them from elsewhere needs less than half of the steps in a new scene.

    Returns:
        False, and the network stays as it was, if its layers are of another size.
    """
    weights = load_file(_ROOMS)
    own = network.state_dict()
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in own.items()}:
        return False
    network.load_state_dict(weights)
    return True


@dataclass(frozen=True)
class DenseDescriptors:
    """Descriptors on a grid over an image.

    Attributes:
        values: ``[d, rows, columns]`` unit length.
        scale: (x, y): grid cells a pixel of the image, so cell = pixel * scale - 0.5.
    """

    values: Tensor
    scale: tuple[float, float]

    def masked(self, camera: Camera) -> DenseDescriptors:
        """Descriptors of 0, which are like none, where pixels of the camera are not usable."""
        usable = camera.usable_cells(self.values.shape[2], self.values.shape[1])
        if usable is None:
            return self
        return DenseDescriptors(
            self.values * torch.from_numpy(usable).to(self.values.device), self.scale
        )

    def grid(self) -> NDArray[np.float32]:
        """The values as ``[rows, columns, d]`` for kernels on the CPU."""
        return np.ascontiguousarray(self.values.permute(1, 2, 0).cpu().numpy())

    def sample(self, pixels: Tensor) -> Tensor:
        """Bilinear descriptors ``[n, d]``, unit length, at image pixels ``[n, 2]``."""
        rows, columns = self.values.shape[1:]
        step = (2.0 * self.scale[0] / columns, 2.0 * self.scale[1] / rows)
        unit = pixels * constant(step, pixels)
        found = functional.grid_sample(
            self.values[None], (unit - 1.0)[None, None], align_corners=False, padding_mode="border"
        )
        return functional.normalize(found[0, :, 0].T, dim=1, eps=1e-6)


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) of an image scaled so that its longer side is ``side`` pixels."""
    factor = side / max(width, height)
    return max(_COARSEST, round(width * factor)), max(_COARSEST, round(height * factor))


def network_input(image: NDArray[np.uint8], side: int) -> tuple[Tensor, tuple[float, float]]:
    """Shrink an image for the network.

    Args:
        image: ``[h, w, 3]`` uint8 RGB.
        side: longer side of the network's input.

    Returns:
        ``[1, 3, height, width]`` in [0, 1], and the scale of the descriptors that come out.
    """
    size = fitted(image.shape[1], image.shape[0], side)
    shrinks = size[0] < image.shape[1]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    tensor = torch.from_numpy(np.ascontiguousarray(small)).permute(2, 0, 1)[None].float() / 255.0
    scale = (size[0] / image.shape[1] / STRIDE, size[1] / image.shape[0] / STRIDE)
    return tensor, scale
