"""How many calls at once, found out from how they go, and the one rule before the first: try the key alone.

The provider names no limit; it says 429 or becomes slow. So the limit grows by one for each round of calls
that went well and halves when the provider turns calls away or slows down: additive increase, multiplicative
decrease (Chiu & Jain 1989), which is what makes many clients share one server fairly.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from trellis_pipeline.errors import ProviderRefusesAccess

FIRST_LIMIT = 4
"""The provider's own advice is 2 to 4 at once."""


@dataclass(slots=True)
class Pace:
    """The limit, as a function of what calls report. No clock of its own and no waiting, so it can be tried.

    at_rest: the usual seconds of a call, the smallest of the recent averages. slow_factor: a recent average
    this many times over it, and at least slow_seconds above it, counts as the provider being slow.
    """

    most: int
    limit: float = FIRST_LIMIT
    slow_factor: float = 3.0
    slow_seconds: float = 0.5
    average: float | None = None
    at_rest: float | None = None
    _cuts: int = 0

    def __post_init__(self) -> None:
        self.limit = min(self.limit, self.most)

    @property
    def allowed(self) -> int:
        """Calls that may be under way now."""
        return max(1, int(self.limit))

    @property
    def epoch(self) -> int:
        """Changes with every cut. A call reports the epoch in which it began."""
        return self._cuts

    def went_well(self, seconds: float, epoch: int, *, was_full: bool = True) -> None:
        """A call was answered. was_full: the limit was in use; one that is not needed does not grow."""
        self.average = seconds if self.average is None else 0.8 * self.average + 0.2 * seconds
        self.at_rest = self.average if self.at_rest is None else min(self.average, self.at_rest)
        if self.average > max(self.slow_factor * self.at_rest, self.at_rest + self.slow_seconds):
            self.turned_away(epoch)
            self.average = None  # judge the new pace by new calls
        elif was_full:
            self.limit = min(float(self.most), self.limit + 1 / self.limit)

    def turned_away(self, epoch: int) -> None:
        """A 429 or 503. Calls that began before the last cut say nothing about the pace since."""
        if epoch == self._cuts:
            self.limit = max(1.0, self.limit / 2)
            self._cuts += 1


@dataclass(slots=True)
class Slot:
    """One call's place. Say `busy` before leaving where the provider turned the call away."""

    busy: bool = False
    counts: bool = True


@dataclass(slots=True)
class Limiter:
    """Lets through as many calls as the pace allows, in the order in which they came."""

    pace: Pace
    under_way: int = 0
    most_under_way: int = 0
    _waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Wait for a place and hold it."""
        await self._enter()
        slot, epoch, began = Slot(), self.pace.epoch, time.monotonic()
        full = self.under_way >= self.pace.allowed
        try:
            yield slot
        except BaseException:
            slot.counts = slot.busy
            raise
        finally:
            if slot.busy:
                self.pace.turned_away(epoch)
            elif slot.counts:
                self.pace.went_well(time.monotonic() - began, epoch, was_full=full or bool(self._waiting))
            self.under_way -= 1
            self._wake()

    async def _enter(self) -> None:
        if self._waiting or self.under_way >= self.pace.allowed:
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if not place.cancelled():  # it was given to us at the same moment
                    self.under_way -= 1
                self._wake()  # which also throws away places that nobody waits for
                raise
            return
        self._take()

    def _take(self) -> None:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)

    def _wake(self) -> None:
        while self._waiting and self.under_way < self.pace.allowed:
            place = self._waiting.popleft()
            if not place.done():
                self._take()
                place.set_result(None)


class KeyGate:
    """Until the provider has accepted the key once, calls go one by one; after a refusal, none goes.

    A thousand products with a wrong key would be a thousand refused calls, which providers answer by
    blocking the address. Tried alone, a wrong key costs exactly one.
    """

    def __init__(self) -> None:
        self._accepted = asyncio.Event()
        self._refused: str | None = None
        self._alone = asyncio.Lock()

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Around one call. Raises ProviderRefusesAccess where the key is known to be refused."""
        self._check()
        async with contextlib.AsyncExitStack() as alone:
            if not self._accepted.is_set():
                await alone.enter_async_context(self._alone)
                self._check()
                if self._accepted.is_set():  # by the call that we waited for
                    await alone.aclose()
            yield

    @property
    def is_proven(self) -> bool:
        """Whether the provider has accepted the key."""
        return self._accepted.is_set()

    def accepted(self) -> None:
        """The provider answered in a way that it does not answer strangers."""
        self._accepted.set()

    def refused(self, error: ProviderRefusesAccess) -> None:
        """No further call is made with this key."""
        self._refused = str(error)

    def _check(self) -> None:
        if self._refused is not None:
            raise ProviderRefusesAccess(self._refused)
