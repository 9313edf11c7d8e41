"""Weight files to networks, and nothing is taken on trust.

A file that lacks a tensor, has one too many or one of another shape is the wrong file, and a network that
runs on it gives nonsense without a word. So names and shapes are compared first, from the file's header;
only then is anything read. Tensors are read one at a time from the mapped file, straight into the dtype that
the network keeps them in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trellis_pipeline.errors import WeightsInvalid, WeightsMissing
from trellis_pipeline.trellis2.dino import DinoConfig, DinoEncoder
from trellis_pipeline.trellis2.flow import FlowConfig, SLatFlow, SparseStructureFlow
from trellis_pipeline.trellis2.latent_decoder import LatentDecoder, LatentDecoderConfig
from trellis_pipeline.trellis2.structure_decoder import SparseStructureDecoder, StructureDecoderConfig

# In files of some exports; follows from the configuration.
DERIVED_TENSORS = frozenset({"rope_phases"})

# As safetensors names them. Integers and 8-bit floats mean nothing without scales that are kept elsewhere.
STORED_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})


def build_network(class_name: str, args: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    """The network that a checkpoint's JSON file describes, in the torso precision `dtype`.

    Raises WeightsInvalid for a class that inference does not need, ConfigError for one built differently.
    """
    match class_name:
        case "SparseStructureFlowModel":
            return SparseStructureFlow(FlowConfig.from_args(args), dtype)
        case "SLatFlowModel":
            return SLatFlow(FlowConfig.from_args(args), dtype)
        case "SparseStructureDecoder":
            return SparseStructureDecoder(StructureDecoderConfig.from_args(args), dtype)
        case "FlexiDualGridVaeDecoder" | "SparseUnetVaeDecoder":
            return LatentDecoder(LatentDecoderConfig.from_args(args), dtype)
        case "DINOv3ViTModel":
            return DinoEncoder(DinoConfig.from_args(args))
    raise WeightsInvalid(f"no network of class {class_name!r} is known; is this a TRELLIS.2 checkpoint?")


def load_network(
    class_name: str, args: Mapping[str, Any], file: Path, *, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """Build a network and fill it from a safetensors file.

    Raises WeightsMissing if there is no such file, WeightsInvalid if it is not this network's.
    """
    network = empty_network(class_name, args, dtype, file)
    fill(network, file, device)
    return network


def empty_network(class_name: str, args: Mapping[str, Any], dtype: torch.dtype, file: Path) -> nn.Module:
    """A network on the meta device, to be filled from `file`, whose name the errors say.

    Raises as `build_network`, and WeightsInvalid for arguments that make no network.
    """
    try:
        with torch.device("meta"):
            return build_network(class_name, args, dtype).requires_grad_(False).eval()
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsInvalid(
            f"{file}: the description beside it makes no {class_name} ({error!r}): fetch it again"
        ) from error


def fill(network: nn.Module, file: Path, device: torch.device) -> None:
    """Give a network (which may have been built on the meta device) the tensors of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise WeightsMissing(f"{file} does not exist; run `trellis-pipeline weights fetch`")
    wanted = network.state_dict()
    try:
        with safe_open(file, framework="pt") as stored:
            slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118
            shapes = {name: tuple(each.get_shape()) for name, each in slices.items()}
            compare(file, shapes, {name: tuple(tensor.shape) for name, tensor in wanted.items()})
            for name in wanted:
                if (dtype := slices[name].get_dtype()) not in STORED_DTYPES:
                    raise WeightsInvalid(f"{file} holds {name} as {dtype}: quantised weights are not read")
            tensors = {
                name: stored.get_tensor(name).to(device=device, dtype=tensor.dtype)
                for name, tensor in wanted.items()
            }
    except SafetensorError as error:
        raise WeightsInvalid(f"{file} is damaged or not a safetensors file: {error}") from error
    network.load_state_dict(tensors, strict=True, assign=True)


def compare(file: Path, stored: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise WeightsInvalid that counts missing, unexpected and mis-shaped tensors and names the first."""
    missing = [name for name in wanted if name not in stored]
    unexpected = [name for name in stored if name not in wanted and name not in DERIVED_TENSORS]
    misshaped = [name for name, shape in wanted.items() if name in stored and stored[name] != shape]
    faults = []
    if missing:
        faults.append(f"{len(missing)} missing, first {missing[0]}")
    if unexpected:
        faults.append(f"{len(unexpected)} unexpected, first {unexpected[0]}")
    if misshaped:
        name = misshaped[0]
        faults.append(f"{len(misshaped)} mis-shaped, first {name} {stored[name]} instead of {wanted[name]}")
    if faults:
        raise WeightsInvalid(f"{file} does not fit the network: {'; '.join(faults)}")


def check_sha256(file: Path, expected: str) -> None:
    """Raise WeightsInvalid unless the file's SHA-256 begins with `expected` (hex, whole or shortened)."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(expected.lower()):
        raise WeightsInvalid(f"{file} has SHA-256 {found}, not {expected}: fetch it again")
