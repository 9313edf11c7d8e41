"""Photos from the open network, which is treated as hostile.

Pinned addresses (see `addresses`), a deadline for the whole transfer, a size limit on what arrives and on
what it unpacks to, and redirects followed by hand so that each hop passes the same checks.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx

from trellis_pipeline.errors import SourceImageError
from trellis_pipeline.imagery.addresses import resolve_host
from trellis_pipeline.imagery.fetch_limits import FetchLimits, printable, redact_url, timed_out, too_large

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_STRONG_ETAG = re.compile(r'"[!#-~]{1,200}"')  # RFC 9110 §8.8.3, less what is not ASCII


@dataclass(frozen=True, slots=True)
class Fetched:
    """data: the photo's bytes; None where the server says they are still those that the given ETag names.

    etag: for the next time; empty where the location has none that vouches for every byte.
    """

    data: bytes | None
    etag: str = ""


async def fetch_url(
    url: str, limits: FetchLimits, client: httpx.AsyncClient | None, etag: str = ""
) -> Fetched:
    """The photo at an http or https URL, or the word that it still has this ETag.

    client: reused if given; its headers, cookies and credentials are not sent. Raises SourceImageError.
    """
    name = redact_url(url)
    try:
        async with asyncio.timeout(limits.timeout_seconds):
            if client is not None:
                return await _follow(url, limits, client, etag)
            # No environment: a proxy would resolve names itself, and ~/.netrc holds passwords.
            async with httpx.AsyncClient(trust_env=False) as own:
                return await _follow(url, limits, own, etag)
    except (TimeoutError, httpx.TimeoutException):
        raise timed_out(name, limits) from None
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
        raise too_large(name, limits.max_bytes, int(declared))
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise SourceImageError(f"{name} is sent with the content encoding {printable(encoding)[:40]!r}")
    body = bytearray()
    try:
        async for piece in unpacked(response, encoding, limits.max_bytes):
            body += piece
            if len(body) > limits.max_bytes:
                raise too_large(name, limits.max_bytes)
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
