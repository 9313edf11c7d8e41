"""A finished model's file, fetched once and believed only after it was looked at.

Its URL comes from an answer, so it is judged: https and a host of the allow-list, or the very server we talk
to; every redirect again; addresses pinned and never a metadata service. The API key stays here. What arrives
must be the GLB that its own header says it is, since a file that breaks off often still ends politely.
"""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass

import httpx

from trellis_pipeline.errors import ModelFileError, SourceImageError
from trellis_pipeline.generation.runware.http_client import make_http_client
from trellis_pipeline.generation.runware.options import RunwareOptions
from trellis_pipeline.imagery.addresses import resolve_host
from trellis_pipeline.imagery.fetch_limits import redact_url
from trellis_pipeline.imagery.fetch_web import REDIRECTS, pinned_request, unpacked
from trellis_pipeline.mesh.glb_container import parse_glb

MOST_REDIRECTS = 5
GONE = frozenset({401, 403, 404, 410})
"""What storage answers where a link has expired. A presigned one says 403."""


class LinkDead(Exception):
    """The file is not, or no longer, behind this link. Another link may be good."""


class LinkRefused(Exception):
    """We do not follow this link. It is refused again until the options are changed."""


class TransferFailed(Exception):
    """The way was bad, the file may be good: try again. damaged: it arrived whole, and is no usable GLB."""

    def __init__(self, why: str, *, damaged: bool = False) -> None:
        super().__init__(why)
        self.damaged = damaged


@dataclass(frozen=True, slots=True)
class Judge:
    """Says of each hop whether it may be taken.

    origin: scheme, host and port of the API. Its own files are reached the way the API is.
    """

    origin: tuple[str, str, int]
    allowed_hosts: tuple[str, ...]
    allow_private: bool

    def private_allowed(self, url: httpx.URL) -> bool:
        """Whether this hop may lead to a private address. Raises LinkRefused where it may not be taken."""
        name = _name(str(url))
        host = url.host.lower().rstrip(".")
        port = url.port or (443 if url.scheme == "https" else 80)
        if (url.scheme, host, port) == self.origin:
            return True
        if url.scheme != "https" and not (url.scheme == "http" and self.allow_private):
            raise LinkRefused(f"{name}: only https:// is fetched")
        if url.userinfo:
            raise LinkRefused(f"{name}: user and password in a URL are not sent")
        if not any(_matches(host, entry.lower()) for entry in self.allowed_hosts):
            raise LinkRefused(f"the host {host!r} is not one of runware.allowed_hosts")
        return self.allow_private


def _matches(host: str, entry: str) -> bool:
    return host == entry or (entry.startswith(".") and host.endswith(entry))


class Downloads:
    """Fetches files, some at once. Requests are built without the client, so nothing of it goes along."""

    def __init__(self, options: RunwareOptions) -> None:
        self._options = options
        self._judge = Judge(options.origin, options.allowed_hosts, options.allow_private_downloads)
        self._places = asyncio.Semaphore(options.max_downloads)
        # Not the API's client: this one has no key to send.
        self._http = make_http_client()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def fetch(self, url: str) -> bytes:
        """The GLB behind `url`, checked.

        Raises LinkDead, LinkRefused or TransferFailed; no message repeats a query.
        """
        name = _name(url)
        seconds = self._options.download_seconds
        async with self._places:
            try:
                async with asyncio.timeout(seconds):
                    glb = await self._follow(url)
            except TimeoutError:
                raise TransferFailed(f"{name} did not arrive within {seconds:g} s") from None
            except SourceImageError as error:
                raise _unreachable(name, error) from None
            except (httpx.InvalidURL, ValueError):
                raise LinkRefused(f"{name} is not a valid URL") from None
            except (httpx.HTTPError, zlib.error) as error:
                raise TransferFailed(f"{name} broke off ({type(error).__name__})") from None
        check_glb(glb)
        return glb

    async def _follow(self, url: str) -> bytes:
        current = httpx.URL(url)
        for _ in range(MOST_REDIRECTS + 1):
            response = await self._send(current)
            try:
                if response.status_code not in REDIRECTS:
                    return await self._read(response, _name(str(current)))
                current = current.join(response.headers.get("location", ""))
            finally:
                await response.aclose()
        raise LinkRefused(f"{_name(url)} redirects more than {MOST_REDIRECTS} times")

    async def _send(self, url: httpx.URL) -> httpx.Response:
        private = self._judge.private_allowed(url)
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await resolve_host(url.host, port, allow_private=private)
        failure: httpx.TransportError | None = None
        for address in addresses:
            request = pinned_request(url, address, self._options.download_seconds, "model/gltf-binary, */*")
            try:
                return await self._http.send(request, stream=True, auth=None, follow_redirects=False)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        assert failure is not None  # addresses is never empty
        raise failure

    async def _read(self, response: httpx.Response, name: str) -> bytes:
        status, most = response.status_code, self._options.max_model_bytes
        if status in GONE:
            raise LinkDead(f"{name} answered HTTP {status}")
        if status != 200:
            raise TransferFailed(f"{name} answered HTTP {status}")
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise TransferFailed(f"{name} comes in an encoding that was not asked for")
        body = bytearray()
        async for piece in unpacked(response, encoding, most):
            body += piece
            if len(body) > most:
                raise TransferFailed(
                    f"{name} is larger than {most / 1e6:g} MB (runware.max_model_bytes)", damaged=True
                )
        return bytes(body)


def _name(url: str) -> str:
    """A link for a message. Also what is no URL at all may have a signature behind its question mark."""
    return redact_url(url.partition("?")[0].partition("#")[0])


def check_glb(glb: bytes) -> None:
    """Magic, declared length, chunk lengths and the size of its JSON. Raises TransferFailed (damaged)."""
    try:
        parse_glb(glb)
    except ModelFileError as error:
        raise TransferFailed(f"what arrived is no usable GLB: {error}", damaged=True) from None


def _unreachable(name: str, error: SourceImageError) -> Exception:
    """The resolver's verdict, without its advice, which is about photos."""
    text = str(error).partition(";")[0]
    if "refused" in text:
        return LinkRefused(f"{name}: {text}")
    return TransferFailed(f"{name}: {text}")
