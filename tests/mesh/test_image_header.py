"""Sizes of images from their first bytes, as photos and textures state them, damaged ones included."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trellis_pipeline.mesh.image_header import read_image_header


def header_of(data: bytes) -> Any:
    return read_image_header(lambda offset, length: data[offset : offset + length], len(data))


def picture(kind: str, size: tuple[int, int], mode: str = "RGB", **options: Any) -> bytes:
    out = BytesIO()
    Image.new(mode, size).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGBA", {}),
        ("PNG", "L", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"exif": b"Exif\0\0" + b"x" * 60_000, "icc_profile": b"p" * 70_000}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {"exif": b"Exif\0\0MM"}),
    ],
)
def test_image_sizes_are_found_without_decoding(kind: str, mode: str, options: dict[str, Any]) -> None:
    data = picture(kind, (301, 77), mode, **options)
    header = header_of(data)
    assert (header.width, header.height, header.mime) == (301, 77, f"image/{kind.lower()}")


def test_the_size_of_a_ktx2_texture_is_found() -> None:
    data = (
        b"\xabKTX 20\xbb\r\n\x1a\n" + np.array([0, 1, 512, 256, 0, 0, 1, 1, 1], "<u4").tobytes() + b"\0" * 40
    )
    assert (header_of(data).width, header_of(data).height) == (512, 256)


def test_a_png_that_claims_billions_of_pixels_is_measured_not_decoded() -> None:
    data = bytearray(picture("PNG", (8, 8)))
    data[16:24] = (2**31 - 1).to_bytes(4, "big") * 2
    assert header_of(bytes(data)).width == 2**31 - 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_cut_anywhere_in_its_header_is_no_image_or_has_its_size(kind: str) -> None:
    data = picture(kind, (40, 30))
    for length in range(min(len(data), 700)):
        header = header_of(data[:length])
        assert header is None or (header.width, header.height) == (40, 30)


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 "]),
)
def test_noise_is_never_mistaken_with_an_exception(noise: bytes, start: bytes) -> None:
    header = header_of(start + noise)
    assert header is None or (header.width >= 1 and header.height >= 1)


@pytest.mark.parametrize("stray", [b"\0", b"\0\x17" * 3000])
def test_stray_bytes_between_the_segments_of_a_jpeg_are_skipped_as_decoders_do(stray: bytes) -> None:
    data = picture("JPEG", (301, 77))
    at = data.index(b"\xff\xdb")
    odd = data[:at] + stray + data[at:]
    assert Image.open(BytesIO(odd)).size == (301, 77)
    assert (header_of(odd).width, header_of(odd).height) == (301, 77)


def test_a_jpeg_of_nothing_but_stray_bytes_is_given_up_after_a_few_megabytes() -> None:
    read = 0

    def bytes_at(offset: int, length: int) -> bytes:
        nonlocal read
        read += length
        return b"\xff\xd8\xff\xe0\0\x02"[offset : offset + length].ljust(length, b"x")

    assert read_image_header(bytes_at, 10**10) is None
    assert read < 5_000_000


def test_an_image_without_width_or_height_is_none() -> None:
    for kind, at, size in (("PNG", 16, 4), ("WEBP", 26, 2)):
        data = bytearray(picture(kind, (40, 30)))
        data[at : at + size] = bytes(size)
        assert header_of(bytes(data)) is None


@pytest.mark.parametrize(("kind", "mode", "bits"), [("PNG", "RGB", 8), ("PNG", "I;16", 16), ("PNG", "1", 1)])
def test_the_bits_of_a_channel_are_told(kind: str, mode: str, bits: int) -> None:
    assert header_of(picture(kind, (4, 4), mode)).bit_depth == bits
