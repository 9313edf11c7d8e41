"""The doctor on the local generator: what this machine can do and what is missing, with nothing loaded."""

import importlib.util
import sys

import pytest

from trellis_pipeline.automation.doctor_local import local_checks, resolutions_wanted
from trellis_pipeline.config import load_settings
from trellis_pipeline.trellis2.published import ENCODER_FILES, MODEL_FILES, PublishedFile

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")


@pytest.fixture
def weights(tmp_path):
    return tmp_path / "weights"


def settings(tmp_path, text="", *, generator="local", weights=None):
    lines = [f'[generation]\ngenerator = "{generator}"', text]
    if weights is not None:
        lines.append(f'[local]\nweights = "{weights}"\nusd_per_gpu_second = "0.001"')
    (tmp_path / "trellis.toml").write_text("\n".join(lines))
    return load_settings(tmp_path / "trellis.toml")


def checks(chosen):
    return {check.name: check for check in local_checks(chosen)}


def put(weights, file: PublishedFile, size: int | None = None) -> None:
    """A file of the right length without its gigabytes."""
    path = weights / file.place
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(file.file_bytes if size is None else size)


def put_all(weights, but=()) -> None:
    for file in (*MODEL_FILES, *ENCODER_FILES):
        if file.path not in but:
            put(weights, file)


@pytest.mark.parametrize("generator", ["draft", "runware"])
def test_who_does_not_use_it_reads_one_quiet_line(tmp_path, generator):
    found = list(local_checks(settings(tmp_path, generator=generator)))
    assert [(check.status, check.message) for check in found] == [("ok", "not used")]


def test_without_weights_the_command_that_fetches_them_is_named(tmp_path, weights):
    found = checks(settings(tmp_path, weights=weights))["local weights"]
    assert found.status == "problem"
    assert str(weights) in found.message
    assert found.way_out == "trellis-pipeline weights fetch"


def test_what_is_wrong_is_a_warning_where_another_generator_is_chosen(tmp_path, weights):
    found = checks(settings(tmp_path, weights=weights, generator="draft"))
    assert found["local weights"].status == "warning"
    assert "problem" not in {check.status for check in found.values()}


def test_all_files_at_their_size_are_complete(tmp_path, weights):
    put_all(weights)
    found = checks(settings(tmp_path, weights=weights))["local weights"]
    assert found.status == "ok"
    assert "complete for 512, 1024, 1536" in found.message


def test_files_that_only_some_resolutions_need_are_told_by_resolution(tmp_path, weights):
    put_all(weights, but=["ckpts/slat_flow_imgshape2tex_dit_1_3B_1024_bf16.safetensors"])
    found = checks(settings(tmp_path, weights=weights))["local weights"]
    assert found.status == "ok"
    assert "complete for 512;" in found.message


@pytest.mark.parametrize("missing", ["ckpts/ss_dec_conv3d_16l8_fp16.safetensors", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, weights, missing):
    put_all(weights, but=[missing])
    found = checks(settings(tmp_path, weights=weights))["local weights"]
    assert found.status == "problem"
    assert f"{missing} does not exist" in found.message


def test_a_truncated_file_is_named(tmp_path, weights):
    put_all(weights)
    put(weights, MODEL_FILES[2], 1000)
    found = checks(settings(tmp_path, weights=weights))["local weights"]
    assert found.status == "problem"
    assert f"{MODEL_FILES[2].path} has the wrong size" in found.message


def test_an_encoder_from_elsewhere_is_looked_for_there(tmp_path, weights):
    put_all(weights, but=["model.safetensors", "config.json"])
    text = f'[local]\nweights = "{weights}"\nimage_encoder = "{tmp_path / "dino"}"\n'
    chosen = settings(tmp_path, text)
    assert str(tmp_path / "dino") in checks(chosen)["local weights"].message
    (tmp_path / "dino").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "dino" / name).write_bytes(b"another export")
    assert checks(chosen)["local weights"].status == "ok"


def test_the_price_of_time_has_to_be_said(tmp_path, weights):
    assert checks(settings(tmp_path))["local price"].status == "problem"
    assert "$3.60 an hour" in checks(settings(tmp_path, weights=weights))["local price"].message
    free = settings(tmp_path, "[local]\nusd_per_gpu_second = 0\n")
    assert checks(free)["local price"].message == "counts as free"


def test_without_pytorch_the_way_to_install_it_is_named(tmp_path, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    put_all(weights)
    found = checks(settings(tmp_path, weights=weights))
    assert found["local device"].status == "problem"
    assert "pip install 'trellis-pipeline[local]'" in found["local device"].message
    assert found["local weights"].status == "ok"  # is looked at all the same


@needs_torch
def test_the_device_its_memory_and_what_it_can_make_are_told(tmp_path):
    found = checks(settings(tmp_path, '[local]\ndevice = "cpu"\n'))
    device = found["local device"].message
    assert "(cpu)" in device
    assert "GB free; flows in float32, decoders in float32; resolutions: 512, 1024" in device
    assert "1536" not in device
    assert 'memory plan "d' in found["local 1024"].message
    assert found["local speed"].status == "warning"


@needs_torch
def test_a_resolution_that_this_machine_cannot_make_is_a_problem(tmp_path):
    chosen = settings(tmp_path, 'settings.resolution = 1536\n[local]\ndevice = "cpu"\n')
    found = checks(chosen)["local 1536"]
    assert found.status == "problem"
    assert "days on a CPU" in found.message


@needs_torch
def test_a_device_that_is_not_there_is_a_problem_that_names_those_that_are(tmp_path):
    found = checks(settings(tmp_path, '[local]\ndevice = "cuda:63"\n'))["local device"]
    assert found.status == "problem"
    assert "there is " in found.message


@needs_torch
def test_a_memory_plan_that_is_too_large_is_a_warning_with_a_better_one(tmp_path, monkeypatch):
    from dataclasses import replace

    from trellis_pipeline.trellis2 import machine

    small = replace(machine.look("cpu"), memory_bytes=16 * 10**9, free_bytes=12 * 10**9)
    monkeypatch.setattr(machine, "look", lambda *_args, **_kwargs: small)
    found = checks(settings(tmp_path, '[local]\ndevice = "cpu"\nplan = "device"\n'))["local 1024"]
    assert found.status == "warning"
    assert 'set [local] plan = "disk"' in found.way_out


@needs_torch
@pytest.mark.parametrize(("host_free", "status"), [(6, "warning"), (60, "ok")])
def test_a_memory_plan_that_the_machine_beside_the_card_has_no_room_for_is_a_warning(
    tmp_path, monkeypatch, host_free, status
):
    from trellis_pipeline.trellis2 import machine

    gb = 10**9
    card = machine.Machine(
        "cuda:0", "A card", 24 * gb, 64 * gb, "bfloat16", "float16", 24 * gb, host_free * gb
    )
    monkeypatch.setattr(machine, "look", lambda *_args, **_kwargs: card)
    found = checks(settings(tmp_path, '[local]\nplan = "host"\n'))["local 1024"]
    assert found.status == status
    if status == "warning":
        assert "more than is free there (6.0 GB)" in found.message
        assert 'set [local] plan = "device" or "auto"' in found.way_out


@needs_torch
def test_a_checkpoint_that_is_not_the_published_one_is_opened(tmp_path, weights):
    from tiny_checkpoint import write_checkpoint

    write_checkpoint(weights)
    found = checks(settings(tmp_path, weights=weights))["local weights"]
    assert found.status == "ok"
    assert "not the published one" in found.message
    for name in ("tex_dec.safetensors", "model.safetensors"):
        file = next(weights.rglob(name))
        file.rename(tmp_path / name)
        found = checks(settings(tmp_path, weights=weights))["local weights"]
        assert found.status == "problem"
        assert name in found.message
        (tmp_path / name).rename(file)


def test_the_resolutions_of_all_catalogs_are_looked_at(tmp_path):
    chosen = settings(
        tmp_path,
        'settings.resolution = 512\n[[catalogs]]\nname = "a"\nsource = "a.csv"\n'
        "generation.settings.resolution = 1536\n"
        '[[catalogs]]\nname = "b"\nsource = "b.csv"\n',
    )
    assert resolutions_wanted(chosen) == (512, 1536)
    assert resolutions_wanted(settings(tmp_path)) == (1024,)
