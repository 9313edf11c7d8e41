"""What this machine can do, said before gigabytes are loaded.

Which device there is, what it computes in, how much memory it has, and with that: which memory plan, and
which modes at all. Only what cannot work is refused. A CPU may take an hour for a model and that is its
owner's business, with one exception: 1536 on a CPU is days of work (some 7,000 TFLOP), which nobody means.

Nothing here needs PyTorch but `look`, so that a machine without it can be told so.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.trellis2.memory import (
    DTYPE_BYTES,
    NETWORKS_OF_MODE,
    USUAL,
    Needed,
    Plan,
    needed_bytes,
)

if TYPE_CHECKING:
    import torch

USABLE_SHARE = 0.9
"""Of a device's free memory. The rest is lost between the blocks that its allocator keeps."""

_INSTALL = (
    "generator = \"local\" needs PyTorch: pip install 'trellis-pipeline[local]', or for a certain CUDA "
    "version see https://pytorch.org/get-started"
)


@dataclass(frozen=True, slots=True)
class Machine:
    """A device and the machine around it.

    device: as PyTorch names it, `cuda:0`, `mps` or `cpu`. name: the product's name. memory_bytes, free_bytes:
    of the device, in all and not in use when it was looked at. host_memory_bytes, host_free_bytes: of the
    machine itself; on a CPU the same. flow_dtype, decoder_dtype: names of torch dtypes.
    """

    device: str
    name: str
    memory_bytes: int
    host_memory_bytes: int
    flow_dtype: str
    decoder_dtype: str
    free_bytes: int
    host_free_bytes: int

    @property
    def kind(self) -> str:
        """`cuda`, `mps` or `cpu`."""
        return self.device.partition(":")[0]

    @property
    def unified(self) -> bool:
        """Whether the device's memory is the machine's own."""
        return self.kind != "cuda"


def look(device: str = "auto", *, precision: str = "auto") -> Machine:
    """Look at a device without loading anything.

    device: `auto` takes CUDA if it is there, else MPS, else the CPU. precision: of the flows.
    Raises ConfigError where PyTorch is not installed, where there is no such device (naming those that there
    are), and for a precision that the device or a flow cannot do.
    """
    require_torch()
    import torch

    from trellis_pipeline.trellis2.resident import precision_for

    there = _devices()
    wanted = next(iter(there)) if device == "auto" else device
    wanted = "cuda:0" if wanted == "cuda" else wanted
    if wanted not in there:
        known = ", ".join(f"{each} ({name})" for each, name in there.items())
        raise ConfigError(f"device {device!r} is not on this machine; there is {known}. Set [local] device")
    usual = precision_for(torch.device(wanted))
    flow_dtype, decoder_dtype = (str(dtype).removeprefix("torch.") for dtype in (usual.flow, usual.decoder))
    if precision != "auto":
        flow_dtype = _checked_precision(
            precision, wanted, there[wanted], can_bfloat16=flow_dtype == "bfloat16"
        )
    host, host_free = host_memory()
    total, free = _device_memory(torch.device(wanted)) if wanted != "cpu" else (host, host_free)
    return Machine(
        device=wanted,
        name=there[wanted],
        memory_bytes=total,
        host_memory_bytes=host,
        flow_dtype=flow_dtype,
        decoder_dtype=decoder_dtype,
        free_bytes=free,
        host_free_bytes=host_free,
    )


def require_torch() -> None:
    """Raise ConfigError with the way to install it where PyTorch is not there."""
    try:
        import torch  # noqa: F401 - asked for here, so that its absence has one clear message
    except ImportError:
        raise ConfigError(_INSTALL) from None


def choose_plan(machine: Machine, mode: str) -> Plan:
    """Where networks wait, so that an object rich in surface fits: as near to the device as there is room.

    All on the device, else all in the host's memory (where that is another), else each read from disk for
    every use. The last also where nothing fits: most objects need less.
    """
    plans: tuple[Plan, ...] = ("device",) if machine.unified else ("device", "host")
    for plan in plans:
        need = needed_bytes(plan, mode, flow_dtype=machine.flow_dtype, decoder_dtype=machine.decoder_dtype)
        if _fits(machine, need, USABLE_SHARE * machine.free_bytes, machine.host_free_bytes):
            return plan
    return "disk"


def check_mode(machine: Machine, mode: str) -> None:
    """Raise ConfigError where a mode cannot work on this machine, with the way out.

    Judged by the memory that is built in, a usual object and the smallest plan; slow is no reason, except for
    1536 on a CPU.
    """
    reason = _reason_against(machine, mode)
    if reason:
        others = possible_modes(machine)
        smaller = [other for other in others if list(USUAL).index(other) < list(USUAL).index(mode)]
        resolution = smaller[-1].removesuffix("_cascade") if smaller else ""
        way_out = f"use resolution {resolution}, " if resolution else "use "
        raise ConfigError(f"{reason}: {way_out}a machine with more, or another generator")


def possible_modes(machine: Machine) -> tuple[str, ...]:
    """The modes that `check_mode` lets pass, smallest first."""
    return tuple(mode for mode in NETWORKS_OF_MODE if not _reason_against(machine, mode))


def device_key(device: str) -> str:
    """A name by which every process of this machine knows the device; CUDA_VISIBLE_DEVICES renumbers them.

    device: as `Machine.device`.
    """
    if not device.startswith("cuda"):
        return device
    import torch

    index = torch.device(device).index or 0
    own = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    if own:
        return f"cuda-{own}"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")  # what PyTorch numbers them by
    return f"cuda:{visible[index].strip()}" if index < len(visible) and visible[index] else f"cuda:{index}"


def host_memory(groups: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """The machine's memory and how much of it is free, in bytes; inside a container, the container's.

    What files keep there is free: the system gives it to whoever asks. groups: where control groups are told.
    """
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = _meminfo("MemAvailable") or int(0.7 * total)
    limit, used = _container_memory(groups)
    if limit is not None and limit < total:
        total, free = limit, min(free, max(0, limit - used))
    return total, free


def _reason_against(machine: Machine, mode: str) -> str:
    if mode not in USUAL:
        raise ConfigError(f"unknown mode {mode!r}; known are {', '.join(USUAL)}")
    if machine.kind == "cpu" and mode == "1536_cascade":
        return f"resolution 1536 would take days on a CPU ({machine.name})"
    need = _least(machine, mode, machine.flow_dtype)
    if _fits(machine, need, machine.memory_bytes, machine.host_memory_bytes):
        return ""
    asked = need.device_bytes + (need.host_bytes if machine.unified else 0)
    has = f"{machine.name} has {machine.memory_bytes / 1e9:.1f} GB"
    if not machine.unified and need.device_bytes <= machine.memory_bytes:
        asked, has = need.host_bytes, f"this machine has {machine.host_memory_bytes / 1e9:.1f} GB"
    halved = _least(machine, mode, "bfloat16")
    saving = ""
    if machine.unified and _fits(machine, halved, machine.memory_bytes, machine.host_memory_bytes):
        saving = ' (with [local] precision = "bfloat16" it would fit)'
    return f"mode {mode} needs about {asked / 1e9:.1f} GB of memory and {has}{saving}"


def _least(machine: Machine, mode: str, flow_dtype: str) -> Needed:
    """What a usual object needs with the smallest plan."""
    return needed_bytes(
        "disk", mode, flow_dtype=flow_dtype, decoder_dtype=machine.decoder_dtype, size=USUAL[mode]
    )


def _fits(machine: Machine, need: Needed, device_bytes: float, host_bytes: float) -> bool:
    if machine.unified:
        return need.device_bytes + need.host_bytes <= device_bytes
    return need.device_bytes <= device_bytes and need.host_bytes <= host_bytes


def _devices() -> dict[str, str]:
    """Name of every device that PyTorch sees, best first."""
    import torch

    there = {}
    if torch.cuda.is_available():
        there = {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        there["mps"] = f"{platform.processor() or 'Apple'} GPU"
    there["cpu"] = _cpu_name()
    return there


def _checked_precision(precision: str, device: str, name: str, *, can_bfloat16: bool) -> str:
    if precision not in DTYPE_BYTES:
        raise ConfigError(f"unknown precision {precision!r}; known are auto, {', '.join(DTYPE_BYTES)}")
    if precision == "float16":
        raise ConfigError(
            "the flows lose details in float16: set [local] precision to bfloat16, float32 or auto"
        )
    if precision == "bfloat16" and device.startswith("cuda") and not can_bfloat16:
        raise ConfigError(f"{name} does not compute in bfloat16: set [local] precision to float32 or auto")
    return precision


def _device_memory(device: torch.device) -> tuple[int, int]:
    import torch

    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, free
    mps: Any = torch.mps
    total = mps.recommended_max_memory()
    return total, max(0, total - mps.driver_allocated_memory())


def _cpu_name() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{model}, {cores} cores"


def _meminfo(field: str) -> int | None:
    kilobytes = _figures(Path("/proc/meminfo")).get(f"{field}:")
    return None if kilobytes is None else 1024 * kilobytes


def _container_memory(groups: Path) -> tuple[int | None, int]:
    """Limit of the control group that this process is in, None if there is none, and bytes in use.

    Its count of what is in use has the cache of files in it, which a fetch or a load of weights fills.
    """
    ways = (  # version 2 and version 1
        (groups, "memory.max", "memory.current", ""),
        (groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    )
    for folder, limit, used, prefix in ways:
        most = _bytes(folder / limit)
        if most is not None:
            told = _figures(folder / "memory.stat")
            cache = told.get(f"{prefix}inactive_file", 0) + told.get(f"{prefix}active_file", 0)
            return most, max(0, (_bytes(folder / used) or 0) - cache)
    return None, 0


def _bytes(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _figures(file: Path) -> dict[str, int]:
    """The lines of a file that are a name and a whole number; none where there is no file."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdigit()}
