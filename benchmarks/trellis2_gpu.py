"""TRELLIS.2 in full size on a GPU: seconds of every stage and peak memory with each memory plan.

    python benchmarks/trellis2_gpu.py --folder DIR [--device cuda] [--modes 512 ...] [--plans host ...]
    python benchmarks/trellis2_gpu.py --folder DIR --device cpu --tiny     # the same code in a minute

The weights are random, so no download is needed: DIR gets a checkpoint in the published layout and sizes
(about 9 GB; files that are alike are links) and is used again if it is there. The numbers of steps are the
published ones. Random weights know no object, so the shape is given: the coarse voxels are a sphere's, and of
every voxel's children as many exist as a surface has (4, 5, 5, 4 of 8): about 3,000 tokens and 1.2 million
fine voxels at 512, 12,000 tokens and 4.8 million at 1024, which is more than most objects have.

Every mode and plan runs twice in this process; the second run is printed. Loading is what bringing a network
to the device took, which with the plan "disk" depends on the disk and on what the system remembers of it.
Published for an H100: 3 s at 512 (2 shape, 1 material) and 17 s at 1024 (10 and 7), decoding not among them.
Photo to latents is what compares with that; matting and post-processing are not part of this.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from trellis2_stages import shell

from trellis_pipeline.errors import GenerationError
from trellis_pipeline.trellis2.machine import look
from trellis_pipeline.trellis2.memory import Plan, needed_bytes
from trellis_pipeline.trellis2.modes import MODES
from trellis_pipeline.trellis2.pipeline import (
    GenerationSettings,
    decode_shape,
    encode_photo,
    make_material,
    make_shape,
    make_structure,
)
from trellis_pipeline.trellis2.published import ENCODER_REPOSITORY, MAIN_REPOSITORY
from trellis_pipeline.trellis2.repository import open_repository
from trellis_pipeline.trellis2.resident import Precision, ResidentNetworks
from trellis_pipeline.trellis2.sampler import Noise
from trellis_pipeline.trellis2.voxels import Grid
from trellis_pipeline.trellis2.weights import build_network

PUBLISHED_SECONDS = {"512": 3, "1024_cascade": 17}
CHILDREN = (4, 5, 5, 4)  # of 8, on each level
SURFACE = (0, 1, 2, 3, 4, 5, 6, 7)  # in this order: a plate first, then its upper half


def descriptions(*, tiny: bool) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """File, class and arguments of every network in pipeline.json."""
    flow = {"model_channels": 48, "cond_channels": 32, "num_blocks": 2, "num_heads": 2} if tiny else {}
    decoder = {
        "model_channels": [32, 16, 16, 16, 8] if tiny else [1024, 512, 256, 128, 64],
        "num_blocks": [1, 1, 1, 1, 0] if tiny else [4, 16, 8, 4, 0],
        "latent_channels": 32,
    }
    structure = {
        "channels": [16, 8, 4] if tiny else [512, 128, 32],
        "num_res_blocks": 2,
        "num_res_blocks_middle": 2,
        "latent_channels": 8,
        "out_channels": 1,
    }

    def flow_args(resolution: int, channels_in: int, channels_out: int) -> dict[str, Any]:
        return {"resolution": resolution, "in_channels": channels_in, "out_channels": channels_out, **flow}

    return {
        "sparse_structure_flow_model": ("ss_flow", "SparseStructureFlowModel", flow_args(16, 8, 8)),
        "sparse_structure_decoder": ("ss_dec", "SparseStructureDecoder", structure),
        "shape_slat_flow_model_512": ("shape_512", "SLatFlowModel", flow_args(32, 32, 32)),
        "shape_slat_flow_model_1024": ("shape_1024", "SLatFlowModel", flow_args(64, 32, 32)),
        "tex_slat_flow_model_512": ("tex_512", "SLatFlowModel", flow_args(32, 64, 32)),
        "tex_slat_flow_model_1024": ("tex_1024", "SLatFlowModel", flow_args(64, 64, 32)),
        "shape_slat_decoder": ("shape_dec", "FlexiDualGridVaeDecoder", decoder),
        "tex_slat_decoder": (
            "tex_dec",
            "SparseUnetVaeDecoder",
            {"out_channels": 6, "pred_subdiv": False, **decoder},
        ),
    }


ALIKE = {"shape_slat_flow_model_1024": "shape_512", "tex_slat_flow_model_1024": "tex_512"}


def write_checkpoint(folder: Path, device: torch.device, *, tiny: bool) -> None:
    """A random checkpoint, unless there is one already. Flows in bfloat16, decoders in float16."""
    root = folder / MAIN_REPOSITORY
    if (root / "pipeline.json").exists():
        return
    (root / "ckpts").mkdir(parents=True, exist_ok=True)
    networks = descriptions(tiny=tiny)
    for name, (file, class_name, args) in networks.items():
        stem = root / "ckpts" / file
        stem.with_suffix(".json").write_text(json.dumps({"name": class_name, "args": args}))
        if name in ALIKE:
            os.link(root / "ckpts" / f"{ALIKE[name]}.safetensors", stem.with_suffix(".safetensors"))
            continue
        dtype = torch.bfloat16 if "flow" in name else torch.float16
        _save(class_name, args, stem.with_suffix(".safetensors"), device, dtype)
    encoder = folder / ENCODER_REPOSITORY
    encoder.mkdir(parents=True, exist_ok=True)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    args = small if tiny else {}
    (encoder / "config.json").write_text(json.dumps(args))
    _save("DINOv3ViTModel", args, encoder / "model.safetensors", device, torch.float32)
    models = {name: f"ckpts/{file}" for name, (file, _, _) in networks.items()}
    (root / "pipeline.json").write_text(json.dumps({"args": {"models": models}}))


@torch.inference_mode()
def _save(
    class_name: str, args: dict[str, Any], file: Path, device: torch.device, dtype: torch.dtype
) -> None:
    from safetensors.torch import save_file

    with device:
        network = build_network(class_name, args, torch.float32)
    for name, module in network.named_modules():
        if name.endswith("to_subdiv") and isinstance(module, nn.Linear):
            level = int(name.split(".")[1])
            module.weight.zero_()
            exists = torch.tensor([k in SURFACE[: CHILDREN[level]] for k in range(8)], device=device)
            module.bias.copy_(torch.where(exists, 1.0, -1.0))
    save_file(
        {key: values.to(dtype).cpu().contiguous() for key, values in network.state_dict().items()}, file
    )


@dataclass
class Timed:
    """The networks, and what each use of them took. Implements `pipeline.Networks`."""

    inner: ResidentNetworks
    stages: list[tuple[str, float, float, int]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    @contextmanager
    def use(self, name: str) -> Iterator[Any]:
        loaded = self.inner.seconds_loading
        _forget_peak(self.inner.device)
        with self.inner.use(name) as network:
            ready = self.now()
            yield network
            done = self.now()
            peak = _peak(self.inner.device)
        loading = self.inner.seconds_loading - loaded
        self.stages.append((name, done - ready, loading, peak))

    def now(self) -> float:
        if self.inner.device.type == "cuda":
            torch.cuda.synchronize(self.inner.device)
        return time.perf_counter()


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0


@torch.inference_mode()
def run(networks: Timed, mode: str, *, tiny: bool) -> tuple[float, int, int]:
    """Seconds of the whole way, coarse and fine voxels. The order of `generate_from_condition`."""
    way, how = MODES[mode], GenerationSettings()
    device = networks.device
    noise = Noise.from_seed(1, device)
    silent = lambda _stage, _done, _of: None  # noqa: E731
    edge = 6 if tiny else way.structure_edge
    began = networks.now()
    photo = Image.new("RGB", (1024, 1024), (90, 120, 150))
    cond_512, cond = encode_photo(networks, photo, way.photo_px)
    with suppress(GenerationError):  # what comes of random weights is not used, and may be nothing
        make_structure(networks, cond_512, way, how, noise, silent)
    coords = shell(edge).to(device)
    shape, coords, resolution = make_shape(networks, coords, cond_512, cond, way, how, noise, silent)
    material = make_material(networks, shape, coords, cond, way, how, noise, silent)
    _vertices, _triangles, fine, subdivisions = decode_shape(networks, shape, coords, resolution, how)
    with networks.use("tex_slat_decoder") as decoder:
        decoder(material, Grid(coords), subdivisions)
    return networks.now() - began, len(coords), len(fine)


def report(networks: Timed, mode: str, plan: Plan, found: tuple[float, int, int]) -> None:
    total, tokens, fine = found
    machine_needs = needed_bytes(plan, mode).device_bytes / 1e9
    print(f"\nmode {mode}, plan {plan}: {tokens:,} tokens, {fine:,} fine voxels, {total:.2f} s in all")
    for name, computing, loading, peak in networks.stages:
        print(f"  {name:30} {computing:8.3f} s   loading {loading:7.3f} s   peak {peak / 1e9:6.2f} GB")
    elsewhere = total - sum(computing + loading for _, computing, loading, _ in networks.stages)
    print(f"  {'surface, and between stages':30} {elsewhere:8.3f} s")
    latents = sum(computing for _, computing, _, _ in networks.stages[:-2])  # the last two decode
    highest = max(stage[3] for stage in networks.stages) / 1e9
    published = PUBLISHED_SECONDS.get(mode)
    beside = f", published for an H100: {published} s" if published else ""
    print(f"  photo to latents {latents:.2f} s{beside}")
    print(f"  peak {highest:.2f} GB; planned for an object rich in surface: {machine_needs:.1f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--modes", nargs="*", choices=list(MODES), default=["512", "1024_cascade"])
    parser.add_argument(
        "--plans", nargs="*", choices=["device", "host", "disk"], default=["device", "host", "disk"]
    )
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()

    machine = look(chosen.device)
    device = torch.device(machine.device)
    print(f"{machine.name}, {machine.memory_bytes / 1e9:.1f} GB, torch {torch.__version__}")
    print(f"flows in {machine.flow_dtype}, decoders in {machine.decoder_dtype}")
    write_checkpoint(chosen.folder, device, tiny=chosen.tiny)
    repository = open_repository(chosen.folder)
    precision = Precision(getattr(torch, machine.flow_dtype), getattr(torch, machine.decoder_dtype))
    for mode in chosen.modes:
        for plan in chosen.plans:
            resident = ResidentNetworks(
                repository, device, plan=plan, precision=precision, compiled=chosen.compiled
            )
            for _ in range(2):
                networks = Timed(resident)
                found = run(networks, mode, tiny=chosen.tiny)
            report(networks, mode, plan, found)
            del networks, resident
            if device.type == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
