"""When to look again. A schedule is a sequence of pauses, so a clock that jumps cannot disturb it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def poll_pauses(first: float = 1.0, factor: float = 1.5, most: float = 10.0) -> Iterator[float]:
    """Seconds between polls: `first`, then `factor` times the one before, never more than `most`."""
    pause = min(first, most)
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
