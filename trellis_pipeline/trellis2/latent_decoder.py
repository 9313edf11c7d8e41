"""The sparse decoders: from one latent vector per coarse voxel to seven or six numbers per fine voxel.

Both are the same network: four levels of blocks, each ending in a subdivision, sixteen times the resolution
in all. The shape decoder predicts which children exist; the material decoder is told, so that its voxels are
those of the shape. Every prediction is a threshold, and one wrong sign is a hole or a growth, hence the
limit on voxels.

The torso may run in float16; the first and last layer and all norms are float32.

Memory is what the last level costs: millions of voxels with 64 channels each. No layer follows its
subdivision but the head, so what comes out of it goes through the head chunk by chunk and is never held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from trellis_pipeline.errors import ConfigError, GenerationError
from trellis_pipeline.trellis2.blocks import Children, ConvNeXtBlock, SubdivideBlock, plain_norm
from trellis_pipeline.trellis2.voxels import Grid, chunk_rows_for, stack_rows


@dataclass(frozen=True, slots=True)
class LatentDecoderConfig:
    """The shape of a sparse decoder, named as in its checkpoint's JSON file. Defaults: the shape decoder's.

    pred_subdiv: whether it predicts its own subdivision. voxel_margin: how far outside its voxel a surface
    vertex may lie, in voxels.
    """

    out_channels: int = 7
    model_channels: tuple[int, ...] = (1024, 512, 256, 128, 64)
    latent_channels: int = 32
    num_blocks: tuple[int, ...] = (4, 16, 8, 4, 0)
    pred_subdiv: bool = True
    voxel_margin: float = 0.5

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Self:
        """Read a checkpoint's `args`. Raises ConfigError for blocks that this module does not have."""
        blocks = {*args.get("block_type", ()), *args.get("up_block_type", ())}
        if unknown := blocks - {"SparseConvNeXtBlock3d", "SparseResBlockC2S3d"}:
            raise ConfigError(f"unknown decoder blocks: {', '.join(sorted(unknown))}")
        return cls(
            out_channels=args.get("out_channels", 7),
            model_channels=tuple(args["model_channels"]),
            latent_channels=args["latent_channels"],
            num_blocks=tuple(args["num_blocks"]),
            pred_subdiv=args.get("pred_subdiv", True),
            voxel_margin=args.get("voxel_margin", 0.5),
        )


@dataclass(frozen=True, slots=True)
class Decoded:
    """Raw features (M, out_channels) float32 of the finest voxels, coords (M, 4) int32, and the way there.

    subdivisions: for each level (N_level, 8) bool, the children that exist.
    """

    feats: Tensor
    coords: Tensor
    subdivisions: tuple[Tensor, ...]


class LatentDecoder(nn.Module):
    """Sixteen times the resolution in four subdivisions, each the last block of its level."""

    def __init__(self, config: LatentDecoderConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        widths = config.model_channels
        self.config = config
        self.dtype = dtype
        self.from_latent = nn.Linear(config.latent_channels, widths[0])
        self.output_layer = nn.Linear(widths[-1], config.out_channels)
        self.blocks = nn.ModuleList()
        for level, (width, count) in enumerate(zip(widths, config.num_blocks, strict=True)):
            blocks: list[nn.Module] = [ConvNeXtBlock(width, dtype) for _ in range(count)]
            if level + 1 < len(widths):
                blocks.append(SubdivideBlock(width, widths[level + 1], dtype, predicts=config.pred_subdiv))
            self.blocks.append(nn.ModuleList(blocks))

    def forward(
        self,
        latent: Tensor,
        grid: Grid,
        subdivisions: Sequence[Tensor] | None = None,
        max_voxels: int | None = None,
    ) -> Decoded:
        """latent: (N, latent_channels) float32 on `grid`.

        subdivisions: those of a shape decoder, needed if this decoder does not predict its own.
        Raises GenerationError where a level has no voxels or more than max_voxels, or where numbers are not
        finite.
        """
        h, grid = self._begin(latent, grid)
        taken: list[Tensor] = []
        raw = None
        for level in range(len(self.blocks)):
            h, subdivide = self._refine(level, h, grid)
            if subdivide is None:
                continue
            given = None if subdivisions is None else subdivisions[level]
            children = self._children(level, subdivide, h, grid, given, max_voxels)
            taken.append(children.exists)
            if self._nothing_follows(level + 1):
                raw = stack_rows(map(self._head, subdivide.chunks(h, grid, children)), len(children.grid))
            else:
                h = subdivide(h, grid, children)
            grid = children.grid
        if raw is None:
            raw = grid.by_rows(self._head, h)
        if not bool(raw.isfinite().all()):
            raise _not_finite("result")
        return Decoded(raw, grid.coords, tuple(taken))

    def upsample(self, latent: Tensor, grid: Grid, levels: int, max_voxels: int | None = None) -> Tensor:
        """Only where the voxels are after `levels` predicted subdivisions: (M, 4) int32."""
        h, grid = self._begin(latent, grid)
        for level in range(levels):
            h, subdivide = self._refine(level, h, grid)
            assert subdivide is not None
            children = self._children(level, subdivide, h, grid, None, max_voxels)
            if level + 1 < levels:
                h = subdivide(h, grid, children)
            grid = children.grid
        return grid.coords

    def _begin(self, latent: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        rows = min(grid.chunk_rows, self._chunk_rows(0, latent.device))
        return self.from_latent(latent).to(self.dtype), Grid(grid.coords, rows)

    def _children(
        self,
        level: int,
        subdivide: SubdivideBlock,
        h: Tensor,
        grid: Grid,
        exists: Tensor | None,
        max_voxels: int | None,
    ) -> Children:
        """The voxels of the next level, by prediction unless it is said which exist."""
        if exists is None:
            logits = subdivide.subdivision(h)
            if not bool(logits.isfinite().all()):
                raise _not_finite(f"subdivision of level {level}")
            exists = logits > 0
        rows = self._chunk_rows(level + 1, h.device)
        keep = not self._nothing_follows(level + 1)
        return Children(grid, exists, max_voxels, rows, keep_pairs=keep)

    def _chunk_rows(self, level: int, device: torch.device) -> int:
        widths = [4 * self.config.model_channels[level]]
        widths += [8 * width for width in self.config.model_channels[level + 1 : level + 2]]
        return chunk_rows_for(max(widths), device)

    def _nothing_follows(self, level: int) -> bool:
        return len(cast("nn.ModuleList", self.blocks[level])) == 0

    def _head(self, h: Tensor) -> Tensor:
        out: Tensor = self.output_layer(plain_norm(h.float(), eps=1e-5))
        return out

    def _refine(self, level: int, h: Tensor, grid: Grid) -> tuple[Tensor, SubdivideBlock | None]:
        """Features after a level's ConvNeXt blocks, and the block that ends it (the last level has none)."""
        for block in cast("nn.ModuleList", self.blocks[level]):
            if isinstance(block, SubdivideBlock):
                return h, block
            h = block(h, grid)
        return h, None


def _not_finite(what: str) -> GenerationError:
    return GenerationError(
        f"a decoder's {what} is not finite: the weights or the precision are wrong; try another seed"
    )


@dataclass(frozen=True, slots=True)
class SurfaceVoxels:
    """What the shape decoder says about each fine voxel.

    vertex: (M, 3) float32, the surface vertex inside the voxel's cube, 0 to 1 with the margin outside.
    crossed: (M, 3) bool, whether the surface crosses the voxel's edge along x, y, z (see dual_grid.py).
    weight: (M,) float32, positive, decides which diagonal splits a quad.
    """

    vertex: Tensor
    crossed: Tensor
    weight: Tensor


def surface_voxels(raw: Tensor, margin: float = 0.5) -> SurfaceVoxels:
    """raw: (M, 7) float32, the shape decoder's features."""
    vertex = (1 + 2 * margin) * raw[:, :3].sigmoid() - margin
    return SurfaceVoxels(vertex, raw[:, 3:6] > 0, softplus(raw[:, 6]))


def material_voxels(raw: Tensor) -> Tensor:
    """raw: (M, 6) float32, the material decoder's features.

    Returns (M, 6): base colour (sRGB), metallic, roughness, alpha. Meant to lie in 0..1, not clamped.
    """
    return raw * 0.5 + 0.5
