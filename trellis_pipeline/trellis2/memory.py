"""How much memory a generation takes, known before anything is loaded.

    peak of a stage = its network's weights + what it computes with
    plan "device":  the weights of all networks + the largest "computes with", all on the device
    plan "host":    the largest stage on the device, the weights of all networks in the host's memory
    plan "disk":    the largest stage on the device, nothing anywhere else

Weights follow from the published parameter counts. What a stage computes with is bytes for each token of a
flow and for each fine voxel of a decoder, counted in the code (which tensors are alive at once) and compared
with measurements on a CPU; docs/design/trellis2.md has the table. How many voxels an object has is only known
afterwards, so two sizes of object are kept: the usual one, below which refusing would be wrong, and one rich
in surface, for which plans are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Plan = Literal["device", "host", "disk"]
"""Where a network waits for its next use."""

Kind = Literal["encoder", "flow", "structure", "decoder"]

DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class NetworkSize:
    """parameters: as published. in_float32: those of them that stay float32 in every precision."""

    kind: Kind
    parameters: int
    in_float32: int

    def weight_bytes(self, dtype: str) -> int:
        """Bytes in memory with the torso in `dtype`."""
        return 4 * self.in_float32 + DTYPE_BYTES[dtype] * (self.parameters - self.in_float32)


NETWORKS: Mapping[str, NetworkSize] = {
    "image_encoder": NetworkSize("encoder", 303_129_600, 303_129_600),
    "sparse_structure_flow_model": NetworkSize("flow", 1_292_179_976, 17_499_656),
    "sparse_structure_decoder": NetworkSize("structure", 73_671_201, 121_505),
    "shape_slat_flow_model_512": NetworkSize("flow", 1_292_253_728, 17_573_408),
    "shape_slat_flow_model_1024": NetworkSize("flow", 1_292_253_728, 17_573_408),
    "tex_slat_flow_model_512": NetworkSize("flow", 1_292_302_880, 17_622_560),
    "tex_slat_flow_model_1024": NetworkSize("flow", 1_292_302_880, 17_622_560),
    "shape_slat_decoder": NetworkSize("decoder", 474_231_463, 67_783),
    "tex_slat_decoder": NetworkSize("decoder", 474_216_006, 67_718),
}
"""The published networks, by their names in pipeline.json, and the image encoder."""

_ALWAYS = (
    "image_encoder",
    "sparse_structure_flow_model",
    "sparse_structure_decoder",
    "shape_slat_decoder",
    "tex_slat_decoder",
)
_FINE = (*_ALWAYS, "shape_slat_flow_model_1024", "tex_slat_flow_model_1024")
NETWORKS_OF_MODE: Mapping[str, tuple[str, ...]] = {
    "512": (*_ALWAYS, "shape_slat_flow_model_512", "tex_slat_flow_model_512"),
    "1024": _FINE,
    "1024_cascade": (*_FINE, "shape_slat_flow_model_512"),
    "1536_cascade": (*_FINE, "shape_slat_flow_model_512"),
}
"""The networks that each mode of `modes.MODES` uses."""


@dataclass(frozen=True, slots=True)
class ObjectSize:
    """tokens: voxels that the last flow attends over. fine_voxels: on the decoders' last level."""

    tokens: int
    fine_voxels: int


# Usual: the paper's and the ports' tokens and voxels at 1024. Rich: twice the tokens, and the voxels of the
# largest object in a public log (7.85 M at 1024). The other resolutions follow as a surface does, by the
# square; 49,152 is the published limit of tokens.
USUAL: Mapping[str, ObjectSize] = {
    "512": ObjectSize(2_400, 1_000_000),
    "1024": ObjectSize(9_600, 4_000_000),
    "1024_cascade": ObjectSize(9_600, 4_000_000),
    "1536_cascade": ObjectSize(21_600, 9_000_000),
}
RICH: Mapping[str, ObjectSize] = {
    "512": ObjectSize(4_800, 2_000_000),
    "1024": ObjectSize(19_200, 7_850_000),
    "1024_cascade": ObjectSize(19_200, 7_850_000),
    "1536_cascade": ObjectSize(43_200, 17_700_000),
}

STRUCTURE_TOKENS = 16**3
_CHANNELS, _HIDDEN, _MLP_ROWS = 1536, 8192, 8192
_ENCODER_BYTES = 450_000_000
_STRUCTURE_DECODER_BYTES = 400_000_000
_SCRATCH_BYTES = 800_000_000
_KEPT_BY_ALLOCATORS = 1.4
HOST_PROCESS_BYTES = 1_500_000_000
"""Python, the libraries, and on CUDA the driver's share of the host's memory."""
_RESULT_BYTES = 2 * 72
"""For each fine voxel in the host's memory: vertices, triangles, coords and attributes, and once more on
their way to the process that makes the GLB."""


def flow_bytes(tokens: int, dtype: str) -> int:
    """What a flow computes with at once. The larger of two moments in one block:

    attention, with queries, keys and values in the torso's dtype and float32 intermediates of the rotary
    embedding; and the MLP, whose hidden layer is twice there (around the GELU) for at most `_MLP_ROWS`
    tokens.
    """
    size = DTYPE_BYTES[dtype]
    attention = tokens * _CHANNELS * (6 * size + 4 * 4)
    mlp = tokens * _CHANNELS * 4 * size + min(tokens, _MLP_ROWS) * _HIDDEN * 2 * size
    return max(attention, mlp)


def decoder_bytes(fine_voxels: int, dtype: str) -> int:
    """What a sparse decoder computes with at its last subdivision, where it has most at once.

    For each fine voxel: 64 channels in the torso's dtype, up to 7 values of the result, 16 bytes of
    coordinates, 4 of its number, 16 of the search index; and a quarter of its parent's 128 channels (features
    and their norm) and 13 neighbours (two int32 each). Allocators keep some of what was freed: measured in
    float32 on a CPU were 0.83 KB where 0.60 are counted. Convolutions add scratch space that does not grow.
    """
    size = DTYPE_BYTES[dtype]
    each = 64 * size + 7 * 4 + 16 + 4 + 16 + (2 * 128 * size + 13 * 8) / 4
    return int(fine_voxels * _KEPT_BY_ALLOCATORS * each) + _SCRATCH_BYTES


def working_bytes(name: str, mode: str, size: ObjectSize, *, flow_dtype: str, decoder_dtype: str) -> int:
    """What a network computes with in a mode, beside its weights."""
    match NETWORKS[name].kind:
        case "encoder":
            return _ENCODER_BYTES
        case "structure":
            return _STRUCTURE_DECODER_BYTES
        case "decoder":
            return decoder_bytes(size.fine_voxels, decoder_dtype)
        case "flow":
            if name == "sparse_structure_flow_model":
                return flow_bytes(STRUCTURE_TOKENS, flow_dtype)
            coarse = name == "shape_slat_flow_model_512" and mode.endswith("cascade")
            return flow_bytes(RICH["512"].tokens if coarse else size.tokens, flow_dtype)


@dataclass(frozen=True, slots=True)
class Needed:
    """device_bytes: on the device. host_bytes: in the machine's own memory, beside the device's.

    Where both are the same memory (CPU, MPS) they add up.
    """

    device_bytes: int
    host_bytes: int


def needed_bytes(
    plan: Plan,
    mode: str,
    *,
    flow_dtype: str = "bfloat16",
    decoder_dtype: str = "float16",
    size: ObjectSize | None = None,
) -> Needed:
    """The most memory that a generation in `mode` takes at once with the published networks.

    flow_dtype, decoder_dtype: keys of DTYPE_BYTES. size: of the object, by default one rich in surface.
    """
    size = size or RICH[mode]
    dtypes = {"encoder": "float32", "flow": flow_dtype, "structure": decoder_dtype, "decoder": decoder_dtype}
    weights, working = {}, {}
    for name in NETWORKS_OF_MODE[mode]:
        network = NETWORKS[name]
        weights[name] = network.weight_bytes(dtypes[network.kind])
        working[name] = working_bytes(name, mode, size, flow_dtype=flow_dtype, decoder_dtype=decoder_dtype)
    host = HOST_PROCESS_BYTES + _RESULT_BYTES * size.fine_voxels
    everything = sum(weights.values())
    if plan == "device":
        return Needed(everything + max(working.values()), host)
    largest = max(weights[name] + working[name] for name in weights)
    return Needed(largest, host + (everything if plan == "host" else 0))
