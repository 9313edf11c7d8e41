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
    first: float = 1.0, factor: float = 1.5, most: float = 10.0, expected: float | None = None
) -> Iterator[float]:
    """Seconds between polls: `first`, then `factor` times the one before, never more than `most`.

    expected: how long such tasks usually take. Then the first look comes after nine tenths of it, and the
    next a twentieth of it later.
    """
    pause = min(first, most)
    if expected is not None:
        yield 0.9 * expected
        pause = min(pause, max(0.05, 0.05 * expected))
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
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())


class Durations:
    """How long recent tasks took, by preset."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=20))

    def add(self, preset: str, seconds: float) -> None:
        """A task of this preset was found done after so long; it may have been done a little before."""
        self._recent[preset].append(seconds)

    def expected(self, preset: str) -> float | None:
        """The lower quartile of what was seen, None before the third task.

        Not the median: whoever looks too late never learns that it was too late.
        """
        seen = sorted(self._recent[preset])
        return seen[len(seen) // 4] if len(seen) >= 3 else None
