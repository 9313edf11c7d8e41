"""A provider that keeps its tasks when its client dies, and the generator that talks to it.

It has the one property that counts, a billing log of its own, and can be told to go wrong at each step. The
real protocol, over a real connection, is tested with the service; here the order of events is in our hands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from small_catalogs import box_glb

from trellis_pipeline.errors import OutcomeUnknown, ProviderBusy, ResultLost, TaskFailed
from trellis_pipeline.generation.generator import (
    GeneratedModel,
    GeneratorIdentity,
    InputImage,
    MaySend,
    Progress,
    always,
    no_progress,
)
from trellis_pipeline.generation.request import GenerationRequest


@dataclass(slots=True)
class FarProvider:
    """cost: of each result. faults: for each step, what happens on its next calls; None is nothing.

    hidden: how many questions about a task are answered with "unknown" before it becomes visible.
    """

    cost: str | None = "0.03"
    faults: dict[str, list[str | None]] = field(default_factory=dict)
    hidden: int = 0
    accepted: list[str] = field(default_factory=list)
    results: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    @property
    def billed(self) -> Decimal:
        """What this provider will ask for."""
        done = sum(n for uuid, n in self.results.items() if uuid not in self.verdicts)
        return Decimal(self.cost or 0) * done

    def next_fault(self, step: str) -> str | None:
        """The fault for this call, used up by asking."""
        self.calls.append(step)
        planned = self.faults.get(step, [])
        return planned.pop(0) if planned else None


class FarGenerator:
    """A `RemoteGenerator`. Several of them, in several processes as it were, share one provider."""

    identity = GeneratorIdentity("runware", "microsoft:trellis-2@4b", "1")
    paid = True
    builds_to_size = False
    at_once = None

    def __init__(self, provider: FarProvider) -> None:
        self.provider = provider

    async def submit(
        self, task_uuid: str, request: GenerationRequest, image: InputImage, webhook_url: str | None = None,
        *, may_send: MaySend = always, in_doubt: bool = False,
    ) -> None:  # fmt: skip
        await may_send()
        fault = self.provider.next_fault("submit")
        if fault == "busy":
            raise ProviderBusy("try later")
        if fault == "lost before":
            raise OutcomeUnknown("the connection broke")
        if task_uuid not in self.provider.results:
            self.provider.accepted.append(task_uuid)
            self.provider.results[task_uuid] = request.numberResults
            if fault == "will fail":
                self.provider.verdicts[task_uuid] = "failed"
        if fault == "lost after":
            raise OutcomeUnknown("the connection broke")
        if fault == "die":
            raise Death

    async def knows(self, task_uuid: str) -> bool:
        fault = self.provider.next_fault("knows")
        if fault == "busy":
            raise ProviderBusy("try later")
        if self.provider.hidden > 0:
            self.provider.hidden -= 1
            return False
        return task_uuid in self.provider.results

    async def collect(
        self,
        task_uuid: str,
        request: GenerationRequest,
        progress: Progress = no_progress,
        hurry: Callable[[], bool] = lambda: False,
    ) -> Sequence[GeneratedModel]:
        fault = self.provider.next_fault("collect")
        if fault == "die":
            raise Death
        if fault == "too long":
            raise OutcomeUnknown("still processing at the deadline")
        if fault == "gone":
            raise ResultLost("the file has expired")
        if self.provider.verdicts.get(task_uuid):
            raise TaskFailed("inferenceError")
        assert task_uuid in self.provider.results, "collected before it was handed in"
        hurry()
        text = self.provider.cost or ""
        cost = Decimal(text) if text else None
        return [
            GeneratedModel(box_glb(), request.seed + n, cost, 1.5, text, f"{task_uuid}-{n}")
            for n in range(self.provider.results[task_uuid])
        ]

    async def generate(
        self, request: GenerationRequest, image: InputImage, progress: Progress = no_progress
    ) -> Sequence[GeneratedModel]:
        raise AssertionError("a remote generator is bought from step by step")


class Death(BaseException):
    """The process dies here: nothing of it runs any more, and it is no Exception that somebody catches."""
