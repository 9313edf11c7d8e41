"""The one interface behind which a paid API, a local GPU and the CPU draft look alike.

A generator turns a request and a crop into GLB bytes. It knows no money, no store and no catalog: what it
costs is a figure it reports, and what happens to the bytes is its caller's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol, runtime_checkable

from trellis_pipeline.errors import Spent
from trellis_pipeline.generation.request import GenerationRequest
from trellis_pipeline.storage.store import BlobRef

Progress = Callable[[float], None]
"""Called with the share done, 0 to 1. May be called from any thread, any number of times."""


def no_progress(_share: float) -> None:
    """For callers who do not watch."""


MaySend = Callable[[], Awaitable[None]]
"""Awaited right before every attempt to send what costs money; raises where it may no longer be sent."""


async def always() -> None:
    """For callers whose mind does not change."""


@dataclass(frozen=True, slots=True)
class GeneratorIdentity:
    """Who makes the model. A change of any part makes every request a new one.

    name: `draft`, `runware` or `local`; `runware@host:port` where not Runware itself is asked, but another
    server with its API. model: what the provider calls its model. build: a version that changes when the
    same request would give another result.
    """

    name: str
    model: str
    build: str

    def __str__(self) -> str:
        return f"{self.name}/{self.model}/{self.build}"


@dataclass(frozen=True, slots=True)
class InputImage:
    """The crop that a generator sees: a square RGBA PNG with straight alpha, and its content hash (hex).

    dimensions_m: width, height and depth of the real product in metres, None where unknown.
    """

    png: bytes
    sha256: str
    dimensions_m: tuple[float | None, float | None, float | None] = (None, None, None)


@dataclass(frozen=True, slots=True)
class GeneratedModel:
    """What came back: the GLB, the seed that was really used, and what the generator says it cost.

    stored: names the GLB where the provider brought it to the caller's store by itself; glb is then empty.
    cost_usd: None where the provider named no price, or none that can be believed. raw_cost_text keeps its
    number to the letter, for the ledger. seconds: generation time as the generator measured it. result_id:
    the provider's name for this file, "" where it has none. provenance: JSON-able facts for the birth
    certificate; `results_lost` in it lists results of the same task that are billed and whose files are gone,
    `results_surplus` those that nobody asked for, each with `result_uuid`, `cost_usd` as text ("" where it is
    not known) and `cost_text`, the provider's number to the letter. stage_seconds: where the time went, by
    name, for a generator whose cost is its time; empty for others.
    """

    glb: bytes
    seed: int
    cost_usd: Decimal | None
    seconds: float
    raw_cost_text: str = ""
    result_id: str = ""
    provenance: Mapping[str, object] = field(default_factory=dict)
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    stored: BlobRef | None = None


class Interrupted(asyncio.CancelledError):
    """A generation was cancelled, and says what it has cost by then. It cancels like any other."""

    def __init__(self, spent: Spent) -> None:
        super().__init__()
        self.spent = spent


class Generator(Protocol):
    """Anything that makes models. Implementations are used from one event loop, many requests at once."""

    @property
    def identity(self) -> GeneratorIdentity:
        """Part of every request key."""

    @property
    def paid(self) -> bool:
        """True when a generation costs money: triage may then hold products back, and a budget is needed."""

    @property
    def builds_to_size(self) -> bool:
        """True when the catalog's dimensions shape the result; others are scaled afterwards."""

    @property
    def at_once(self) -> int | None:
        """How many models are made side by side, however many are asked for; None: as the caller likes."""

    async def generate(
        self, request: GenerationRequest, image: InputImage, progress: Progress = no_progress
    ) -> Sequence[GeneratedModel]:
        """Make what was asked for: `request.numberResults` models, at least one where some of them failed.

        Raises GenerationError or one of its kinds; `.retryable` and `.billable` say what may be done next.
        Cancelled, it may raise Interrupted to say what that has cost.
        """


class RemoteGenerator(Generator, Protocol):
    """A generator at the other end of a network, where an answer can get lost after the work was accepted.

    Its work is split so that the caller can write down what it is about to do. A task is known by a UUID that
    the caller chooses, and the provider does the work for one UUID at most once.
    """

    async def submit(
        self, task_uuid: str, request: GenerationRequest, image: InputImage, webhook_url: str | None = None,
        *, may_send: MaySend = always, in_doubt: bool = False,
    ) -> None:  # fmt: skip
        """Hand the task in; returns when the provider has it, also if it had it before.

        may_send: what it raises is raised here, and this call has handed nothing in. in_doubt: the provider
        may have the task already, so that no failure in the answer is taken for the task's own.

        Raises ProviderRejected or ProviderBusy where this call certainly did not hand it in, OutcomeUnknown
        where it may have, ProviderRefusesAccess and OutOfCredit where no task would be taken.
        """

    async def knows(self, task_uuid: str) -> bool:
        """Whether the provider has, or had, this task. False may also mean: not visible yet."""

    async def collect(
        self,
        task_uuid: str,
        request: GenerationRequest,
        progress: Progress = no_progress,
        hurry: Callable[[], bool] = lambda: False,
    ) -> Sequence[GeneratedModel]:
        """Wait until the task is done and fetch its files. Can be called again at any time.

        hurry: asked between polls; True means that the provider has called back, so that the next poll comes
        at once. Raises TaskFailed or ProviderRejected as the task's verdict, ResultLost where its files are
        gone, OutcomeUnknown where it is still not done at the deadline.
        """


@runtime_checkable
class Closable(Protocol):
    """A generator with connections or threads of its own."""

    async def aclose(self) -> None:
        """Close them, in the event loop that used them."""
