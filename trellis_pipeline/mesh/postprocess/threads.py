"""Work on rows in several threads. The kernels release the interpreter's lock, so plain threads are enough,
and a caller that runs a process per core asks for one and gets none.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

ROWS_WORTH_A_THREAD = 20_000


def in_parallel(work: Callable[[int, int], object], rows: int, threads: int) -> None:
    """Call `work(start, stop)` for slices that together are 0..rows, `threads` at a time.

    Slices are smaller than rows / threads, because some parts of a surface take longer than others. An
    exception of a slice is raised.
    """
    if threads <= 1 or rows < 2 * ROWS_WORTH_A_THREAD:
        work(0, rows)
        return
    parts = min(8 * threads, rows // ROWS_WORTH_A_THREAD)
    bounds = [rows * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, bounds[:-1], bounds[1:]):
            pass
