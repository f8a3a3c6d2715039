"""The image network, what goes into it, and what is made of its descriptors."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional
from toy_room import ToyRoom

from crossfire_core.config import FeatureConfig
from crossfire_core.features.augmentation import Warp, relight
from crossfire_core.features.network import (
    DenseDescriptors,
    ImageNetwork,
    network_input,
    start_from_rooms,
)
from crossfire_core.field import precision
from crossfire_core.maps.places import choose_words, signature


@pytest.fixture(scope="module")
def network() -> ImageNetwork:
    torch.manual_seed(0)
    return ImageNetwork(FeatureConfig(side=64, stem=16, trunk=16), 16).eval()


@pytest.mark.parametrize(("height", "width"), [(48, 64), (50, 65), (33, 71), (8, 8)])
@torch.no_grad()
def test_descriptors_cover_the_image_at_half_its_size(
    network: ImageNetwork, height: int, width: int
) -> None:
    out = network(torch.rand(2, 3, height, width))
    assert out.shape == (2, 16, -(-height // 2), -(-width // 2))
    torch.testing.assert_close(out.norm(dim=1), torch.ones(2, *out.shape[2:]))


@torch.no_grad()
def test_descriptors_move_with_the_image(network: ImageNetwork) -> None:
    image = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    out = network(image)
    moved = network(image.roll((8, 16), dims=(2, 3)))
    inner = (slice(None), slice(None), slice(24, 30), slice(30, 40))
    back = moved.roll((-4, -8), dims=(2, 3))
    similarity = (back[inner] * out[inner]).sum(dim=1)
    assert float(similarity.median()) > 0.999


@torch.no_grad()
def test_bfloat16_hardly_changes_descriptors(
    network: ImageNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map trained on a CPU with the instructions is used on one without, and the reverse."""
    image = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    found = []
    for able in (True, False):
        monkeypatch.setattr(precision, "has_bfloat16", lambda device, able=able: able)
        found.append(network(image))
    assert not torch.equal(*found)
    assert float((found[0] * found[1]).sum(dim=1).min()) > 0.999


@pytest.mark.parametrize("size", [(640, 480), (752, 480), (333, 555), (60, 40)])
def test_the_scale_says_where_a_pixel_is_among_the_descriptors(size: tuple[int, int]) -> None:
    """A bright blob is found where cell = pixel * scale - 0.5 says, whatever the image's size."""
    width, height = size
    centre = np.array([0.3 * width, 0.6 * height])
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * (0.04 * width) ** 2))
    image = np.repeat((255 * blob).astype(np.uint8)[:, :, None], 3, axis=2)
    tensor, scale = network_input(image, 320)
    assert tensor.shape[1] == 3 and max(tensor.shape[2:]) == 320
    cells = functional.avg_pool2d(tensor, 2)[0, 0].numpy()  # what stride 2 without padding sees
    v, u = np.meshgrid(np.arange(cells.shape[0]), np.arange(cells.shape[1]), indexing="ij")
    found = np.array([(u * cells).sum(), (v * cells).sum()]) / cells.sum()
    np.testing.assert_allclose(found, centre * np.array(scale) - 0.5, atol=0.1)


def test_sampling_at_cell_centres_gives_the_cells() -> None:
    values = functional.normalize(torch.randn(8, 6, 9), dim=0)
    dense = DenseDescriptors(values, (0.25, 0.2))
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(9), indexing="ij")
    cells = torch.stack([columns, rows], dim=-1).reshape(-1, 2).float()
    pixels = (cells + 0.5) / torch.tensor([0.25, 0.2])
    torch.testing.assert_close(dense.sample(pixels), values.flatten(1).T, rtol=1e-4, atol=1e-5)


def test_sampling_between_cells_is_linear() -> None:
    values = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # two cells side by side
    dense = DenseDescriptors(values, (1.0, 1.0))
    middle = dense.sample(torch.tensor([[1.0, 0.5]]))
    torch.testing.assert_close(middle, torch.full((1, 2), 2**-0.5))


def test_relight_changes_light_and_nothing_else() -> None:
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 32, 32, generator=rng) * 0.6 + 0.2
    assert relight(image, 0.0, rng) is image
    lit = relight(image, 0.3, rng)
    assert lit.shape == image.shape
    assert float(lit.min()) >= 0.0 and float(lit.max()) <= 1.0
    assert float((lit - image).abs().mean()) > 0.01
    together = np.corrcoef(image.flatten().numpy(), lit.flatten().numpy())[0, 1]
    assert together > 0.8
    repeat = [relight(image, 0.3, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*repeat)


def test_words_are_spread_and_never_more_than_there_are() -> None:
    clusters = functional.normalize(torch.randn(4, 16), dim=1)
    crowd = clusters.repeat_interleave(50, dim=0) + 0.01 * torch.randn(200, 16)
    words = choose_words(functional.normalize(crowd, dim=1), 4)
    found = (words @ clusters.T).argmax(dim=1)
    assert sorted(found.tolist()) == [0, 1, 2, 3]
    assert len(choose_words(clusters, 10)) == 4


def test_a_signature_recognises_its_place_from_a_part_of_it() -> None:
    rng = torch.Generator().manual_seed(0)
    places = functional.normalize(torch.randn(5, 8, 16, generator=rng), dim=2)

    def image(place: int, shift: int = 0) -> torch.Tensor:
        rows = places[place].repeat_interleave(8, dim=0).roll(shift, 0)  # 64 cells
        noisy = rows + 0.05 * torch.randn(64, 16, generator=rng)
        grid = functional.normalize(noisy, dim=1).T.reshape(16, 8, 8)
        return grid.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)

    words = choose_words(places.flatten(0, 1), 32)
    stored = torch.stack([signature(image(i), words) for i in range(5)])
    torch.testing.assert_close(stored.norm(dim=1), torch.ones(5))
    for place in range(5):
        assert int((stored @ signature(image(place, shift=13), words)).argmax()) == place


def test_network_input_keeps_the_colour_order() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :, 0] = 200
    tensor, _ = network_input(cv2.GaussianBlur(image, (3, 3), 0), 64)
    assert float(tensor[0, 0].mean()) > 0.7 and float(tensor[0, 1:].max()) == 0.0


def test_a_window_shows_the_image_where_it_says() -> None:
    """Cut out of an image of its own coordinates, a window holds what ``undo`` gives."""
    rng = torch.Generator().manual_seed(3)
    y, x = torch.meshgrid(torch.arange(120) + 0.5, torch.arange(160) + 0.5, indexing="ij")
    for _ in range(10):
        warp = Warp.draw((160, 120), 0.6, 0.2, 10.0, rng)
        window = warp.cut(torch.stack([x, y])[None])[0]
        width, height = warp.size
        v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        pixels = torch.stack([u.flatten(), v.flatten()], dim=1)
        where = warp.undo(pixels)
        inner = ((where > 1) & (where < torch.tensor([159.0, 119.0]))).all(dim=1)
        assert float(inner.float().mean()) > 0.7
        torch.testing.assert_close(window.flatten(1).T[inner], where[inner], atol=2e-3, rtol=0)
        border = warp.inside(pixels, 3.0).view(height, width)
        assert border[4, 4] and not border[2, 10] and not border[10, 2] and not border[-3, 10]


# -- the first weights -------------------------------------------------------------------------


@torch.no_grad()
def share_found(network: ImageNetwork) -> float:
    """Of pixels of one image of a room, how many find their place in another to 4 pixels.

    The other one is taken from elsewhere and in darker light.
    """
    a, b = ToyRoom(30, depth=True).frames([3, 7])
    b = replace(b, image=np.rint(255.0 * (b.image / 255.0) ** 1.6).astype(np.uint8))
    assert a.depth is not None and a.world_from_camera is not None
    assert b.world_from_camera is not None
    pixels = a.camera.pixel_grid(20, 15)
    at = np.floor(pixels).astype(int)
    rays = a.camera.bearings(pixels)
    points = rays * (a.depth[at[:, 1], at[:, 0]] / rays[:, 2])[:, None]
    space = a.world_from_camera.apply(points)
    expected = b.camera.project(b.world_from_camera.inverse().apply(space))
    inside = ((expected > 8) & (expected < np.array(b.camera.size) - 8)).all(axis=1)
    assert inside.sum() > 100
    dense = []
    for frame in (a, b):
        tensor, scale = network_input(frame.image, 320)
        dense.append(DenseDescriptors(network(tensor)[0], scale))
    wanted = dense[0].sample(torch.from_numpy(pixels[inside]).float())
    best = (wanted @ dense[1].values.flatten(1)).argmax(dim=1).numpy()
    row, column = np.divmod(best, dense[1].values.shape[2])
    found = (np.stack([column, row], axis=1) + 0.5) / np.array(dense[1].scale)
    return float((np.linalg.norm(found - expected[inside], axis=1) < 4.0).mean())


def test_first_weights_recognise_places_that_they_have_never_seen() -> None:
    torch.manual_seed(0)
    network = ImageNetwork(FeatureConfig(), 32).eval()
    before = share_found(network)
    assert start_from_rooms(network)
    assert share_found(network) > 0.75 > 0.3 > before


def test_a_network_of_another_size_stays_as_it_is(network: ImageNetwork) -> None:
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert not start_from_rooms(network)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
