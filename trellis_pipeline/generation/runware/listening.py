"""What a server really answers, kept as shapes: which keys, of which type, after how many seconds.

Answers hold links that are permissions, and text that may repeat what was sent. So only what cannot be
secret leaves this module: names of keys, types, numbers that were looked for, hosts, error codes.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from trellis_pipeline.generation.runware.download import Judge, LinkRefused
from trellis_pipeline.generation.runware.failures import clean_text
from trellis_pipeline.generation.runware.options import RunwareOptions
from trellis_pipeline.generation.runware.reply import Item, Reply, WireNumber, parse_reply, text_of
from trellis_pipeline.generation.runware.results import files_of
from trellis_pipeline.generation.wire import INFERENCE

_TOLD = frozenset({"status", "taskType", "operation", "code", "type", "currency", "deliveryMethod"})
"""Members whose text is a word of the API and is shown."""

_LIFETIMES = frozenset({"expires", "exp", "se", "ttl", "x-amz-expires", "x-goog-expires"})
"""Query parameters in which storage services say how long a link is good."""

_KINDS: tuple[tuple[type, str], ...] = (
    (type(None), "null"),
    (bool, "boolean"),  # before int, which it is a kind of
    (int, "integer"),
    (Decimal, "number"),
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_MOST_KEYS = 40
_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer. step: what it was asked for. at: monotonic seconds of its arrival. seconds: it took."""

    step: str
    task_types: tuple[str, ...]
    task_uuids: tuple[str, ...]
    status: int
    seconds: float
    at: float
    reply: Reply = field(repr=False)
    data: Any = field(repr=False)

    def errors(self) -> list[dict[str, Any]]:
        """The errors it states, without their messages, which may repeat anything."""
        return [
            {
                "code": clean_text(error.code, most=80),
                "about_task": bool(error.task_uuid),
                "parameters": [clean_text(name, most=80) for name in error.parameters],
                "allowed_values": len(error.allowed),
            }
            for error in self.reply.errors
        ]

    def facts(self) -> dict[str, Any]:
        """What may be shown of it."""
        return {
            "http_status": self.status,
            "seconds": round(self.seconds, 3),
            "shape": shape_of(self.data) if self.reply.readable else "not the API's JSON",
            "errors": self.errors(),
        }


@dataclass
class Listener:
    """Give its `hear` to `Transport.watch`. step: what answers are put down to from now on."""

    step: str = ""
    heard: list[Heard] = field(default_factory=list)

    def hear(self, tasks: Sequence[Mapping[str, Any]], status: int, body: bytes, seconds: float) -> None:
        """Keep one answer."""
        try:
            data = json.loads(body, parse_float=WireNumber, parse_constant=WireNumber)
        except (ValueError, RecursionError):
            data = None
        self.heard.append(
            Heard(
                self.step,
                tuple(str(task.get("taskType")) for task in tasks),
                tuple(str(task.get("taskUUID", "")) for task in tasks),
                status,
                seconds,
                time.monotonic(),
                parse_reply(status, body),
                data,
            )
        )

    def of(self, step: str, task_type: str) -> list[Heard]:
        """What was answered to tasks of one type in one step, oldest first."""
        return [one for one in self.heard if one.step == step and task_type in one.task_types]


def shape_of(data: Any, key: str = "", depth: int = 0) -> Any:
    """JSON data with every value replaced by its type, lists by the shapes that occur in them.

    Words of the API (`status`, `code`, `taskType`) stay; text that is a UUID or a URL is named so.
    """
    if depth > _DEEPEST:
        return "…"
    if isinstance(data, dict):
        named = list(data.items())[:_MOST_KEYS]
        return {
            clean_text(str(name), most=60): shape_of(value, str(name), depth + 1) for name, value in named
        }
    if isinstance(data, list):
        shapes: list[Any] = []
        for entry in data[:200]:
            shape = shape_of(entry, key, depth + 1)
            if shape not in shapes:
                shapes.append(shape)
        return shapes
    return _kind(data, key)


def _kind(value: Any, key: str) -> str:
    for kinds, name in _KINDS:
        if isinstance(value, kinds):
            return name
    text = str(value)
    if _UUID.fullmatch(text):
        return "uuid"
    if "://" in text or text.startswith("data:"):
        return "url"
    return f"text {clean_text(text, most=60)!r}" if key in _TOLD else "text"


def course_of(listener: Listener, step: str, task_uuid: str, options: RunwareOptions) -> dict[str, Any]:
    """How one task went, from its hand-in to its result, as far as it was heard in this step."""
    hand_ins = listener.of(step, INFERENCE)
    polls = [one for one in listener.of(step, "getResponse") if task_uuid in one.task_uuids]
    facts: dict[str, Any] = {
        "handed_in": len(hand_ins),
        "ack": hand_ins[-1].facts() if hand_ins else None,
        "polls": len(polls),
        "polls_before_it_was_visible": None,
        "seconds_from_ack_to_visible": None,
        "seconds_from_ack_to_result": None,
        "progress": [],
        "statuses": [],
    }
    began = hand_ins[-1].at if hand_ins else None
    progress: list[Any] = facts["progress"]
    result: Item | None = None
    for number, poll in enumerate(polls):
        items = poll.reply.of(task_uuid).items
        since = None if began is None else round(poll.at - began, 3)
        if items and facts["polls_before_it_was_visible"] is None:
            facts["polls_before_it_was_visible"] = number
            facts["seconds_from_ack_to_visible"] = since
        for item in items:
            word = clean_text(text_of(item, "status"), most=40)
            facts["statuses"] += [] if word in facts["statuses"] else [word]
            share = item.get("progress")
            if isinstance(share, int | Decimal) and not isinstance(share, bool):
                progress += [] if progress and progress[-1] == str(share) else [str(share)[:20]]
            if files_of(item, Decimal(0)) and result is None:
                result = item
                facts["seconds_from_ack_to_result"] = since
    if result is None and hand_ins:  # sync delivery, or a task that was done before it was asked for
        done = [item for item in hand_ins[-1].reply.of(task_uuid).items if files_of(item, Decimal(0))]
        result = done[0] if done else None
    return facts | {"result": None if result is None else result_facts(result, options)}


def result_facts(item: Item, options: RunwareOptions) -> dict[str, Any]:
    """One finished item: which of the two documented shapes it has, its price, where its file is."""
    found = files_of(item, Decimal(0))
    listed = isinstance(item.get("outputs"), dict) and bool(item["outputs"].get("files"))
    kinds = [("outputs.files", listed), ("modelURL", "modelURL" in item)]
    kinds += [("inline data", any(not file.url for file in found))]
    cost = item.get("cost")
    stated = isinstance(cost, int | Decimal) and not isinstance(cost, bool)
    return {
        "shape": shape_of(dict(item)),
        "files_in": [name for name, there in kinds if there],
        "files": len(found),
        "cost": {
            "type": _kind(cost, "") if "cost" in item else "missing",
            "usd": (cost.text if isinstance(cost, WireNumber) else str(cost)) if stated else None,
        },
        "seed_stated": found[0].seed is not None,
        "link": link_facts(found[0].url, options) if found[0].url else None,
    }


def link_facts(url: str, options: RunwareOptions) -> dict[str, Any]:
    """Host, names of query parameters and lifetime of a link; neither its path nor a value of its query."""
    try:
        parts = urlsplit(url)
        host, query = parts.hostname or "", parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return {"host": "", "refused": "not a valid URL"}
    judge = Judge(options.origin, options.allowed_hosts, options.allow_private_downloads)
    refused = ""
    try:
        import httpx

        judge.private_allowed(httpx.URL(url))
    except (LinkRefused, httpx.InvalidURL) as error:
        refused = clean_text(str(error))
    lifetime = None
    for name, value in query:
        if name.lower() in _LIFETIMES and value.isascii() and value.isdecimal() and len(value) <= 12:
            # Either seconds from now, or a date in seconds since 1970.
            lifetime = int(value) - round(time.time()) if int(value) > 10**9 else int(value)
    return {
        "scheme": clean_text(parts.scheme, most=10),
        "host": clean_text(host, most=120),
        "allowed": not refused,
        "refused": refused,
        "query_parameters": [clean_text(name, most=40) for name, _ in query[:20]],
        "lifetime_seconds": lifetime,
    }
