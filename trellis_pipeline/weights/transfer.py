"""Bytes over a line that may break: a download that goes on where it stopped.

What has arrived stays in the `.part` file, over broken connections, Ctrl-C and a machine that was switched
off; the next call asks for the rest. Nothing here looks at what the bytes mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import httpx

from trellis_pipeline.errors import StorageUnavailable, WeightsInvalid
from trellis_pipeline.weights.hub import Location

PAUSES_SECONDS = (1.0, 5.0, 15.0, 30.0, 60.0)
"""Waits between attempts that brought nothing. The count begins anew whenever bytes arrive."""

_TIMEOUT = httpx.Timeout(30, connect=15)
_OK, _PARTIAL, _RANGE_NOT_SATISFIABLE = 200, 206, 416


def open_client() -> httpx.Client:
    """What `transfer` needs; one for a whole fetch, because making one takes longer than a small file."""
    return httpx.Client(timeout=_TIMEOUT, follow_redirects=True)


def transfer(
    client: httpx.Client,
    locate: Callable[[], Location],
    part: Path,
    total_bytes: int,
    done: Callable[[int], None],
    pauses: Sequence[float] = PAUSES_SECONDS,
    waiting: Callable[[int], None] = lambda _have: None,
) -> None:
    """Bring `part`, which may have a beginning already, to `total_bytes`.

    locate: asked before every attempt, because addresses of a content network expire. done: is told how many
    bytes are there. waiting: is told the same before a pause.

    Raises StorageUnavailable when attempts bring nothing any more, WeightsInvalid for more bytes than there
    should be, what `locate` raises, and OSError of the disk.
    """
    waits = iter(pauses)
    while True:
        before = _length(part)
        try:
            _attempt(client, locate(), part, total_bytes, done)
            return
        except (httpx.HTTPError, httpx.InvalidURL, StorageUnavailable) as error:
            if _length(part) > before:
                waits = iter(pauses)
            wait = next(waits, None)
            if wait is None:
                if isinstance(error, StorageUnavailable):
                    raise
                raise StorageUnavailable(
                    f"the connection breaks ({type(error).__name__}); {_length(part):,} of "
                    f"{total_bytes:,} bytes are kept, run the same command again to go on"
                ) from error
        waiting(_length(part))
        time.sleep(wait)


def _attempt(
    client: httpx.Client, location: Location, part: Path, total_bytes: int, done: Callable[[int], None]
) -> None:
    have = _length(part)
    if have > total_bytes:
        part.unlink()
        have = 0
    if have == total_bytes:
        done(have)
        return
    headers = {**location.headers, **({"range": f"bytes={have}-"} if have else {})}
    with client.stream("GET", location.url, headers=headers) as answer:
        if answer.status_code == _RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
            raise StorageUnavailable(f"{answer.url.host} has no byte {have:,} of the file; it is begun anew")
        if answer.status_code not in {_OK, _PARTIAL}:
            raise StorageUnavailable(f"{answer.url.host} answers with {answer.status_code}")
        if answer.status_code == _OK:
            have = 0  # the server knows no ranges, and sends all of it
        elif not _goes_on_at(answer, have):
            raise StorageUnavailable(f"{answer.url.host} sends another part of the file than was asked for")
        with part.open("ab") as stream:
            if stream.tell() != have:
                stream.truncate(have)
            _receive(answer, stream, have, total_bytes, done)
    if _length(part) < total_bytes:
        raise StorageUnavailable(f"the answer ended after {_length(part):,} of {total_bytes:,} bytes")


def _receive(
    answer: httpx.Response, stream: IO[bytes], have: int, total_bytes: int, done: Callable[[int], None]
) -> None:
    done(have)
    # As they come off the line, and flushed: what is gathered is lost with the connection or the process.
    for block in answer.iter_bytes():
        stream.write(block)
        stream.flush()
        have += len(block)
        if have > total_bytes:
            raise WeightsInvalid(f"{answer.url.host} sends more than the {total_bytes:,} bytes of the file")
        done(have)


def _goes_on_at(answer: httpx.Response, first: int) -> bool:
    said: str = answer.headers.get("content-range", "")
    return said.startswith(f"bytes {first}-")


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
