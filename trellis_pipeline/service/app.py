"""The application: routes, limits and authentication around the handlers.

Everything that arrives is hostile until shown otherwise. A body is read no further than its limit, JSON must
be plain (no NaN, no half Unicode), and whatever goes wrong inside is answered with an error object and no
word about our insides.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from trellis_pipeline.errors import StorageUnavailable, TrellisError
from trellis_pipeline.generation.generator import Generator
from trellis_pipeline.service.backend import Backend
from trellis_pipeline.service.deliveries import Deliveries
from trellis_pipeline.service.fault_injection import FaultInjection
from trellis_pipeline.service.faults import FaultEngine, FaultPlan
from trellis_pipeline.service.handlers import Handlers
from trellis_pipeline.service.housekeeping import Housekeeping
from trellis_pipeline.service.inference import Caller
from trellis_pipeline.service.links import is_good
from trellis_pipeline.service.messages import Reply, error
from trellis_pipeline.service.options import ServiceOptions, account_of, is_loopback
from trellis_pipeline.service.records import Json
from trellis_pipeline.service.workers import Workers

# For a request to arrive; nobody may hold a connection by sending a byte now and then.
BODY_SECONDS = 60.0

log = logging.getLogger("trellis_pipeline.service")


class Refusal(Exception):
    """A request that gets one error and nothing else. It never leaves this module."""

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.error = error(code, message, **details)


def build_service(
    options: ServiceOptions, generator: Generator, faults: FaultPlan | None = None
) -> Starlette:
    """The service as an ASGI application. It opens its folder when the server starts it, not before.

    faults: what shall go wrong on purpose; for tests.
    """
    service = Service(options, generator, FaultEngine(faults or FaultPlan()))
    app = Starlette(
        routes=[
            Route("/v1", service.wire, methods=["POST"]),
            Route("/files/{name}", service.file, methods=["GET", "HEAD"]),
            Route("/media/{name}", service.media, methods=["GET", "HEAD"]),
            Route("/healthz", service.health, methods=["GET"]),
            Route("/metrics", service.metrics, methods=["GET"]),
        ],
        lifespan=service.lifespan,
    )
    if faults is not None and faults.faults:
        # Outside of Starlette's own layers, where the server's connection can be reached.
        app.middleware_stack = FaultInjection(app.build_middleware_stack(), service.faults)
    app.state.service = service
    return app


class Service:
    """One service: what lives from the server's start to its end."""

    def __init__(self, options: ServiceOptions, generator: Generator, faults: FaultEngine) -> None:
        self.options = options
        self.generator = generator
        self.faults = faults
        self.backend: Backend | None = None
        # `serve` wants the error itself; any other server is told that the start failed.
        self.keep_failure = False
        self.failure: TrellisError | None = None
        self._handlers: Handlers | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Open the folder and take up the queue; at the end stop at once, the next start has the rest."""
        async with contextlib.AsyncExitStack() as parts:
            try:
                await self._open(parts)
            except TrellisError as problem:
                if not self.keep_failure:
                    raise
                self.failure = problem
                await parts.aclose()
            yield

    async def _open(self, parts: contextlib.AsyncExitStack) -> None:
        backend = self.backend = Backend(self.options, self.generator, self.faults)
        parts.callback(backend.close)
        self.faults.read_file = lambda name: backend.store.result_path(name).read_bytes()
        deliveries = Deliveries(backend)
        workers = Workers(backend, deliveries.wake)
        self._handlers = Handlers(backend, workers, deliveries)
        for part in (deliveries, workers, Housekeeping(backend)):
            parts.push_async_callback(part.stop)
            await part.start()

    # -- POST /v1 --------------------------------------------------------------------------------------------

    async def wire(self, request: Request) -> Response:
        """The one endpoint of the API."""
        reply = Reply()
        try:
            await self._answer(request, reply)
        except Refusal as refusal:
            reply.refuse(refusal.error)
        except StorageUnavailable as problem:
            log.error("%s", problem)
            reply = Reply(retry_after=5)
            reply.refuse(error("serviceUnavailable", "the service cannot reach its disk; try again later"))
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            log.exception("a request failed")
            reply = Reply()
            reply.refuse(error("internalServerError", "the request failed inside the service"))
        assert self.backend is not None
        self.backend.metrics.answers.labels(str(reply.status)).inc()
        headers = {"Cache-Control": "no-store"}
        if reply.retry_after is not None:
            headers["Retry-After"] = str(reply.retry_after)
        return Response(reply.body, reply.status, headers, "application/json")

    async def _answer(self, request: Request, reply: Reply) -> None:
        self._check_host(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" or request.headers.get("content-encoding", "identity") != "identity":
            raise Refusal("unsupportedMediaType", "send application/json, not compressed")
        asked = parse_body(await self._body(request), self.options.max_tasks)
        account, rest, session = self._authenticate(request, asked)
        if session is not None:
            reply.data.append(session)
        caller = Caller(
            account=account,
            base_url=str(request.base_url).rstrip("/"),
            dry_run=request.headers.get("x-runware-dry-run", "") in {"1", "true"},
        )
        assert self._handlers is not None
        await self._handlers.answer(rest, caller, reply)

    async def _body(self, request: Request) -> bytes:
        limit = self.options.max_request_bytes
        declared = request.headers.get("content-length", "")
        body = bytearray()
        if not declared.isdecimal() or (len(declared) < 16 and int(declared) <= limit):
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    async for piece in request.stream():
                        body += piece
                        if len(body) > limit:
                            break
                    else:
                        return bytes(body)
            except TimeoutError:
                message = f"the request did not arrive within {BODY_SECONDS:g} s"
                raise Refusal("requestTimeout", message) from None
        raise Refusal(
            "requestTooLarge", f"a request may have {limit} bytes; send fewer tasks, or upload images"
        )

    def _check_host(self, request: Request) -> None:
        """A web page that has its name point to 127.0.0.1 must not reach a service without keys."""
        if self.options.is_open and not is_loopback(request.url.hostname or ""):
            raise Refusal("forbidden", "a service without API keys answers to localhost and 127.0.0.1 only")

    def _authenticate(self, request: Request, asked: list[Json]) -> tuple[str, list[Json], Json | None]:
        """(account, the other tasks, the answer to an authentication task). Raises Refusal."""
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        keys = [bearer.strip()] if scheme.lower() == "bearer" and bearer.strip() else []
        rest, session = asked, None
        if asked[0].get("taskType") == "authentication":
            rest = asked[1:]
            key = asked[0].get("apiKey")
            if not isinstance(key, str) or not key:
                raise Refusal("missingApiKey", "authentication needs an apiKey", parameter="apiKey")
            keys.append(key)
            session = {"taskType": "authentication", "connectionSessionUUID": str(uuid.uuid4())}
        if not keys:
            raise Refusal(
                "missingApiKey",
                "send the header `Authorization: Bearer <key>`, or an authentication task first",
            )
        accounts = {account_of(key, self.options) for key in keys}
        account = accounts.pop()
        if account is None or accounts:
            raise Refusal("invalidApiKey", "this API key is not known here")
        return account, rest, session

    # -- GET -------------------------------------------------------------------------------------------------

    async def file(self, request: Request) -> Response:
        """A result's GLB, for whoever has a signed link that has not expired."""
        name = request.path_params["name"]
        refused = self._refuse_link(request, name)
        if refused:
            return refused
        assert self.backend is not None
        path = self.backend.store.result_path(name.removesuffix(".glb"))
        if not path.is_file():
            return PlainTextResponse("this file is gone", 404)
        return FileResponse(path, media_type="model/gltf-binary", headers={"Cache-Control": "private"})

    async def media(self, request: Request) -> Response:
        """An uploaded picture, likewise."""
        name = request.path_params["name"]
        refused = self._refuse_link(request, f"media/{name}")
        if refused:
            return refused
        assert self.backend is not None
        found = await self.backend.read(self.backend.media.find, name)
        if found is None:
            return PlainTextResponse("this upload is gone", 404)
        path = self.backend.media.path(found[0])
        return FileResponse(path, media_type=found[1], headers={"Cache-Control": "private"})

    def _refuse_link(self, request: Request, name: str) -> Response | None:
        assert self.backend is not None
        query = request.query_params
        expires, signature = query.get("expires", ""), query.get("signature", "")
        if not is_good(self.backend.disk.secret, name, expires, signature):
            return PlainTextResponse("this link is not one of ours", 403)
        if int(expires) < time.time():
            return PlainTextResponse("this link has expired; getResponse gives a new one", 403)
        return None

    async def health(self, _request: Request) -> Response:
        """200 while the queue can be written to the disk and read."""
        assert self.backend is not None
        try:
            await self.backend.write(self.backend.disk.check)
        except StorageUnavailable as problem:
            log.error("%s", problem)
            return PlainTextResponse("the service cannot reach its disk", 503)
        return PlainTextResponse("ok")

    async def metrics(self, request: Request) -> Response:
        """Figures for Prometheus. With keys configured they are for those who have one."""
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if not self.options.is_open and (scheme.lower() != "bearer" or not account_of(bearer, self.options)):
            return PlainTextResponse("metrics need the header Authorization: Bearer <key>", 401)
        assert self.backend is not None
        return Response(self.backend.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def parse_body(body: bytes, max_tasks: int) -> list[Json]:
    """The tasks of a request. Raises Refusal for anything but a JSON array of 1 to `max_tasks` objects."""
    try:
        # Given bytes, `json` would guess an encoding and let half of a surrogate pair pass.
        data = json.loads(body.decode("utf-8-sig"), parse_constant=_no_constant)
        if b"\\u" in body:
            json.dumps(data, ensure_ascii=False).encode()  # the same half, written as an escape
    except (ValueError, RecursionError):
        raise Refusal("invalidJSON", "the body is not valid JSON") from None
    if not isinstance(data, list) or not data or not all(isinstance(task, dict) for task in data):
        raise Refusal("invalidRequest", "the body must be a JSON array of one or more task objects")
    if len(data) > max_tasks:
        raise Refusal("arrayTooLarge", f"{len(data)} tasks in one request; the limit is {max_tasks}")
    return data


def _no_constant(name: str) -> None:
    raise ValueError(name)
