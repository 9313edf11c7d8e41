"""What the doctor says about making models on this machine: device, memory, weights, price.

All of it is known before anything is loaded, and only what is quick to know is looked at: files by their
size, not by their hash (`weights check` does that), a device by asking its driver.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trellis_pipeline.automation.check import Check, Found, Status, guarded
from trellis_pipeline.config import Settings
from trellis_pipeline.config_local import LocalSettings
from trellis_pipeline.errors import TrellisError
from trellis_pipeline.trellis2.published import ENCODER_FILES, MODEL_FILES, PublishedFile

if TYPE_CHECKING:
    from trellis_pipeline.trellis2.machine import Machine

FETCH = "trellis-pipeline weights fetch"
_MODE_OF_RESOLUTION = {512: "512", 1024: "1024_cascade", 1536: "1536_cascade"}
_USUAL_RESOLUTION = 1024


def local_checks(settings: Settings) -> Found:
    """One quiet line where nobody wants the local generator; else the device, the weights and the price.

    Where it is configured and another generator is chosen, what is wrong is a warning.
    """
    chosen = settings.generation.generator == "local"
    if not chosen and settings.local == LocalSettings():
        yield Check("local", "ok", "not used")
        return
    wrong: Status = "problem" if chosen else "warning"
    for name, look in (
        ("local device", lambda: _device(settings, wrong)),
        ("local weights", lambda: _weights(settings.local, wrong)),
        ("local price", lambda: _price(settings.local, wrong)),
    ):
        for check in guarded(name, look):
            quieter = check.status == "problem" and not chosen
            yield Check(check.name, "warning", check.message, check.way_out) if quieter else check


def resolutions_wanted(settings: Settings) -> tuple[int, ...]:
    """Of the requests that the settings make, each once: in general, and of the catalogs that differ."""
    usual = settings.generation.settings.get("resolution", _USUAL_RESOLUTION)
    own = [catalog.generation.get("settings", {}).get("resolution", usual) for catalog in settings.catalogs]
    return tuple(sorted({each for each in (usual, *own) if each in _MODE_OF_RESOLUTION}))


def _device(settings: Settings, wrong: Status) -> Found:
    from trellis_pipeline.trellis2.machine import look, possible_modes

    machine = look(settings.local.device, precision=settings.local.precision)
    modes = possible_modes(machine)
    able = [str(resolution) for resolution, mode in _MODE_OF_RESOLUTION.items() if mode in modes]
    yield Check(
        "local device",
        "ok" if able else wrong,
        f"{machine.name} ({machine.device}), {machine.memory_bytes / 1e9:.1f} GB of memory, "
        f"{machine.free_bytes / 1e9:.1f} GB free; flows in {machine.flow_dtype}, decoders in "
        f"{machine.decoder_dtype}; resolutions: {', '.join(able) or 'none'}",
        "" if able else "use another generator",
    )
    for resolution in resolutions_wanted(settings) if able else ():
        yield from _resolution(settings.local, machine, resolution, wrong)
    if machine.device == "cpu":
        yield Check(
            "local speed", "warning", "on a CPU one model takes from minutes to hours",
            "use a GPU, or runware, for more than trying it out",
        )  # fmt: skip


def _resolution(local: LocalSettings, machine: Machine, resolution: int, wrong: Status) -> Found:
    """Whether one resolution can be made, and with which memory plan."""
    from trellis_pipeline.trellis2.machine import check_mode, choose_plan
    from trellis_pipeline.trellis2.memory import needed_bytes

    name, mode = f"local {resolution}", _MODE_OF_RESOLUTION[resolution]
    try:
        check_mode(machine, mode)
    except TrellisError as error:
        yield Check(name, wrong, str(error))
        return
    best = choose_plan(machine, mode)
    plan = best if local.plan == "auto" else local.plan
    need = needed_bytes(plan, mode, flow_dtype=machine.flow_dtype, decoder_dtype=machine.decoder_dtype)
    total = need.device_bytes + (need.host_bytes if machine.unified else 0)
    says = f'memory plan "{plan}", up to {total / 1e9:.1f} GB'
    if not machine.unified:
        says += f" on the device and {need.host_bytes / 1e9:.1f} GB in the machine"
    crowded = not machine.unified and need.host_bytes > machine.host_free_bytes
    if total > machine.free_bytes or crowded:
        way_out = "free some memory" if plan == best else f'set [local] plan = "{best}" or "auto"'
        free = f" there ({machine.host_free_bytes / 1e9:.1f} GB)" if total <= machine.free_bytes else ""
        yield Check(name, "warning", f"{says}, more than is free{free}", way_out)
    else:
        yield Check(name, "ok", says)


def _weights(local: LocalSettings, wrong: Status) -> Found:
    """Which of the published files are in their places, with the right size; or another checkpoint."""
    weights = local.weights.expanduser()
    encoder = local.image_encoder.expanduser() if local.image_encoder else None
    places = [(file, weights / file.place) for file in MODEL_FILES]
    places += [(file, _encoder_place(file, weights, encoder)) for file in ENCODER_FILES]
    description, where = places[0]
    if not where.is_file():
        yield Check("local weights", wrong, f"{weights}: there are none", FETCH)
        return
    if where.stat().st_size != description.file_bytes:
        yield from _other_checkpoint(weights, encoder)
        return
    absent = [(file, path) for file, path in places if not path.is_file()]
    damaged = [path for file, path in places if path.is_file() and not _size_is_right(file, path, encoder)]
    complete = [
        resolution
        for resolution in _MODE_OF_RESOLUTION
        if not any(str(resolution) in file.resolutions for file, _ in absent)
    ]
    if damaged:
        yield Check(
            "local weights", wrong, f"{damaged[0]} has the wrong size; {len(damaged)} files like it", FETCH
        )
    elif not complete:
        yield Check(
            "local weights", wrong, f"{absent[0][1]} does not exist; {len(absent)} are missing", FETCH
        )
    else:
        able = ", ".join(map(str, complete))
        yield Check("local weights", "ok", f"{weights}: complete for {able}; `weights check` compares hashes")


def _encoder_place(file: PublishedFile, weights: Path, encoder: Path | None) -> Path:
    return encoder / file.path if encoder else weights / file.place


def _size_is_right(file: PublishedFile, path: Path, encoder: Path | None) -> bool:
    """An encoder that the user chose is the user's business, as is a description's last line break."""
    free = path.suffix == ".json" or (encoder is not None and path.parent == encoder)
    return free or path.stat().st_size == file.file_bytes


def _other_checkpoint(weights: Path, encoder: Path | None) -> Found:
    from trellis_pipeline.trellis2.machine import require_torch

    require_torch()
    from trellis_pipeline.trellis2.repository import open_repository

    found = open_repository(weights, image_encoder=encoder)
    networks = len(found.networks) - len(found.absent)
    says = f"{weights}: a checkpoint of {networks} networks, not the published one"
    yield Check("local weights", "ok", says)


def _price(local: LocalSettings, wrong: Status) -> Found:
    if local.usd_per_gpu_second is None:
        yield Check(
            "local price", wrong, "the price of this machine's time is not set",
            "set [local] usd_per_gpu_second, 0 if it is to count as free",
        )  # fmt: skip
    elif local.usd_per_gpu_second == 0:
        yield Check("local price", "ok", "counts as free")
    else:
        hour = local.usd_per_gpu_second * 3600
        yield Check("local price", "ok", f"${local.usd_per_gpu_second} a second, ${hour:.2f} an hour")
