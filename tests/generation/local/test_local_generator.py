"""The local generator with a tiny checkpoint on the CPU: real loading, real networks, real GLBs."""

import asyncio
import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from decimal import Decimal

import numpy as np
import pytest
from input_images import as_input
from PIL import Image, ImageDraw, ImageFilter

from assets.workers import Timed
from trellis_pipeline.errors import (
    ConfigError,
    GenerationError,
    MatteError,
    MeshError,
    SourceImageError,
    WeightsInvalid,
    WeightsMissing,
)
from trellis_pipeline.generation.generator import Interrupted
from trellis_pipeline.generation.local.generator import LocalGenerator
from trellis_pipeline.generation.local.options import LocalOptions
from trellis_pipeline.generation.local.warm import Stopped, device_turn, warm_model
from trellis_pipeline.generation.request import build_request
from trellis_pipeline.quality.inspect import inspect_glb

SMALL = {"settings": {"resolution": 512, "textureSize": 1024, "remesh": False}}


async def here(function, *args):
    """What a worker pool does, without the worker."""
    return Timed(await asyncio.to_thread(function, *args), 0.25)


@pytest.fixture
def options(checkpoint):
    return LocalOptions(checkpoint, device="cpu", usd_per_gpu_second=Decimal("0.01"))


def made(options, crop, *layers, progress=lambda _share: None):
    async def go():
        generator = LocalGenerator(options, here)
        try:
            return await generator.generate(build_request(SMALL, *layers), crop, progress)
        finally:
            await generator.aclose()

    return asyncio.run(go())


class Seen(Exception):
    """A generation went as far as the image encoder, which was handed this picture."""


@contextlib.contextmanager
def ended_at_the_encoder():
    """Generations end where the first network is about to run. Gives back what ended them."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    from trellis_pipeline.trellis2.dino import DinoEncoder

    def look(module, given):
        if isinstance(module, DinoEncoder):
            raise Seen(given[0].numpy())

    hook = register_module_forward_pre_hook(look)
    try:
        with pytest.raises(Seen) as caught:
            yield caught
    finally:
        hook.remove()


def seen_by_the_model(options, image, *layers):
    """The picture that the image encoder is handed, (1, 3, px, px)."""
    with ended_at_the_encoder() as caught:
        made(options, image, *layers)
    return caught.value.args[0]


def test_a_photo_becomes_a_textured_model_with_its_seed_and_its_price(options, crop, tmp_path):
    (model,) = made(options, crop, {"seed": 7})
    (tmp_path / "model.glb").write_bytes(model.glb)
    record = inspect_glb(tmp_path / "model.glb").to_json_dict()
    assert 0 < record["triangles"] <= 500_000
    assert record["max_texture_px"] == 1024
    busy = Decimal(str(model.stage_seconds["load"])) + Decimal(str(model.stage_seconds["generate"]))
    assert abs(model.cost_usd - busy * Decimal("0.01")) < Decimal("0.000001")
    assert model.stage_seconds["post_process"] == 0.25
    assert model.seed == 7
    assert model.provenance["resolution"] == 512
    assert model.provenance["precision"] == {"flows": "float32", "decoders": "float32"}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(options, crop):
    (first,) = made(options, crop, {"seed": 7})
    (again,) = made(options, crop, {"seed": 7})
    (other,) = made(options, crop, {"seed": 8})
    assert first.glb == again.glb
    assert first.glb != other.glb


def test_several_results_have_their_own_seeds_and_each_its_own_price(options, crop):
    first, second = made(options, crop, {"seed": 7, "numberResults": 2})
    assert (first.seed, second.seed) == (7, 8)
    assert first.glb == made(options, crop, {"seed": 7})[0].glb
    assert first.cost_usd > 0
    assert second.cost_usd > 0


def test_a_result_that_fails_takes_no_other_with_it_and_its_time_is_on_the_bill(options, crop):
    calls = iter([MeshError("the worker had a bad day"), None])

    async def moody(function, *args):
        error = next(calls)
        if error is not None:
            raise error
        return await here(function, *args)

    generator = LocalGenerator(options, moody)
    request = build_request(SMALL, {"seed": 7, "numberResults": 2})
    (model,) = asyncio.run(generator.generate(request, crop))
    asyncio.run(generator.aclose())
    assert model.seed == 8
    assert model.provenance["results_failed"] == 1
    assert model.provenance["failures"] == ["the worker had a bad day"]
    priced = Decimal(str(round(model.seconds, 6))) * Decimal("0.01")
    assert abs(model.cost_usd - priced) < Decimal("0.000001")


def test_progress_only_grows_and_ends_at_one(options, crop):
    seen = []
    made(options, crop, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(set(seen)) > 5


def test_a_model_once_loaded_serves_the_next_product_without_its_files(checkpoint, crop, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "weights")
    generator = LocalGenerator(LocalOptions(copy, device="cpu", plan="device"), here)
    request = build_request(SMALL)
    (first,) = asyncio.run(generator.generate(request, crop))
    for file in copy.rglob("*.safetensors"):
        file.unlink()
    (second,) = asyncio.run(generator.generate(request, crop))
    assert first.glb == second.glb
    asyncio.run(generator.aclose())


def test_two_generators_of_one_process_share_the_loaded_model(checkpoint, crop, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "weights")
    free = LocalOptions(copy, device="cpu", plan="device")
    dear = dataclasses.replace(free, usd_per_gpu_second=Decimal(1))
    first, second = LocalGenerator(free, here), LocalGenerator(dear, here)
    assert first.identity == second.identity
    request = build_request(SMALL)
    asyncio.run(first.generate(request, crop))
    for file in copy.rglob("*.safetensors"):
        file.unlink()
    assert asyncio.run(second.generate(request, crop))[0].cost_usd > 0


def test_another_checkpoint_is_another_generator(checkpoint, tmp_path):
    from tiny_checkpoint import write_checkpoint

    (tmp_path / "other").mkdir()
    other = write_checkpoint(tmp_path / "other")
    one, two = (LocalGenerator(LocalOptions(folder, device="cpu"), here) for folder in (checkpoint, other))
    assert one.identity != two.identity
    moved = LocalGenerator(LocalOptions(shutil.copytree(checkpoint, tmp_path / "moved"), device="cpu"), here)
    assert one.identity == moved.identity


@pytest.mark.parametrize(
    "change",
    [
        {"tex_slat_sampler": {"params": {"steps": 3}}},
        {"shape_slat_normalization": {"mean": [0.0] * 4, "std": [1.0] * 4}},
        {"tex_slat_normalization": {"mean": [0.0] * 4, "std": [1.0] * 4}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_way_to_sample_or_to_scale_is_another_generator(checkpoint, tmp_path, change):
    copy = shutil.copytree(checkpoint, tmp_path / "weights")
    path = copy / "microsoft/TRELLIS.2-4B/pipeline.json"
    description = json.loads(path.read_text())
    description["args"] |= change
    path.write_text(json.dumps(description))
    one, two = (LocalGenerator(LocalOptions(folder, device="cpu"), here) for folder in (checkpoint, copy))
    assert one.identity != two.identity


def test_options_that_shape_the_model_make_another_generator_and_others_do_not(options):
    def identity(**changes):
        return LocalGenerator(dataclasses.replace(options, **changes), here).identity

    assert identity(normal_map=True) != identity()
    assert identity(precision="bfloat16") != identity()
    assert identity(plan="disk", retry_smaller=False) == identity()


def test_a_machine_without_weights_gets_the_command_to_run(tmp_path):
    with pytest.raises(WeightsMissing, match="trellis-pipeline weights fetch"):
        LocalGenerator(LocalOptions(tmp_path, device="cpu"), here)


def test_a_resolution_whose_weights_were_not_fetched_is_named_and_the_others_work(checkpoint, crop, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "weights")
    for name in ("shape_1024", "tex_1024"):
        (copy / f"microsoft/TRELLIS.2-4B/ckpts/{name}.safetensors").unlink()
    options = LocalOptions(copy, device="cpu")
    with pytest.raises(GenerationError, match=r"shape_1024.*weights fetch --only-mode 1024"):
        made(options, crop, {"settings.resolution": 1024})
    assert made(options, crop)


def test_weights_that_are_fetched_while_a_service_runs_are_used_by_it(checkpoint, crop, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "weights")
    file = copy / "microsoft/TRELLIS.2-4B/ckpts/tex_512.safetensors"
    fetched = file.rename(tmp_path / "fetched")
    options = LocalOptions(copy, device="cpu")
    generator = LocalGenerator(options, here)
    with pytest.raises(GenerationError, match=r"tex_512.*weights fetch --only-mode 512"):
        asyncio.run(generator.generate(build_request(SMALL), crop))
    fetched.rename(file)
    with ended_at_the_encoder():
        asyncio.run(generator.generate(build_request(SMALL), crop))
    later = LocalGenerator(options, here)
    assert later.identity == LocalGenerator(LocalOptions(checkpoint, device="cpu"), here).identity
    assert later.identity != generator.identity  # which stays what it was when its run began


GB = 10**9


@pytest.fixture
def memory(monkeypatch):
    """A machine whose free memory can be chosen, in bytes."""
    from trellis_pipeline.trellis2 import machine

    free = [500 * GB]
    monkeypatch.setattr(machine, "host_memory", lambda: (500 * GB, free[0]))
    return free


def test_a_larger_resolution_takes_a_smaller_plan_before_it_begins(checkpoint, crop, memory, tmp_path):
    options = LocalOptions(shutil.copytree(checkpoint, tmp_path / "weights"), device="cpu")
    memory[0] = 33 * GB  # enough for all networks of 512, not for those of 1024
    plans = []
    for resolution in (512, 1024, 512):
        seen_by_the_model(options, crop, {"settings.resolution": resolution})
        plans.append(warm_model(options).plan)
    assert plans == ["device", "disk", "disk"]


def test_what_others_loaded_before_the_first_turn_counts(checkpoint, crop, memory, tmp_path):
    options = LocalOptions(shutil.copytree(checkpoint, tmp_path / "weights"), device="cpu")
    generator = LocalGenerator(options, here)
    memory[0] = 9 * GB  # by now another process has loaded its networks
    with ended_at_the_encoder():
        asyncio.run(generator.generate(build_request(SMALL), crop))
    assert warm_model(options).plan == "disk"


def test_a_plan_that_was_chosen_stays(checkpoint, crop, memory, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "weights")
    options = LocalOptions(copy, device="cpu", plan="device")
    memory[0] = 1 * GB
    seen_by_the_model(options, crop)
    assert warm_model(options).plan == "device"


def test_a_device_that_is_not_there_is_named_with_those_that_are(checkpoint):
    with pytest.raises(ConfigError, match=r"cuda:7.*cpu"):
        LocalGenerator(LocalOptions(checkpoint, device="cuda:7"), here)


def test_1536_on_a_cpu_is_refused_before_anything_is_loaded(options, crop):
    with pytest.raises(GenerationError, match=r"1536.*CPU.*resolution 1024"):
        made(options, crop, {"settings.resolution": 1536})


def test_a_transparent_photo_is_the_products_fault(options):
    with pytest.raises(MatteError, match="opaque"):
        made(options, as_input(Image.new("RGBA", (64, 64), (0, 0, 0, 0))))


def test_a_clients_crop_that_is_damaged_is_named_as_such(options, crop):
    torn = dataclasses.replace(crop, png=crop.png[: len(crop.png) // 2])
    with pytest.raises(SourceImageError, match=r"damaged PNG: the file is truncated"):
        made(options, torn)


def test_a_product_that_fills_its_square_is_made_like_any_other(options):
    from trellis_pipeline.trellis2.photo import encoder_input

    tile = Image.new("RGBA", (64, 64), "teal")  # every pixel is opaque: there is no background left
    assert np.array_equal(seen_by_the_model(options, as_input(tile)), encoder_input(tile, 512).numpy())


def test_a_clients_square_with_a_wide_margin_is_cut_out_first(options, crop):
    from trellis_pipeline.trellis2.photo import cut_out, encoder_input

    expected = encoder_input(cut_out(Image.open(io.BytesIO(crop.png))), 512).numpy()
    assert np.array_equal(seen_by_the_model(options, crop), expected)


@pytest.mark.parametrize("size", [(200, 150), (1100, 300)])
def test_the_model_sees_a_product_of_the_line_as_the_original_would_show_it(options, size):
    from trellis_pipeline.imagery.make_crop import CropOptions, make_crop
    from trellis_pipeline.trellis2.photo import cut_out, encoder_input

    grain = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    photo = Image.fromarray(grain)
    alpha = Image.new("L", size, 0)
    ImageDraw.Draw(alpha).ellipse((size[0] // 4, size[1] // 5, size[0] - 9, size[1] - 31), fill=255)
    photo.putalpha(alpha.filter(ImageFilter.GaussianBlur(3)))
    crop = Image.open(io.BytesIO(make_crop(as_input(photo).png, CropOptions()).png))
    expected = encoder_input(cut_out(photo), 512).numpy()
    assert np.array_equal(seen_by_the_model(options, as_input(crop)), expected)


@pytest.fixture
def broken(checkpoint, tmp_path):
    """A checkpoint whose material flow gives NaN."""
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(checkpoint, tmp_path / "broken")
    file = copy / "microsoft/TRELLIS.2-4B/ckpts/tex_512.safetensors"
    tensors = load_file(file)
    save_file({name: tensor * np.nan for name, tensor in tensors.items()}, file)
    return copy


def test_a_generation_that_fails_says_why_and_what_its_time_did_cost(broken, crop):
    options = LocalOptions(broken, device="cpu", usd_per_gpu_second=Decimal("0.01"))
    with pytest.raises(GenerationError, match="material") as caught:
        made(options, crop)
    assert caught.value.spent.usd > 0


def test_time_is_on_the_bill_also_where_a_damaged_file_ends_the_run(checkpoint, crop, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "weights")
    os.truncate(copy / "microsoft/TRELLIS.2-4B/ckpts/tex_512.safetensors", 1000)
    options = LocalOptions(copy, device="cpu", usd_per_gpu_second=Decimal("0.01"))
    with pytest.raises(WeightsInvalid, match="tex_512") as caught:
        made(options, crop)
    assert caught.value.spent.usd > 0


@pytest.mark.parametrize("times", [1, 2])
def test_a_cancelled_generation_ends_at_its_next_step_says_its_cost_and_the_next_one_works(
    options, crop, times
):
    async def go():
        generator = LocalGenerator(dataclasses.replace(options, usd_per_gpu_second=Decimal("0.01")), here)
        begun, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()
        seen = []

        def progress(share):
            seen.append(share)
            loop.call_soon_threadsafe(begun.set)
            go_on.wait(120)

        work = asyncio.ensure_future(generator.generate(build_request(SMALL), crop, progress))
        await begun.wait()
        for _ in range(times):
            work.cancel()
            for _ in range(10):  # until it has noticed
                await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(Interrupted) as interrupted:
            await work
        assert work.cancelled()
        assert seen[-1] == seen[0]
        assert interrupted.value.spent.usd > 0
        with ended_at_the_encoder():
            await generator.generate(build_request(SMALL), crop)
        await generator.aclose()

    asyncio.run(go())


HOLDER = """
import sys, time
from trellis_pipeline.generation.local.warm import device_turn
with device_turn(sys.argv[1], lambda: False):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_device_waits_for_another_process_and_is_free_when_that_dies():
    name = f"cpu:{os.getpid()}"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, name], stdout=subprocess.PIPE, text=True)
    entered = threading.Event()

    def enter():
        with device_turn(name, lambda: False):
            entered.set()

    try:
        assert holder.stdout.readline() == "held\n"
        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.6)
        holder.send_signal(signal.SIGKILL)
        assert entered.wait(120)
        waiting.join()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_whoever_waits_for_a_device_has_it_before_those_who_had_it_come_back():
    name = f"cpu:{os.getpid()}"
    waits, order = threading.Event(), []

    def other():
        with device_turn(name, lambda: bool(waits.set())):
            order.append("who waited")

    waiting = threading.Thread(target=other)
    with device_turn(name, lambda: False):
        waiting.start()
        assert waits.wait(120)
    with device_turn(name, lambda: False):
        order.append("who had it")
    waiting.join()
    assert order == ["who waited", "who had it"]


def test_waiting_for_a_device_can_be_given_up():
    name = f"cpu:{os.getpid()}"
    with device_turn(name, lambda: False), pytest.raises(Stopped), device_turn(name, lambda: True):
        pytest.fail("two at once")
