"""Photos that suppliers send: odd but fine ones are converted with a note, broken ones are refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from trellis_pipeline.errors import SourceImageError
from trellis_pipeline.imagery.decode import decode_image
from trellis_pipeline.imagery.headers import read_header


def encoded(image, format_="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def gradient(height=24, width=32):
    y, x = np.mgrid[0:height, 0:width]
    return np.dstack([x * 7, y * 10, (x + y) * 4]).astype(np.uint8)


def png(width, height, depth, colour_type, rows):
    """A PNG written by hand, for what Pillow cannot write. rows: unfiltered, unpacked scanline bytes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows), 1))
        + chunk(b"IEND", b"")
    )


def refusal(data, **options):
    with pytest.raises(SourceImageError) as caught:
        decode_image(data, **options)
    return str(caught.value)


def test_a_png_of_50000_by_50000_pixels_is_refused_from_its_header():
    bomb = png(50_000, 50_000, 1, 0, [bytes(6250)] * 100)
    assert refusal(bomb) == "image is 50000 x 50000 px; the limit is 64 megapixels (imagery.max_pixels)"


def test_a_webp_and_a_jpeg_that_claim_a_huge_canvas_are_refused_from_their_headers():
    claimed = struct.pack("<I", 16_000 - 1)[:3] * 2
    webp = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + claimed
    assert "16000 x 16000" in refusal(webp)
    jpeg = bytearray(encoded(Image.fromarray(gradient()), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 64_000)
    assert "64000 x 65000" in refusal(bytes(jpeg))


def test_the_pixel_limit_is_inclusive_and_adjustable():
    data = encoded(Image.new("RGB", (30, 20)))
    assert decode_image(data, max_pixels=600).width == 30
    assert "30 x 20" in refusal(data, max_pixels=599)


def test_a_jpeg_cut_off_in_transfer_says_so():
    noise = np.random.default_rng(1).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), "JPEG")
    assert refusal(whole[: len(whole) // 2]) == "damaged JPEG: the file is truncated"


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_a_png_or_webp_cut_off_in_transfer_is_refused(format_):
    noise = np.random.default_rng(1).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), format_)
    assert refusal(whole[: len(whole) // 2]).startswith(f"damaged {format_}")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xef\xbb\xbf  <svg width='9'/>", "SVG"),
        (b"GIF89a" + bytes(40), "GIF"),
        (b"<!DOCTYPE html><html>404</html>", "an HTML page"),
        (b"\0\0\0\x20ftypheic" + bytes(20), "HEIC"),
        (b"\0\0\0\x20ftypavif" + bytes(20), "AVIF"),
        (b"SIMPLE  =                    T", "FITS"),
    ],
)
def test_a_file_whose_name_lies_is_refused_with_what_it_is(data, kind):
    assert refusal(data) == f"not a PNG, JPEG or WebP image; it looks like {kind}"


def test_an_empty_file_and_plain_text_are_refused():
    assert refusal(b"") == "the file is empty"
    assert refusal(b"hello") == "not a PNG, JPEG or WebP image"


def test_a_header_without_a_size_and_a_texture_format_are_told_apart_from_other_files():
    no_width = bytearray(encoded(Image.new("RGB", (8, 8))))
    no_width[16:20] = bytes(4)
    assert refusal(bytes(no_width)) == "damaged PNG: its header states no size"
    assert (
        refusal(encoded(Image.new("RGB", (8, 8)), "JPEG")[:20]) == "damaged JPEG: its header states no size"
    )
    ktx2 = b"\xabKTX 20\xbb\r\n\x1a\n" + struct.pack("<9I", 0, 1, 8, 8, 0, 0, 1, 1, 1)
    assert refusal(ktx2) == "not a PNG, JPEG or WebP image"


def test_a_camera_photo_on_its_side_is_turned_upright():
    pixels = gradient()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to see it upright
    image = decode_image(encoded(Image.fromarray(pixels), "PNG", exif=exif))
    assert (image.width, image.height) == (24, 32)
    assert np.array_equal(image.rgba[..., :3], np.rot90(pixels, -1))
    assert "EXIF orientation applied" in image.notes


def test_an_ordinary_photo_is_decoded_as_it_is_without_notes():
    image = decode_image(encoded(Image.fromarray(gradient())))
    assert np.array_equal(image.rgba[..., :3], gradient())
    assert (image.format, image.mode, image.has_alpha, image.notes) == ("PNG", "RGB", False, ())


def test_cmyk_from_print_keeps_its_colours_the_right_way_round():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    image = decode_image(encoded(red, "JPEG", quality=95))
    assert image.mode == "CMYK"
    assert "CMYK converted without a profile" in image.notes
    r, g, b, _ = image.rgba[8, 8].astype(int)
    assert r > 240
    assert max(g, b) < 15


def test_sixteen_bit_grey_is_scaled_not_clipped():
    levels = np.linspace(0, 65535, 64).astype(np.uint16)
    image = decode_image(png(64, 4, 16, 0, [levels.astype(">u2").tobytes()] * 4))
    assert image.notes == ("16-bit reduced to 8",)
    assert np.array_equal(image.rgba[0, :, 0], levels >> 8)
    assert np.array_equal(image.rgba[..., 0], image.rgba[..., 2])


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_colour_and_alpha_are_scaled_not_clipped(colour_type, channels):
    values = np.random.default_rng(2).integers(0, 65535, (5, 7, channels), dtype=np.uint16)
    image = decode_image(png(7, 5, 16, colour_type, [row.astype(">u2").tobytes() for row in values]))
    high = (values >> 8).astype(np.uint8)
    assert image.notes == ("16-bit reduced to 8",)
    assert np.array_equal(image.rgba[..., 0], high[..., 0])
    if channels in (2, 4):
        assert image.has_alpha
        assert np.array_equal(image.rgba[..., 3], high[..., -1])


def test_a_palette_file_with_a_transparent_colour_has_alpha():
    palette = Image.fromarray(np.repeat(np.arange(4, dtype=np.uint8), 16).reshape(8, 8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9] + [0] * 756)
    image = decode_image(encoded(palette, transparency=0))
    assert image.mode == "P"
    assert image.has_alpha
    assert image.rgba[0, 0, 3] == 0
    assert image.rgba[7, 7].tolist() == [9, 9, 9, 255]


def test_grey_with_alpha_and_one_bit_files_are_read():
    grey = Image.merge("LA", [Image.new("L", (8, 8), 77), Image.new("L", (8, 8), 50)])
    image = decode_image(encoded(grey))
    assert image.has_alpha
    assert image.rgba[0, 0].tolist() == [77, 77, 77, 50]
    bits = decode_image(encoded(Image.new("1", (8, 8), 1)))
    assert bits.rgba[0, 0].tolist() == [255, 255, 255, 255]


def test_an_opaque_alpha_channel_is_not_useful_alpha():
    assert not decode_image(encoded(Image.new("RGBA", (8, 8), (1, 2, 3, 255)))).has_alpha


@pytest.mark.parametrize("format_", ["WEBP", "PNG"])
def test_an_animation_gives_its_first_frame_with_a_note(format_):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:], lossless=True, duration=40)
    image = decode_image(data)
    assert image.rgba[0, 0, :3].tolist() == [255, 0, 0]
    assert image.notes == ("first frame of 3",)


def test_colours_of_an_embedded_profile_become_srgb():
    # sRGB with the red and blue primaries exchanged, under another name: a wrong result is plain to see.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = bytearray(profile.replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be")))
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    data = encoded(Image.new("RGB", (8, 8), (250, 20, 20)), icc_profile=bytes(profile))
    image = decode_image(data)
    assert any(note.startswith("colours converted from") for note in image.notes)
    r, _, b, _ = image.rgba[0, 0].astype(int)
    assert b > 230
    assert r < 60


def test_a_broken_profile_costs_a_note_not_the_photo():
    image = decode_image(encoded(Image.fromarray(gradient()), icc_profile=b"not a profile" * 20))
    assert np.array_equal(image.rgba[..., :3], gradient())
    assert image.notes == ("unusable colour profile ignored",)


def test_a_profile_of_another_colour_space_costs_a_note_not_the_photo():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = decode_image(encoded(Image.fromarray(gradient()), icc_profile=lab))
    assert image.notes == ("unusable colour profile ignored",)


SEEDS = [
    encoded(Image.fromarray(gradient()), "PNG"),
    encoded(Image.fromarray(gradient()), "JPEG"),
    encoded(Image.fromarray(gradient()), "WEBP"),
    encoded(Image.fromarray(gradient()).convert("P"), "PNG", transparency=3),
    encoded(Image.fromarray(gradient()).convert("CMYK"), "JPEG"),
    encoded(Image.fromarray(gradient()), "WEBP", lossless=True, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"),
]


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 600), st.binary(min_size=1, max_size=4)), max_size=6),
    st.integers(0, 4000),
)
def test_damaged_files_decode_or_are_refused_and_nothing_else(seed, edits, keep):
    data = bytearray(seed)
    for at, value in edits:
        data[at : at + len(value)] = value
    decode_or_refuse(bytes(data[:keep] if keep < 600 else data))


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8X"]),
)
@example(b"", b"\xff\xd8\xff\xff")
def test_random_bytes_behind_any_magic_number_are_refused_cleanly(data, magic):
    read_header(magic + data)
    decode_or_refuse(magic + data)


def decode_or_refuse(data):
    image, message = None, ""
    try:
        image = decode_image(data, max_pixels=1_000_000)
    except SourceImageError as error:
        message = str(error)
    if image is None:
        assert message
        assert "BytesIO" not in message
    else:
        assert image.rgba.shape == (image.height, image.width, 4)
        assert image.rgba.dtype == np.uint8
        assert image.width * image.height <= 1_000_000
