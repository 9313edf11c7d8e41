"""Photo bytes from wherever the catalog says they are, within limits.

A location is a path, `file://`, `s3://` or `https://`. The first three are the user's own storage; the last
is the open network and is treated as hostile: pinned addresses (see `addresses`), a deadline for the whole
transfer, a size limit on what arrives and on what it unpacks to, and redirects followed by hand so that
each hop passes the same checks. Query strings are often signatures, so no message ever repeats one.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from trellis_pipeline.errors import BlobMissing, SourceImageError, TrellisError
from trellis_pipeline.imagery.addresses import resolve_host

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_STRONG_ETAG = re.compile(r'"[!#-~]{1,200}"')  # RFC 9110 §8.8.3, less what is not ASCII


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What fetching one photo may cost.

    max_bytes: of the file, also after any content encoding. timeout_seconds: for everything together,
    redirects included. allow_private_addresses: also permits plain http, for a server in your own network.
    allowed_hosts: if not empty, the only hosts to fetch from; ".example.com" means every subdomain.
    """

    max_bytes: int = 50_000_000
    timeout_seconds: float = 30.0
    max_redirects: int = 5
    allow_private_addresses: bool = False
    allowed_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fetched:
    """data: the photo's bytes; None where the server says they are still those that the given ETag names.

    etag: for the next time; empty where the location has none that vouches for every byte.
    """

    data: bytes | None
    etag: str = ""


def redact_url(url: str) -> str:
    """The location without user, password, query and fragment, fit for a message. Paths stay as they are."""
    scheme, separator, rest = url.partition(":")
    if separator and scheme.lower() == "data":
        return "data:…"
    if not rest.startswith("//"):
        return _printable(url)
    authority, slash, path = rest[2:].partition("/")
    # Cut by hand: a URL too broken to parse may still carry a secret.
    for mark in "?#":
        authority, path = authority.partition(mark)[0], path.partition(mark)[0]
    return _printable(f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in text)[:500]


async def fetch_image(
    location: str,
    limits: FetchLimits,
    *,
    client: httpx.AsyncClient | None = None,
    read_s3: Callable[[str], bytes] | None = None,
) -> bytes:
    """Bytes of the photo at `location`.

    client: reused for https if given; its headers, cookies and credentials are not sent.
    read_s3: takes an `s3://bucket/key` URL and returns the object; it runs in a thread.
    Raises SourceImageError with the location, redacted, and the way out. StorageUnavailable and the like
    from `read_s3` pass through: they concern more than one product.
    """
    scheme = location.partition("://")[0].lower() if "://" in location else ""
    if scheme == "s3":
        return await _fetch_s3(location, limits, read_s3)
    if scheme in ("https", "http"):
        fetched = await _fetch_url(location, limits, client)
        assert fetched.data is not None  # only a question with an ETag can be answered without bytes
        return fetched.data
    if scheme == "file":
        return await asyncio.to_thread(_read_file, _file_path(location), limits.max_bytes)
    if scheme or location.lower().startswith("data:"):
        raise SourceImageError(
            f"{redact_url(location)}: the scheme is not supported; use a path, file://, s3:// or https://"
        )
    return await asyncio.to_thread(_read_file, Path(location), limits.max_bytes)


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
        return await _fetch_url(location, limits, client, etag)
    return Fetched(await fetch_image(location, limits, read_s3=read_s3))


def _too_large(what: str, limit: int, size: int | None = None) -> SourceImageError:
    said = f"is {size / 1e6:.1f} MB" if size else "is too large"
    return SourceImageError(f"{what} {said}; the limit is {limit / 1e6:g} MB (imagery.max_bytes)")


def _file_path(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise SourceImageError(f"{redact_url(url)}: a file:// URL has no host; write file:///absolute/path")
    return Path(unquote(parts.path))


def _read_file(path: Path, max_bytes: int) -> bytes:
    name = _printable(str(path))
    try:
        # Not blocking, so that a named pipe is refused below instead of waited for.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise SourceImageError(
            f"{name} does not exist; it was moved or deleted after it was listed"
        ) from None
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
            raise _too_large(name, max_bytes, status.st_size)
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)  # one more: the file may be growing
    except OSError as error:
        raise SourceImageError(f"{name} cannot be read: {error.strerror}") from None
    finally:
        os.close(handle)
    if len(data) > max_bytes:
        raise _too_large(name, max_bytes)
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
        raise _timed_out(name, limits) from None
    except BlobMissing:
        raise SourceImageError(
            f"{name} does not exist; it was moved or deleted after it was listed"
        ) from None
    except TrellisError:
        raise
    except Exception as error:
        raise SourceImageError(f"{name} cannot be read: {type(error).__name__}") from error
    if len(data) > limits.max_bytes:
        raise _too_large(name, limits.max_bytes, len(data))
    return data


def _timed_out(name: str, limits: FetchLimits) -> SourceImageError:
    return SourceImageError(
        f"{name} did not arrive within {limits.timeout_seconds:g} s (imagery.timeout_seconds)"
    )


async def _fetch_url(
    url: str, limits: FetchLimits, client: httpx.AsyncClient | None, etag: str = ""
) -> Fetched:
    name = redact_url(url)
    try:
        async with asyncio.timeout(limits.timeout_seconds):
            if client is not None:
                return await _follow(url, limits, client, etag)
            # No environment: a proxy would resolve names itself, and ~/.netrc holds passwords.
            async with httpx.AsyncClient(trust_env=False) as own:
                return await _follow(url, limits, own, etag)
    except (TimeoutError, httpx.TimeoutException):
        raise _timed_out(name, limits) from None
    except httpx.HTTPError as error:
        # Only the class: httpx quotes URLs and header values in some of its messages.
        raise SourceImageError(f"{name} cannot be fetched: {type(error).__name__}") from None


async def _follow(url: str, limits: FetchLimits, client: httpx.AsyncClient, etag: str) -> Fetched:
    """Fetch `url`, checking every hop as if it were the first; only that one is asked about the ETag."""
    current = _parse(url, url)
    for hop in range(limits.max_redirects + 1):
        response = await _send(current, limits, client, etag if hop == 0 else "")
        try:
            if response.status_code == 304 and etag and hop == 0:
                return Fetched(None, etag)
            if response.status_code not in REDIRECTS:
                data = await _read_body(response, current, limits)
                return Fetched(data, _strong_etag(response) if hop == 0 else "")
            target = response.headers.get("location", "")
        finally:
            await response.aclose()
        try:
            current = current.join(target)
        except (httpx.InvalidURL, ValueError):
            raise SourceImageError(
                f"{redact_url(str(current))} redirects to something that is no URL"
            ) from None
    raise SourceImageError(f"{redact_url(url)} redirects more than {limits.max_redirects} times")


def _strong_etag(response: httpx.Response) -> str:
    etag: str = response.headers.get("etag", "")
    return etag if _STRONG_ETAG.fullmatch(etag) else ""


def _parse(url: str, named: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise SourceImageError(f"{redact_url(named)} is not a valid URL") from None


async def _send(url: httpx.URL, limits: FetchLimits, client: httpx.AsyncClient, etag: str) -> httpx.Response:
    """Start one request to a judged address of the URL's host. The caller closes the response."""
    name = redact_url(str(url))
    if url.scheme != "https" and not (url.scheme == "http" and limits.allow_private_addresses):
        raise SourceImageError(
            f"{name}: only https:// is fetched; plain http needs imagery.allow_private_addresses"
        )
    if url.userinfo:
        raise SourceImageError(f"{name}: user and password in a URL are not sent; use a signed URL instead")
    if not url.host:
        raise SourceImageError(f"{name} names no host")
    if limits.allowed_hosts and not _allowed(url.host, limits.allowed_hosts):
        raise SourceImageError(f"{name}: the host is not one of imagery.allowed_hosts")
    port = url.port or (443 if url.scheme == "https" else 80)
    addresses = await resolve_host(url.host, port, allow_private=limits.allow_private_addresses)
    failure: httpx.TransportError | None = None
    for address in addresses:
        request = pinned_request(url, address, limits.timeout_seconds)
        if etag:
            request.headers["If-None-Match"] = etag
        try:
            return await client.send(request, stream=True, auth=None, follow_redirects=False)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failure = error
    assert failure is not None  # addresses is never empty
    raise failure


def _allowed(host: str, allowed: tuple[str, ...]) -> bool:
    host = host.lower().rstrip(".")
    return any(
        host == entry.lower() or (entry[:1] == "." and host.endswith(entry.lower())) for entry in allowed
    )


def pinned_request(
    url: httpx.URL,
    address: str,
    timeout_seconds: float,
    accept: str = "image/png, image/jpeg, image/webp",
) -> httpx.Request:
    """A GET that connects to `address` while TLS and the server still see the host's name.

    The request is built without the client, so none of its default headers or cookies go along. The
    connection is closed afterwards: a pool knows it by address only, and two hosts may share one.
    """
    timeout = httpx.Timeout(timeout_seconds).as_dict()
    return httpx.Request(
        "GET",
        url.copy_with(host=address),
        headers={
            "Host": url.netloc.decode("ascii"),
            "User-Agent": "trellis-pipeline",
            "Accept": accept,
            "Accept-Encoding": "identity",
            "Connection": "close",
        },
        extensions={"timeout": timeout, "sni_hostname": url.raw_host.decode("ascii")},
    )


async def _read_body(response: httpx.Response, url: httpx.URL, limits: FetchLimits) -> bytes:
    name = redact_url(str(url))
    if response.status_code != 200:
        raise SourceImageError(f"{name} answered HTTP {response.status_code}")
    declared = response.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_bytes:
        raise _too_large(name, limits.max_bytes, int(declared))
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise SourceImageError(f"{name} is sent with the content encoding {_printable(encoding)[:40]!r}")
    body = bytearray()
    try:
        async for piece in unpacked(response, encoding, limits.max_bytes):
            body += piece
            if len(body) > limits.max_bytes:
                raise _too_large(name, limits.max_bytes)
    except zlib.error:
        raise SourceImageError(f"{name} arrived as damaged {encoding} data") from None
    return bytes(body)


async def unpacked(response: httpx.Response, encoding: str, max_bytes: int) -> AsyncIterator[bytes]:
    """Pieces of the body, decompressed if need be, never more than `max_bytes` + 1 in one piece.

    httpx's own decoder unpacks each network chunk whole, which for a bomb is a thousand times its size.
    """
    if encoding in ("", "identity"):
        async for chunk in response.aiter_raw():
            yield chunk
        return
    # 32 makes zlib recognise gzip and zlib headers by itself.
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
    async for chunk in response.aiter_raw():
        pending = chunk
        while pending:
            yield unpacker.decompress(pending, max_bytes + 1)
            pending = unpacker.unconsumed_tail
    yield unpacker.flush()
