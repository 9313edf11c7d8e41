"""Questions of many coroutines, asked together.

Five hundred products wait for their tasks at the same time; one request can ask about fifty of them. Whoever
asks first waits a moment for others to join. Where the provider refuses a request with several tasks, which
no document forbids or limits, each goes alone from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from trellis_pipeline.errors import ProviderRejected

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Gathering(Generic[Question, Answer]):
    """send: carries out several questions as one call; its answer goes to everybody who asked.

    most: in one call. wait_seconds: how long the first of them waits for more; 0 gathers only what is asked
    in the same turn of the event loop.
    """

    def __init__(
        self, send: Callable[[Sequence[Question]], Awaitable[Answer]], most: int, wait_seconds: float
    ) -> None:
        self._send = send
        self.most = most
        self._wait_seconds = wait_seconds
        self._waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._calls: set[asyncio.Task[None]] = set()

    async def ask(self, question: Question) -> Answer:
        """The answer to the call that this question was part of; raises what the call raised."""
        if self.most <= 1:
            return await self._send([question])
        loop = asyncio.get_running_loop()
        place: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((question, place))
        if len(self._waiting) >= self.most:
            self._go()
        elif self._timer is None:
            self._timer = loop.call_later(self._wait_seconds, self._go)
        return await place

    async def aclose(self) -> None:
        """Stop the calls under way; whoever waits for one is cancelled."""
        if self._timer is not None:
            self._timer.cancel()
        for _, place in self._waiting:
            place.cancel()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Whoever gave up waiting meanwhile is not asked for.
        batch = [(question, place) for question, place in self._waiting if not place.done()]
        self._waiting = []
        if batch:
            call = asyncio.get_running_loop().create_task(self._carry_out(batch))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _carry_out(self, batch: list[tuple[Question, asyncio.Future[Answer]]]) -> None:
        try:
            answer = await self._send([question for question, _ in batch])
        except ProviderRejected as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            self.most = 1
            await asyncio.gather(*(self._carry_out([one]) for one in batch))
        except asyncio.CancelledError:
            for _, place in batch:
                place.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
            _fail(batch, error)
        else:
            for _, place in batch:
                if not place.done():
                    place.set_result(answer)


def _fail(batch: Sequence[tuple[object, asyncio.Future[Answer]]], error: Exception) -> None:
    for _, place in batch:
        if not place.done():
            place.set_exception(error)
