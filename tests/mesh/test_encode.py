"""Textures come back from their files as they went in, and the bytes are repeatable."""

import io

import numpy as np
import pytest
from PIL import Image

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.encode import encode_jpeg, encode_png, encode_webp

RAMP = np.stack(np.meshgrid(np.arange(96), np.arange(64)), -1).astype(np.uint8)
RGB = np.dstack([RAMP, np.full((64, 96), 128, np.uint8)])


def decoded(image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.data)))


@pytest.mark.parametrize(
    ("encode", "mime", "tolerance"),
    [
        (encode_jpeg, "image/jpeg", 8),
        (encode_png, "image/png", 0),
        (encode_webp, "image/webp", 12),
        (lambda rgb: encode_webp(rgb, lossless=True), "image/webp", 0),
    ],
)
def test_pictures_survive(encode, mime, tolerance):
    image = encode(RGB)
    assert (image.mime, image.width, image.height) == (mime, 96, 64)
    assert np.abs(decoded(image).astype(int) - RGB).max() <= tolerance
    assert encode(RGB.copy()).data == image.data


def test_jpeg_keeps_colour_edges_sharp():
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    stripes[:, 1::2] = (0, 0, 255)
    assert np.abs(decoded(encode_jpeg(stripes, quality=95)).astype(int) - stripes).max() < 32


@pytest.mark.parametrize("encode", [encode_png, lambda rgba: encode_webp(rgba, lossless=True)])
def test_colour_under_transparent_texels_is_kept(encode):
    rgba = np.dstack([RGB, np.zeros((64, 96), np.uint8)])
    assert np.array_equal(decoded(encode(rgba)), rgba)


@pytest.mark.parametrize(
    "pixels",
    [
        RGB.astype(np.float32),
        RGB[..., 0],
        RGB[..., :2],
        RGB[:0],
        np.dstack([RGB, RGB]),
    ],
)
@pytest.mark.parametrize("encode", [encode_jpeg, encode_png, encode_webp])
def test_arrays_that_are_no_picture_are_refused(encode, pixels):
    with pytest.raises(MeshError, match="an image of"):
        encode(pixels)


def test_jpeg_has_no_alpha():
    with pytest.raises(MeshError, match="an image of"):
        encode_jpeg(np.dstack([RGB, RGB[..., :1]]))


def test_webp_refuses_what_its_format_cannot_hold():
    with pytest.raises(MeshError, match="16383"):
        encode_webp(np.zeros((1, 16384, 3), np.uint8))
