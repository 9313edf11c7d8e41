"""A photo becomes a surface with material, on a tiny model with random weights."""

import contextlib
import shutil
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")

from PIL import Image  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from trellis_pipeline.errors import ConfigError, GenerationError, MatteError  # noqa: E402
from trellis_pipeline.trellis2.modes import MODES  # noqa: E402
from trellis_pipeline.trellis2.pipeline import VoxelModel, generate  # noqa: E402
from trellis_pipeline.trellis2.repository import Repository, open_repository  # noqa: E402
from trellis_pipeline.trellis2.resident import ResidentNetworks  # noqa: E402
from trellis_pipeline.trellis2.sampler import Noise  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def repository(checkpoint) -> Repository:
    return open_repository(checkpoint)


@pytest.fixture(scope="module")
def networks(repository) -> ResidentNetworks:
    return ResidentNetworks(repository, CPU, plan="device")


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    y, x = np.mgrid[:80, :80]
    pixels = np.zeros((80, 80, 4), np.uint8)
    pixels[..., :3] = np.stack([3 * x, 3 * y, 0 * x + 90], axis=-1)
    pixels[..., 3] = np.where((x - 40) ** 2 + (y - 35) ** 2 < 900, 255, 0)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def model(networks, photo, repository) -> VoxelModel:
    return generate(networks, photo, mode="1024", seed=7, settings=repository.settings)


def same(a: VoxelModel, b: VoxelModel) -> bool:
    pairs = ((a.vertices, b.vertices), (a.triangles, b.triangles), (a.coords, b.coords))
    return all(map(np.array_equal, *zip(*pairs, strict=True))) and np.array_equal(a.attributes, b.attributes)


class Spoiled:
    """The networks, one of which does something else; by `instead` its output is replaced."""

    def __init__(self, networks: ResidentNetworks, name: str, instead) -> None:
        self.device = networks.device
        self.shape_normalization = networks.shape_normalization
        self.material_normalization = networks.material_normalization
        self._networks, self._name, self._instead = networks, name, instead

    def shrink(self) -> bool:
        return self._networks.shrink()

    @contextlib.contextmanager
    def use(self, name: str):
        with self._networks.use(name) as network:
            if name != self._name:
                yield network
                return
            hook = network.register_forward_hook(lambda _module, _args, out: self._instead(out))
            try:
                yield network
            finally:
                hook.remove()


def test_a_photo_becomes_a_mesh_and_material_voxels(model):
    count = len(model.coords)
    assert count > 100
    assert model.vertices.shape == model.coords.shape == (count, 3)
    assert model.attributes.shape == (count, 6)
    assert len(np.unique(model.coords, axis=0)) == count
    assert model.resolution == 1024
    assert model.seed == 7
    assert (model.coords >= 0).all()
    assert (model.coords < 1024).all()
    centre = (model.coords + 0.5) / 1024 - 0.5
    assert np.abs(model.vertices - centre).max() <= 1 / 1024 + 1e-6
    assert model.triangles.dtype == np.int32
    assert model.triangles.size == 0 or model.triangles.max() < count
    assert np.isfinite(model.attributes).all()


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_reports_every_step(networks, photo, repository, mode):
    seen: dict[str, list[int]] = {}

    def watch(stage: str, done: int, of: int) -> None:
        assert of in {1, 2}
        seen.setdefault(stage, []).append(done)

    made = generate(networks, photo, mode=mode, seed=3, settings=repository.settings, watch=watch)
    assert made.resolution == MODES[mode].resolution
    flows = ["sparse structure", "shape", "material"]
    if mode.endswith("cascade"):
        flows.insert(2, "fine shape")
    assert list(seen) == [*flows, "shape decoder", "material decoder"]
    assert all(seen[flow] == [1, 2] for flow in flows)


class Listening(Spoiled):
    """Notes how many photo tokens every flow is given."""

    def __init__(self, networks: ResidentNetworks) -> None:
        super().__init__(networks, "", None)
        self.tokens: dict[str, set[int]] = {}

    @contextlib.contextmanager
    def use(self, name: str):
        with self._networks.use(name) as network:
            hook = network.register_forward_pre_hook(lambda _module, args: self.note(name, args[-1]))
            try:
                yield network
            finally:
                hook.remove()

    def note(self, name: str, cond: torch.Tensor) -> None:
        if "flow" in name:
            self.tokens.setdefault(name, set()).add(cond.shape[1])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("512", {"sparse_structure": 512, "shape_slat_512": 512, "tex_slat_512": 512}),
        ("1024", {"sparse_structure": 512, "shape_slat_1024": 1024, "tex_slat_1024": 1024}),
        (
            "1024_cascade",
            {"sparse_structure": 512, "shape_slat_512": 512, "shape_slat_1024": 1024, "tex_slat_1024": 1024},
        ),
    ],
)
def test_every_flow_sees_the_photo_at_its_own_size(networks, photo, repository, mode, expected):
    listening = Listening(networks)
    generate(listening, photo, mode=mode, seed=3, settings=repository.settings)
    seen = {name.replace("_flow_model", ""): tokens for name, tokens in listening.tokens.items()}
    # The image token, two registers and the patches; one token where the photo is left out for guidance.
    tokens = {px: 3 + (px // 64) ** 2 for px in (512, 1024)}
    guided = {name: {1, tokens[px]} for name, px in expected.items() if not name.startswith("tex")}
    plain = {name: {tokens[px]} for name, px in expected.items() if name.startswith("tex")}
    assert seen == guided | plain


def test_the_same_seed_gives_the_same_model_and_another_seed_another(networks, photo, repository, model):
    again = generate(networks, photo, mode="1024", seed=7, settings=repository.settings)
    other = generate(networks, photo, mode="1024", seed=8, settings=repository.settings)
    assert same(again, model)
    assert not same(other, model)


def test_the_photo_matters(networks, photo, repository, model):
    brighter = Image.merge(
        "RGBA", [*(band.point(lambda v: 255 - v) for band in photo.split()[:3]), photo.getchannel("A")]
    )
    assert not same(generate(networks, brighter, mode="1024", seed=7, settings=repository.settings), model)


@pytest.mark.parametrize("plan", ["host", "disk"])
def test_where_networks_wait_does_not_change_the_model(photo, repository, model, plan):
    networks = ResidentNetworks(repository, CPU, plan=plan)
    assert same(generate(networks, photo, mode="1024", seed=7, settings=repository.settings), model)
    assert bool(networks.waiting) == (plan == "host")


def test_noise_is_that_of_the_global_generator():
    torch.manual_seed(42)
    expected = [torch.randn(1, 8, 4, 4, 4), torch.randn(17, 32)]
    noise = Noise.from_seed(42, CPU)
    assert torch.equal(noise.draw(1, 8, 4, 4, 4), expected[0])
    assert torch.equal(noise.draw(17, 32), expected[1])


def test_1536_gives_way_until_the_voxels_fit(networks, photo, repository):
    few = replace(repository.settings, max_tokens=10)
    limited = generate(networks, photo, mode="1536_cascade", seed=3, settings=few)
    assert limited.resolution == 1024  # the floor: below it no limit holds
    assert limited.coords.max() < 1024


def test_a_watcher_can_stop_it_and_the_networks_stay_usable(networks, photo, repository, model):
    class Cancelled(Exception):
        pass

    def watch(stage: str, _done: int, _of: int) -> None:
        if stage == "shape":
            raise Cancelled

    with pytest.raises(Cancelled):
        generate(networks, photo, mode="1024", seed=7, settings=repository.settings, watch=watch)
    assert same(generate(networks, photo, mode="1024", seed=7, settings=repository.settings), model)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("image_encoder", "what the image encoder says of the photo is not finite"),
        ("sparse_structure_flow_model", "the latent of the sparse structure, step 1 of 2, is not finite"),
        ("sparse_structure_decoder", "the sparse structure's occupancy is not finite"),
        ("shape_slat_flow_model_512", "the latent of the shape, step 1 of 2, is not finite"),
        ("shape_slat_flow_model_1024", "the latent of the fine shape, step 1 of 2, is not finite"),
        ("tex_slat_flow_model_1024", "the latent of the material, step 1 of 2, is not finite"),
    ],
)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_that_are_none_stop_the_generation_where_they_appear(
    networks, photo, repository, network, message, value
):
    broken = Spoiled(networks, network, lambda out: out + float(value))
    with pytest.raises(GenerationError, match=message):
        generate(broken, photo, mode="1024_cascade", seed=7, settings=repository.settings)


def spoiled_weights(checkpoint, folder, name, change):
    """A copy of the checkpoint's repository in which one network has other weights."""
    root = shutil.copytree(checkpoint, folder / "weights")
    file = open_repository(root).networks[name].weights
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return ResidentNetworks(open_repository(root), CPU, plan="disk")


@pytest.mark.parametrize(
    ("decoder", "tensor", "message"),
    [
        ("shape_slat_decoder", "blocks.1.1.to_subdiv.bias", "subdivision of level 1 is not finite"),
        ("tex_slat_decoder", "output_layer.bias", "result is not finite"),
    ],
)
def test_a_decoder_whose_numbers_are_none_says_where(
    checkpoint, tmp_path, photo, repository, decoder, tensor, message
):
    def spoil(tensors):
        tensors[tensor][0] = float("inf")

    networks = spoiled_weights(checkpoint, tmp_path, decoder, spoil)
    with pytest.raises(GenerationError, match=message):
        generate(networks, photo, mode="512", seed=7, settings=repository.settings)


def test_a_decoder_that_keeps_no_voxel_is_named(checkpoint, tmp_path, photo, repository):
    networks = spoiled_weights(
        checkpoint,
        tmp_path,
        "shape_slat_decoder",
        lambda tensors: tensors["blocks.0.1.to_subdiv.bias"].fill_(-99),
    )
    with pytest.raises(GenerationError, match="the shape decoder left no voxel"):
        generate(networks, photo, mode="512", seed=7, settings=repository.settings)


@pytest.mark.parametrize("mode", ["512", "1024_cascade"])
def test_more_coarse_voxels_than_a_flow_can_look_at_end_the_generation(networks, photo, repository, mode):
    few = replace(repository.settings, most_tokens=20)
    with pytest.raises(GenerationError, match=r"coarse voxels; the limit is 20\. Use a lower resolution"):
        generate(networks, photo, mode=mode, seed=7, settings=few)


def test_an_empty_structure_is_named(networks, photo, repository):
    broken = Spoiled(networks, "sparse_structure_decoder", lambda out: out * 0 - 1)
    with pytest.raises(GenerationError, match="sparse structure is empty"):
        generate(broken, photo, mode="1024", seed=7, settings=repository.settings)


def test_a_shape_that_explodes_is_stopped(networks, photo, repository):
    with pytest.raises(GenerationError, match="the limit is 50"):
        generate(networks, photo, mode="1024", seed=7, settings=replace(repository.settings, max_voxels=50))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError("Unable to allocate 3.0 GiB for an array"),
    ],
)
def test_too_little_memory_names_the_mode_and_the_way_out(networks, photo, repository, error):
    def fail(_out):
        raise error

    starved = Spoiled(networks, "tex_slat_decoder", fail)
    with pytest.raises(GenerationError, match="not enough memory on cpu for mode 1024: use a smaller"):
        generate(starved, photo, mode="1024", seed=7, settings=repository.settings)


def test_too_little_memory_is_tried_once_more_with_a_smaller_plan_if_wanted(repository, photo, model):
    networks = ResidentNetworks(repository, CPU, plan="device")
    failures = [torch.OutOfMemoryError("out of memory")]

    def fail_first(out):
        if failures:
            raise failures.pop()
        return out

    starved = Spoiled(networks, "tex_slat_decoder", fail_first)
    how = {"mode": "1024", "seed": 7, "settings": repository.settings, "retry_smaller": True}
    assert same(generate(starved, photo, **how), model)
    assert networks.waiting == ()
    failures.append(torch.OutOfMemoryError("out of memory"))
    with pytest.raises(GenerationError, match="not enough memory"):
        generate(starved, photo, **how)  # there is no smaller plan left


def test_other_failures_are_not_taken_for_too_little_memory(networks, photo, repository):
    def fail(_out):
        raise RuntimeError("a real bug")

    with pytest.raises(RuntimeError, match="a real bug"):
        generate(
            Spoiled(networks, "tex_slat_decoder", fail), photo, mode="1024", settings=repository.settings
        )


def test_an_unknown_mode_and_a_photo_without_object_are_refused_at_once(networks):
    transparent = Image.new("RGBA", (30, 30))
    with pytest.raises(ConfigError, match="unknown mode '2048'; known are 512, 1024, 1024_cascade"):
        generate(networks, transparent, mode="2048")
    with pytest.raises(MatteError):
        generate(networks, transparent, mode="512")


def test_a_network_that_the_checkpoint_lacks_is_named(networks):
    with pytest.raises(ConfigError, match="no network 'upsampler'"), networks.use("upsampler"):
        pass
