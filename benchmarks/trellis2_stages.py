"""What each network of TRELLIS.2 costs on a CPU, and how near to bare PyTorch its arithmetic comes.

    python benchmarks/trellis2_stages.py [--threads 1] [--only STAGE ...]

Every stage runs in a process of its own, with random weights in float32. The networks have the published
widths, so that every matrix product has its published shape, but fewer blocks:

    image encoder       4 of 24 layers, a photo of 512 px (1,029 tokens)
    structure flow      2 of 30 blocks, all 4,096 tokens, 1,029 tokens of a photo
    structure decoder   whole, 16^3 to 64^3
    shape flow          2 of 30 blocks, 2,048 tokens; the material flow differs by its first layer only
    shape decoder       1 block a level instead of 4, 16, 8, 4; a sphere of 704 coarse and 160,000 fine voxels
    material decoder    the same, guided by the sphere's subdivisions

Printed: wall and CPU seconds of the second forward pass, and peak memory of the first beyond the weights. On
a machine that is not quiet compare CPU seconds of one thread; two threads that wait for each other burn more.

Then the same run's shares of bare torch: what `matmul` and `scaled_dot_product_attention` of the same shapes
take, divided by what the module takes, in CPU seconds, alternating, the best of three. And the sparse
convolution of about a million voxels with 64 channels, against one dense matrix product with as many
multiply-adds, with its memory. Where a GPU is at hand, `trellis2_gpu.py` runs the whole model in full size.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from trellis_pipeline.trellis2.attention import SelfAttention
from trellis_pipeline.trellis2.blocks import Children
from trellis_pipeline.trellis2.dino import DinoConfig, DinoEncoder
from trellis_pipeline.trellis2.embeddings import rotation_3d
from trellis_pipeline.trellis2.flow import FeedForward, FlowConfig, SLatFlow, SparseStructureFlow
from trellis_pipeline.trellis2.latent_decoder import LatentDecoder, LatentDecoderConfig
from trellis_pipeline.trellis2.sparse_conv import SparseConv3d
from trellis_pipeline.trellis2.structure_decoder import SparseStructureDecoder, StructureDecoderConfig
from trellis_pipeline.trellis2.voxels import Grid, VoxelIndex, distinct

FLOW_TOKENS, PHOTO_TOKENS = 2048, 1029
PARENTS = torch.tensor([1, 2, 2, 2])


def shell(edge: int) -> Tensor:
    """A sphere's voxels on a grid, (N, 4) int32."""
    centre = (torch.arange(edge) + 0.5) / edge - 0.5
    slices = []
    for x in range(edge):
        radius = (centre[x] ** 2 + centre[:, None] ** 2 + centre**2).sqrt()
        y, z = ((radius - 0.4).abs() < 0.6 / edge).nonzero().unbind(1)
        slices.append(torch.stack([torch.zeros_like(y), torch.full_like(y, x), y, z], dim=1))
    return torch.cat(slices).int()


def parents_of(coords: Tensor) -> Tensor:
    return coords // PARENTS.to(coords)


def subdivided(edge: int, levels: int = 4) -> tuple[Tensor, list[Tensor], int]:
    """Coarse voxels of a sphere, which children exist on each level, and how many fine voxels there are."""
    chain = [shell(edge << levels)]
    for _ in range(levels):
        chain.insert(0, distinct(parents_of(chain[0])))
    coords = coarse = chain[0]
    exists = []
    for finer in chain[1:]:
        table = torch.zeros(len(coords), 8, dtype=torch.bool)
        corner = (finer[:, 1:] & 1).long()
        octant = corner[:, 0] + 2 * corner[:, 1] + 4 * corner[:, 2]
        table[VoxelIndex(coords).find(parents_of(finer)), octant] = True
        exists.append(table)
        coords = Children(Grid(coords), table).grid.coords
    return coarse, exists, len(coords)


def structure_flow() -> Callable[[], object]:
    network = SparseStructureFlow(FlowConfig(16, 8, 8, num_blocks=2))
    x, photo = torch.randn(1, 8, 16, 16, 16), torch.randn(1, PHOTO_TOKENS, 1024)
    return lambda: network(x, torch.tensor([500.0]), photo)


def shape_flow() -> Callable[[], object]:
    network = SLatFlow(FlowConfig(32, 32, 32, num_blocks=2))
    coords = distinct(torch.nn.functional.pad(shell(28)[:, 1:], (1, 0)))[:FLOW_TOKENS]
    x, photo = torch.randn(len(coords), 32), torch.randn(1, PHOTO_TOKENS, 1024)
    return lambda: network(x, coords, torch.tensor([500.0]), photo)


def image_encoder() -> Callable[[], object]:
    network = DinoEncoder(DinoConfig(num_hidden_layers=4))
    pixels = torch.randn(1, 3, 512, 512)
    return lambda: network(pixels)


def structure_decoder() -> Callable[[], object]:
    network = SparseStructureDecoder(StructureDecoderConfig())
    cube = torch.randn(1, 8, 16, 16, 16)
    return lambda: network(cube)


def decoder(out_channels: int, *, predicts: bool) -> Callable[[], object]:
    """The shape decoder is guided too: its own random predictions would grow into no surface."""
    config = LatentDecoderConfig(out_channels, num_blocks=(1, 1, 1, 1, 0), pred_subdiv=predicts)
    network = LatentDecoder(config)
    coords, exists, _ = subdivided(16)
    latent = torch.randn(len(coords), 32)
    return lambda: network(latent, Grid(coords), exists)


STAGES: dict[str, Callable[[], Callable[[], object]]] = {
    "image encoder": image_encoder,
    "structure flow": structure_flow,
    "structure decoder": structure_decoder,
    "shape flow": shape_flow,
    "shape decoder": lambda: decoder(7, predicts=True),
    "material decoder": lambda: decoder(6, predicts=False),
}


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def memory_bytes(field: str) -> int:
    """`VmRSS` or `VmHWM` of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def peak_bytes(call: Callable[[], object]) -> int:
    """By how much this process grew at most while it made the call."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = memory_bytes("VmRSS")
    call()
    return memory_bytes("VmHWM") - before


def measure(stage: str) -> dict[str, float]:
    forward = STAGES[stage]()
    peak = peak_bytes(forward)
    wall, cpu = seconds(forward)
    return {"wall": wall, "cpu": cpu, "peak_mb": peak / 1e6}


def best_of(ours: Callable[[], object], bare: Callable[[], object], times: int = 3) -> tuple[float, float]:
    """CPU seconds of both, alternating, the best of each."""
    pairs = [(seconds(ours)[1], seconds(bare)[1]) for _ in range(times)]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)


def attention_share(tokens: int = 4096) -> dict[str, float]:
    """Self-attention with its projections, norms and rotations, against its bare products."""
    layer = SelfAttention(1536, 12, qk_norm=True, dtype=torch.float32)
    x, turn = torch.randn(1, tokens, 1536), rotation_3d(torch.randint(0, 64, (tokens, 3)), 128)
    q, k, v = (torch.randn(1, tokens, 12, 128).transpose(1, 2) for _ in range(3))
    into, out = layer.to_qkv.weight.T, layer.to_out.weight.T

    def bare() -> None:
        torch.matmul(x, into)
        scaled_dot_product_attention(q, k, v)
        torch.matmul(x, out)

    return _share(*best_of(lambda: layer(x, turn), bare))


def mlp_share(tokens: int = 4096) -> dict[str, float]:
    """The flow's MLP with its biases and its GELU, against its two products."""
    layer = FeedForward(1536, 8192, torch.float32)
    x, wide = torch.randn(1, tokens, 1536), torch.randn(1, tokens, 8192)
    first, second = layer.mlp[0].weight.T, layer.mlp[2].weight.T

    def bare() -> None:
        torch.matmul(x, first)
        torch.matmul(wide, second)

    return _share(*best_of(lambda: layer(x), bare))


def convolution(channels: int = 64) -> dict[str, float]:
    """A million voxels by 64 channels. The bare product has 27 x 64 columns and the same multiply-adds."""
    coords = shell(640)
    grid = Grid(coords)
    searching = seconds(lambda: grid.pairs)[1]
    others = sum(len(each.in_rows) for each in grid.pairs)
    pairs, map_bytes = others + len(coords), 8 * others
    layer, feats = SparseConv3d(channels, channels), torch.randn(len(coords), channels)
    peak = peak_bytes(lambda: layer(feats, grid))
    gathered, matrix = torch.randn(pairs // 27, 27 * channels), torch.randn(27 * channels, channels)
    ours, bare = best_of(lambda: layer(feats, grid), lambda: gathered @ matrix)
    held = 2 * feats.nbytes + map_bytes
    return {
        **_share(ours, bare),
        "voxels": len(coords),
        "neighbours": pairs / len(coords),
        "search_cpu": searching,
        "gflops": 2 * pairs * channels**2 / ours / 1e9,
        # The peak is beyond input and map, which are there before.
        "memory_over_held": (peak + feats.nbytes + map_bytes) / held,
    }


def _share(ours: float, bare: float) -> dict[str, float]:
    return {"ours": ours, "bare": bare, "share": bare / ours}


SHARES: dict[str, Callable[[], dict[str, float]]] = {
    "attention, 4,096 tokens": attention_share,
    "MLP, 4,096 tokens": mlp_share,
    "sparse convolution": convolution,
}


def in_own_process(name: str, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--stage", name, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=[*STAGES, *SHARES], help="some of the rows")
    parser.add_argument("--stage", choices=[*STAGES, *SHARES], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.stage:
        torch.set_num_threads(chosen.threads)
        torch.manual_seed(0)
        with torch.inference_mode():
            found = measure(chosen.stage) if chosen.stage in STAGES else SHARES[chosen.stage]()
        print(json.dumps(found))
        return
    wanted = chosen.only or [*STAGES, *SHARES]
    print(f"torch {torch.__version__}, {chosen.threads} threads")
    for name in wanted:
        row = in_own_process(name, chosen.threads)
        if name in STAGES:
            text = f"wall {row['wall']:6.2f} s   cpu {row['cpu']:6.2f} s   peak {row['peak_mb']:6.0f} MB"
        else:
            text = f"cpu {row['ours']:6.2f} s   bare {row['bare']:6.2f} s   share {row['share']:4.0%}"
        print(f"{name:26} {text}", flush=True)
        if name == "sparse convolution":
            print(
                f"{'':26} {row['voxels']:,.0f} voxels, {row['neighbours']:.1f} neighbours each, found in "
                f"{row['search_cpu']:.2f} s of CPU; {row['gflops']:.0f} GFLOP/s; memory "
                f"{row['memory_over_held']:.2f} x (input + output + map)"
            )


if __name__ == "__main__":
    main()
