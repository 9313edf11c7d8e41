"""BiRefNet's place in the line, with a network of its inputs and outputs that fits on a page."""

import numpy as np
import pytest
from small_network import write_network

from trellis_pipeline.errors import ConfigError, WeightsInvalid, WeightsMissing
from trellis_pipeline.imagery.decode import DecodedImage
from trellis_pipeline.imagery.make_crop import CropOptions
from trellis_pipeline.imagery.matte.birefnet import MEAN, STD, network_path, object_probability
from trellis_pipeline.imagery.matte.choose import make_matte


@pytest.fixture
def weights(tmp_path):
    """Bright is object to this network: its logit is the mean of the three channels it is given."""
    write_network(network_path(tmp_path))
    return tmp_path


def photo(rgb):
    height, width = rgb.shape[:2]
    rgba = np.dstack([rgb, np.full((height, width), 255, np.uint8)])
    return DecodedImage(rgba, False, "PNG", "RGB", width, height, ())


def half_bright(height=60, width=90):
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, : width // 2] = 255
    return rgb


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (200, 30, 90)])
def test_a_pixel_becomes_the_sigmoid_of_what_the_network_says(weights, colour):
    rgb = np.full((40, 70, 3), colour, np.uint8)
    logit = np.mean((np.array(colour) / 255 - MEAN) / STD)
    found = object_probability(rgb, network_path(weights))
    assert found.shape == (40, 70)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logit)), atol=1e-5)


def test_the_matte_lies_where_the_photo_is_bright(weights):
    matte = make_matte(photo(half_bright()), "birefnet", weights=weights)
    assert matte.method == "birefnet"
    assert matte.alpha.shape == (60, 90)
    assert matte.alpha[:, :40].min() > 220
    assert matte.alpha[:, 50:].max() < 40


def test_without_the_network_it_says_how_to_get_it(tmp_path):
    with pytest.raises(WeightsMissing, match="weights fetch --matte"):
        make_matte(photo(half_bright()), "birefnet", weights=tmp_path)
    with pytest.raises(ConfigError, match=r"local\.weights"):
        make_matte(photo(half_bright()), "birefnet")


def test_a_damaged_file_is_named(tmp_path):
    path = network_path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a network")
    with pytest.raises(WeightsInvalid, match=r"model\.onnx is damaged"):
        object_probability(half_bright(), path)


def test_another_network_is_not_taken_for_birefnet(tmp_path):
    write_network(network_path(tmp_path), keep_channels=True)
    with pytest.raises(WeightsInvalid, match="not BiRefNet"):
        object_probability(half_bright(), network_path(tmp_path))


def test_where_the_weights_lie_does_not_make_another_crop(weights):
    here, there = CropOptions(matte="birefnet", weights=weights), CropOptions(matte="birefnet")
    assert here.shaping() == there.shaping()
    assert "birefnet" in str(here.shaping())
