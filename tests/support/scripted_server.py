"""A server that answers with scripted raw bytes: what no well-behaved server can be made to send.

`scripted_server(answer)` runs in a thread on loopback. `answer` gets each request and returns the raw bytes
of the response, or a list of steps: bytes to send, seconds to wait, RESET to break the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

RESET = object()
"""A step: the connection ends with a TCP reset, as when a server dies."""

Steps = bytes | Sequence[Any]


@dataclass
class Asked:
    """One request. number: counts from 0 over all requests."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    number: int

    @property
    def tasks(self) -> list[dict[str, Any]]:
        return json.loads(self.body)

    @property
    def task_type(self) -> str:
        return self.tasks[0]["taskType"] if self.body else ""


@dataclass
class ScriptedServer:
    port: int = 0
    requests: list[Asked] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    def count(self, task_type: str) -> int:
        return sum(asked.task_type == task_type for asked in self.requests)


def http(body: bytes | str | dict | list = b"", status: int = 200, **headers: str) -> bytes:
    """A whole response. Dictionaries become JSON; header names are written with underscores."""
    if isinstance(body, dict | list):
        body, headers = json.dumps(body).encode(), {"Content_Type": "application/json", **headers}
    if isinstance(body, str):
        body = body.encode()
    fields = {"Content_Length": str(len(body)), "Connection": "close", **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Scripted\r\n{lines}\r\n".encode() + body


async def _read(reader: asyncio.StreamReader, number: int) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    pairs = (line.split(": ", 1) for line in head[1:] if line)
    headers = {name.lower(): value for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, body, number)


@contextlib.contextmanager
def scripted_server(answer: Callable[[Asked], Steps]) -> Iterator[ScriptedServer]:
    server, ready = ScriptedServer(), threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.at_once += 1
        server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            asked = await _read(reader, len(server.requests))
            server.requests.append(asked)
            steps = answer(asked)
            for step in [steps] if isinstance(steps, bytes) else steps:
                if step is RESET:
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                    return
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                else:
                    await asyncio.sleep(step)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            server.at_once -= 1
            with contextlib.suppress(OSError):
                writer.close()

    async def serve() -> None:
        listening = await asyncio.start_server(handle, "127.0.0.1", 0, limit=2**24)
        server.port = listening.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        listening.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    ready.wait(120)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(120)
        loop.close()
