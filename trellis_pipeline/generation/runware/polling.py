"""When to look again. A schedule is a sequence of pauses, so a clock that jumps cannot disturb it.

Generations of one preset take about equally long. Once some have been seen, a task is first looked at shortly
before it is due and then often, which finds it sooner and asks less than any schedule that knows nothing.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def poll_pauses(
    first: float = 1.0,
    factor: float = 1.5,
    most: float = 10.0,
    expected: tuple[float, float] | None = None,
) -> Iterator[float]:
    """Seconds between polls: `first`, then `factor` times the one before, never more than `most`.

    expected: after how long such tasks are usually not yet done, and after how long they are. The first look
    then comes at the one, and the next follow by a fortieth of the other until that has passed.
    """
    pause = min(first, most)
    if expected is not None:
        not_before, usual = expected
        yield not_before
        pause = min(most, max(0.05, 0.025 * usual))
        for _ in range(int((usual - not_before) / pause) + 1):
            yield pause
    while True:
        yield pause
        pause = min(pause * factor, most)


def back_off(attempt: int, first: float, most: float, retry_after: float | None = None) -> float:
    """Seconds before attempt number `attempt` + 1; attempts count from 1.

    Full jitter: anything from 0 to first * 2^(attempt - 1), at most `most`, so that clients which failed
    together do not come back together. Where the server said how long to wait, that and up to a second more.
    Method: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    if retry_after is not None:
        return retry_after + random.uniform(0, min(1.0, retry_after))  # noqa: S311 - jitter is no secret
    return random.uniform(0, min(most, first * 2 ** min(attempt - 1, 30)))  # noqa: S311


def retry_after_seconds(header: str | None, now: datetime | None = None) -> float | None:
    """What a Retry-After header asks for: seconds or an HTTP date (RFC 9110 §10.2.3). None if it is neither.

    now: for dates, which are the server's clock; ours if not given. Never negative.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the second for a time zone that is hundreds of years away
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())


class Durations:
    """How long recent tasks took, by preset."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=20))

    def add(self, preset: str, unfinished_after: float | None, done_after: float) -> None:
        """A task of this preset was found done after so many seconds, and not yet done at the look before.

        unfinished_after: None where the first look found it done. It may have been done long before, so the
        next task is looked at a quarter sooner.
        """
        seen = 0.75 * done_after if unfinished_after is None else unfinished_after
        self._recent[preset].append((seen, done_after))

    def expected(self, preset: str) -> tuple[float, float] | None:
        """Seconds after which a task is not yet done, and after which it is; None before the third task.

        The lower quartiles, so that the quick ones are not found late.
        """
        recent = self._recent[preset]
        if len(recent) < 3:
            return None
        quartile = len(recent) // 4
        return sorted(seen for seen, _ in recent)[quartile], sorted(done for _, done in recent)[quartile]
