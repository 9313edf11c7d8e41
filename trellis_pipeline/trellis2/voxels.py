"""Which voxels exist, and who is whose neighbour.

A sparse grid is a list of integer coordinates. Packed into one 64-bit number each and sorted, they can be
searched, and the three voxels of one z-column lie side by side: nine searches find all 27 neighbours.

The neighbours are kept as pairs (output row, input row), cut into chunks of output rows and sorted by offset
inside each. A convolution then reads its pairs front to back and needs scratch memory for one chunk only.
They depend on the coordinates alone, so one search serves every convolution of a level; where there is but
one, the pairs of a chunk are forgotten with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Each coordinate gets 16 bits and is shifted by one, so that the neighbour at -1 has a code of its own.
_BITS = 16
MAX_EDGE = (1 << _BITS) - 2

CENTRE = 13
"""Of the 27 offsets, the one that is none."""

# A layer's scratch space on a GPU: values of its widest intermediate, a quarter of a gigabyte in float32.
_CHUNK_VALUES = 1 << 26


def pack(coords: Tensor) -> Tensor:
    """(N, 4) integer (sample, x, y, z), each -1 to MAX_EDGE, to (N,) int64 that sorts in the same order."""
    sample, *axes = coords.unbind(-1)
    keys = sample.long()
    for axis in axes:
        keys = (keys << _BITS).add_(axis).add_(1)
    return keys


def unpack(keys: Tensor) -> Tensor:
    """The inverse of `pack`: (N,) int64 to (N, 4) int32."""
    mask = (1 << _BITS) - 1
    axes = [(keys >> _BITS * place & mask) - 1 for place in (2, 1, 0)]
    return torch.stack([keys >> 3 * _BITS, *axes], dim=-1).int()


def distinct(coords: Tensor) -> Tensor:
    """(N, 4) int32 to its different rows, sorted, (M, 4) int32."""
    return unpack(pack(coords.to(_search_device(coords))).unique()).to(coords.device)


def _search_device(coords: Tensor) -> torch.device:
    """Where 64-bit numbers are sorted and searched: on the CPU where the device is poor at it."""
    return torch.device("cpu") if coords.device.type == "mps" else coords.device


class VoxelIndex:
    """Finds the row of a voxel by its coordinates."""

    def __init__(self, coords: Tensor) -> None:
        """coords: (N, 4) integer, no voxel twice."""
        self._search_on = _search_device(coords)
        self._keys, self._rows = pack(coords.to(self._search_on)).sort()

    def find(self, coords: Tensor) -> Tensor:
        """coords: (M, 4). Returns (M,) int64: the row of each, or -1 where there is no such voxel."""
        wanted = pack(coords.to(self._search_on))
        return self._match(torch.searchsorted(self._keys, wanted), wanted).to(coords.device)

    def neighbours(self, coords: Tensor) -> Tensor:
        """Rows of the 3 x 3 x 3 block around each voxel. coords: (M, 4). Returns (M, 27) int64, -1 = none.

        Column 9 (dx + 1) + 3 (dy + 1) + (dz + 1). The result is where it was searched: on the CPU for MPS.
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
        return torch.stack(found, dim=-1).flatten(1)

    def _match(self, at: Tensor, wanted: Tensor) -> Tensor:
        at = at.clamp_max(len(self._keys) - 1)
        return torch.where(self._keys[at] == wanted, self._rows[at], -1)


@dataclass(frozen=True, slots=True)
class Pairs:
    """One chunk's neighbours. out_rows: (P,) int32, counted from `start`. in_rows: (P,) int32.

    The pairs of offset k stand at bounds[k]:bounds[k + 1]; within one offset no output row comes twice. Those
    of the centre, where every row is its own neighbour, are left out.
    """

    start: int
    stop: int
    out_rows: Tensor
    in_rows: Tensor
    bounds: tuple[int, ...]


class Grid:
    """The voxels of one level of a sparse network.

    coords: (N, 4) int32 (sample, x, y, z), no voxel twice, 0 to MAX_EDGE - 1. chunk_rows: output rows that
    a layer handles at once, which bounds its scratch memory. Neighbours are searched when first asked for;
    keep_pairs: whether they are kept for the next who asks.
    """

    def __init__(self, coords: Tensor, chunk_rows: int | None = None, *, keep_pairs: bool = True) -> None:
        self.coords = coords
        self.chunk_rows = chunk_rows or chunk_rows_for(1024, coords.device)
        self._keep_pairs = keep_pairs
        self._pairs: list[Pairs] | None = None

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def pairs(self) -> Iterable[Pairs]:
        """All neighbour pairs, chunk by chunk."""
        if self._pairs is not None or not self._keep_pairs:
            return self._pairs or self._search()
        self._pairs = list(self._search())
        return self._pairs

    def _search(self) -> Iterator[Pairs]:
        device = self.coords.device
        index = VoxelIndex(self.coords)
        for start in range(0, len(self), self.chunk_rows):
            stop = min(start + self.chunk_rows, len(self))
            table = index.neighbours(self.coords[start:stop]).T
            exists = table >= 0
            exists[CENTRE] = False
            ends = exists.sum(1).cumsum(0).tolist()
            out_rows, in_rows = exists.nonzero()[:, 1].int(), table[exists].int()
            yield Pairs(start, stop, out_rows.to(device), in_rows.to(device), (0, *ends))

    def by_rows(self, layer: Callable[[Tensor], Tensor], feats: Tensor) -> Tensor:
        """A layer that treats every row alike, chunk by chunk, so that only its result is large."""
        return stack_rows(map(layer, feats.split(self.chunk_rows)), len(feats))

    def change_rows(self, layer: Callable[[Tensor], Tensor], feats: Tensor) -> None:
        """The same for a layer that keeps shape and dtype, in place."""
        for part in feats.split(self.chunk_rows):
            part.copy_(layer(part))


def chunk_rows_for(channels: int, device: torch.device) -> int:
    """Rows that a layer whose widest intermediate has `channels` should handle at once."""
    if device.type == "cpu":
        return 1 << 12  # small chunks stay in its cache
    return max(1 << 12, _CHUNK_VALUES // channels)


def stack_rows(parts: Iterable[Tensor], rows: int) -> Tensor:
    """The parts, `rows` rows in all, below each other. Unlike torch.cat this holds one part at a time."""
    out, begin = None, 0
    for part in parts:
        out = part.new_empty(rows, *part.shape[1:]) if out is None else out
        out[begin : begin + len(part)] = part
        begin += len(part)
    assert out is not None
    return out
