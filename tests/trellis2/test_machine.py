"""What a machine can do is said before anything is loaded, and only what cannot work is refused."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.trellis2.machine import (
    Machine,
    check_mode,
    choose_plan,
    device_key,
    host_memory,
    look,
    possible_modes,
)
from trellis_pipeline.trellis2.memory import (
    NETWORKS,
    NETWORKS_OF_MODE,
    RICH,
    USUAL,
    ObjectSize,
    decoder_bytes,
    flow_bytes,
    needed_bytes,
)

GB = 10**9
ALL_MODES = ("512", "1024", "1024_cascade", "1536_cascade")


def card(gigabytes: float, *, host: float = 64, flow: str = "bfloat16") -> Machine:
    total = int(gigabytes * GB)
    return Machine("cuda:0", "A card", total, int(host * GB), flow, "float16", total, int(host * GB))


def computer(gigabytes: float, *, device: str = "cpu", flow: str = "float32", free: float = 0) -> Machine:
    total, available = int(gigabytes * GB), int((free or gigabytes) * GB)
    return Machine(device, "A computer", total, total, flow, "float32", available, available)


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("dtypes", [("bfloat16", "float16"), ("float32", "float32")])
def test_a_smaller_plan_takes_less_of_the_device(mode, dtypes):
    flow, decoder = dtypes
    plans = [
        needed_bytes(plan, mode, flow_dtype=flow, decoder_dtype=decoder)
        for plan in ("device", "host", "disk")
    ]
    assert plans[0].device_bytes > 2 * plans[1].device_bytes
    assert plans[1].device_bytes == plans[2].device_bytes
    assert plans[1].host_bytes > plans[0].host_bytes == plans[2].host_bytes


def test_more_resolution_a_larger_object_and_more_precision_take_more():
    def device(mode, **how):
        return needed_bytes("host", mode, **how).device_bytes

    assert device("512") <= device("1024") <= device("1024_cascade") <= device("1536_cascade")
    assert device("1024", size=USUAL["1024"]) < device("1024", size=RICH["1024"])
    assert device("1024") < device("1024", flow_dtype="float32", decoder_dtype="float32")
    assert flow_bytes(20_000, "bfloat16") < flow_bytes(20_000, "float32") < flow_bytes(20_001, "float32")
    assert decoder_bytes(10**6, "float16") < decoder_bytes(10**6, "float32")


@pytest.mark.parametrize("mode", ALL_MODES)
def test_a_card_with_12_gb_keeps_one_network_at_a_time_and_can_do_everything(mode):
    machine = card(12)
    assert choose_plan(machine, mode) == "host"
    check_mode(machine, mode)


def test_a_card_keeps_all_networks_where_there_is_room_for_them():
    assert choose_plan(card(24), "1024_cascade") == "device"
    assert choose_plan(card(80), "1536_cascade") == "device"


def test_networks_are_read_from_disk_where_the_hosts_memory_is_small():
    assert choose_plan(card(12, host=8), "1024_cascade") == "disk"


def test_memory_that_others_use_counts_for_the_plan_but_forbids_nothing():
    busy = replace(card(24), free_bytes=10 * GB)
    assert choose_plan(busy, "1024_cascade") == "host"
    full = replace(card(24), free_bytes=0)
    assert choose_plan(full, "1024_cascade") == "disk"
    assert possible_modes(full) == ALL_MODES


def test_a_card_that_is_too_small_is_told_so_with_the_way_out():
    with pytest.raises(ConfigError, match=r"mode 512 needs about \d\.\d GB .* A card has 2\.0 GB") as caught:
        check_mode(card(2), "512")
    assert "another generator" in str(caught.value)
    assert possible_modes(card(2)) == ()


def test_the_resolution_that_still_works_is_named():
    assert "1024_cascade" in possible_modes(card(4))
    with pytest.raises(ConfigError, match="use resolution 1024, "):
        check_mode(card(4), "1536_cascade")
    assert possible_modes(card(2.9)) == ("512",)
    with pytest.raises(ConfigError, match="use resolution 512, "):
        check_mode(card(2.9), "1024_cascade")


@pytest.mark.parametrize("gigabytes", [12, 16, 24, 512])
def test_a_cpu_does_everything_but_1536(gigabytes):
    machine = computer(gigabytes)
    assert possible_modes(machine) == ALL_MODES[:-1]
    with pytest.raises(ConfigError, match="1536 would take days on a CPU") as caught:
        check_mode(machine, "1536_cascade")
    assert "use resolution 1024, " in str(caught.value)


def test_a_cpu_with_little_memory_is_told_to_halve_the_precision_where_that_helps():
    with pytest.raises(ConfigError, match=r'with .* precision = "bfloat16" it would fit'):
        check_mode(computer(6), "512")
    check_mode(computer(6, flow="bfloat16"), "512")
    with pytest.raises(ConfigError) as caught:
        check_mode(computer(4), "512")
    assert "bfloat16" not in str(caught.value)


def test_a_cpu_keeps_all_networks_only_where_its_memory_holds_them():
    assert choose_plan(computer(24), "512") == "disk"
    assert choose_plan(computer(64), "512") == "device"
    assert choose_plan(computer(64, free=10), "512") == "disk"


def test_a_mac_has_one_memory_for_both():
    assert choose_plan(computer(16, device="mps"), "1024_cascade") == "disk"
    assert choose_plan(computer(96, device="mps"), "1024_cascade") == "device"
    assert possible_modes(computer(36, device="mps")) == ALL_MODES


def test_a_card_in_a_machine_with_too_little_memory_names_the_machine():
    with pytest.raises(ConfigError, match=r"this machine has 1\.0 GB"):
        check_mode(card(24, host=1), "512")


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="unknown mode '2048'; known are 512"):
        check_mode(card(24), "2048")


def test_the_hosts_memory_is_what_is_built_in_and_less_is_free():
    total, free = host_memory()
    assert 0 < free <= total


MB = 10**6
CACHED = {"inactive_file": 600 * MB, "active_file": 50 * MB, "anon": 250 * MB}


@pytest.mark.parametrize(
    ("folder", "limit", "used", "prefix"),
    [
        ("", "memory.max", "memory.current", ""),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ],
    ids=["version 2", "version 1"],
)
def test_what_a_container_keeps_of_files_counts_as_free(tmp_path, folder, limit, used, prefix):
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / limit).write_text(f"{1000 * MB}\n")
    (tmp_path / folder / used).write_text(f"{900 * MB}\n")
    assert host_memory(tmp_path) == (1000 * MB, 100 * MB)  # where the system does not tell what is kept
    told = "".join(f"{prefix}{name} {value}\n" for name, value in CACHED.items())
    (tmp_path / folder / "memory.stat").write_text(told + "pgfault\n")
    assert host_memory(tmp_path) == (1000 * MB, 750 * MB)


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", ""])
def test_a_container_without_a_limit_has_the_machines_memory(tmp_path, limit):
    (tmp_path / "memory.max").write_text(limit)
    assert host_memory(tmp_path)[0] == host_memory(tmp_path / "nothing")[0]


def test_without_pytorch_the_way_to_get_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"pip install 'trellis-pipeline\[local\]'"):
        look()


def test_the_cpu_is_always_there():
    pytest.importorskip("torch")
    machine = look("cpu")
    assert machine.device == machine.kind == "cpu"
    assert machine.name
    assert machine.unified
    assert machine.flow_dtype == machine.decoder_dtype == "float32"
    assert machine.memory_bytes == machine.host_memory_bytes >= machine.free_bytes > 0
    assert look("cpu", precision="bfloat16").flow_dtype == "bfloat16"
    assert look().device.startswith(("cuda", "mps", "cpu"))


@pytest.fixture
def two_cards(monkeypatch):
    """PyTorch as it answers on a machine with a T4 and an RTX 4090, the second in use by others."""
    torch = pytest.importorskip("torch")
    cards = [("Tesla T4", (7, 5), 16, 15), ("NVIDIA GeForce RTX 4090", (8, 9), 24, 13)]

    def card_of(device):
        return cards[device if isinstance(device, int) else torch.device(device).index]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: card_of(device)[0])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: card_of(device)[1])
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda device: tuple(int(n * GB) for n in card_of(device)[:1:-1])
    )


def test_a_card_is_named_with_its_memory_and_what_it_computes_in(two_cards):
    old, new = look("cuda"), look("cuda:1")
    assert (old.device, old.name, old.memory_bytes, old.free_bytes) == (
        "cuda:0",
        "Tesla T4",
        16 * GB,
        15 * GB,
    )
    assert (old.flow_dtype, old.decoder_dtype) == ("float32", "float16")
    assert (new.device, new.memory_bytes, new.free_bytes) == ("cuda:1", 24 * GB, 13 * GB)
    assert (new.flow_dtype, new.decoder_dtype) == ("bfloat16", "float16")
    assert choose_plan(new, "1024_cascade") == "host"  # the others' memory is not ours
    assert look("auto").device == "cuda:0"
    assert look("cpu").device == "cpu"
    assert look("cuda:1", precision="float32").flow_dtype == "float32"


def test_a_precision_that_a_card_does_not_have_is_refused(two_cards):
    with pytest.raises(ConfigError, match="Tesla T4 does not compute in bfloat16"):
        look("cuda:0", precision="bfloat16")
    with pytest.raises(ConfigError, match=r"there is cuda:0 \(Tesla T4\), cuda:1 \(NVIDIA"):
        look("cuda:2")


def test_a_card_has_one_name_in_every_process_however_its_number_changes(two_cards, monkeypatch):
    torch = pytest.importorskip("torch")
    there = ["GPU-4090", "GPU-T4"]  # as in a process with CUDA_VISIBLE_DEVICES=1,0

    def properties(index):
        return SimpleNamespace(uuid=there[index])

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    first = [device_key(f"cuda:{index}") for index in (0, 1)]
    there.reverse()
    assert [device_key(f"cuda:{index}") for index in (1, 0)] == first
    assert len({*first, device_key("cpu"), device_key("mps")}) == 4


def test_a_card_without_an_identity_of_its_own_goes_by_its_number_in_the_machine(two_cards, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: SimpleNamespace())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    everything = [device_key("cuda:0"), device_key("cuda:1")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert [device_key("cuda:1"), device_key("cuda:0")] == everything
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert device_key("cuda:0") == everything[1]


def test_a_device_that_is_not_there_is_refused_and_those_that_are_are_named():
    pytest.importorskip("torch")
    with pytest.raises(
        ConfigError, match=r"'cuda:63' is not on this machine; there is .*cpu \(.*\[local\] device"
    ):
        look("cuda:63")


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_precision_that_flows_do_not_have_is_refused(precision):
    pytest.importorskip("torch")
    with pytest.raises(ConfigError, match="precision"):
        look("cpu", precision=precision)


def test_the_table_of_networks_is_that_of_the_pipeline():
    pytest.importorskip("torch")
    from trellis_pipeline.trellis2.modes import MODES

    assert set(NETWORKS_OF_MODE) == set(USUAL) == set(RICH) == set(MODES)
    for mode, way in MODES.items():
        flows = {way.shape_flow, way.refining_flow, way.material_flow} - {None}
        assert {name for name in NETWORKS_OF_MODE[mode] if "slat_flow" in name} == flows


FLOW = {"model_channels": 1536, "cond_channels": 1024}
DECODER = {"model_channels": [1024, 512, 256, 128, 64], "latent_channels": 32, "num_blocks": [4, 16, 8, 4, 0]}
STRUCTURE = {"num_res_blocks": 2, "num_res_blocks_middle": 2, "channels": [512, 128, 32]}
BUILT = {
    "image_encoder": ("DINOv3ViTModel", {}),
    "sparse_structure_flow_model": (
        "SparseStructureFlowModel",
        {"resolution": 16, "in_channels": 8, "out_channels": 8, **FLOW},
    ),
    "sparse_structure_decoder": (
        "SparseStructureDecoder",
        {"out_channels": 1, "latent_channels": 8, **STRUCTURE},
    ),
    "shape_slat_flow_model_1024": (
        "SLatFlowModel",
        {"resolution": 64, "in_channels": 32, "out_channels": 32, **FLOW},
    ),
    "tex_slat_flow_model_1024": (
        "SLatFlowModel",
        {"resolution": 64, "in_channels": 64, "out_channels": 32, **FLOW},
    ),
    "shape_slat_decoder": ("FlexiDualGridVaeDecoder", {"out_channels": 7, **DECODER}),
    "tex_slat_decoder": ("SparseUnetVaeDecoder", {"out_channels": 6, "pred_subdiv": False, **DECODER}),
}


@pytest.mark.parametrize("name", BUILT)
def test_the_weights_counted_are_those_of_the_published_networks(name):
    torch = pytest.importorskip("torch")
    from trellis_pipeline.trellis2.weights import build_network

    with torch.device("meta"):
        network = build_network(*BUILT[name], torch.bfloat16)
    held = list(network.state_dict().values())
    assert NETWORKS[name].parameters == sum(values.numel() for values in held)
    full = sum(values.numel() for values in held if values.dtype == torch.float32)
    assert NETWORKS[name].in_float32 == full


def test_an_object_of_ones_own_size_can_be_asked_for():
    small = needed_bytes("disk", "1024", size=ObjectSize(1, 1)).device_bytes
    assert small >= NETWORKS["tex_slat_flow_model_1024"].weight_bytes("bfloat16")
