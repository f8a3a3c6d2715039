"""Rendering: a field whose surface is known by formula, and the pieces that find it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from crossfire_core.config import FieldConfig, GridConfig, RenderConfig
from crossfire_core.field import encoding_numba, encoding_torch
from crossfire_core.field.backends import Encoder
from crossfire_core.field.scene_box import SceneBox
from crossfire_core.field.scene_field import GridNetwork, SceneField, spherical_harmonics
from crossfire_core.geometry import Camera, Pose
from crossfire_core.rendering import sampling
from crossfire_core.rendering.renderer import Rays, Renderer, depth_spread, sample_rays
from crossfire_core.rendering.sampling import Spacing
from crossfire_core.rendering.surface_cpu import SurfaceFinder

WALL = GridConfig(1, 2, 16, 32, 1.0)  # one dense level, 32 vertices along an axis
OTHER = GridConfig(2, 2, 8, 4, 1.5)
BOX = SceneBox((0.5, -0.2, 0.1), 2.0)
SPACING = Spacing(0.05, 6.0, 1.0)
SLOPE = 50.0  # of the wall's log density, 1/m


def wall_field(distance_m: float = 1.0, bumps: float = 0.0) -> SceneField:
    """A field whose log density rises linearly across the plane x = centre + distance."""
    config = FieldConfig(WALL, WALL, OTHER, 16, 16, descriptor_size=16)
    field = SceneField(config, BOX, 2, encoding_numba.encode, seed=3)
    vertex = torch.arange(32**3)
    u = torch.stack([(vertex // 32**axis % 32 - 0.5) / 31.0 for axis in range(3)], dim=1)
    metres = (4.0 * u - 2.0) * BOX.half_size  # inverse of SceneBox.normalize within the box
    rise = metres[:, 0] - distance_m + bumps * torch.sin(3.0 * metres[:, 1] + 2.0 * metres[:, 2])
    for part in (field.proposal, field.geometry):
        fill(part, 1.0 + SLOPE * rise)
    return field.requires_grad_(False)


def fill(part: GridNetwork, raw: Tensor) -> None:
    """Make a grid network return the first feature of its grid: relu(x) - relu(-x)."""
    part.grid.data = torch.stack([raw, torch.zeros_like(raw)], dim=1).reshape(-1)
    first = torch.zeros(16, 16)
    first[0, 0], first[1, 0] = 1.0, -1.0
    last = torch.zeros(16, 16)
    last[0, 0], last[0, 1] = 1.0, -1.0
    part.network.data = torch.cat([first.reshape(-1), last.reshape(-1)])


def median_depth_of_wall(distance_m: float, cosine: Tensor) -> Tensor:
    """Where half the light is stopped: the density is exp(slope * beyond) / half_size."""
    rise = SLOPE * cosine
    return distance_m / cosine + torch.log(math.log(2.0) * rise * BOX.half_size) / rise


def rays_towards_wall(count: int = 200) -> Rays:
    rng = torch.Generator().manual_seed(0)
    spread = torch.rand(count, 2, generator=rng) - 0.5
    directions = torch.cat([torch.ones(count, 1), spread], dim=1)
    origins = torch.tensor(BOX.centre).expand(count, 3).contiguous()
    return Rays(origins, torch.nn.functional.normalize(directions, dim=1))


def assert_on_wall(points: Tensor, opacity: Tensor, rays: Rays) -> None:
    depth = (points - rays.origins).norm(dim=1)
    expected = median_depth_of_wall(1.0, rays.directions[:, 0])
    assert float((depth - expected).abs().max()) < 0.01
    assert float(opacity.min()) > 0.99


# -- known surfaces ----------------------------------------------------------------------------


def test_a_known_wall_is_rendered_at_its_depth() -> None:
    rays = rays_towards_wall()
    points, opacity, spread = Renderer(wall_field(), SPACING, RenderConfig(64, 48)).surface(rays)
    assert_on_wall(points, opacity, rays)
    assert 0.0 < float(spread.max()) < 0.06


def test_the_fast_finder_sees_the_same_wall() -> None:
    rays = rays_towards_wall()
    finder = SurfaceFinder(wall_field(), SPACING, RenderConfig(64, 48))
    points, opacity, _ = finder.find(rays.origins, rays.directions)
    assert_on_wall(points, opacity, rays)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_fast_finder_answers_as_the_renderer(
    threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSFIRE_THREADS", threads)
    field, config = wall_field(bumps=0.15), RenderConfig(64, 24)
    rng = torch.Generator().manual_seed(4)
    origins = torch.tensor(BOX.centre) + (torch.rand(700, 3, generator=rng) - 0.5)
    towards = torch.nn.functional.normalize(torch.randn(700, 3, generator=rng), dim=1)
    rays = Rays(origins, towards)
    slow = Renderer(field, SPACING, config).surface(rays)
    fast = Renderer(field, SPACING, config).freeze().surface(rays)
    solid = slow[1] > 0.9
    assert 200 < int(solid.sum()) < 700  # some look away from the wall, into fog
    error = (slow[0] - fast[0])[solid].norm(dim=1)
    assert float(error.median()) < 0.002 and float(error.quantile(0.98)) < 0.02
    torch.testing.assert_close(fast[1], slow[1], atol=0.02, rtol=0.02)
    assert float((fast[2] - slow[2])[solid].abs().median()) < 0.005
    colours = [Renderer(field, SPACING, config), Renderer(field, SPACING, config).freeze()]
    seen, fast_seen = (renderer.colours(rays) for renderer in colours)
    assert float(seen[0].std()) > 0.01  # not all the same grey
    torch.testing.assert_close(fast_seen[0], seen[0], atol=0.03, rtol=0.03)
    torch.testing.assert_close(fast_seen[1], fast[0])
    torch.testing.assert_close(fast_seen[2], fast[1])


def test_padding_of_a_narrow_grid_is_a_bias_in_the_fast_finder_too() -> None:
    """Inputs narrower than 16 are filled with ones: weights on them shift the density."""
    field, config, rays = wall_field(), RenderConfig(64, 48), rays_towards_wall(50)
    for part in (field.proposal, field.geometry):
        first = part.network.data[: 16 * 16].view(16, 16)
        # raw + 10 all told: the wall seems 0.2 m nearer
        first[0, 2], first[1, 3] = 10.0, -10.0
    slow = Renderer(field, SPACING, config).surface(rays)
    fast = SurfaceFinder(field, SPACING, config).find(rays.origins, rays.directions)
    torch.testing.assert_close(fast[0], slow[0], atol=0.01, rtol=0)
    nearer = median_depth_of_wall(1.0 - 10.0 / SLOPE, rays.directions[:, 0])
    depth = (slow[0] - rays.origins).norm(dim=1)
    assert float((depth - nearer).abs().max()) < 0.02


def test_an_image_of_the_wall_has_its_z_depth() -> None:
    """A camera that looks along the map's x axis, from a metre before the wall."""
    map_from_camera = Pose(np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]]), np.array(BOX.centre))
    camera = Camera(24, 16, 20.0, 20.0, 12.0, 8.0)
    image = Renderer(wall_field(), SPACING, RenderConfig(64, 48)).render(camera, map_from_camera)
    assert image.colour.shape == (16, 24, 3) and image.descriptors.shape == (16, 24, 16)
    cosine = torch.from_numpy(camera.bearings(camera.pixel_grid())[:, 2])
    expected = (median_depth_of_wall(1.0, cosine) * cosine).reshape(16, 24).numpy()
    np.testing.assert_allclose(image.z_depth, expected, atol=0.01)
    assert image.opacity.min() > 0.99
    assert image.colour.min() >= 0.0 and image.colour.max() <= 1.0
    np.testing.assert_allclose(np.linalg.norm(image.descriptors, axis=2), 1.0, atol=1e-4)


def test_chunks_do_not_show() -> None:
    field, rays = wall_field(bumps=0.1), rays_towards_wall(100)
    config = RenderConfig(32, 16)
    whole = Renderer(field, SPACING, config).surface(rays)
    parts = Renderer(field, SPACING, config, chunk=7).surface(rays)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)


def test_the_backend_does_not_show() -> None:
    field, rays = wall_field(bumps=0.1), rays_towards_wall(50)
    config = RenderConfig(32, 16)
    numba = Renderer(field, SPACING, config).surface(rays)
    field.set_encoder(encoding_torch.encode)
    reference = Renderer(field, SPACING, config).surface(rays)
    torch.testing.assert_close(numba[0], reference[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("encode", [encoding_numba.encode, encoding_torch.encode])
@pytest.mark.parametrize("frozen", [True, False])
def test_no_rays_in_nothing_out(encode: Encoder, frozen: bool) -> None:
    none = Rays(torch.zeros(0, 3), torch.zeros(0, 3))
    field = wall_field()
    field.set_encoder(encode)
    renderer = Renderer(field, SPACING, RenderConfig(16, 8))
    if frozen:
        renderer.freeze()
    shapes = [tuple(t.shape) for t in (*renderer.surface(none), *renderer.colours(none))]
    assert shapes == [(0, 3), (0,), (0,), (0, 3), (0, 3), (0,)]
    assert field.descriptors(none.origins).shape == (0, 16)


# -- sampling ----------------------------------------------------------------------------------


def test_weights_share_out_the_light() -> None:
    rng = torch.Generator().manual_seed(0)
    density = torch.rand(50, 20, generator=rng) * torch.logspace(-3, 3, 50)[:, None]
    weights = sampling.ray_weights(density, torch.full((50, 20), 0.1))
    total = weights.sum(dim=1)
    assert float(weights.min()) >= 0.0
    assert float(total.max()) <= 1.0 + 1e-6
    torch.testing.assert_close(total, -torch.expm1(-0.1 * density.sum(dim=1)))


def test_new_samples_follow_the_weights() -> None:
    edges = torch.linspace(0, 1, 11)[None]
    weights = torch.zeros(1, 10)
    weights[0, 3], weights[0, 7] = 0.75, 0.25
    for jitter in (None, torch.Generator().manual_seed(0)):
        new = sampling.resample_edges(edges, weights, 999, jitter)
        assert bool((new.diff(dim=1) >= 0).all())
        within = lambda a, b, new=new: float(((new >= a) & (new <= b)).float().mean())  # noqa: E731
        # 1 % of the weight is spread evenly so that nothing is never looked at
        assert within(0.3, 0.4) == pytest.approx(0.75 / 1.01 + 0.001, abs=0.01)
        assert within(0.7, 0.8) == pytest.approx(0.25 / 1.01 + 0.001, abs=0.01)
        assert float(new.min()) < 0.3 and float(new.max()) > 0.8


def test_resampling_inverts_the_distribution() -> None:
    rng = torch.Generator().manual_seed(1)
    edges = torch.linspace(0, 1, 9).expand(6, -1).contiguous()
    weights = torch.rand(6, 8, generator=rng)
    new = sampling.resample_edges(edges, weights, 15, None)
    padded = weights + 0.01 / 8
    cdf = torch.cat([torch.zeros(6, 1), torch.cumsum(padded, 1)], 1) / padded.sum(1, keepdim=True)
    reached = sampling.interpolate(edges, cdf, new)
    middles = ((torch.arange(16) + 0.5) / 16).expand(6, -1)
    torch.testing.assert_close(reached, middles, atol=1e-5, rtol=0)


def test_median_depth_halves_the_weight() -> None:
    edges = torch.tensor([[0.0, 1.0, 2.0, 4.0]])
    median = sampling.median_depth(edges, torch.tensor([[0.2, 0.2, 0.4]]))
    assert float(median) == pytest.approx(2.0)
    behind = sampling.median_depth(edges, torch.tensor([[0.1, 0.1, 0.6]]))
    assert float(behind) == pytest.approx(2.0 + 2.0 * 0.2 / 0.6)
    faint = sampling.median_depth(edges, torch.tensor([[0.001, 0.001, 0.006]]))
    assert float(faint) == pytest.approx(float(behind), abs=1e-4)


def test_the_median_lies_on_a_surface_where_the_mean_does_not() -> None:
    edges = torch.linspace(0, 10, 101)[None]
    weights = torch.zeros(1, 100)
    weights[0, 20], weights[0, 90] = 0.6, 0.4
    assert 2.0 <= float(sampling.median_depth(edges, weights)) <= 2.1


def test_spacing_covers_near_to_far_and_grows() -> None:
    spacing = Spacing(0.2, 30.0, 2.0)
    s = torch.linspace(0, 1, 50)
    metres = spacing.distance(s)
    assert float(metres[0]) == pytest.approx(0.2, rel=1e-4)
    assert float(metres[-1]) == pytest.approx(30.0, rel=1e-4)
    assert bool((metres.diff().diff() > 0).all())  # steps get longer
    back = torch.tensor([spacing.log_distance(float(t)) for t in metres])
    assert torch.allclose(back.diff(), back.diff().mean(), rtol=1e-3)


def test_jittered_edges_stay_ordered_and_within_the_ray() -> None:
    edges = sampling.even_edges(200, 16, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert float(edges.min()) >= 0.0 and float(edges.max()) <= 1.0
    assert bool((edges.diff(dim=1) > 0).all())
    assert float(edges[:, 0].std()) > 0.01


def test_spread_of_one_clear_surface_is_small() -> None:
    field, rays = wall_field(), rays_towards_wall(20)
    samples = sample_rays(field, rays, SPACING, RenderConfig(64, 48))
    # quartiles of exp(-e^x): ln(ln 4 / ln(4/3)) / slope
    expected = math.log(math.log(4) / math.log(4 / 3)) / (SLOPE * rays.directions[:, 0])
    torch.testing.assert_close(depth_spread(samples), expected, atol=0.02, rtol=0)


# -- the box -----------------------------------------------------------------------------------


def test_the_box_takes_the_middle_half_of_the_cube_without_bending() -> None:
    corners = torch.tensor([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]).float()
    points = corners * BOX.half_size + torch.tensor(BOX.centre)
    torch.testing.assert_close(BOX.normalize(points), corners / 4 + 0.5)
    torch.testing.assert_close(
        BOX.normalize(torch.tensor(BOX.centre)[None]), torch.full((1, 3), 0.5)
    )


def test_contraction_is_continuous_monotone_and_bounded() -> None:
    rng = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(40, 3, generator=rng), dim=1)
    distance = torch.cat([torch.linspace(0.01, 6, 2000), torch.logspace(1, 7, 200)])
    points = torch.tensor(BOX.centre) + distance[:, None, None] * directions
    unit = BOX.normalize(points)
    assert float(unit.min()) >= 0.0 and float(unit.max()) <= 1.0
    out = (unit - 0.5).abs().amax(dim=2)
    assert float(out.diff(dim=0).min()) >= -1e-6  # farther in space is farther in the cube
    assert float(unit[:2000].diff(dim=0).abs().max()) < 1e-3  # no jump at the faces of the box
    along = unit[-1] - 0.5
    torch.testing.assert_close(
        torch.nn.functional.normalize(along, dim=1), directions, atol=1e-3, rtol=0
    )


def test_density_does_not_depend_on_the_unit_of_length() -> None:
    """The same scene in millimetres: densities a metre are a thousandth, depths a thousandfold."""
    config = FieldConfig(OTHER, OTHER, OTHER, 16, 16, descriptor_size=16)
    unit, large = (
        SceneField(config, SceneBox((0.0, 0.0, 0.0), size), 2, encoding_numba.encode, seed=0)
        for size in (1.0, 1000.0)
    )
    points = torch.rand(20, 3)
    density, _ = unit.density_and_features(points)
    thinner, _ = large.density_and_features(points * 1000.0)
    torch.testing.assert_close(thinner * 1000.0, density, rtol=1e-3, atol=1e-6)


def test_spherical_harmonics_are_orthonormal() -> None:
    rng = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(
        torch.randn(200_000, 3, generator=rng, dtype=torch.float64), dim=1
    )
    basis = spherical_harmonics(directions)
    gram = 4 * math.pi * basis.T @ basis / len(basis)
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=0.03, rtol=0)
