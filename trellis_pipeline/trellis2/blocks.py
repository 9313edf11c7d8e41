"""The three blocks that the sparse decoders are built from.

`ConvNeXtBlock` refines the features of a level. `SubdivideBlock` opens every voxel into those of its eight
children that exist, trading channels for resolution: by its own prediction when it decodes shape, by the
shape's when it decodes material. `MergeBlock` goes the other way and is what the encoder was built from.

Children are numbered k = x + 2 y + 4 z, and stand behind their parent's predecessors in that order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from trellis_pipeline.errors import GenerationError
from trellis_pipeline.trellis2.sparse_conv import SparseConv3d
from trellis_pipeline.trellis2.voxels import Grid, stack_rows


def norm_in_float32(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """A layer norm with float32 parameters applied to features of any dtype, which is kept."""
    out: Tensor = norm(x.float()).to(x.dtype)
    return out


def plain_norm(x: Tensor, eps: float) -> Tensor:
    """Layer norm without parameters, in float32, returned in x's dtype."""
    return layer_norm(x.float(), x.shape[-1:], eps=eps).to(x.dtype)


class ConvNeXtBlock(nn.Module):
    """Convolve, normalise, mix channels in a four times wider MLP, add to the input. Liu et al. 2022."""

    def __init__(self, channels: int, dtype: torch.dtype, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.conv = SparseConv3d(channels, channels, dtype)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden, dtype=dtype), nn.SiLU(), nn.Linear(hidden, channels, dtype=dtype)
        )

    def forward(self, feats: Tensor, grid: Grid) -> Tensor:
        """feats: (N, channels)."""
        return feats + grid.by_rows(lambda x: self.mlp(norm_in_float32(self.norm, x)), self.conv(feats, grid))


class SubdivideBlock(nn.Module):
    """Channel-to-space: each voxel becomes up to eight, with half the edge and c_out channels."""

    def __init__(self, c_in: int, c_out: int, dtype: torch.dtype, *, predicts: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(c_in, eps=1e-6)
        self.conv1 = SparseConv3d(c_in, 8 * c_out, dtype)
        self.conv2 = SparseConv3d(c_out, c_out, dtype)
        self.to_subdiv = nn.Linear(c_in, 8, dtype=dtype) if predicts else None

    def subdivision(self, feats: Tensor) -> Tensor:
        """(N, c_in) to (N, 8) logits: child k exists where the logit is above zero."""
        assert self.to_subdiv is not None
        logits: Tensor = self.to_subdiv(feats)
        return logits

    def forward(self, feats: Tensor, grid: Grid, children: Children) -> Tensor:
        """feats: (N, c_in) on the parents' grid. Returns (M, c_out) on `children.grid`."""
        h = self._open(feats, grid, children)
        h = children.grid.by_rows(lambda x: silu(plain_norm(x, eps=1e-6)), h)
        h = self.conv2(h, children.grid)
        shortcut = children.pick(feats)
        return h.add_(shortcut.repeat_interleave(h.shape[1] // shortcut.shape[1], dim=1))

    def _open(self, feats: Tensor, grid: Grid, children: Children) -> Tensor:
        """The children's features, without ever holding the eightfold channels of all parents at once."""
        x = grid.by_rows(lambda x: silu(norm_in_float32(self.norm1, x)), feats)
        parts = (children.pick(part, at) for at, part in enumerate(self.conv1.chunks(x, grid)))
        return stack_rows(parts, len(children.grid))


class Children:
    """The voxels one level down. parents, octants: (M,) int64. grid: their coordinates."""

    def __init__(self, grid: Grid, exists: Tensor, limit: int | None = None) -> None:
        """exists: (N, 8) bool, which children each voxel of `grid` has.

        Raises GenerationError if there is none, or more than `limit`.
        """
        count = int(exists.sum())
        if count == 0:
            raise GenerationError("the shape decoder left no voxel: the shape is empty; try another seed")
        if limit is not None and count > limit:
            raise GenerationError(
                f"the shape decoder asks for {count:,} voxels on one level; the limit is {limit:,}. "
                "Use a lower resolution or another seed"
            )
        self.parents, self.octants = exists.nonzero().unbind(1)
        coords = grid.coords[self.parents]
        corner = torch.stack([self.octants >> axis & 1 for axis in range(3)], dim=1)
        coords[:, 1:] = 2 * coords[:, 1:] + corner
        self.grid = Grid(coords, grid.chunk_rows)
        self._chunk_rows = grid.chunk_rows

    def pick(self, feats: Tensor, chunk: int | None = None) -> Tensor:
        """(N, 8 c), an eighth of the channels for each octant, to the children's (M, c).

        chunk: feats are only the rows of this chunk of parents, and so are the children that come back.
        """
        parents, octants = self.parents, self.octants
        if chunk is not None:
            first = chunk * self._chunk_rows
            ends = torch.tensor([first, first + self._chunk_rows], device=parents.device)
            begin, end = torch.searchsorted(parents, ends).tolist()
            parents, octants = parents[begin:end] - first, octants[begin:end]
        return feats.unflatten(1, (8, -1))[parents, octants]


class MergeBlock(nn.Module):
    """Space-to-channel: up to eight voxels become their parent. Absent children count as zeros."""

    def __init__(self, c_in: int, c_out: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(c_in, eps=1e-6)
        self.conv1 = SparseConv3d(c_in, c_out // 8, dtype)
        self.conv2 = SparseConv3d(c_out, c_out, dtype)

    def forward(self, feats: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """feats: (N, c_in). Returns the parents' (M, c_out) and their grid, in coordinate order."""
        up = torch.tensor([0, 1, 1, 1], device=grid.coords.device)
        parent_coords = grid.coords >> up
        parents, rows = parent_coords.unique(dim=0, return_inverse=True)
        child = grid.coords[:, 1:] & 1
        octant = child[:, 0] + 2 * child[:, 1] + 4 * child[:, 2]
        parent_grid = Grid(parents, grid.chunk_rows)

        def merge(x: Tensor) -> Tensor:
            merged = x.new_zeros(len(parents), 8, x.shape[1])
            merged[rows, octant.long()] = x
            return merged.flatten(1)

        h = merge(self.conv1(silu(norm_in_float32(self.norm1, feats)), grid))
        h = self.conv2(silu(plain_norm(h, eps=1e-6)), parent_grid)
        shortcut = merge(feats)
        return h + shortcut.unflatten(1, (h.shape[1], -1)).mean(-1), parent_grid
