"""Submanifold convolution: a 3 x 3 x 3 convolution that looks at, and writes to, existing voxels only.

The centre is an ordinary matrix product. For each of the 26 other offsets the rows that have a neighbour
there are gathered, multiplied by that offset's matrix and added to their outputs. All arithmetic is in large
matrix products and no voxel is visited in vain. Half precision is summed in float32, because the decoders end
in thresholds. The result comes in chunks of rows, so that a layer which makes little of much need not hold
the much.

Method: Graham & van der Maaten 2017.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from trellis_pipeline.trellis2.voxels import CENTRE, Grid, stack_rows


def conv_chunks(feats: Tensor, grid: Grid, weight: Tensor, bias: Tensor) -> Iterator[Tensor]:
    """The rows of the result in order, grid.chunk_rows at a time, each chunk (rows, C_out).

    feats: (N, C_in). weight: (C_out, 3, 3, 3, C_in), offsets over x, y, z. bias: (C_out,).
    A row is bias + sum over offsets d of weight[:, d + 1] @ feats at voxel + d, in feats' dtype.
    """
    matrices = weight.flatten(1, 3).permute(1, 2, 0)
    # A CPU gains nothing from half precision products, and this saves rounding each of the 27.
    dtype = torch.float32 if feats.device.type == "cpu" else feats.dtype
    for pairs in grid.pairs:
        # Every voxel is its own neighbour: there is nothing to gather for the centre.
        centre = feats[pairs.start : pairs.stop].to(dtype) @ matrices[CENTRE].to(dtype)
        total = centre.float().add_(bias.float())
        # index_add_ is several times faster with 64-bit rows on CPU.
        out_rows = pairs.out_rows.long()
        for offset, (begin, end) in enumerate(pairwise(pairs.bounds)):
            if begin < end:
                gathered = feats.index_select(0, pairs.in_rows[begin:end])
                part = gathered.to(dtype) @ matrices[offset].to(dtype)
                total.index_add_(0, out_rows[begin:end], part.float())
        yield total.to(feats.dtype)


class SparseConv3d(nn.Module):
    """Submanifold convolution with the weight layout of the published checkpoints."""

    def __init__(self, c_in: int, c_out: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_out, 3, 3, 3, c_in, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(c_out, dtype=dtype))
        nn.init.normal_(self.weight, std=(27 * c_in) ** -0.5)

    def forward(self, feats: Tensor, grid: Grid) -> Tensor:
        """feats: (N, c_in). Returns (N, c_out)."""
        return stack_rows(self.chunks(feats, grid), len(grid))

    def chunks(self, feats: Tensor, grid: Grid) -> Iterator[Tensor]:
        """The same, grid.chunk_rows rows at a time."""
        return conv_chunks(feats, grid, self.weight, self.bias)
