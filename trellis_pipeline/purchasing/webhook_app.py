"""The endpoint that the provider calls when a task has news: a small ASGI application.

It stands in the open, so it does as little as it can. The body is read to a limit, looked at for a hint and
dropped; no address in it is ever fetched. Answers say nothing about which tasks exist: a wrong token and an
unknown task look alike. The provider repeats every call that is not answered with 2xx in about five seconds,
so a used token is answered with 200, which ends the repeating, and a database that is away with 503, which
asks for more of it. Query strings hold the tokens: the server's own access log is off, and the line written
here instead has only the task and the outcome.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from typing import TypeVar

import uvicorn
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.schema import intents
from trellis_pipeline.errors import ConfigError, TrellisError
from trellis_pipeline.purchasing.webhooks import CALLBACK_PATH, claims_news, note_callback

MAX_BODY_BYTES = 64 * 1024
# Both together stay below the five seconds after which the provider takes the call for lost.
BODY_SECONDS = 2.0
DATABASE_SECONDS = 2.5
MAX_CONNECTIONS = 200

_SAFE = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

log = logging.getLogger(__name__)
T = TypeVar("T")


class _Refused(Exception):
    """Carries an answer from where it is decided to where it is given; never leaves this module."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


def build_webhook_app(ledger: Ledger) -> Starlette:
    """The application over an open ledger, which the caller closes afterwards.

    POST `/runware/<task uuid>?token=...` answers 200 (noted, or nothing new), 404 (unknown task or wrong
    token), 400, 408 or 413 (a body that is no callback; the same whoever sends it) or 503 (no database).
    A body is what parses as JSON, whatever its content type.
    GET `/healthz` answers 200, or 503 where the database cannot be read.
    """

    async def callback(request: Request) -> Response:
        task_uuid = request.path_params["task_uuid"]
        tokens = request.query_params.getlist("token")
        try:
            news = claims_news(await _json_body(request), task_uuid)
            if news is None:
                raise _Refused(400, "the body is no callback")
            token = tokens[0] if len(tokens) == 1 else ""
            noted = await _in_time(lambda: note_callback(ledger, task_uuid, token, news=news))
        except _Refused as refused:
            log.warning("callback refused: %s", refused.why)
            return _answer(refused.status, refused.why)
        if noted == "unknown":
            # The task is not named: whoever knocks here could write anything into the log.
            log.warning("callback refused: unknown task or wrong token")
            return _answer(404, "not found")
        log.info("callback for task %s: %s", task_uuid.lower(), noted)
        return _answer(200, "noted")

    async def healthz(_request: Request) -> Response:
        def look() -> None:
            with ledger.reading() as connection:
                connection.execute(select(intents.c.task_uuid).limit(1))

        try:
            await _in_time(look)
        except _Refused as refused:
            return _answer(refused.status, refused.why)
        return _answer(200, "ok")

    app = Starlette(
        routes=[
            Route(f"{CALLBACK_PATH}/{{task_uuid}}", callback, methods=["POST"]),
            Route("/healthz", healthz, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _no_such_thing},
    )
    # A redirect to the path with or without its slash would repeat the query string, and so the token.
    app.router.redirect_slashes = False
    return app


def webhook_server(app: Starlette) -> uvicorn.Server:
    """The server as it should run: no access log, no software names, bounded headers and connections."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",  # bounds the size of what it buffers for the request line and headers
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=10,
        )
    )


def serve_webhooks(
    ledger_url: str,
    host: str = "127.0.0.1",
    port: int = 8790,
    *,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM. ledger_url: see `Ledger.open`.

    ready: called with the address, for example `http://127.0.0.1:8790`, once calls can arrive; port 0 takes
    a free one. TLS is the proxy's affair that stands in front.

    Raises ConfigError where the address is taken or the ledger's URL cannot work, StorageUnavailable where
    the database is not there at the start.
    """
    with Ledger.open(ledger_url) as ledger, _listen(host, port) as listener:
        if ready:
            bound = listener.getsockname()[1]
            ready(f"http://[{host}]:{bound}" if ":" in host else f"http://{host}:{bound}")
        webhook_server(build_webhook_app(ledger)).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen on {host} port {port}: {why}; choose another") from None


async def _json_body(request: Request) -> object:
    """The body as parsed JSON, never more of it in memory than the limit and one network chunk."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise _Refused(413, "the body is too large")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise _Refused(413, "the body is too large")
    except TimeoutError:
        raise _Refused(408, "the body took too long") from None
    except ClientDisconnect:
        raise _Refused(400, "the body was cut short") from None
    # Whatever the content type says: nobody promised which one it is, and it proves nothing.
    try:
        parsed: object = json.loads(bytes(body))
    except (ValueError, RecursionError):
        raise _Refused(400, "the body is not JSON") from None
    return parsed


async def _in_time(work: Callable[[], T]) -> T:
    """Do database work in a thread, for as long as the provider waits. Work that comes late does no harm."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(work), DATABASE_SECONDS)
    except TimeoutError:
        raise _Refused(503, "the database is busy; try again") from None
    except TrellisError as error:
        log.error("%s", error)
        raise _Refused(503, "the database is away; try again") from None


async def _no_such_thing(_request: Request, error: Exception) -> Response:
    """No such path, or not with this method."""
    assert isinstance(error, HTTPException)
    answer = _answer(error.status_code, "not found" if error.status_code == 404 else "not allowed")
    answer.headers.update(error.headers or {})
    return answer


def _answer(status: int, what: str) -> Response:
    headers = dict(_SAFE)
    if status in (408, 413):
        # Otherwise the server would go on to read, and drop, the rest of a body that nobody wants.
        headers["Connection"] = "close"
    if status == 503:
        headers["Retry-After"] = "1"
    return JSONResponse({"status" if status == 200 else "error": what}, status, headers)
