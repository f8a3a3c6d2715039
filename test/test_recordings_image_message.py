"""Every encoding of a ROS image, padded rows and both byte orders, and what is no image."""

from __future__ import annotations

import numpy as np
import pytest
from recording_samples import jpeg, picture, png

from crossfire_core.errors import RecordingError
from crossfire_core.recordings.image_message import (
    decode_compressed,
    decode_compressed_depth,
    decode_depth,
    decode_image,
    used_bits,
)

RGB = picture(3)
GREY = RGB[..., 0]
HEIGHT, WIDTH = GREY.shape
ALPHA = np.full((HEIGHT, WIDTH, 1), 77, np.uint8)


def message(pixels: np.ndarray, padding: int = 0, big: bool = False) -> tuple:
    """(height, width, step, is_bigendian, data) of pixels, rows padded with noise."""
    order = ">" if big else "<"
    rows = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder(order))
    rows = rows.view(np.uint8).reshape(pixels.shape[0], -1)
    filler = np.full((rows.shape[0], padding), 201, np.uint8)
    padded = np.hstack([rows, filler])
    return (*pixels.shape[:2], padded.shape[1], big, padded.tobytes())


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("rgba8", np.concatenate([RGB, ALPHA], axis=2)),
        ("bgra8", np.concatenate([RGB[..., ::-1], ALPHA], axis=2)),
        ("8UC3", RGB[..., ::-1]),
        ("8UC4", np.concatenate([RGB[..., ::-1], ALPHA], axis=2)),
    ],
)
def test_colour_encodings(encoding: str, pixels: np.ndarray, padding: int) -> None:
    np.testing.assert_array_equal(decode_image(encoding, *message(pixels, padding)), RGB)


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("big", [False, True])
def test_grey_and_sixteen_bit_encodings(padding: int, big: bool) -> None:
    grey = np.repeat(GREY[..., None], 3, axis=2)
    for encoding in ("mono8", "8UC1"):
        np.testing.assert_array_equal(decode_image(encoding, *message(GREY, padding, big)), grey)
    for encoding in ("mono16", "16UC1"):
        deep = GREY.astype(np.uint16) * 256 + 99
        np.testing.assert_array_equal(decode_image(encoding, *message(deep, padding, big)), grey)
    blue_first = RGB[..., ::-1]
    for encoding, pixels in (("rgb16", RGB), ("bgr16", blue_first), ("16UC3", blue_first)):
        deep = pixels.astype(np.uint16) * 256 + 99
        np.testing.assert_array_equal(decode_image(encoding, *message(deep, padding, big)), RGB)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("deep", [False, True])
def test_bayer_encodings_keep_the_colour(pattern: str, deep: bool) -> None:
    colour = {"r": 200, "g": 120, "b": 40}
    mosaic = np.zeros((HEIGHT, WIDTH), np.uint8)
    for position, name in enumerate(pattern):
        mosaic[position // 2 :: 2, position % 2 :: 2] = colour[name]
    if deep:
        found = decode_image(f"bayer_{pattern}16", *message(mosaic.astype(np.uint16) * 256))
    else:
        found = decode_image(f"bayer_{pattern}8", *message(mosaic))
    inside = found[4:-4, 4:-4].reshape(-1, 3)
    np.testing.assert_array_equal(np.unique(inside, axis=0), [[200, 120, 40]])


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_yuv_encodings_keep_the_colour(encoding: str) -> None:
    # Red, (255, 0, 0), is about y 82, u 90, v 240 in the limited range that cameras send.
    y, u, v = 82, 90, 240
    pair = [[u, y], [v, y]] if encoding in ("yuv422", "uyvy") else [[y, u], [y, v]]
    pixels = np.tile(np.array(pair, np.uint8), (HEIGHT, WIDTH // 2, 1))
    found = decode_image(encoding, *message(pixels, padding=6))
    assert np.abs(found.astype(int) - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
def test_colours_below_the_brightness(encoding: str) -> None:
    y, u, v = 82, 90, 240  # red, as above
    bright = np.full((HEIGHT, WIDTH), y, np.uint8)
    colours = np.tile([u, v] if encoding == "nv12" else [v, u], (HEIGHT // 2, WIDTH // 2))
    planes = np.vstack([bright, colours.astype(np.uint8)])
    _, width, step, big, data = message(planes, padding=6)
    found = decode_image(encoding, HEIGHT, width, step, big, data)
    assert found.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(found.astype(int) - [255, 0, 0]).max() <= 4
    with pytest.raises(RecordingError, match="even sizes"):
        decode_image(encoding, HEIGHT - 1, width, step, big, data)


@pytest.mark.parametrize("encoding", ["rgba16", "bgra16", "16UC4"])
def test_sixteen_bits_with_alpha(encoding: str) -> None:
    pixels = RGB if encoding == "rgba16" else RGB[..., ::-1]
    deep = np.dstack([pixels, np.full((HEIGHT, WIDTH), 255)]).astype(np.uint16) * 256
    np.testing.assert_array_equal(decode_image(encoding, *message(deep)), RGB)
    opaque = np.full((HEIGHT, WIDTH), 65535, np.uint16)  # says nothing of the colours' bits
    ten_bits = np.dstack([pixels.astype(np.uint16) * 4, opaque])
    np.testing.assert_array_equal(decode_image(encoding, *message(ten_bits)), RGB)
    assert used_bits(encoding, *message(ten_bits)) == 10


@pytest.mark.parametrize("big", [False, True])
def test_depth_encodings(big: bool) -> None:
    millimetres = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    found = decode_depth("16UC1", *message(millimetres, 2, big))
    np.testing.assert_allclose(found, millimetres / 1000.0, rtol=1e-6)
    metres = millimetres.astype(np.float32) / 7
    metres[0, :4] = np.nan, np.inf, -1.0, 0.0
    found = decode_depth("32FC1", *message(metres, 8, big))
    np.testing.assert_array_equal(found[0, :4], 0.0)
    np.testing.assert_array_equal(found[1:], metres[1:])


def test_compressed_images() -> None:
    np.testing.assert_array_equal(decode_compressed(png(RGB)), RGB)
    assert np.abs(decode_compressed(jpeg(RGB)).astype(int) - RGB).mean() < 8
    np.testing.assert_array_equal(decode_compressed(png(GREY))[..., 2], GREY)


@pytest.mark.parametrize("header", [b"", b"\0" * 12])
def test_compressed_depth(header: bytes) -> None:
    millimetres = np.full((HEIGHT, WIDTH), 1250, np.uint16)
    np.testing.assert_allclose(decode_compressed_depth(header + png(millimetres)), 1.25)


@pytest.mark.parametrize(
    ("encoding", "height", "width", "step", "size"),
    [
        ("rgb8", 0, 4, 12, 100),
        ("rgb8", 4, 0, 12, 100),
        ("rgb8", 4, 4, 11, 100),
        ("rgb8", 4, 4, 12, 47),
        ("rgb8", 4, 4, 12, 0),
        ("rgb8", 2**31, 2**31, 3 * 2**31, 48),
        ("yuyv", 4, 5, 10, 100),
        ("32FC1", 4, 4, 16, 64),
        ("jpeg", 4, 4, 12, 48),
        ("", 4, 4, 12, 48),
    ],
)
def test_messages_that_contradict_themselves(
    encoding: str, height: int, width: int, step: int, size: int
) -> None:
    with pytest.raises(RecordingError) as caught:
        decode_image(encoding, height, width, step, False, bytes(size))
    assert "\n" not in str(caught.value)


def test_colour_is_no_depth() -> None:
    with pytest.raises(RecordingError, match="depth encoding"):
        decode_depth("rgb8", *message(RGB))
    with pytest.raises(RecordingError, match="16-bit"):
        decode_compressed_depth(png(RGB))


@pytest.mark.parametrize("data", [b"", b"x", b"\xff\xd8\xff", b"no image at all" * 9])
def test_bytes_that_are_no_image(data: bytes) -> None:
    with pytest.raises(RecordingError, match="cannot be decoded"):
        decode_compressed(data)


def test_a_jpeg_that_is_cut_short_is_refused_not_filled_with_grey() -> None:
    whole = jpeg(RGB)
    with pytest.raises(RecordingError, match="cut short"):
        decode_compressed(whole[: len(whole) // 2])
    # Drivers may pad a whole one.
    assert decode_compressed(whole + b"\0" * 100).shape == RGB.shape
