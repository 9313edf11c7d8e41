"""Questions to a 3dInference server that its documents leave open, asked over the wire.

Each question is one function that returns facts, and sentences that say them. Nothing in here is bought:
the questions that could cost money if the server does not keep to its documents (a dry run, a repeated
UUID) say whether they did, and whoever asks them sets the money aside first.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from trellis_pipeline.costs.money import usd_text
from trellis_pipeline.errors import OutcomeUnknown, ProviderBusy, ProviderRejected
from trellis_pipeline.generation.generator import InputImage
from trellis_pipeline.generation.request import GenerationRequest
from trellis_pipeline.generation.runware.client import RunwareClient
from trellis_pipeline.generation.runware.failures import Kind, kind_of
from trellis_pipeline.generation.runware.listening import Heard, Listener, course_of, shape_of
from trellis_pipeline.generation.runware.reply import text_of
from trellis_pipeline.generation.runware.results import believable_cost, files_of
from trellis_pipeline.generation.runware.transport import AnswerLost, NotSent, Purpose
from trellis_pipeline.generation.wire import INFERENCE, Delivery, task_json
from trellis_pipeline.generation.wire_image import data_uri

Task = dict[str, Any]
DRY_RUN = {"X-Runware-Dry-Run": "1"}
BATCHES = (2, 20, 100)
"""How many tasks are sent in one request to see whether so many are taken."""

_MAY_BE_TAKEN = {Kind.SERVER, Kind.FAILED, Kind.UNKNOWN}
"""Errors that do not say that a task was turned away."""


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to one question. says: sentences for people. facts: JSON-able, nothing secret in it.

    charged: USD that the question turned out to cost; None where that cannot be told.
    """

    says: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    charged: Decimal | None = Decimal(0)


class Probe:
    """Asks one server. settle_seconds: how long it gets to show what it did."""

    def __init__(self, client: RunwareClient, listener: Listener, settle_seconds: float = 2.0) -> None:
        self.client = client
        self.listener = listener
        self.settle_seconds = settle_seconds
        client.transport.watch = listener.hear

    async def account(self) -> Found:
        """Is the key accepted, and what does the account hold?"""
        seconds = await self.client.ping()
        balance = await self.client.balance()
        heard = self.listener.heard[-1]
        return Found(
            (
                f"the key is accepted; the account holds {balance.amount} {balance.currency}",
                f"an answer takes {seconds * 1000:.0f} ms",
            ),
            {
                "balance": str(balance.amount),
                "free_balance": str(balance.free),
                "currency": balance.currency,
                "ping_seconds": round(seconds, 3),
                "answer": heard.facts(),
            },
        )

    async def unknown_task(self) -> Found:
        """How is a UUID answered that no task ever had?"""
        stranger = str(uuid.uuid4())
        answers = {
            kind: await self.say([{"taskType": kind, "taskUUID": stranger}])
            for kind in ("getResponse", "getTaskDetails")
        }
        says = [f"{kind} for an unknown UUID: {_in_words(heard)}" for kind, heard in answers.items()]
        return Found(tuple(says), {kind: heard.facts() for kind, heard in answers.items()})

    async def unknown_parameter(self, request: GenerationRequest) -> Found:
        """How is a parameter refused that does not exist? The task has no picture, so nobody can make it."""
        task = {**_without_picture(request), "doctorUnknownParameter": 1}
        heard = await self.say([task], DRY_RUN)
        named = [name for error in heard.reply.errors for name in error.parameters]
        found = "doctorUnknownParameter" in named
        entries = heard.data.get("errors") if isinstance(heard.data, dict) else None
        says = [f"an unknown parameter, and no picture: {_in_words(heard)}"]
        says.append(
            "the refusal names the unknown parameter"
            if found
            else "the refusal does not name the unknown one"
        )
        facts = heard.facts() | {"names_it": found, "error_shape": shape_of(entries)}
        return Found(tuple(says), facts)

    async def dry_run(self, request: GenerationRequest, image: InputImage) -> Found:
        """What does a dry run answer, and is it one? Where the header is ignored, this buys a model."""
        task = self._task(request, image)
        before = await self._amount()
        heard = await self.say([task], DRY_RUN)
        executed = await self.knows(task["taskUUID"])
        after = await self._amount()
        mine = heard.reply.of(task["taskUUID"]).items or heard.reply.items
        cost = believable_cost(mine[0].get("cost"), Decimal(0))[1] if mine else ""
        says = [f"a dry run: {_in_words(heard)}", f"it names {'the price ' + cost if cost else 'no price'}"]
        says.append(
            "the header was ignored: the task was carried out" if executed else "nothing was carried out"
        )
        facts = heard.facts() | {"price": cost, "executed": executed, "balance_moved": _moved(before, after)}
        return Found(tuple(says), facts, None if executed else Decimal(0))

    async def batches(self, request: GenerationRequest) -> Found:
        """Of how many tasks in one request is each answered? None has a picture, so nobody can make them."""
        answered: dict[str, Any] = {}
        most = 0
        for size in BATCHES:
            tasks = [_without_picture(request) for _ in range(size)]
            heard = await self.say(tasks, DRY_RUN)
            spoken_of = {text_of(item, "taskUUID") for item in heard.reply.items}
            spoken_of |= {error.task_uuid for error in heard.reply.errors}
            count = len(spoken_of & {task["taskUUID"] for task in tasks})
            answered[str(size)] = {
                "answered": count, "http_status": heard.status, "errors": heard.errors()[:3]
            }  # fmt: skip
            if count < size:
                break
            most = size
        says = (
            f"{most} tasks in one request are answered one by one"
            if most
            else "an array of 2 is not answered"
        )
        limit = "" if most == BATCHES[-1] or not most else f"; {size} are not: {_in_words(heard)}"
        return Found((says + limit,), {"most_answered": most, "by_size": answered})

    def course(self, step: str, task_uuid: str, list_price: str) -> Found:
        """How the purchase of this step went. Asks nothing: it was listened to."""
        facts = course_of(self.listener, step, task_uuid, self.client.options)
        says = []
        ack, result = facts["ack"], facts["result"]
        if ack:
            says.append(f"handed in: HTTP {ack['http_status']} after {ack['seconds']:g} s")
        if facts["seconds_from_ack_to_visible"] is not None:
            empty = facts["polls_before_it_was_visible"]
            how = f"after {empty} empty answers" if empty else "at the first poll"
            says.append(f"visible to getResponse {facts['seconds_from_ack_to_visible']:g} s later, {how}")
        told = facts["progress"]
        says.append(f"progress is reported: {', '.join(told[:8])}" if told else "no progress is reported")
        if result:
            says += _result_words(result, list_price)
            after = facts["seconds_from_ack_to_result"]
            says += [] if after is None else [f"done {after:g} s after it was handed in"]
        return Found(tuple(says), facts | {"list_price": list_price})

    async def afterwards(self, task_uuid: str) -> Found:
        """Can a finished task still be asked about?"""
        answers = {
            kind: await self.say([{"taskType": kind, "taskUUID": task_uuid}])
            for kind in ("getResponse", "getTaskDetails")
        }
        says = [f"{kind} after the end: {_in_words(heard)}" for kind, heard in answers.items()]
        return Found(tuple(says), {kind: heard.facts() for kind, heard in answers.items()})

    async def replay(self, task_uuid: str, request: GenerationRequest, image: InputImage) -> Found:
        """Is a finished task's UUID refused, or done and billed again?

        An account that has not moved says nothing where the task may have been taken: bills come at the end.
        """
        before = await self._amount()
        heard = await self.say([self._task(request, image, task_uuid)])
        mine = heard.reply.of(task_uuid)
        kinds = {kind_of(error) for error in mine.errors or heard.reply.errors}
        conflict = Kind.CONFLICT in kinds
        await asyncio.sleep(self.settle_seconds)
        results = await self._results(task_uuid)
        after = await self._amount()
        archived = await self.say([{"taskType": "getTaskDetails", "taskUUID": task_uuid}])
        moved = _moved(before, after)
        accepted = bool(mine.items)
        refused = bool(kinds) and not accepted and not kinds & _MAY_BE_TAKEN
        charged = Decimal(moved) if moved is not None and Decimal(moved) > 0 else None
        says = [f"the same UUID again: {_in_words(heard)}"]
        if conflict:
            says.append("it is a conflict, which means that the first is kept")
        elif accepted:
            says.append("it is ACCEPTED: this server may make one UUID twice")
        else:
            says.append("it is not accepted, but not with the code conflictTaskUUID either")
        says.append(_billed_words(moved, refused))
        says.append(f"getTaskDetails now: {_in_words(archived)}")
        return Found(
            tuple(says),
            heard.facts()
            | {
                "conflict": conflict,
                "accepted": accepted,
                "balance_moved": moved,
                "results_afterwards": results,
                "getTaskDetails": archived.facts(),
            },
            Decimal(0) if refused and charged is None else charged,
        )

    async def say(self, tasks: Sequence[Task], headers: dict[str, str] | None = None) -> Heard:
        """Send tasks as they are, once, and give what was answered, refusals too.

        Raises ProviderBusy where nothing was, OutcomeUnknown where the answer broke off, and the errors about
        the account.
        """
        count = len(self.listener.heard)
        kind = tasks[0]["taskType"]
        try:
            await self.client.transport.call(tasks, Purpose.READ, attempts=1, headers=headers)
        except (NotSent, AnswerLost, ProviderRejected) as error:
            if len(self.listener.heard) == count:
                lost = isinstance(error, AnswerLost)
                raise (OutcomeUnknown if lost else ProviderBusy)(f"no answer to {kind} ({error})") from None
        return self.listener.heard[-1]

    async def knows(self, task_uuid: str) -> bool:
        """Whether the server has this task, given some time to show it."""
        for _ in range(2):
            await asyncio.sleep(self.settle_seconds)
            heard = await self.say([{"taskType": "getResponse", "taskUUID": task_uuid}])
            if heard.reply.of(task_uuid).items:
                return True
        return False

    def _task(self, request: GenerationRequest, image: InputImage, task_uuid: str = "") -> Task:
        return task_json(request, task_uuid or str(uuid.uuid4()), data_uri(image.png), Delivery())

    async def _results(self, task_uuid: str) -> int:
        heard = await self.say([{"taskType": "getResponse", "taskUUID": task_uuid}])
        items = heard.reply.of(task_uuid).items
        return len({file.uuid for item in items for file in files_of(item, Decimal(0))})

    async def _amount(self) -> Decimal | None:
        try:
            return (await self.client.balance()).amount
        except ProviderBusy:
            return None


def _without_picture(request: GenerationRequest) -> Task:
    return {
        "taskType": INFERENCE, "taskUUID": str(uuid.uuid4()), "deliveryMethod": "async",
        "includeCost": True, **request.wire(),
    }  # fmt: skip


def _moved(before: Decimal | None, after: Decimal | None) -> str | None:
    """By how much the account fell, as text; None where it could not be read."""
    return None if before is None or after is None else usd_text(before - after)


def _billed_words(moved: str | None, refused: bool) -> str:
    if moved is None:
        return "whether it was billed cannot be told: the balance could not be read"
    if Decimal(moved) > 0:
        return f"the account fell by {moved} USD meanwhile: it was billed again, or somebody else bought"
    if not refused:
        return "the account has not moved so far; the task may be under way, so it is booked as bought"
    return "the account did not move: it was not billed again"


def _in_words(heard: Heard) -> str:
    reply = heard.reply
    if not reply.readable:
        return f"HTTP {heard.status} with something that is not the API's JSON"
    codes = ", ".join(dict.fromkeys(error["code"] or "no code" for error in heard.errors()))
    parts = [f"HTTP {heard.status}", f"{len(reply.items)} items" if len(reply.items) != 1 else "1 item"]
    return ", ".join(parts + ([f"errors: {codes}"] if codes else []))


def _result_words(result: Mapping[str, Any], list_price: str) -> list[str]:
    cost, link = result["cost"], result["link"]
    says = [f"the result's file stands in {' and '.join(result['files_in'])}"]
    if cost["usd"] is None:
        says.append(f"no usable cost is stated ({cost['type']})")
    else:
        says.append(f"it cost {cost['usd']} USD ({cost['type']}); the list price is {list_price}")
    if link:
        allowed = "allowed" if link["allowed"] else f"NOT ALLOWED: {link['refused']}"
        says.append(f"its link is at {link['host']}, {allowed}")
        names = ", ".join(link["query_parameters"]) or "none"
        lifetime = link["lifetime_seconds"]
        good = "no lifetime is stated" if lifetime is None else f"good for {lifetime:,} s"
        says.append(f"query parameters of the link: {names}; {good}")
    return says
