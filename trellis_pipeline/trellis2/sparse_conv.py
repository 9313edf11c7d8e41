"""Submanifold convolution: a 3 x 3 x 3 convolution that looks at, and writes to, existing voxels only.

For each of the 27 offsets the rows that have a neighbour there are gathered, multiplied by that offset's
matrix and added to their outputs. All arithmetic is in large matrix products, no voxel is visited in vain,
and the result of a row does not depend on how the rows were cut into chunks. Half precision is summed in
float32, because the decoders end in thresholds. Method: Graham & van der Maaten 2017.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from trellis_pipeline.trellis2.voxels import Grid


def submanifold_conv(feats: Tensor, grid: Grid, weight: Tensor, bias: Tensor) -> Tensor:
    """feats: (N, C_in). weight: (C_out, 3, 3, 3, C_in), offsets over x, y, z. bias: (C_out,).

    Returns (N, C_out) in feats' dtype: bias + sum over offsets d of weight[:, d + 1] @ feats at voxel + d.
    """
    matrices = weight.flatten(1, 3).permute(1, 2, 0)
    if feats.device.type == "cpu":
        # A CPU gains nothing from half precision products, and this saves rounding each of the 27.
        matrices = matrices.float()
    out = feats.new_empty(len(grid), weight.shape[0])
    for pairs in grid.pairs:
        total = bias.float().expand(pairs.stop - pairs.start, -1).clone()
        for offset, (begin, end) in enumerate(pairwise(pairs.bounds)):
            if begin < end:
                gathered = feats.index_select(0, pairs.in_rows[begin:end])
                part = gathered.to(matrices.dtype) @ matrices[offset]
                # index_add_ is several times faster with 64-bit rows on CPU.
                total.index_add_(0, pairs.out_rows[begin:end].long(), part.float())
        out[pairs.start : pairs.stop] = total
    return out


class SparseConv3d(nn.Module):
    """Submanifold convolution with the weight layout of the published checkpoints."""

    def __init__(self, c_in: int, c_out: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_out, 3, 3, 3, c_in, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(c_out, dtype=dtype))
        nn.init.normal_(self.weight, std=(27 * c_in) ** -0.5)

    def forward(self, feats: Tensor, grid: Grid) -> Tensor:
        """feats: (N, c_in). Returns (N, c_out)."""
        return submanifold_conv(feats, grid, self.weight, self.bias)
