"""Requests that the service makes on a client's word: webhook calls and uploads.

The client names the URL, so it is treated like a catalog's: the host is resolved once, every address judged,
and the connection goes to a judged address. Redirects are not followed, and the answer's body is not read.
URLs carry tokens and signatures, so no message repeats more than the redacted one.
"""

from __future__ import annotations

import asyncio

import httpx

from trellis_pipeline.errors import ProviderBusy, SourceImageError
from trellis_pipeline.imagery.addresses import resolve_host
from trellis_pipeline.imagery.fetch_limits import redact_url


async def send(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    body: bytes,
    content_type: str,
    *,
    allow_private: bool,
    timeout_seconds: float,
) -> None:
    """Send once. Raises ProviderBusy, with the reason, for everything but an answer of 2xx.

    timeout_seconds: for all of it, so that nobody holds a connection by answering a byte now and then.
    """
    name = redact_url(url)
    try:
        async with asyncio.timeout(timeout_seconds):
            answer = await _answer(client, method, url, body, content_type, allow_private)
            await answer.aclose()
    # The client chose the address, and may have chosen it to break something.
    except Exception as error:  # noqa: BLE001
        said = str(error) if isinstance(error, SourceImageError) else type(error).__name__
        raise ProviderBusy(f"{name} could not be reached: {said}") from None
    if not answer.is_success:
        raise ProviderBusy(f"{name} answered HTTP {answer.status_code}")


async def _answer(
    client: httpx.AsyncClient, method: str, url: str, body: bytes, content_type: str, allow_private: bool
) -> httpx.Response:
    target = httpx.URL(url)
    if target.scheme != "https" and not (target.scheme == "http" and allow_private):
        raise SourceImageError("only https:// is called; plain http needs allow_private_addresses")
    port = target.port or (443 if target.scheme == "https" else 80)
    addresses = await resolve_host(target.host, port, allow_private=allow_private)
    headers = {
        "Host": target.netloc.decode("ascii"),
        "User-Agent": "trellis-pipeline",
        "Content-Type": content_type,
        "Connection": "close",
    }
    extensions = {"sni_hostname": target.raw_host.decode("ascii")}
    for number, address in enumerate(addresses, start=1):
        judged = target.copy_with(host=address, userinfo=b"")
        request = httpx.Request(method, judged, headers=headers, content=body, extensions=extensions)
        try:
            answer = await client.send(request, stream=True, auth=None, follow_redirects=False)
            break
        except httpx.ConnectError:
            if number == len(addresses):
                raise
    return answer
