"""Faults on purpose: what a provider, its network and its users' disks do on a bad day, on request.

A client that spends money is only as good as the worst day it was tried on. So the service can misbehave in
every way we know of, from a plan that is plain JSON and, where it draws, draws from a seed: the same plan
does the same to the same tasks, whatever the timing. Its billing log stays honest throughout.

`NAMES` says what there is. A fault strikes at its moments (a request, a poll, a download, ...), which are
counted: `after` of them are let pass, then `times` are struck.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from trellis_pipeline.errors import ConfigError

NAMES: Mapping[str, str] = {
    # Answers to POST /v1. `on` narrows to "submit" or "poll". `accepted`: the request is carried out first.
    "wrong_key": "401 invalidApiKey",
    "out_of_credit": "insufficientCredits, status 402 or `value`; on submit",
    "rate_limited": "429; `value` is its Retry-After header, none where empty",
    "server_error": "an error object with status 503 or `value`",
    "html_error": "an HTML page with status 502 or `value`",
    "html_200": "an HTML page with status 200",
    "ack_lost": "the request is carried out, then the connection is reset without an answer; on submit",
    "reset": "the connection is reset in the middle of the answer",
    "truncated_json": "the answer ends in the middle, with a correct length",
    "gzip_bomb": "the answer is gzip that unpacks to half a gigabyte",
    "slow_body": "the answer comes byte by byte, `seconds` long",
    # Contents of answers to getResponse.
    "hidden": "data is empty for `seconds` after the task was accepted, forever where 0",
    "stuck": "a finished task is shown as processing for `seconds`, forever where 0",
    "turned_away": "a poll is refused under the task's UUID, status 200: rateLimitExceeded, or `value`",
    "duplicate_items": "every item twice",
    "out_of_order": "items in reverse order",
    "foreign_items": "a finished item and an error of tasks that nobody asked for",
    "odd_cost": "`value` is missing, text, negative, nan or tiny (1e-7)",
    "examples_shape": "outputs.files alone, as the document's examples show it, and the provider sends it",
    "legacy_shape": "modelURL and modelUUID alone, as the document's table of the response has it",
    "inline_model": "modelBase64Data instead of a URL; modelDataURI where `value` is data_uri",
    "dead_link": "a link that has expired; the next answer has a good one",
    # The work itself. What fails is not billed.
    "task_fails": "every result fails; told in errors with status 200, or 400 if `value` says so, or in data",
    "one_result_fails": "result number `value` (0 where empty) fails",
    "slow_generation": "`seconds` more for each result",
    # Downloads of a result's file. The task they are counted by is the file's UUID.
    "file_gone": "404, or `value`",
    "redirect_to_metadata": "a redirect to the address where clouds keep their credentials",
    "truncated_file": "half the file; with the whole one's length where `value` is wrong_length",
    "glb_bomb": "a GLB whose JSON chunk claims two gigabytes",
    "file_reset": "the connection is reset in the middle of the file",
    "slow_file": "byte by byte, `seconds` long",
    # Deliveries.
    "webhook_forged": "a call with a lie in it comes first; without the URL's query where `value` is token",
    "webhook_duplicate": "each call comes twice",
    "webhook_early": "a call that says success comes before the task is even acknowledged",
    "webhook_never": "no call",
    "upload_late": "the upload comes `seconds` later",
    "upload_never": "no upload",
}
# A client that does everything right ends with every model, each bought once, whatever of these happens.
SURVIVABLE: tuple[str, ...] = (
    "rate_limited",
    "server_error",
    "html_error",
    "html_200",
    "ack_lost",
    "reset",
    "truncated_json",
    "hidden",
    "stuck",
    "duplicate_items",
    "out_of_order",
    "foreign_items",
    "odd_cost",
    "legacy_shape",
    "dead_link",
    "truncated_file",
    "file_reset",
    "slow_generation",
    "turned_away",
)
TIMED = frozenset({"hidden", "stuck"})
ON_SUBMIT = frozenset({"ack_lost", "out_of_credit"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. times: how often it strikes, 0 for always. share: of the tasks it may strike, drawn by seed.

    per_task: count moments for each task by itself. task_uuid: only this one. The others: see `NAMES`.
    """

    name: str
    times: int = 1
    after: int = 0
    on: str = ""
    per_task: bool = False
    share: float = 1.0
    task_uuid: str = ""
    seconds: float = 0.0
    value: str = ""
    accepted: bool = False

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ConfigError(f"no fault is called {self.name!r}; there are {', '.join(NAMES)}")
        if self.on not in {"", "submit", "poll", "other"}:
            raise ConfigError(f"fault {self.name}: on must be submit, poll, other or empty, not {self.on!r}")


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """What goes wrong. seed: decides which tasks a fault with a share strikes."""

    faults: tuple[Fault, ...] = ()
    seed: int = 0

    @classmethod
    def of(cls, *faults: Fault | str, seed: int = 0) -> FaultPlan:
        """A plan from faults or mere names, each striking once."""
        return cls(tuple(Fault(fault) if isinstance(fault, str) else fault for fault in faults), seed)

    @classmethod
    def random(
        cls, seed: int, rate: float = 0.15, names: Sequence[str] = SURVIVABLE, seconds: float = 0.3
    ) -> FaultPlan:
        """Each named fault strikes about `rate` of the tasks, once or twice each. seconds: of slow ones."""
        drawn = random.Random(seed)  # noqa: S311 - repeatable on purpose
        values = {
            "odd_cost": ("missing", "text", "negative", "nan", "tiny"),
            "rate_limited": ("", "0", "1"),
            "server_error": ("500", "503", "504"),
            "html_error": ("502", "500"),
            "truncated_file": ("", "wrong_length"),
            "task_fails": ("", "400", "data"),
        }
        return cls(
            tuple(
                Fault(
                    name,
                    times=drawn.randint(1, 2),
                    per_task=True,
                    share=rate,
                    seconds=seconds,
                    value=drawn.choice(values.get(name, ("",))),
                    accepted=name in {"server_error", "html_error", "html_200"} and drawn.random() < 0.5,
                )
                for name in names
            ),
            seed,
        )

    def to_json(self) -> str:
        """The plan as text, for another process."""
        return json.dumps({"seed": self.seed, "faults": [asdict(fault) for fault in self.faults]})

    @classmethod
    def from_json(cls, text: str) -> FaultPlan:
        """Back from text. Raises ConfigError where it is no plan."""
        try:
            data = json.loads(text)
            return cls(tuple(_fault(entry) for entry in data.get("faults", ())), int(data.get("seed", 0)))
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"not a fault plan: {error}") from None


def _fault(entry: Any) -> Fault:
    if isinstance(entry, str):
        return Fault(entry)
    unknown = set(entry) - {item.name for item in fields(Fault)}
    if unknown:
        raise ConfigError(f"fault {entry.get('name')!r} has no {min(unknown)!r}")
    return Fault(**entry)


@dataclass(slots=True)
class FaultEngine:
    """A plan at work in one process: it counts moments. Used from one event loop.

    read_file: gives a result's GLB. struck: how often each fault did strike, for tests that must not pass
    because nothing happened.
    """

    plan: FaultPlan
    read_file: Callable[[str], bytes] | None = None
    struck: Counter[str] = field(default_factory=Counter)
    _moments: Counter[tuple[int, str]] = field(default_factory=Counter)
    _since: dict[tuple[int, str], float | None] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """Names of all faults in the plan."""
        return frozenset(fault.name for fault in self.plan.faults)

    def strike(self, name: str, task_uuids: Iterable[str] = ("",), on: str = "") -> Fault | None:
        """The fault of this name that strikes at this moment, which is counted."""
        for index, fault in enumerate(self.plan.faults):
            if fault.name != name or (fault.on and on and fault.on != on):
                continue
            concerned = [uuid for uuid in task_uuids if self._concerns(index, fault, uuid)]
            keys = (
                [(index, uuid) for uuid in concerned] if fault.per_task else [(index, "")] * bool(concerned)
            )
            hit = False
            for key in keys:
                moment = self._moments[key]
                self._moments[key] += 1
                hit |= moment >= fault.after and (fault.times == 0 or moment < fault.after + fault.times)
            if hit:
                self.struck[name] += 1
                return fault
        return None

    def begin(self, name: str, task_uuid: str) -> None:
        """Start the time of a lasting fault for a task, if it strikes it."""
        for index, fault in enumerate(self.plan.faults):
            key = (index, task_uuid)
            if fault.name == name and key not in self._since:
                struck = self._concerns(index, fault, task_uuid) and self._counts(index, fault)
                self._since[key] = time.monotonic() if struck else None
                self.struck[name] += struck

    def lasts(self, name: str, task_uuid: str) -> Fault | None:
        """The lasting fault of this name that holds for a task now. It begins here if it did not before."""
        self.begin(name, task_uuid)
        for index, fault in enumerate(self.plan.faults):
            since = self._since.get((index, task_uuid))
            for_ever = not fault.seconds or name not in TIMED
            lasting = since is not None and (for_ever or time.monotonic() < since + fault.seconds)
            if fault.name == name and lasting:
                return fault
        return None

    def _counts(self, index: int, fault: Fault) -> bool:
        if fault.per_task:
            return True
        moment = self._moments[index, ""]
        self._moments[index, ""] += 1
        return moment >= fault.after and (fault.times == 0 or moment < fault.after + fault.times)

    def _concerns(self, index: int, fault: Fault, task_uuid: str) -> bool:
        if fault.task_uuid and fault.task_uuid != task_uuid:
            return False
        if fault.share >= 1:
            return True
        text = f"{self.plan.seed}/{index}/{fault.name}/{task_uuid}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64 < fault.share
