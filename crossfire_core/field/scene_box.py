"""From the world's metres to the unit cube that the hash grids cover."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from crossfire_core.field.constants import constant


@dataclass(frozen=True)
class SceneBox:
    """The part of the world that is stored at full resolution, and everything beyond it.

    Attributes:
        centre: metres, in the map frame.
        half_size: metres from the centre to the faces of the inner box.
    """

    centre: tuple[float, float, float]
    half_size: float

    def normalize(self, points: Tensor) -> Tensor:
        """Map points ``[..., 3]`` in metres into [0, 1]: the inner box takes the middle half.

        Beyond the box, space is contracted along rays from the centre in the maximum norm:
        ``x (2 - 1/|x|) / |x|``, the L-infinity form of mip-NeRF 360's eq. 10.
        """
        x = (points - constant(self.centre, points)) / self.half_size
        norm = x.detach().abs().amax(dim=-1, keepdim=True).clamp_min(1.0)
        return ((x * ((2.0 - 1.0 / norm) / norm) + 2.0) * 0.25).clamp(0.0, 1.0)
