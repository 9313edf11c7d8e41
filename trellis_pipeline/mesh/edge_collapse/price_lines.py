"""Where edges wait for their collapse: one line for each price, a sixteenth of an octave wide.

A heap would sort edges exactly, which nobody needs, and touch memory all over. Here an edge goes to the end
of the line for its price, and the cheapest line that is not empty is served from its front.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np

from trellis_pipeline.mesh.edge_collapse.rings import INNER
from trellis_pipeline.mesh.types import Int32

BUCKETS = 4096  # lines of edges by price: 256 octaves in 16 steps each


class PriceLines(NamedTuple):
    """entries: (E, 4) int32, the two ends of an edge and the stamps they had. following: (E,) int32, who is
    next in line, -1 for nobody. lines: (BUCKETS, 2) int32, first and last entry or -1. state: (2,) int32,
    entries used, cheapest line that may be occupied.
    """

    entries: Int32
    following: Int32
    lines: Int32
    state: Int32


def price_lines(corners: int) -> PriceLines:
    """Room for the edges of a mesh with so many corners. A collapse prices the edges of one vertex again,
    about eight; twice the corners is room for all of them.
    """
    room = 2 * corners + 16
    return PriceLines(
        np.empty((room, 4), np.int32),
        np.empty(room, np.int32),
        np.empty((BUCKETS, 2), np.int32),
        np.empty(2, np.int32),
    )


@nb.njit(cache=True)
def clear(queue: PriceLines) -> None:
    """Nobody waits."""
    queue.state[0] = 0
    queue.state[1] = queue.lines.shape[0]
    queue.lines[:, 0] = -1


@INNER
def enqueue(queue: PriceLines, price: float, i: int, j: int, stamp: Int32) -> None:
    """Put the edge (i, j) at the end of the line for its price, if there is room.

    The upper bits of a positive float32, read as an integer, are its logarithm in steps of 1/16 octave.
    """
    entries, following, lines, state = queue
    used = state[0]
    if used == entries.shape[0]:
        return
    bucket = np.float32(max(price, 0.0)).view(np.int32) >> 19
    entries[used, 0] = i
    entries[used, 1] = j
    entries[used, 2] = stamp[i]
    entries[used, 3] = stamp[j]
    following[used] = -1
    if lines[bucket, 0] < 0:
        lines[bucket, 0] = used
    else:
        following[lines[bucket, 1]] = used
    lines[bucket, 1] = used
    state[0] = used + 1
    state[1] = min(state[1], bucket)


@INNER
def serve(queue: PriceLines) -> int:
    """The cheapest entry, which leaves its line; -1 if nobody waits or the room for entries is used up."""
    entries, following, lines, state = queue
    while state[1] < lines.shape[0] and state[0] < entries.shape[0]:
        entry = lines[state[1], 0]
        if entry >= 0:
            lines[state[1], 0] = following[entry]
            return int(entry)
        state[1] += 1
    return -1
