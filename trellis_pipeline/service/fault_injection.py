"""The faults of the wire: a layer around the application misbehaves, so that the service itself need not.

Requests go through to the application or are stopped; its answers are passed on, changed, cut or dropped. To
reset a connection the layer reaches for the server's transport, which it finds behind uvicorn's `send`.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trellis_pipeline.generation.wire import INFERENCE
from trellis_pipeline.service.fault_answers import METADATA_URL, Answer, glb_bomb, gzip_bomb
from trellis_pipeline.service.fault_replies import rewrite
from trellis_pipeline.service.faults import ON_SUBMIT, Fault, FaultEngine


@dataclass(slots=True)
class _Asked:
    """What a request to /v1 is about, as far as it can be told."""

    on: str = "other"
    task_uuids: list[str] = field(default_factory=lambda: [""])


class FaultInjection:
    """ASGI middleware; it has to be the outermost."""

    def __init__(self, app: ASGIApp, engine: FaultEngine) -> None:
        self._app = app
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and scope["path"] == "/v1":
            await self._wire(scope, receive, send)
        elif scope["type"] == "http" and scope["path"].startswith("/files/"):
            await self._file(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    # -- POST /v1 --------------------------------------------------------------------------------------------

    async def _wire(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        asked = _understand(body)
        if asked.on == "submit":
            for task_uuid in asked.task_uuids:
                self._engine.begin("hidden", task_uuid)
        instead, fault = self._instead(asked)
        if instead is not None and fault is not None and not fault.accepted:
            await _send(send, instead)
            return
        answer = await _call(self._app, scope, body, receive)
        if instead is not None:
            await _send(send, instead)
            return
        if self._strike("ack_lost", asked):
            _reset(send)
            return
        answer.body = self._rewritten(answer, asked)
        await self._transport(send, answer, asked)

    def _strike(self, name: str, asked: _Asked) -> Fault | None:
        if name in ON_SUBMIT and asked.on != "submit":
            return None
        return self._engine.strike(name, asked.task_uuids, asked.on)

    def _instead(self, asked: _Asked) -> tuple[Answer | None, Fault | None]:
        """Another answer than the application's, if there shall be one."""
        for name in (
            "wrong_key",
            "out_of_credit",
            "rate_limited",
            "server_error",
            "html_error",
            "html_200",
        ):
            fault = self._strike(name, asked)
            if fault is None:
                continue
            if name == "wrong_key":
                return Answer.json(401, "invalidApiKey", "this API key is not known here"), fault
            if name == "out_of_credit":
                status = int(fault.value or 402)
                return Answer.json(status, "insufficientCredits", "the account has no credit left"), fault
            if name == "rate_limited":
                wait = {"retry_after": fault.value} if fault.value else {}
                return Answer.json(429, "rateLimitExceeded", "too many requests", **wait), fault
            if name == "server_error":
                status = int(fault.value or 503)
                code = "internalServerError" if status == 500 else "serviceUnavailable"
                return Answer.json(status, code, "come back later"), fault
            return Answer.html(200 if name == "html_200" else int(fault.value or 502)), fault
        return None, None

    def _rewritten(self, answer: Answer, asked: _Asked) -> bytes:
        """The answer's body with the faults of its contents."""
        try:
            envelope = json.loads(answer.body)
        except ValueError:
            return answer.body
        if asked.on == "poll":
            answer.status = rewrite(envelope, self._engine, answer.status)
        return encode_loosely(envelope)

    async def _transport(self, send: Send, answer: Answer, asked: _Asked) -> None:
        """Pass the answer on, with the faults of its way."""
        body = answer.body
        slow = self._strike("slow_body", asked)
        if self._strike("reset", asked):
            await _send(send, answer, body[: len(body) // 2])
            _reset(send)
        elif self._strike("truncated_json", asked):
            answer.body = body[: len(body) // 2]
            await _send(send, answer)
        elif self._strike("gzip_bomb", asked):
            answer.headers.append((b"content-encoding", b"gzip"))
            answer.body = gzip_bomb()
            await _send(send, answer)
        elif slow:
            await _drip(send, answer, slow.seconds)
        else:
            await _send(send, answer)

    # -- GET /files ------------------------------------------------------------------------------------------

    async def _file(self, scope: Scope, receive: Receive, send: Send) -> None:
        uuids = [scope["path"].rpartition("/")[2].removesuffix(".glb")]
        gone = self._engine.strike("file_gone", uuids)
        if gone:
            await _send(send, Answer(int(gone.value or 404), [(b"content-type", b"text/plain")], b"gone"))
            return
        if self._engine.strike("redirect_to_metadata", uuids):
            await _send(send, Answer(302, [(b"location", METADATA_URL)]))
            return
        answer = await _call(self._app, scope, b"", receive)
        body = answer.body
        cut = self._engine.strike("truncated_file", uuids)
        slow = self._engine.strike("slow_file", uuids)
        if self._engine.strike("glb_bomb", uuids):
            answer.body = glb_bomb()
            await _send(send, answer)
        elif cut and cut.value == "wrong_length":
            await _send(send, answer, body[: len(body) // 2])
            _close(send)
        elif cut:
            answer.body = body[: len(body) // 2]
            await _send(send, answer)
        elif self._engine.strike("file_reset", uuids):
            await _send(send, answer, body[: len(body) // 2])
            _reset(send)
        elif slow:
            await _drip(send, answer, slow.seconds)
        else:
            await _send(send, answer)


def _understand(body: bytes) -> _Asked:
    try:
        tasks = [task for task in json.loads(body) if isinstance(task, dict)]
    except (ValueError, TypeError, RecursionError):
        return _Asked()
    types = {task.get("taskType") for task in tasks if isinstance(task.get("taskType"), str)}
    uuids = [task["taskUUID"] for task in tasks if isinstance(task.get("taskUUID"), str)]
    on = "submit" if INFERENCE in types else "poll" if "getResponse" in types else "other"
    return _Asked(on, uuids or [""])


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return bytes(body)


async def _call(app: ASGIApp, scope: Scope, body: bytes, receive: Receive) -> Answer:
    """The application's answer, kept back."""
    given = False
    answer = Answer(500, [])

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def keep(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = [
                pair for pair in message.get("headers", []) if pair[0].lower() != b"content-length"
            ]
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"")

    await app(scope, replay, keep)
    return answer


async def _send(send: Send, answer: Answer, part: bytes | None = None) -> None:
    """Send an answer; with `part`, only that of the body, though the length is the whole one's."""
    length = (b"content-length", str(len(answer.body)).encode())
    await send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, length]})
    body = answer.body if part is None else part
    await send({"type": "http.response.body", "body": body, "more_body": part is not None})


async def _drip(send: Send, answer: Answer, seconds: float) -> None:
    """Send an answer a few bytes at a time, spread over `seconds`."""
    length = (b"content-length", str(len(answer.body)).encode())
    await send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, length]})
    async for piece in _slowly(answer.body, seconds):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _slowly(body: bytes, seconds: float) -> AsyncIterator[bytes]:
    import asyncio

    step = max(1, int(len(body) * 0.05 / max(seconds, 0.05)))
    end = time.monotonic() + seconds
    for start in range(0, len(body), step):
        yield body[start : start + step]
        if time.monotonic() < end:
            await asyncio.sleep(0.05)


def _transport_of(send: Send) -> Any:
    """uvicorn's transport: `send` is a method of its request cycle."""
    return getattr(getattr(send, "__self__", None), "transport", None)


def _reset(send: Send) -> None:
    """Cut the connection so that the client sees a reset."""
    transport = _transport_of(send)
    if transport is None:
        raise ConnectionResetError("a fault of the plan")
    link = transport.get_extra_info("socket")
    if link is not None:
        # Lingering for no time makes the kernel send RST instead of FIN.
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _close(send: Send) -> None:
    """End the connection in good manners, but too early."""
    transport = _transport_of(send)
    if transport is None:
        raise ConnectionResetError("a fault of the plan")
    transport.close()


def encode_loosely(envelope: Any) -> bytes:
    """JSON that may hold NaN, as some servers send it."""
    return json.dumps(envelope, separators=(",", ":")).encode()
