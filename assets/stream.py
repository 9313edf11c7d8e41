"""Many products through the stages at once, each at its own pace, none waiting for the slowest.

A fixed number of carriers take products from one iterator, so memory does not grow with the catalog. What
happens is reported as events in the order in which it becomes true; a failed product is an event like any
other. No Dagster here: `line` turns the events into materializations, checks and progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import Queue
from typing import Any, Literal

from assets.outcome import Problem, clear_problem, save_problem
from assets.records import LineItem, ProductModel, StageRecord
from assets.stage import Stage, load_record, run_stage
from assets.tools import LineTools
from trellis_pipeline.errors import (
    BudgetExceeded,
    ConfigError,
    OutOfCredit,
    ProductHeld,
    StorageError,
    StorageUnavailable,
    TrellisError,
)
from trellis_pipeline.stopping import stop_requests

logger = logging.getLogger(__name__)

Status = Literal["generated", "cached", "held", "failed"]

# These would repeat themselves for every product: the run stops, and says it once.
STOPS_THE_RUN = (StorageUnavailable, BudgetExceeded, OutOfCredit, ConfigError)


@dataclass(frozen=True, slots=True)
class StageDone:
    """A product has left a stage. fresh: the record was made now, not found."""

    item: LineItem
    stage: Stage[Any]
    record: StageRecord
    fresh: bool


@dataclass(frozen=True, slots=True)
class ProductDone:
    """A product has left the line, with a model or without.

    seconds: work done for it in this run, without waiting for a free worker; 0 for what was found.
    """

    item: LineItem
    status: Status
    seconds: float
    failed_stage: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RunStopped:
    """Something no product can do anything about; what was finished is kept."""

    error: TrellisError


Event = StageDone | ProductDone | RunStopped
Report = Callable[[Event], Awaitable[None]]


@dataclass(slots=True)
class _Feed:
    """The products still to come, shared by the carriers of one event loop."""

    items: Iterator[LineItem]
    stopped: list[TrellisError] = field(default_factory=list)


class _Switch:
    """Ends the event loop's work from the consumer's thread: whoever pressed Ctrl-C waits for no product."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._off = False

    def on(self) -> None:
        """Called by the work itself, at its beginning."""
        with self._lock:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            if self._off and self._task is not None:
                self._task.cancel()

    def off(self) -> None:
        """Cancel the work, now or as soon as it begins. Work that is done already stays done."""
        with self._lock:
            if self._off:
                return  # a second cancellation would cut short what the first one cleans up
            self._off = True
            if self._loop is not None and self._task is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: it had ended by itself
                    self._loop.call_soon_threadsafe(self._task.cancel)


def stream(
    items: Iterable[LineItem],
    stages: Sequence[Stage[Any]],
    upstream: Sequence[Stage[Any]],
    tools: LineTools,
    in_flight: int,
) -> Generator[Event, None, None]:
    """Run every item through `stages` and yield events as they happen. Closing it ends the work.

    Raises KeyboardInterrupt on SIGINT or SIGTERM, after the events of what was finished.

    upstream: stages that are not run but whose records the others may need, in order.
    in_flight: products on the line at the same time.

    The work happens in an event loop of its own in another thread, so the consumer may block (Dagster's
    event log does) without holding it up; the queue between is bounded and slows the line when it must.
    """
    queue: Queue[Event | BaseException | None] = Queue(maxsize=max(4 * in_flight, 64))
    switch = _Switch()

    def work() -> None:
        try:
            asyncio.run(_carry_all(_Feed(iter(items)), stages, upstream, tools, in_flight, queue, switch))
        except BaseException as error:  # noqa: BLE001 - carried over to the consumer's thread
            queue.put(error)
        finally:
            queue.put(None)

    thread = threading.Thread(target=work, name="trellis-line", daemon=True)
    thread.start()
    try:
        with stop_requests(switch.off) as stop:
            while (event := queue.get()) is not None:
                if isinstance(event, asyncio.CancelledError):
                    break
                if isinstance(event, BaseException):
                    raise event
                yield event
        if stop.is_set():
            raise KeyboardInterrupt
    finally:
        switch.off()
        while thread.is_alive():
            # Make room for carriers that are just reporting, though nobody listens any more.
            while not queue.empty():
                queue.get_nowait()
            thread.join(timeout=0.05)


async def _carry_all(
    feed: _Feed,
    stages: Sequence[Stage[Any]],
    upstream: Sequence[Stage[Any]],
    tools: LineTools,
    in_flight: int,
    queue: Queue[Event | BaseException | None],
    switch: _Switch,
) -> None:
    switch.on()

    async def report(event: Event) -> None:
        if queue.full():
            await asyncio.to_thread(queue.put, event)
        else:
            queue.put(event)

    async def carrier() -> None:
        while not feed.stopped:
            try:
                item = next(feed.items, None)  # reads the snapshot of the catalog
                if item is None:
                    return
                await _carry(item, stages, upstream, tools, report)
            except TrellisError as error:  # what is one product's problem has been answered by now
                if not feed.stopped:
                    feed.stopped.append(error)
                    await report(RunStopped(error))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(carrier())
    finally:
        await tools.end_connections()


async def _carry(
    item: LineItem,
    stages: Sequence[Stage[Any]],
    upstream: Sequence[Stage[Any]],
    tools: LineTools,
    report: Report,
) -> None:
    """One product, from the first selected stage to the last it reaches."""
    for stage in upstream:
        record = await asyncio.to_thread(load_record, stage, item, tools)
        if record is not None:
            item = item.with_record(record, fresh=False)

    async def end_with(status: Literal["held", "failed"], stage: str, reason: str) -> None:
        done = ProductDone(item, status, _work_seconds(item), stage, reason)
        problem = Problem(
            status=status, stage=stage, reason=reason, seconds=done.seconds, run_id=tools.run_id
        )
        try:
            await asyncio.to_thread(save_problem, tools.store, tools.catalog, item.product.sku, problem)
        except StorageError:
            logger.warning("sku %s: the problem could not be written down", item.product.sku)
        await report(done)

    for stage in stages:
        try:
            item = await run_stage(stage, item, tools)
        except ProductHeld as hold:
            return await end_with("held", stage.name, str(hold))
        except STOPS_THE_RUN as error:
            await end_with("failed", stage.name, str(error))
            raise
        except TrellisError as error:
            return await end_with("failed", stage.name, str(error))
        except Exception as error:
            # A bug of ours, or of a library on this product's data: still one product's problem, but loud.
            logger.exception("sku %s: unexpected error in %s", item.product.sku, stage.name)
            return await end_with("failed", stage.name, f"unexpected {type(error).__name__}: {error}")
        await report(StageDone(item, stage, item.records[stage.name], stage.name in item.fresh))
    passed = {stage.name for stage in stages}
    await asyncio.to_thread(clear_problem, tools.store, tools.catalog, item.product.sku, passed)
    await report(ProductDone(item, _status(item), _work_seconds(item)))
    return None


def _status(item: LineItem) -> Status:
    """`generated` when a generation was made in this run, `cached` when everything was there."""
    model = item.maybe(ProductModel)
    made = model is not None and ProductModel.stage in item.fresh and not model.reused
    return "generated" if made else "cached"


def _work_seconds(item: LineItem) -> float:
    return sum(item.records[stage].seconds for stage in item.fresh)
