"""What the encoder gets to see of a photo, and what is refused before any network runs."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")

from PIL import Image

from trellis_pipeline.errors import MatteError
from trellis_pipeline.trellis2.photo import cut_out, encoder_input


def disc(
    size: tuple[int, int] = (200, 120), centre: tuple[int, int] = (130, 50), radius: int = 40
) -> Image.Image:
    y, x = np.mgrid[: size[1], : size[0]]
    pixels = np.full((*y.shape, 4), (200, 60, 20, 0), np.uint8)
    pixels[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2, 3] = 255
    return Image.fromarray(pixels)


def test_the_object_fills_a_square_on_black():
    square = cut_out(disc())
    assert square.mode == "RGB"
    assert square.size == (80, 80)
    assert square.getpixel((40, 40)) == (200, 60, 20)
    assert square.getpixel((1, 1)) == (0, 0, 0)


def test_an_object_at_the_border_is_padded_with_black():
    square = cut_out(disc((100, 300), centre=(50, 150), radius=80))
    assert square.size[0] == square.size[1]
    assert square.getpixel((0, square.height // 2)) == (0, 0, 0)


def test_a_large_photo_is_made_smaller_first():
    # 1800 of 3000 pixels in width become 614 of 1024, and the square is rounded down to an even number.
    assert cut_out(disc((3000, 2000), (1500, 1000), 900)).size == (612, 612)


def test_an_opaque_photo_needs_a_matte_and_says_so():
    photo = disc().convert("RGB")
    with pytest.raises(MatteError, match="no matting is configured"):
        cut_out(photo)
    asked = []

    def matting(image: Image.Image) -> Image.Image:
        asked.append((image.mode, image.size))
        return disc().getchannel("A")

    assert np.array_equal(np.asarray(cut_out(photo, matting)), np.asarray(cut_out(disc())))
    assert asked == [("RGB", photo.size)]


def test_an_alpha_channel_that_says_nothing_is_not_trusted():
    photo = disc()
    photo.putalpha(255)
    with pytest.raises(MatteError, match="no matting is configured"):
        cut_out(photo)


def test_transparency_counts_in_every_mode_that_has_it():
    grey = disc().convert("LA")
    palette = disc().quantize(8)
    assert "transparency" in palette.info or palette.mode == "P"
    assert cut_out(grey).size == (80, 80)
    indexed = Image.fromarray(np.asarray(disc().getchannel("A")) // 255)
    indexed = indexed.convert("P")
    indexed.info["transparency"] = 0
    assert cut_out(indexed).size == (80, 80)


@pytest.mark.parametrize("alpha", [0, 204])
def test_a_transparent_photo_is_refused(alpha):
    photo = disc()
    photo.putalpha(alpha)
    with pytest.raises(MatteError, match="nothing in the photo is opaque"):
        cut_out(photo)


def test_a_single_opaque_pixel_is_not_an_object():
    with pytest.raises(MatteError, match="one pixel"):
        cut_out(disc(radius=0))


def test_the_encoder_gets_normalised_pixels_of_its_own_size():
    pixels = encoder_input(cut_out(disc()), 64)
    assert pixels.shape == (1, 3, 64, 64)
    np.testing.assert_allclose(pixels[0, :, 0, 0], [-2.1179, -2.0357, -1.8044], atol=1e-3)
    np.testing.assert_allclose(pixels[0, 0, 32, 32], (200 / 255 - 0.485) / 0.229, atol=1e-5)
