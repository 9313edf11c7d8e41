"""Which voxels exist, and who is whose neighbour.

A sparse grid is a list of integer coordinates. Packed into one 64-bit number each and sorted, they can be
searched, and the three voxels of one z-column lie side by side: nine searches find all 27 neighbours.

The neighbours are kept as pairs (output row, input row), cut into chunks of output rows and sorted by offset
inside each. A convolution then reads its pairs front to back and needs scratch memory for one chunk only.
They depend on the coordinates alone, so one search serves every convolution of a level.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Each coordinate gets 16 bits and is shifted by one, so that the neighbour at -1 has a code of its own.
_BITS = 16
MAX_EDGE = (1 << _BITS) - 2


def pack(coords: Tensor) -> Tensor:
    """(N, 4) integer (sample, x, y, z), each -1 to MAX_EDGE, to (N,) int64 that sorts in the same order."""
    sample, x, y, z = (coords.long() + torch.tensor([0, 1, 1, 1], device=coords.device)).unbind(-1)
    return (((sample << _BITS | x) << _BITS | y) << _BITS) | z


class VoxelIndex:
    """Finds the row of a voxel by its coordinates."""

    def __init__(self, coords: Tensor) -> None:
        self.keys, self.rows = pack(coords).sort()

    def find(self, coords: Tensor) -> Tensor:
        """coords: (M, 4). Returns (M,) int64: row of each, or -1 where there is no such voxel."""
        return self._match(*self._search(pack(coords)))

    def neighbours(self, coords: Tensor) -> Tensor:
        """Rows of the 3 x 3 x 3 block around each voxel. coords: (M, 4). Returns (M, 27) int64, -1 = none.

        Column 9 (dx + 1) + 3 (dy + 1) + (dz + 1).
        """
        corner = pack(coords)
        steps = torch.arange(-1, 2, device=coords.device)
        columns = (steps[:, None] << 2 * _BITS) + (steps << _BITS) - 1
        wanted = corner[:, None] + columns.flatten()
        at, wanted = self._search(wanted)
        found = []
        for _ in range(3):
            row = self._match(at, wanted)
            found.append(row)
            at, wanted = at + (row >= 0), wanted + 1
        return torch.stack(found, dim=-1).flatten(1)

    def _search(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        return torch.searchsorted(self.keys, wanted), wanted

    def _match(self, at: Tensor, wanted: Tensor) -> Tensor:
        at = at.clamp_max(len(self.keys) - 1)
        return torch.where(self.keys[at] == wanted, self.rows[at], -1)


@dataclass(frozen=True, slots=True)
class Pairs:
    """One chunk's neighbours. out_rows: (P,) int32, counted from `start`. in_rows: (P,) int32.

    The pairs of offset k stand at bounds[k]:bounds[k + 1]; within one offset no output row comes twice.
    """

    start: int
    stop: int
    out_rows: Tensor
    in_rows: Tensor
    bounds: tuple[int, ...]


class Grid:
    """The voxels of one level of a sparse network.

    coords: (N, 4) int32 (sample, x, y, z), no voxel twice, 0 to MAX_EDGE - 1. chunk_rows: output rows that
    a convolution handles at once. The neighbours are searched when first asked for, on the CPU where the
    device is poor at 64-bit search.
    """

    def __init__(self, coords: Tensor, chunk_rows: int | None = None) -> None:
        self.coords = coords
        # Small chunks stay in a CPU's cache; a GPU wants long ones.
        self.chunk_rows = chunk_rows or (1 << 12 if coords.device.type == "cpu" else 1 << 17)

    def __len__(self) -> int:
        return len(self.coords)

    @cached_property
    def pairs(self) -> list[Pairs]:
        """All neighbour pairs, chunk by chunk."""
        device = self.coords.device
        coords = self.coords.cpu() if device.type == "mps" else self.coords
        index = VoxelIndex(coords)
        chunks = []
        for start in range(0, len(coords), self.chunk_rows):
            stop = min(start + self.chunk_rows, len(coords))
            table = index.neighbours(coords[start:stop]).T
            exists = table >= 0
            out_rows = exists.nonzero()[:, 1].int()
            ends = exists.sum(1).cumsum(0).tolist()
            in_rows = table[exists].int()
            chunks.append(Pairs(start, stop, out_rows.to(device), in_rows.to(device), (0, *ends)))
        return chunks
