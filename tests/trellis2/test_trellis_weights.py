"""Weight files that are absent, damaged or somebody else's are named before a network runs on them."""

import json
import shutil

import pytest

torch = pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")

from safetensors.torch import load_file, save_file  # noqa: E402

from trellis_pipeline.errors import ConfigError, WeightsInvalid, WeightsMissing  # noqa: E402
from trellis_pipeline.trellis2.repository import open_repository  # noqa: E402
from trellis_pipeline.trellis2.resident import Precision, ResidentNetworks  # noqa: E402
from trellis_pipeline.trellis2.weights import build_network, check_sha256, load_network  # noqa: E402

CPU = torch.device("cpu")
FLOW = "shape_slat_flow_model_512"


@pytest.fixture
def copy(checkpoint, tmp_path):
    """A checkpoint that may be broken."""
    return shutil.copytree(checkpoint, tmp_path / "weights")


def load(root, name=FLOW, dtype=torch.float32):
    files = open_repository(root).networks[name]
    return load_network(files.class_name, files.args, files.weights, dtype=dtype, device=CPU)


def rewrite(root, change, name=FLOW):
    """Change the tensors of one file."""
    file = open_repository(root).networks[name].weights
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return file


def test_every_network_of_a_checkpoint_loads_in_the_precision_that_was_asked_for(checkpoint):
    repository = open_repository(checkpoint)
    assert len(repository.networks) == 9
    networks = ResidentNetworks(repository, CPU, precision=Precision(torch.bfloat16, torch.float16))
    expected = {"sparse_structure_flow_model": torch.bfloat16, "shape_slat_decoder": torch.float16}
    for name in repository.networks:
        with networks.use(name) as network:
            dtypes = {values.dtype for values in network.state_dict().values()}
            assert dtypes <= {torch.float32, torch.bfloat16, torch.float16}
            assert not any(values.is_meta or values.requires_grad for values in network.parameters())
            if name in expected:
                assert dtypes == {torch.float32, expected[name]}
            if name == "image_encoder":
                assert dtypes == {torch.float32}


def test_what_is_loaded_is_what_is_in_the_file(checkpoint):
    files = open_repository(checkpoint).networks[FLOW]
    stored = load_file(files.weights)
    for name, values in load(checkpoint).state_dict().items():
        torch.testing.assert_close(values, stored[name].float())


def test_a_network_read_from_disk_leaves_nothing_behind(checkpoint):
    networks = ResidentNetworks(open_repository(checkpoint), CPU, plan="disk")
    with networks.use(FLOW) as network:
        assert not next(network.parameters()).is_meta
    assert all(values.is_meta for values in network.parameters())
    assert networks.waiting == ()


def test_a_network_that_waits_is_not_read_again(copy):
    networks = ResidentNetworks(open_repository(copy), CPU, plan="host")
    with networks.use(FLOW) as first:
        pass
    open_repository(copy).networks[FLOW].weights.unlink()
    with networks.use(FLOW) as second:
        assert second is first
    assert networks.shrink()
    assert not networks.shrink()
    with pytest.raises(WeightsMissing), networks.use(FLOW):
        pass


def test_networks_are_moved_farther_off_and_never_nearer(copy):
    networks = ResidentNetworks(open_repository(copy), CPU, plan="device")
    with networks.use(FLOW):
        pass
    assert not networks.shrink_to("device")
    assert networks.shrink_to("host")
    open_repository(copy).networks[FLOW].weights.unlink()
    with networks.use(FLOW) as network:  # from memory
        assert not next(network.parameters()).is_meta
    assert networks.shrink_to("disk")
    assert networks.waiting == ()
    assert not networks.shrink_to("host")
    assert networks.plan == "disk"


def test_settings_and_scales_come_from_the_description(checkpoint):
    repository = open_repository(checkpoint)
    assert repository.settings.structure.steps == 2
    assert repository.settings.structure.rescale_t == 5.0
    assert repository.settings.shape.guidance_interval == (0.6, 1)
    assert repository.settings.material.guidance_strength == 1.0
    assert repository.settings.material.guidance_interval == (
        0.6,
        0.9,
    )  # as published
    assert repository.shape_normalization.std == (1.5, 0.5, 1.0, 2.0)
    assert repository.default_mode == "1024_cascade"


def test_no_weights_at_all_says_how_to_get_them(tmp_path):
    with pytest.raises(
        WeightsMissing, match=r"pipeline\.json does not exist; run `trellis-pipeline weights fetch`"
    ):
        open_repository(tmp_path)


@pytest.mark.parametrize(
    "file",
    [
        "microsoft/TRELLIS.2-4B/ckpts/tex_dec.safetensors",
        "microsoft/TRELLIS-image-large/ckpts/ss_dec.json",
        "facebook/dinov3-tiny/config.json",
        "facebook/dinov3-tiny/model.safetensors",
    ],
)
def test_a_missing_file_is_named_before_anything_is_loaded(copy, file):
    (copy / file).unlink()
    with pytest.raises(WeightsMissing, match=file.rsplit("/", 1)[1].replace(".", r"\.")):
        open_repository(copy)


def test_the_flows_of_one_resolution_are_enough_for_it(copy):
    for name in ("shape_1024", "tex_1024"):
        (copy / f"microsoft/TRELLIS.2-4B/ckpts/{name}.safetensors").unlink()
    repository = open_repository(copy)
    assert set(repository.absent) == {"shape_slat_flow_model_1024", "tex_slat_flow_model_1024"}
    repository.require("512")
    with pytest.raises(WeightsMissing, match=r"shape_1024\.safetensors .*1024_cascade.*--only-mode 1024"):
        repository.require("1024_cascade")
    with pytest.raises(ConfigError, match="unknown mode"):
        repository.require("2048")


def test_weights_that_come_later_serve_an_open_checkpoint(copy):
    file = copy / "microsoft/TRELLIS.2-4B/ckpts/tex_512.safetensors"
    fetched = file.rename(copy / "tex_512.safetensors")
    repository = open_repository(copy)
    networks = ResidentNetworks(repository, CPU)
    with pytest.raises(WeightsMissing):
        repository.require("512")
    with (
        pytest.raises(WeightsMissing, match=r"tex_512\.safetensors"),
        networks.use("tex_slat_flow_model_512"),
    ):
        pass
    fetched.rename(file)
    repository.require("512")
    with networks.use("tex_slat_flow_model_512") as network:
        assert not next(network.parameters()).is_meta


def test_flows_that_serve_no_mode_are_not_enough(copy):
    for name in ("shape_512", "tex_1024"):
        (copy / f"microsoft/TRELLIS.2-4B/ckpts/{name}.safetensors").unlink()
    with pytest.raises(WeightsMissing, match=r"shape_512\.safetensors"):
        open_repository(copy)


def test_an_encoder_from_elsewhere_can_be_given(copy, tmp_path):
    (copy / "facebook/dinov3-tiny").rename(tmp_path / "mirror")
    with pytest.raises(WeightsMissing):
        open_repository(copy)
    files = open_repository(copy, image_encoder=tmp_path / "mirror").networks["image_encoder"]
    assert files.weights == tmp_path / "mirror" / "model.safetensors"


def test_wrong_keys_and_shapes_are_named(copy):
    def spoil(tensors):
        del tensors["blocks.1.norm2.weight"]
        tensors["blocks.0.conv.weight"] = torch.zeros(3)
        tensors["out_layer.bias"] = torch.zeros(5)

    file = rewrite(copy, spoil)
    with pytest.raises(WeightsInvalid) as caught:
        load(copy)
    message = str(caught.value)
    assert str(file) in message
    assert "1 missing, first blocks.1.norm2.weight" in message
    assert "1 unexpected, first blocks.0.conv.weight" in message
    assert "1 mis-shaped, first out_layer.bias (5,) instead of (4,)" in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(copy, dtype):
    name = "blocks.0.mlp.mlp.0.weight"
    file = rewrite(copy, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    with pytest.raises(WeightsInvalid, match=rf"{name} as (I8|F8_E4M3): quantised") as caught:
        load(copy)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("plan", ["device", "host", "disk"])
def test_a_network_is_one_object_with_the_same_weights_at_every_use(checkpoint, plan):
    networks = ResidentNetworks(open_repository(checkpoint), CPU, plan=plan)
    seen = []
    for _ in range(3):
        with networks.use(FLOW) as network:
            state = {name: values.clone() for name, values in network.state_dict().items()}
            seen.append((network, state))
    first, expected = seen[0]
    for network, state in seen:
        assert network is first
        assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert networks.seconds_loading > 0


def test_with_the_plan_host_only_the_network_in_use_is_on_the_device(checkpoint):
    """The meta device stands for one that is not the host: tensors that go there are gone from here."""
    precision = Precision(torch.float32, torch.float32)
    networks = ResidentNetworks(
        open_repository(checkpoint), torch.device("meta"), plan="host", precision=precision
    )
    expected = {name: load(checkpoint, name).state_dict() for name in (FLOW, "shape_slat_decoder")}
    seen = {}
    for _ in range(2):
        for name in expected:
            with networks.use(name) as network:
                seen[name] = network
                on_device = [each for each, other in seen.items() if next(other.parameters()).is_meta]
                assert on_device == [name]
            for key, values in network.state_dict().items():
                assert torch.equal(values, expected[name][key])
    assert networks.waiting == tuple(expected)


def test_a_network_that_could_not_be_loaded_can_be_loaded_once_its_file_is_whole(copy):
    file = open_repository(copy).networks[FLOW].weights
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    networks = ResidentNetworks(open_repository(copy), CPU, plan="host")
    with pytest.raises(WeightsInvalid), networks.use(FLOW):
        pass
    file.write_bytes(whole)
    with networks.use(FLOW) as network:
        assert not next(network.parameters()).is_meta


def test_derived_phases_in_a_file_do_no_harm(copy):
    rewrite(copy, lambda tensors: tensors.update(rope_phases=torch.zeros(4)))
    load(copy)


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_a_truncated_file_is_damaged_not_missing(copy, kept):
    file = open_repository(copy).networks[FLOW].weights
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(WeightsInvalid, match="damaged or not a safetensors file"):
        load(copy)


def test_a_file_of_another_network_does_not_load(copy):
    files = open_repository(copy).networks
    shutil.copy(files["tex_slat_decoder"].weights, files["shape_slat_decoder"].weights)
    with pytest.raises(WeightsInvalid, match=r"to_subdiv\.weight"):
        load(copy, "shape_slat_decoder")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"args": {"models": 7}}', '{"args": {}}'])
def test_a_description_that_is_none_is_refused(copy, text):
    (copy / "microsoft/TRELLIS.2-4B/pipeline.json").write_text(text)
    with pytest.raises(WeightsInvalid, match="pipeline"):
        open_repository(copy)


def test_a_folder_that_is_none_and_a_description_that_cannot_be_read_are_named(copy):
    path = copy / "microsoft/TRELLIS.2-4B/pipeline.json"
    with pytest.raises(WeightsMissing, match="weights fetch"):
        open_repository(path)  # a file
    path.unlink()
    path.mkdir()
    with pytest.raises(WeightsInvalid, match=r"pipeline\.json cannot be read: Is a directory"):
        open_repository(copy)


@pytest.mark.parametrize("network", ["tex_slat_decoder", "shape_slat_flow_model_1024"])
def test_a_description_that_leaves_out_a_network_is_refused_before_anything_is_loaded(copy, network):
    path = copy / "microsoft/TRELLIS.2-4B/pipeline.json"
    description = json.loads(path.read_text())
    del description["args"]["models"][network]
    path.write_text(json.dumps(description))
    with pytest.raises(WeightsInvalid, match=network):
        open_repository(copy)


@pytest.mark.parametrize("text", ["[]", "7", '{"name": "SLatFlowModel"}', '{"name": 7, "args": {}}'])
def test_a_networks_description_that_is_none_is_named(copy, text):
    (copy / "microsoft/TRELLIS.2-4B/ckpts/shape_512.json").write_text(text)
    with pytest.raises(WeightsInvalid, match=r"shape_512\.json"):
        open_repository(copy)


def test_an_encoders_description_that_is_none_is_named(copy):
    (copy / "facebook/dinov3-tiny/config.json").write_text("[1]")
    with pytest.raises(WeightsInvalid, match=r"config\.json"):
        open_repository(copy)


@pytest.mark.parametrize(
    ("name", "file", "wrong"),
    [
        (FLOW, "shape_512", {"num_blocks": "two"}),
        (FLOW, "shape_512", {"num_heads": 0}),
        (FLOW, "shape_512", {"model_channels": -8}),
        (FLOW, "shape_512", {"model_channels": [32]}),
        ("shape_slat_decoder", "shape_dec", {"num_blocks": [1]}),
        ("shape_slat_decoder", "shape_dec", {"model_channels": 7}),
        ("shape_slat_decoder", "shape_dec", {"block_type": 7}),
    ],
)
def test_arguments_that_make_no_network_are_refused_by_its_file(copy, name, file, wrong):
    path = copy / f"microsoft/TRELLIS.2-4B/ckpts/{file}.json"
    description = json.loads(path.read_text())
    description["args"] |= wrong
    path.write_text(json.dumps(description))
    with pytest.raises(WeightsInvalid, match=rf"{file}\.safetensors"):
        load(copy, name)


def test_a_class_that_inference_does_not_need_is_refused():
    with pytest.raises(WeightsInvalid, match="'SparseStructureEncoder'"):
        build_network("SparseStructureEncoder", {}, torch.float32)


def test_blocks_of_another_kind_are_refused(copy):
    path = copy / "microsoft/TRELLIS.2-4B/ckpts/shape_dec.json"
    description = json.loads(path.read_text())
    description["args"]["up_block_type"] = ["SparseResBlockUpsample3d"] * 4
    path.write_text(json.dumps(description))
    with pytest.raises(ConfigError, match="SparseResBlockUpsample3d"):
        load(copy, "shape_slat_decoder")


def test_a_changed_file_has_another_hash(copy):
    import hashlib

    file = open_repository(copy).networks[FLOW].weights
    known = hashlib.sha256(file.read_bytes()).hexdigest()
    check_sha256(file, known)
    check_sha256(file, known[:12].upper())
    rewrite(copy, lambda tensors: tensors["out_layer.bias"].add_(1))
    with pytest.raises(WeightsInvalid, match="fetch it again"):
        check_sha256(file, known[:12])
