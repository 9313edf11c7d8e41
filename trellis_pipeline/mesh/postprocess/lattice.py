"""Finding cells of a sparse grid by their coordinates.

A surface fills a thousandth of its grid, so cells are kept in a hash table: one 64-bit word for three
coordinates, open addressing, at most half full. The kernels here are the only ones that know its layout.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.types import Int32
from trellis_pipeline.mesh.vectors import inner

BITS = 20
MAX_CELLS = 1 << BITS  # along an axis; a word holds three coordinates and one cell of margin around them
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: Knuth's multiplicative hashing
EMPTY = np.int64(-1)


class CellTable(NamedTuple):
    """words: (S,) int64, packed coordinates or -1, S a power of two. rows: (S,) int32, which cell it is."""

    words: npt.NDArray[np.int64]
    rows: Int32


def cell_table(coords: npt.NDArray[np.integer]) -> CellTable:
    """The table of the cells (N, 3); a cell's row is its place in `coords`, of equal cells the first's.

    Raises MeshError for coordinates outside 0..2^20 - 1.
    """
    if coords.ndim != 2 or coords.shape[1] != 3:
        raise MeshError(f"cells have shape {coords.shape}; expected (N, 3)")
    if len(coords) and (coords.min() < 0 or coords.max() >= MAX_CELLS):
        raise MeshError(f"cells reach from {coords.min()} to {coords.max()}; a grid has at most {MAX_CELLS}")
    table = empty_table(len(coords))
    _insert_all(np.ascontiguousarray(coords, dtype=np.int32), table)
    return table


def empty_table(capacity: int) -> CellTable:
    """A table with room for `capacity` cells."""
    slots = 1 << max(4, (2 * capacity - 1).bit_length())
    return CellTable(np.full(slots, EMPTY, np.int64), np.empty(slots, np.int32))


@inner
def packed(x: int, y: int, z: int) -> int:
    """Three coordinates from -1 to 2^20 in one word; neighbours along z follow each other."""
    return ((x + 1) << 42) | ((y + 1) << 21) | (z + 1)


@inner
def _slot(table: CellTable, word: int) -> int:
    """Where the word stands, or the free slot where it would."""
    mask = np.uint64(len(table.words) - 1)
    mixed = np.uint64(word) * _MIX
    slot = (mixed ^ (mixed >> np.uint64(32))) & mask
    while table.words[slot] != word and table.words[slot] != EMPTY:
        slot = (slot + np.uint64(1)) & mask
    return int(slot)


@inner
def find(table: CellTable, x: int, y: int, z: int) -> int:
    """The row of a cell, -1 if it is not there."""
    word = packed(x, y, z)
    slot = _slot(table, word)
    return int(table.rows[slot]) if table.words[slot] == word else -1


@inner
def insert(table: CellTable, x: int, y: int, z: int, row: int) -> int:
    """The row of a cell, which becomes `row` if it was not there. The caller sees to the room."""
    word = packed(x, y, z)
    slot = _slot(table, word)
    if table.words[slot] == EMPTY:
        table.words[slot] = word
        table.rows[slot] = row
    return int(table.rows[slot])


@numba.njit(cache=True, nogil=True)
def _insert_all(coords: Int32, table: CellTable) -> None:
    for n in range(len(coords)):
        insert(table, coords[n, 0], coords[n, 1], coords[n, 2], n)
