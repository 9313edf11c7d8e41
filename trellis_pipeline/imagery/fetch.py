"""Photo bytes from wherever the catalog says they are, within limits.

A location is a path, `file://`, `s3://` or `https://`. The first three are the user's own storage; the last
is the open network, see `fetch_web`.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from trellis_pipeline.errors import BlobMissing, SourceImageError, TrellisError
from trellis_pipeline.imagery.fetch_limits import FetchLimits, printable, redact_url, timed_out, too_large
from trellis_pipeline.imagery.fetch_web import Fetched, fetch_url

if TYPE_CHECKING:
    import httpx


async def fetch_image(
    location: str,
    limits: FetchLimits,
    *,
    client: httpx.AsyncClient | None = None,
    read_s3: Callable[[str], bytes] | None = None,
) -> bytes:
    """Bytes of the photo at `location`.

    client: reused for https if given; its headers, cookies and credentials are not sent.
    read_s3: takes an `s3://bucket/key` URL and returns the object, or of one that is larger than the limit at
    least a byte more than that; it runs in a thread.
    Raises SourceImageError with the location, redacted, and the way out. StorageUnavailable and the like
    from `read_s3` pass through: they concern more than one product.
    """
    scheme = location.partition("://")[0].lower() if "://" in location else ""
    if scheme == "s3":
        return await _fetch_s3(location, limits, read_s3)
    if scheme in ("https", "http"):
        fetched = await fetch_url(location, limits, client)
        assert fetched.data is not None  # only a question with an ETag can be answered without bytes
        return fetched.data
    if scheme == "file":
        return await asyncio.to_thread(read_file, _file_path(location), limits.max_bytes)
    if scheme or location.lower().startswith("data:"):
        raise SourceImageError(
            f"{redact_url(location)}: the scheme is not supported; use a path, file://, s3:// or https://"
        )
    return await asyncio.to_thread(read_file, Path(location), limits.max_bytes)


async def fetch_if_changed(
    location: str,
    limits: FetchLimits,
    etag: str = "",
    *,
    client: httpx.AsyncClient | None = None,
    read_s3: Callable[[str], bytes] | None = None,
) -> Fetched:
    """Like `fetch_image`, but a photo on the web that still has the given ETag is not sent again.

    etag: as it came with the bytes of this very location, or empty. Only strong ETags count, because weak
    ones may stay the same while bytes change, and only without a redirect, because an ETag belongs to the
    address that gave it (RFC 9110, sections 8.8.1 and 13.1.2).
    """
    if location.partition("://")[0].lower() in ("https", "http"):
        return await fetch_url(location, limits, client, etag)
    return Fetched(await fetch_image(location, limits, read_s3=read_s3))


def _file_path(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise SourceImageError(f"{redact_url(url)}: a file:// URL has no host; write file:///absolute/path")
    return Path(unquote(parts.path))


def read_file(path: Path, max_bytes: int) -> bytes:
    """Bytes of a photo on this machine. Raises SourceImageError, also for pipes, devices and folders."""
    name = printable(str(path))
    try:
        # Not blocking, so that a named pipe is refused below instead of waited for.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise SourceImageError(f"{name} does not exist; put it there or correct the catalog") from None
    except PermissionError:
        raise SourceImageError(f"{name} may not be read; check its permissions") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise SourceImageError(
            f"{name} cannot be opened: {getattr(error, 'strerror', None) or error}"
        ) from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise SourceImageError(f"{name} is not a regular file")
        if status.st_size > max_bytes:
            raise too_large(name, max_bytes, status.st_size)
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)  # one more: the file may be growing
    except OSError as error:
        raise SourceImageError(f"{name} cannot be read: {error.strerror}") from None
    finally:
        os.close(handle)
    if len(data) > max_bytes:
        raise too_large(name, max_bytes)
    return data


async def _fetch_s3(url: str, limits: FetchLimits, read_s3: Callable[[str], bytes] | None) -> bytes:
    name = redact_url(url)
    if read_s3 is None:
        raise SourceImageError(
            f"{name}: no S3 client is configured; install trellis-pipeline[s3] and set [s3]"
        )
    try:
        async with asyncio.timeout(limits.timeout_seconds):
            data = await asyncio.to_thread(read_s3, url)
    except TimeoutError:
        raise timed_out(name, limits) from None
    except BlobMissing:
        raise SourceImageError(f"{name} does not exist; put it there or correct the catalog") from None
    except TrellisError:
        raise
    except Exception as error:
        raise SourceImageError(f"{name} cannot be read: {type(error).__name__}") from error
    if len(data) > limits.max_bytes:
        raise too_large(name, limits.max_bytes)
    return data
