"""CPU work in other processes, so that one product's mesh does not stop another's download.

The pool starts with the first job (a run that finds everything cached pays nothing), survives a worker that
dies (a decoder crash, the kernel's out-of-memory killer) and ends with its parent, even a killed one.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

from trellis_pipeline.errors import ProductError

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """What a call returned, and how long it took where it ran."""

    value: T
    seconds: float


class WorkerPool:
    """Runs top-level functions in worker processes. count: processes, 0 for one per core."""

    def __init__(self, count: int = 0) -> None:
        self._count = count or os.cpu_count() or 1
        self._pool: ProcessPoolExecutor | None = None

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Timed[T]:
        """Call `function` in a worker and wait for it. The seconds do not count waiting for a free worker.

        When a worker dies, every job of the pool is lost and nobody knows whose fault it was: each is
        tried once more, and the one that breaks the pool again is given up with a ProductError.
        """
        for last in (False, True):
            pool = self._started()
            try:
                return await asyncio.wrap_future(pool.submit(_timed, function, args, kwargs))
            except BrokenProcessPool:
                if self._pool is pool:
                    self._pool = None
                if last:
                    raise ProductError(
                        f"a worker process died twice while running {function.__name__}: out of memory, "
                        "or a file that crashes its decoder; try fewer [run] workers"
                    ) from None
        raise AssertionError("the loop above returns or raises")

    def close(self) -> None:
        """End the workers. Jobs that were not started are dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._count, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare_worker
            )
        return self._pool


def _timed(function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Timed[T]:
    started = time.perf_counter()
    value = function(*args, **kwargs)
    return Timed(value, time.perf_counter() - started)


def _prepare_worker() -> None:
    """One thread each (the pool is the parallelism), no share in Ctrl-C, no life after the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)
