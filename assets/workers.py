"""CPU work in other processes, so that one product's mesh does not stop another's download.

The pool starts with the first job (a run that finds everything cached pays nothing), survives a worker that
dies (a decoder crash, the kernel's out-of-memory killer) and ends with its parent, even a killed one.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, ParamSpec, TypeVar

from trellis_pipeline.errors import ProductError

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """What a call returned, and how long it took where it ran."""

    value: T
    seconds: float


class WorkerPool:
    """Runs top-level functions in worker processes. count: processes, 0 for one per core.

    When a worker dies, every job of its pool is lost and nobody knows whose fault it was. Each of them is
    then repeated alone, in a pool of one: the guilty one shows itself, and takes no other product with it.
    """

    def __init__(self, count: int = 0) -> None:
        self._together = _Pool(count or os.cpu_count() or 1)
        self._alone = _Pool(1)
        self._one_at_a_time = asyncio.Lock()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Timed[T]:
        """Call `function` in a worker and wait for it. The seconds do not count waiting for a free worker.

        Raises ProductError for a job that killed its worker twice, the second time all by itself.
        """
        job = functools.partial(function, *args, **kwargs)
        try:
            return await self._together.call(job)
        except BrokenProcessPool:
            async with self._one_at_a_time:
                try:
                    return await self._alone.call(job)
                except BrokenProcessPool:
                    raise ProductError(
                        f"a worker process died twice while running {function.__name__}: out of memory, "
                        "or a file that crashes its decoder; try fewer [run] workers"
                    ) from None

    def close(self) -> None:
        """End the workers. Jobs that were not started are dropped."""
        self._together.close()
        self._alone.close()


class _Pool:
    """A process pool that starts with its first job, and anew after it broke."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    async def call(self, job: Callable[[], T]) -> Timed[T]:
        pool = self._pool or self._started()
        try:
            return await asyncio.wrap_future(pool.submit(_timed, job))
        except BrokenProcessPool:
            if self._pool is pool:
                self._pool = None
            raise

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _started(self) -> ProcessPoolExecutor:
        self._pool = ProcessPoolExecutor(
            self._count, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare_worker
        )
        return self._pool


def _timed(job: Callable[[], T]) -> Timed[T]:
    started = time.perf_counter()
    value = job()
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
