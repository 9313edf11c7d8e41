"""One HTTP call to the API: how long it may take, how large its answer may be, who may repeat it.

The difference that matters is between a call that was certainly not carried out and one whose answer got
lost.
`NotSent` is the first: no connection, or turned away with 429. `AnswerLost` is the second: everything that
went wrong after the first byte was sent, 5xx and pages of a proxy included, because the task may have been
accepted behind them. Reading calls may be repeated after both, a submit only after the first.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
import zlib
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import httpx

from trellis_pipeline.errors import ProviderRefusesAccess, TrellisError
from trellis_pipeline.generation.generator import MaySend, always
from trellis_pipeline.generation.runware.failures import Kind, about_request, clean_text, kind_of, refusal
from trellis_pipeline.generation.runware.http_client import make_http_client
from trellis_pipeline.generation.runware.limiter import KeyGate, Limiter, Pace
from trellis_pipeline.generation.runware.options import RunwareOptions
from trellis_pipeline.generation.runware.polling import back_off, retry_after_seconds
from trellis_pipeline.generation.runware.reply import Reply, parse_reply
from trellis_pipeline.imagery.fetch_web import unpacked

log = logging.getLogger(__name__)

MOST_WAIT_SECONDS = 300.0
"""A Retry-After above this is not waited for: the run ends and says so."""


class NotSent(Exception):
    """The call was certainly not carried out. retry_after: what the server asked for, in seconds."""

    def __init__(self, why: str, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class AnswerLost(Exception):
    """The call may have been carried out; nobody can tell from here. retry_after: as above."""

    def __init__(self, why: str, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


Watch = Callable[[Sequence[dict[str, Any]], int, bytes, float], None]
"""Told of an answer as it arrived: the tasks, the HTTP status, the body, the seconds. Bodies hold secrets."""


class Purpose(Enum):
    """What a call is for, which decides about its place in the queue and whether it may be repeated."""

    SUBMIT = "submit"
    READ = "read"
    UPLOAD = "upload"


class Transport:
    """Calls to one base_url with one key. Used from one event loop; `aclose` ends it."""

    def __init__(self, options: RunwareOptions) -> None:
        self._options = options
        self.watch: Watch | None = None  # for `probe`
        self._gate = KeyGate()
        most = options.max_concurrency
        # Polls do not wait behind submits. How long an upload or a sync task takes tells nothing of the pace.
        watched = {Purpose.READ} | ({Purpose.SUBMIT} if options.delivery == "async" else set())
        self.lanes = {
            purpose: Limiter(Pace(most, slow_factor=3.0 if purpose in watched else math.inf))
            for purpose in Purpose
        }
        self._http = make_http_client(
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=min(15.0, options.call_seconds)),
            limits=httpx.Limits(max_connections=2 * most + 8, max_keepalive_connections=most + 8),
            headers={"User-Agent": "trellis-pipeline", "Accept-Encoding": "gzip, identity"},
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def call(
        self, tasks: Sequence[dict[str, Any]], purpose: Purpose, *, seconds: float | None = None,
        attempts: int | None = None, headers: dict[str, str] | None = None, may_send: MaySend = always,
    ) -> Reply:  # fmt: skip
        """Send these tasks and read the answer, repeating where `purpose` allows it.

        seconds: for one attempt, in all. attempts: at most so many. may_send: awaited before each of them,
        after its wait for a place in the queue; what it raises goes through, and nothing was carried out.
        Returns an answer of the API, also one whose errors are addressed to tasks. Raises NotSent and
        AnswerLost, and ProviderRefusesAccess, OutOfCredit and ProviderRejected for the request as a whole.
        """
        options = self._options
        most = attempts or options.attempts
        for attempt in range(1, most + 1):
            try:
                return await self._once(
                    tasks, purpose, seconds or options.call_seconds, headers or {}, may_send
                )
            except (NotSent, AnswerLost) as error:
                may_repeat = purpose is not Purpose.SUBMIT or isinstance(error, NotSent)
                too_long = (error.retry_after or 0) > MOST_WAIT_SECONDS
                if not may_repeat or attempt == most or too_long:
                    raise
                log.info("%s: %s; trying again", tasks[0].get("taskType"), error)
                failure = error
            await self.pause(attempt, failure)
        raise AssertionError("unreachable")

    async def pause(self, attempt: int, failure: NotSent | AnswerLost | None = None) -> None:
        """Wait before attempt number `attempt` + 1, as long as the server asked for where it did."""
        options = self._options
        asked = failure.retry_after if failure is not None else None
        first, most = options.back_off_seconds, options.back_off_most_seconds
        await asyncio.sleep(back_off(attempt, first, most, asked))

    async def _once(
        self, tasks: Sequence[dict[str, Any]], purpose: Purpose, seconds: float, headers: dict[str, str],
        may_send: MaySend,
    ) -> Reply:  # fmt: skip
        async with self._gate.call(), self.lanes[purpose].slot() as slot:
            await may_send()
            reply = await self._exchange(tasks, seconds, headers)
            alone = purpose is not Purpose.READ and len(tasks) == 1
            said = about_request(reply, alone=alone)
            kinds = {kind_of(error) for error in reply.errors} | ({said[0]} if said else set())
            slot.busy = reply.status in (429, 503) or Kind.BUSY in kinds
            if said is None:
                self._gate.accepted()
                return reply
            kind, words = said
            words = clean_text(words, (self._options.api_key.reveal(),))
            if kind is Kind.ADDRESS and purpose is Purpose.READ:
                if reply.status == 404:  # which may also mean: no such task
                    raise refusal(Kind.REJECTED, words)
                kind = Kind.SERVER
            # Where the API has answered before, a stray page of a proxy is no news about the address.
            if kind is Kind.BUSY or (kind is Kind.ADDRESS and self._gate.is_proven):
                raise NotSent(words, reply.retry_after)
            if kind in (Kind.SERVER, Kind.FAILED, Kind.UNKNOWN) or reply.status >= 500:
                raise AnswerLost(words, reply.retry_after)
            error = refusal(kind, words)
            self._take_note(error)
            raise error

    def _take_note(self, error: TrellisError) -> None:
        if isinstance(error, ProviderRefusesAccess):
            self._gate.refused(error)
        else:
            self._gate.accepted()

    async def _exchange(
        self, tasks: Sequence[dict[str, Any]], seconds: float, headers: dict[str, str]
    ) -> Reply:
        """One request and its whole answer, within `seconds` from the first byte to the last."""
        options = self._options
        content = json.dumps(list(tasks), separators=(",", ":"), allow_nan=False).encode("ascii")
        began = time.monotonic()
        try:
            async with (
                asyncio.timeout(seconds),
                self._http.stream(
                    "POST",
                    options.base_url,
                    content=content,
                    headers={
                        "Authorization": f"Bearer {options.api_key.reveal()}",
                        "Content-Type": "application/json",
                        **headers,
                    },
                ) as response,
            ):
                body = await _read(response, options.max_reply_bytes)
                if self.watch is not None:
                    self.watch(tasks, response.status_code, body, time.monotonic() - began)
                retry_after = retry_after_seconds(response.headers.get("retry-after"))
                return parse_reply(response.status_code, body, retry_after)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSent(f"no connection ({type(error).__name__})") from None
        except TimeoutError:
            raise AnswerLost(f"no complete answer within {seconds:g} s") from None
        except (httpx.HTTPError, zlib.error) as error:
            # Only the class: httpx quotes URLs and header values in some of its messages.
            raise AnswerLost(f"the answer broke off ({type(error).__name__})") from None


async def _read(response: httpx.Response, most_bytes: int) -> bytes:
    """The body, unpacked, never more than `most_bytes`."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise AnswerLost("the answer comes in an encoding that was not asked for")
    body = bytearray()
    async for piece in unpacked(response, encoding, most_bytes):
        body += piece
        if len(body) > most_bytes:
            raise AnswerLost(f"the answer is larger than {most_bytes / 1e6:g} MB, unpacked")
    return bytes(body)
