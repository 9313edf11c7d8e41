"""Which voxels exist, and who is whose neighbour.

A sparse grid is a list of integer coordinates. Packed into one 64-bit number each and sorted, they can be
searched, and the three voxels of one z-column lie side by side: nine searches find all 27 neighbours.

The neighbours are kept as pairs (output row, input row), cut into chunks of output rows and sorted by offset
inside each. A convolution then reads its pairs front to back and needs scratch memory for one chunk only.
They depend on the coordinates alone, so one search serves every convolution of a level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    """Finds the row of a voxel by its coordinates; on the CPU where the device is poor at 64 bits."""

    def __init__(self, coords: Tensor) -> None:
        """coords: (N, 4) integer, no voxel twice."""
        self.device = coords.device
        self._search_on = torch.device("cpu") if self.device.type == "mps" else self.device
        self._keys, self._rows = pack(coords.to(self._search_on)).sort()

    def find(self, coords: Tensor) -> Tensor:
        """coords: (M, 4). Returns (M,) int64: the row of each, or -1 where there is no such voxel."""
        wanted = pack(coords.to(self._search_on))
        return self._match(torch.searchsorted(self._keys, wanted), wanted).to(self.device)

    def neighbours(self, coords: Tensor) -> Tensor:
        """Rows of the 3 x 3 x 3 block around each voxel. coords: (M, 4). Returns (M, 27) int64, -1 = none.

        Column 9 (dx + 1) + 3 (dy + 1) + (dz + 1).
        """
        steps = torch.arange(-1, 2, device=self._search_on)
        columns = (steps[:, None] << 2 * _BITS) + (steps << _BITS) - 1
        wanted = pack(coords.to(self._search_on))[:, None] + columns.flatten()
        at = torch.searchsorted(self._keys, wanted)
        found = []
        for _ in range(3):
            rows = self._match(at, wanted)
            found.append(rows)
            # If this one is there, the next in the column can only stand behind it.
            at, wanted = at + (rows >= 0), wanted + 1
        return torch.stack(found, dim=-1).flatten(1).to(self.device)

    def _match(self, at: Tensor, wanted: Tensor) -> Tensor:
        at = at.clamp_max(len(self._keys) - 1)
        return torch.where(self._keys[at] == wanted, self._rows[at], -1)


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
    a layer handles at once, which bounds its scratch memory. Neighbours are searched when first asked for.
    """

    def __init__(self, coords: Tensor, chunk_rows: int | None = None) -> None:
        self.coords = coords
        # Small chunks stay in a CPU's cache; a GPU wants long ones.
        self.chunk_rows = chunk_rows or (1 << 12 if coords.device.type == "cpu" else 1 << 16)

    def __len__(self) -> int:
        return len(self.coords)

    @cached_property
    def pairs(self) -> list[Pairs]:
        """All neighbour pairs, chunk by chunk."""
        index = VoxelIndex(self.coords)
        chunks = []
        for start in range(0, len(self), self.chunk_rows):
            stop = min(start + self.chunk_rows, len(self))
            table = index.neighbours(self.coords[start:stop]).T
            exists = table >= 0
            ends = exists.sum(1).cumsum(0).tolist()
            chunks.append(Pairs(start, stop, exists.nonzero()[:, 1].int(), table[exists].int(), (0, *ends)))
        return chunks

    def by_rows(self, layer: Callable[[Tensor], Tensor], feats: Tensor) -> Tensor:
        """A layer that treats every row alike, chunk by chunk, so that only its result is large."""
        return stack_rows(map(layer, feats.split(self.chunk_rows)), len(feats))


def stack_rows(parts: Iterable[Tensor], rows: int) -> Tensor:
    """The parts, `rows` rows in all, below each other. Unlike torch.cat this holds one part at a time."""
    out, begin = None, 0
    for part in parts:
        out = part.new_empty(rows, *part.shape[1:]) if out is None else out
        out[begin : begin + len(part)] = part
        begin += len(part)
    assert out is not None
    return out
