"""Every setting of the API document reaches the model; what is left out keeps the checkpoint's own."""

import dataclasses
from decimal import Decimal
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")

from trellis_pipeline.generation.local.mapping import mode_of, postprocess_of, sampling_of, seeds_of
from trellis_pipeline.generation.local.options import LocalOptions, local_options
from trellis_pipeline.generation.request import build_request, setting_paths
from trellis_pipeline.trellis2.modes import MODES
from trellis_pipeline.trellis2.pipeline import GenerationSettings

OPTIONS = LocalOptions(Path("weights"))
USUAL = GenerationSettings()


@pytest.mark.parametrize(
    ("resolution", "mode"), [(512, "512"), (1024, "1024_cascade"), (1536, "1536_cascade")]
)
def test_each_resolution_takes_the_way_that_the_published_application_takes(resolution, mode):
    assert mode_of(build_request({"settings.resolution": resolution})) == mode
    assert MODES[mode].resolution == resolution


SAMPLERS = {"sparseStructure": "structure", "shapeSlat": "shape", "texSlat": "material"}
KNOBS = {
    "steps": ("steps", 7),
    "guidanceStrength": ("guidance_strength", 4.25),
    "guidanceRescale": ("guidance_rescale", 0.125),
    "rescaleT": ("rescale_t", 2.5),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("knob", KNOBS)
def test_a_sampler_setting_reaches_its_sampler_and_nothing_else(sampler, knob):
    name, value = KNOBS[knob]
    request = build_request({f"settings.{sampler}.{knob}": value})
    sampling = sampling_of(request, USUAL, USUAL.max_tokens)
    expected = dataclasses.replace(getattr(USUAL, SAMPLERS[sampler]), **{name: value})
    assert sampling == dataclasses.replace(USUAL, **{SAMPLERS[sampler]: expected})


def test_no_sampler_setting_of_the_document_is_forgotten():
    known = {f"settings.{sampler}.{knob}" for sampler in SAMPLERS for knob in KNOBS}
    others = {"settings.resolution", "settings.decimationTarget", "settings.remesh", "settings.textureSize"}
    assert {path for path in setting_paths() if path.startswith("settings.")} == known | others


def test_what_the_request_leaves_open_stays_as_the_checkpoint_says():
    usual = dataclasses.replace(USUAL, shape=dataclasses.replace(USUAL.shape, steps=3))
    assert sampling_of(build_request(), usual, USUAL.max_tokens) == usual


def test_triangles_texture_and_remesh_reach_the_post_process():
    request = build_request({"settings": {"decimationTarget": 123_456, "textureSize": 4096, "remesh": False}})
    options = postprocess_of(request, OPTIONS)
    assert (options.max_triangles, options.texture_px, options.remesh) == (123_456, 4096, False)


def test_the_original_skin_is_only_drawn_where_a_skin_is_wanted():
    original = dataclasses.replace(OPTIONS, original_remesh=True)
    assert postprocess_of(build_request(), original).original_remesh
    assert not postprocess_of(build_request({"settings.remesh": False}), original).original_remesh


def test_each_result_has_a_seed_of_its_own_also_at_the_end_of_the_range():
    request = build_request({"seed": 2**63 - 2, "numberResults": 4})
    assert seeds_of(request) == (2**63 - 2, 2**63 - 1, 0, 1)


def test_options_come_from_settings_with_their_exact_price():
    from trellis_pipeline.config_local import LocalSettings

    settings = LocalSettings(usd_per_gpu_second=Decimal("0.00081"), device="cuda:1", plan="disk")
    options = local_options(settings.generator_options(), device="cuda:2")
    assert options.usd_per_gpu_second == Decimal("0.00081")
    assert (options.device, options.plan) == ("cuda:2", "disk")
    assert options.weights == Path("~/.cache/trellis-pipeline/weights").expanduser()
