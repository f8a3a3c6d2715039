"""Lens models as compiled functions: from directions to coordinates on the sensor and back.

Every model divides (x, y) by a depth ``w`` of its own, and some bend the quotient by polynomials:

    m = (x, y) / w(ρ, z)        ρ = |(x, y)|, θ = atan2(ρ, z), |p| = the point's distance

    none, radtan, rational   w = z
    equidistant              w = ρ / (θ + k1 θ³ + k2 θ⁵ + k3 θ⁷ + k4 θ⁹)
    fov                      w = ρ ω / atan2(2 tan(ω/2) ρ, z)
    omni                     w = z + ξ |p|
    eucm                     w = α n + (1 - α) z,  n = √(β ρ² + z²)
    ds                       w = α √(ρ² + s²) + (1 - α) s,  s = ξ |p| + z

(Kannala and Brandt 2006; Devernay and Faugeras 2001; Mei and Rives 2007; Khomutenko et al. 2016;
Usenko et al. 2018.) Up to its widest angle to the axis a lens shows every direction once; beyond
it the formulas fold the image over, or have no value. Nothing beyond is ever seen. Thin prisms and
a tilted sensor come last; they are OpenCV's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_FLAT, _EQUIDISTANT, _FOV, _OMNI, _EUCM, _DS = range(6)
_KINDS = {
    "none": _FLAT,
    "radtan": _FLAT,
    "rational": _FLAT,
    "equidistant": _EQUIDISTANT,
    "fov": _FOV,
    "omni": _OMNI,
    "eucm": _EUCM,
    "ds": _DS,
}
_SHAPES = {_FLAT: 0, _EQUIDISTANT: 4, _FOV: 1, _OMNI: 1, _EUCM: 2, _DS: 2}
_HALF = np.pi / 2
_SCAN = 2048  # angles at which a fold is looked for
_WAYS = 48  # around the axis, where that matters
_STEPS = 60  # of Newton, at most; five are usual
_EXACT = 1e-13  # of coordinates on the sensor, in focal lengths
_SAME = 1e-9  # an angle that is exact enough
_JIT: dict[str, Any] = {"nogil": True, "cache": True, "boundscheck": False}


@dataclass(frozen=True)
class Lens:
    """A model with its numbers, as the compiled functions take it.

    Attributes:
        kind: number of the formula for the depth.
        shape: ``[4]`` its parameters.
        bend: ``[12]`` k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4 of the polynomials, as OpenCV orders
            them.
        tilt: ``[3, 3]`` where the bent image falls on the sensor.
        matrix: ``[4]`` fx fy cx cy.
        widest: angle to the axis up to which directions are seen, radians.
    """

    kind: int
    shape: FloatArray
    bend: FloatArray
    tilt: FloatArray
    matrix: FloatArray
    widest: float

    @staticmethod
    def of(model: str, coefficients: tuple[float, ...], matrix: tuple[float, ...]) -> Lens:
        """Find out how wide a lens sees.

        Args:
            model: name of the distortion.
            coefficients: its own shape first, then those of the polynomials.
            matrix: fx fy cx cy.
        """
        kind = _KINDS[model]
        own = _SHAPES[kind]
        shape, rest = np.zeros(4), np.zeros(14)
        shape[:own] = coefficients[:own]
        rest[: len(coefficients) - own] = coefficients[own:]
        bend, tilt = rest[:12].copy(), _tilted(*rest[12:].tolist())
        widest = float(_widest(kind, shape, bend))
        if rest[8:].any():
            widest = float(_unfolded(kind, shape, bend, tilt, widest))
        return Lens(kind, shape, bend, tilt, np.array(matrix, dtype=np.float64), widest)

    def project(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Pixels ``[n, 2]`` of points ``[n, 3]`` and their slopes ``[n, 2, 3]``.

        Points that are not seen have NaN for a pixel and slopes of 0.
        """
        pixels, slopes = np.empty((len(points), 2)), np.empty((len(points), 2, 3))
        _project_all(
            points, self.kind, self.shape, self.bend, self.tilt, self.matrix, np.cos(self.widest),
            pixels, slopes,
        )  # fmt: skip
        return pixels, slopes

    def bearings(self, pixels: FloatArray) -> FloatArray:
        """Unit directions ``[n, 3]`` of pixels ``[n, 2]``; NaN where the lens shows nothing."""
        bearings = np.empty((len(pixels), 3))
        _bearings(
            pixels, self.kind, self.shape, self.bend, self.tilt, self.matrix, self.widest, bearings
        )
        return bearings


def _tilted(x: float, y: float) -> FloatArray:
    """The homography ``[3, 3]`` of a sensor turned about x, then y, radians, as OpenCV has it."""
    cx, sx, cy, sy = np.cos(x), np.sin(x), np.cos(y), np.sin(y)
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cx, sx], [0.0, -sx, cx]])
    about_y = np.array([[cy, 0.0, -sy], [0.0, 1.0, 0.0], [sy, 0.0, cy]])
    turn = about_y @ about_x
    along = turn[2, 2] * np.eye(3)
    along[:, 2] = -turn[0, 2], -turn[1, 2], 1.0
    return np.asarray(along @ turn)


@numba.njit(**_JIT)
def _widest(kind, shape, bend):  # type: ignore[no-untyped-def]
    """The angle at which the radius on the sensor stops growing, from the axis outwards."""
    limit = _HALF if kind in (_FLAT, _FOV) else np.pi
    low, high = 0.0, limit
    for k in range(1, _SCAN):
        angle = limit * k / _SCAN
        if not _radius(kind, shape, bend, np.sin(angle), np.cos(angle), False)[1] > 0.0:
            high = angle
            break
        low = angle
    else:
        return limit
    for _ in range(_STEPS):
        angle = 0.5 * (low + high)
        if _radius(kind, shape, bend, np.sin(angle), np.cos(angle), False)[1] > 0.0:
            low = angle
        else:
            high = angle
    return low


@numba.njit(**_JIT)
def _radius(kind, shape, bend, rho, z, flat):  # type: ignore[no-untyped-def]
    """The radius on the sensor of the direction (ρ, z) without tilt, and its slope.

    The slope is that by ρ at z = 1 if ``flat``, else that by the angle to the axis with ρ and z
    its sine and cosine; -1 where the model has no value.
    """
    w, by_rho, by_z = _depth(kind, shape, rho, z)
    if not w > 0.0:
        return np.inf, -1.0
    r = rho / w
    s = r * r
    top = 1.0 + s * (bend[0] + s * (bend[1] + s * bend[4]))
    low = 1.0 + s * (bend[5] + s * (bend[6] + s * bend[7]))
    if not low > 0.0:
        return np.inf, -1.0
    top_s = bend[0] + s * (2.0 * bend[1] + s * 3.0 * bend[4])
    low_s = bend[5] + s * (2.0 * bend[6] + s * 3.0 * bend[7])
    slope = (1.0 - r * by_rho) / w if flat else (z - r * (by_rho * z - by_z * rho)) / w
    return r * top / low, slope * (top + 2.0 * s * (top_s - top / low * low_s)) / low


@numba.njit(**_JIT)
def _depth(kind, shape, rho, z):  # type: ignore[no-untyped-def]
    """The model's depth ``w`` of a point, and its slopes by ρ and by z."""
    if kind == _FLAT:
        return z, 0.0, 1.0
    if kind == _OMNI:
        n = np.sqrt(rho * rho + z * z)
        return z + shape[0] * n, shape[0] * rho / n, 1.0 + shape[0] * z / n
    if kind == _EUCM:
        a, b = shape[0], shape[1]
        n = np.sqrt(b * rho * rho + z * z)
        return a * n + (1.0 - a) * z, a * b * rho / n, a * z / n + 1.0 - a
    if kind == _DS:
        xi, a = shape[0], shape[1]
        n = np.sqrt(rho * rho + z * z)
        s, s_rho, s_z = xi * n + z, xi * rho / n, xi * z / n + 1.0
        m = np.sqrt(rho * rho + s * s)
        by_rho = a * (rho + s * s_rho) / m + (1.0 - a) * s_rho
        return a * m + (1.0 - a) * s, by_rho, a * s * s_z / m + (1.0 - a) * s_z
    # an angle, as it is or bent, is the radius
    if kind == _FOV:
        wide = 2.0 * np.tan(0.5 * shape[0])
        q, turn = np.arctan2(wide * rho, z) / shape[0], wide / shape[0]
        square = wide * wide * rho * rho + z * z
        middle = z / turn
    else:
        angle = np.arctan2(rho, z)
        s = angle * angle
        q = angle * (1.0 + s * (shape[0] + s * (shape[1] + s * (shape[2] + s * shape[3]))))
        turn = 1.0 + s * (
            3.0 * shape[0] + s * (5.0 * shape[1] + s * (7.0 * shape[2] + s * 9.0 * shape[3]))
        )
        square = rho * rho + z * z
        middle = z
    if rho < 1e-9 * z:  # on the axis
        return middle, 0.0, middle / z
    if not q > 0.0:
        return -1.0, 0.0, 0.0
    q_rho, q_z = turn * z / square, -turn * rho / square
    return rho / q, (1.0 - rho / q * q_rho) / q, -rho / q * q_z / q


@numba.njit(**_JIT)
def _project(kind, shape, bend, tilt, x, y, z, j):  # type: ignore[no-untyped-def]
    """Coordinates on the sensor, in focal lengths, and their slopes ``j [2, 3]``.

    Returns:
        (u, v, whether the image is not folded over there).
    """
    rho = np.sqrt(x * x + y * y)
    w, by_rho, by_z = _depth(kind, shape, rho, z)
    if not w > 1e-12:
        return np.nan, np.nan, False
    inverse = 1.0 / w
    a, b = x * inverse, y * inverse
    along = by_rho / rho if rho > 0.0 else 0.0
    wx, wy, wz = along * x, along * y, by_z
    s = a * a + b * b
    k1, k2, p1, p2 = bend[0], bend[1], bend[2], bend[3]
    top = 1.0 + s * (k1 + s * (k2 + s * bend[4]))
    low = 1.0 + s * (bend[5] + s * (bend[6] + s * bend[7]))
    ratio = top / low
    top_s = k1 + s * (2.0 * k2 + s * 3.0 * bend[4])
    low_s = bend[5] + s * (2.0 * bend[6] + s * 3.0 * bend[7])
    twice = 2.0 * (top_s - ratio * low_s) / low  # d ratio = twice (a da + b db)
    s1, s2, s3, s4 = bend[8], bend[9], bend[10], bend[11]
    u = a * ratio + 2.0 * p1 * a * b + p2 * (s + 2.0 * a * a) + s * (s1 + s * s2)
    v = b * ratio + p1 * (s + 2.0 * b * b) + 2.0 * p2 * a * b + s * (s3 + s * s4)
    across, down = 2.0 * (s1 + 2.0 * s * s2), 2.0 * (s3 + 2.0 * s * s4)
    uu = ratio + a * a * twice + 2.0 * p1 * b + 6.0 * p2 * a + a * across
    uv = a * b * twice + 2.0 * p1 * a + 2.0 * p2 * b + b * across
    vu = a * b * twice + 2.0 * p1 * a + 2.0 * p2 * b + a * down
    vv = ratio + b * b * twice + 6.0 * p1 * b + 2.0 * p2 * a + b * down
    if tilt[0, 1] != 0.0 or tilt[2, 0] != 0.0 or tilt[2, 1] != 0.0:
        far = 1.0 / (tilt[2, 0] * u + tilt[2, 1] * v + tilt[2, 2])
        u, v = (
            (tilt[0, 0] * u + tilt[0, 1] * v + tilt[0, 2]) * far,
            (tilt[1, 0] * u + tilt[1, 1] * v + tilt[1, 2]) * far,
        )
        ua, ub = (tilt[0, 0] - u * tilt[2, 0]) * far, (tilt[0, 1] - u * tilt[2, 1]) * far
        va, vb = (tilt[1, 0] - v * tilt[2, 0]) * far, (tilt[1, 1] - v * tilt[2, 1]) * far
        uu, uv, vu, vv = (
            (ua * uu + ub * vu), (ua * uv + ub * vv), (va * uu + vb * vu), (va * uv + vb * vv),
        )  # fmt: skip
    ax, ay, az = (1.0 - a * wx) * inverse, -a * wy * inverse, -a * wz * inverse
    bx, by, bz = -b * wx * inverse, (1.0 - b * wy) * inverse, -b * wz * inverse
    j[0, 0], j[0, 1], j[0, 2] = uu * ax + uv * bx, uu * ay + uv * by, uu * az + uv * bz
    j[1, 0], j[1, 1], j[1, 2] = vu * ax + vv * bx, vu * ay + vv * by, vu * az + vv * bz
    return u, v, uu * vv - uv * vu > 0.0


@numba.njit(**_JIT)
def _unfolded(kind, shape, bend, tilt, widest):  # type: ignore[no-untyped-def]
    """The angle up to which a lens that differs all around folds nowhere."""
    j = np.zeros((2, 3))
    for k in range(1, _SCAN):
        angle = widest * k / _SCAN
        for way in range(_WAYS):
            turn = 2.0 * np.pi * way / _WAYS
            rho = np.sin(angle)
            x, y, z = rho * np.cos(turn), rho * np.sin(turn), np.cos(angle)
            if not _project(kind, shape, bend, tilt, x, y, z, j)[2]:
                return widest * (k - 1) / _SCAN
    return widest


@numba.njit(**_JIT)
def _project_all(points, kind, shape, bend, tilt, matrix, least, pixels, slopes):  # type: ignore[no-untyped-def]
    """Fill pixels and slopes of points; ``least`` is the cosine of the widest angle."""
    fx, fy, cx, cy = matrix[0], matrix[1], matrix[2], matrix[3]
    j = np.zeros((2, 3))
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        seen = z > 1e-9 if kind == _FLAT else True
        if seen and least > -1.0:
            seen = z > least * np.sqrt(x * x + y * y + z * z)
        u, v = np.nan, np.nan
        if seen:
            u, v, seen = _project(kind, shape, bend, tilt, x, y, z, j)
        if not seen:
            u, v = np.nan, np.nan
            j[:] = 0.0
        pixels[i, 0], pixels[i, 1] = fx * u + cx, fy * v + cy
        for k in range(3):
            slopes[i, 0, k], slopes[i, 1, k] = fx * j[0, k], fy * j[1, k]


@numba.njit(**_JIT)
def _bearings(pixels, kind, shape, bend, tilt, matrix, widest, bearings):  # type: ignore[no-untyped-def]
    """Fill unit directions of pixels."""
    fx, fy, cx, cy = matrix[0], matrix[1], matrix[2], matrix[3]
    straight = tilt[2, 0] == 0.0 and tilt[2, 1] == 0.0
    plain = kind == _FLAT and straight and not bend.any()
    even = straight and not bend[2:4].any() and not bend[8:].any()
    least = np.cos(widest)
    j = np.zeros((2, 3))
    for i in range(len(pixels)):
        u, v = (pixels[i, 0] - cx) / fx, (pixels[i, 1] - cy) / fy
        x, y, z, seen = u, v, 1.0, True
        if not plain:
            x, y, z, seen = _straight(kind, shape, bend, tilt, widest, even, u, v, j)
        length = np.sqrt(x * x + y * y + z * z)
        if not plain:
            seen = seen and (least <= -1.0 or z > least * length)
        if not seen:
            x, y, z = np.nan, np.nan, np.nan
        bearings[i, 0], bearings[i, 1], bearings[i, 2] = x / length, y / length, z / length


@numba.njit(**_JIT)
def _straight(kind, shape, bend, tilt, widest, even, u, v, j):  # type: ignore[no-untyped-def]
    """The direction (x, y, z) that falls on (u, v), and whether there is one.

    ``even`` says that the lens is the same all around, so that the radius alone decides.
    """
    radius = np.sqrt(u * u + v * v)
    if radius == 0.0:
        x, y, z, found = 0.0, 0.0, 1.0, True
    else:
        across, z, found = _angle(kind, shape, bend, widest, radius)
        x, y = across * u / radius, across * v / radius
    if even:
        return x, y, z, found
    for _ in range(_STEPS):
        a, b, good = _project(kind, shape, bend, tilt, x, y, z, j)
        if not good:
            return x, y, z, False
        du, dv = u - a, v - b
        if abs(du) + abs(dv) < _EXACT * (1.0 + radius):
            return x, y, z, True
        # the shortest step, which lies across the direction as every slope does
        aa = j[0, 0] * j[0, 0] + j[0, 1] * j[0, 1] + j[0, 2] * j[0, 2]
        ab = j[0, 0] * j[1, 0] + j[0, 1] * j[1, 1] + j[0, 2] * j[1, 2]
        bb = j[1, 0] * j[1, 0] + j[1, 1] * j[1, 1] + j[1, 2] * j[1, 2]
        det = aa * bb - ab * ab
        if not det > 1e-18 * (aa + bb) * (aa + bb):
            return x, y, z, False
        s, t = (bb * du - ab * dv) / det, (aa * dv - ab * du) / det
        x, y, z = (
            x + s * j[0, 0] + t * j[1, 0],
            y + s * j[0, 1] + t * j[1, 1],
            (z + s * j[0, 2] + t * j[1, 2]),
        )
    return x, y, z, abs(du) + abs(dv) < _SAME * (1.0 + radius)


@numba.njit(**_JIT)
def _angle(kind, shape, bend, widest, radius):  # type: ignore[no-untyped-def]
    """(ρ, z) of the direction of that radius on the sensor, or the widest; whether it is found.

    Newton's method between bounds: the radius grows all the way to the widest angle.
    """
    flat = kind == _FLAT
    low, high = 0.0, widest
    if flat:  # the tangent in place of the angle, which needs no sines
        high = np.tan(min(widest, _HALF - 1e-6))
    at, rho, z, error = min(radius, 0.999 * high), 0.0, 1.0, np.inf
    for _ in range(_STEPS):
        rho, z = (at, 1.0) if flat else (np.sin(at), np.cos(at))
        found, slope = _radius(kind, shape, bend, rho, z, flat)
        error = found - radius
        if abs(error) < _EXACT * (1.0 + radius):
            return rho, z, True
        if error > 0.0:
            high = at
        else:
            low = at
        further = at - error / slope if slope > 0.0 else low
        at = further if low < further < high else 0.5 * (low + high)
    return rho, z, abs(error) < _SAME * (1.0 + radius)
