"""The three blocks that the sparse decoders are built from.

`ConvNeXtBlock` refines the features of a level. `SubdivideBlock` opens every voxel into those of its eight
children that exist, trading channels for resolution: by its own prediction when it decodes shape, by the
shape's when it decodes material. `MergeBlock` goes the other way and is what the encoder was built from.

Children are numbered k = x + 2 y + 4 z, and stand behind their parent's predecessors in that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise

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
        return stack_rows(self.chunks(feats, grid, children), len(children.grid))

    def chunks(self, feats: Tensor, grid: Grid, children: Children) -> Iterator[Tensor]:
        """The same, children.grid.chunk_rows rows at a time."""
        h = self._open(feats, grid, children)
        children.grid.change_rows(lambda x: silu(plain_norm(x, eps=1e-6)), h)
        begin = 0
        for part in self.conv2.chunks(h, children.grid):
            shortcut = children.pick(feats, begin, begin + len(part))
            begin += len(part)
            yield part.add_(shortcut.repeat_interleave(part.shape[1] // shortcut.shape[1], dim=1))

    def _open(self, feats: Tensor, grid: Grid, children: Children) -> Tensor:
        """The children's features, without ever holding the eightfold channels of all parents at once."""
        x = grid.by_rows(lambda x: silu(norm_in_float32(self.norm1, x)), feats)
        return children.of_chunks(self.conv1.chunks(x, grid))


class Children:
    """The voxels one level down. grid: their coordinates. exists: (N, 8) bool, whose children they are.

    Whatever is known of all eight children of a parent, child after child in one row, is brought down to the
    children that exist in one way: their features, their share of the parent's, their coordinates.
    """

    def __init__(
        self,
        grid: Grid,
        exists: Tensor,
        limit: int | None = None,
        chunk_rows: int | None = None,
        *,
        keep_pairs: bool = True,
    ) -> None:
        """exists: (N, 8) bool, which children each voxel of `grid` has. chunk_rows, keep_pairs: see Grid.

        Raises GenerationError if there is none, or more than `limit`.
        """
        chunks = exists.split(grid.chunk_rows)
        counts = torch.stack([part.sum() for part in chunks]).tolist()
        count = sum(counts)
        if count == 0:
            raise GenerationError("the shape decoder left no voxel: the shape is empty; try another seed")
        if limit is not None and count > limit:
            raise GenerationError(
                f"the shape decoder asks for {count:,} voxels on one level; the limit is {limit:,}. "
                "Use a lower resolution or another seed"
            )
        self.exists = exists
        self._ends = tuple(accumulate(counts, initial=0))
        self._chunk_slots = 8 * grid.chunk_rows
        # Of the existing children among all, eight to a parent: 8 x parent + k.
        self._slots = exists.flatten().nonzero()[:, 0].int()
        corners = torch.tensor([[0, k & 1, k >> 1 & 1, k >> 2 & 1] for k in range(8)])
        corners, double = corners.to(grid.coords), torch.tensor([1, 2, 2, 2]).to(grid.coords)
        parts = grid.coords.split(grid.chunk_rows)
        coords = self.of_chunks(((part * double)[:, None] + corners).flatten(1) for part in parts)
        self.grid = Grid(coords, chunk_rows or grid.chunk_rows, keep_pairs=keep_pairs)

    def pick(self, feats: Tensor, begin: int = 0, end: int | None = None) -> Tensor:
        """(N, 8 c), an eighth of the channels for each child, to rows begin:end of the children's (M, c)."""
        return feats.reshape(8 * len(feats), -1).index_select(0, self._slots[begin:end])

    def of_chunks(self, parts: Iterable[Tensor]) -> Tensor:
        """All children's (M, c) out of the parents' (rows, 8 c), a chunk of the parents' grid at a time."""

        def picked() -> Iterator[Tensor]:
            for at, (part, (begin, end)) in enumerate(zip(parts, pairwise(self._ends), strict=True)):
                slots = self._slots[begin:end] - at * self._chunk_slots
                yield part.reshape(8 * len(part), -1).index_select(0, slots)

        return stack_rows(picked(), self._ends[-1])


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
