"""`doctor --live`: what only a live API key can tell, found out for a few cents and written down.

The API's documents leave questions open, and the answers decide how much care buying needs. So they are asked
of the real server once, with one small model bought the way every model is bought: through the journal and
the ledger, within a budget. Questions that would cost money only if the server did not keep to its documents
have that money set aside while they are asked. What one question breaks leaves the others alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from resources.generator import runware_options
from trellis_pipeline import __version__
from trellis_pipeline.automation.doctor_sample import model_found, plain_vase
from trellis_pipeline.config import Settings
from trellis_pipeline.costs.budgets import Budgets
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.money import ZERO, format_usd, usd_text
from trellis_pipeline.errors import (
    BudgetExceeded,
    ConfigError,
    ProviderBusy,
    ProviderRefusesAccess,
    TrellisError,
)
from trellis_pipeline.generation.generator import InputImage
from trellis_pipeline.generation.request import GenerationRequest, build_request, request_key
from trellis_pipeline.generation.runware.failures import clean_text
from trellis_pipeline.generation.runware.generator import RunwareGenerator
from trellis_pipeline.generation.runware.listening import Listener
from trellis_pipeline.generation.runware.options import RunwareOptions
from trellis_pipeline.generation.runware.probe import Found, Probe
from trellis_pipeline.purchasing import questions
from trellis_pipeline.purchasing.buy import buy_again
from trellis_pipeline.purchasing.generations import Order, Purchase
from trellis_pipeline.purchasing.journal import Journal
from trellis_pipeline.purchasing.till import Till, estimate_for, scope_of

if TYPE_CHECKING:
    from trellis_pipeline.storage.store import ArtifactStore

CATALOG, SKU = "doctor", "CHECK"
SETTINGS = {"resolution": 512, "textureSize": 1024, "decimationTarget": 100_000}
"""The least that the API document allows."""

NOT_ASKED = (
    "how many times and for how long a webhook is repeated, and its body",
    "headers and repetitions of an upload to uploadEndpoint",
    "whether several results come as several items or as several files of one",
    "HTTP status and code when the account is empty",
    "whether failed tasks are free",
    "for how long a task can be asked about, and its UUID is remembered",
)
"""Open questions that one small purchase cannot answer."""

Status = Literal["found", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one question. says: sentences. facts: JSON-able."""

    step: str
    status: Status
    says: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Visit:
    """Everything that the questions share. bought: the model, once there is one."""

    probe: Probe
    till: Till
    order: Order
    on_finding: Callable[[Finding], None]
    findings: list[Finding] = field(default_factory=list)
    refused: str = ""
    bought: Purchase | None = None

    async def ask(
        self, step: str, question: Callable[[], Awaitable[Found]], unless: str = ""
    ) -> Found | None:
        """Ask, and write down what became of it. unless: why it is left out. None if there is no answer."""
        self.probe.listener.step = step
        found: Found | None = None
        if unless or self.refused:
            finding = Finding(step, "skipped", (unless or self.refused,))
        else:
            try:
                found = await question()
                status: Status = "failed" if "failed" in found.facts else "found"
                finding = Finding(step, status, found.says, dict(found.facts))
            except ProviderRefusesAccess as error:
                self.refused = "the key is not accepted"
                finding = Finding(step, "failed", (str(error),))
            except TrellisError as error:
                finding = Finding(step, "failed", (str(error),))
            except Exception as error:  # noqa: BLE001 - one question must not end the others
                finding = Finding(step, "failed", (f"this question broke ({type(error).__name__})",))
        self.findings.append(finding)
        self.on_finding(finding)
        return found

    async def set_aside(self, what: str, question: Callable[[], Awaitable[Found]]) -> Found:
        """Ask a question that may turn out to cost money, and book what it did.

        Raises BudgetExceeded before it is asked where there is no room for it.
        """
        ledger, scope = self.till.journal.ledger, scope_of(self.order, self.till.generator)
        amount = estimate_for(self.order, self.till).reserve
        money = await asyncio.to_thread(questions.set_aside, ledger, what, amount, scope, self.till.budgets)
        charged: Decimal | None = None  # as long as nothing is known, it counts as bought
        try:
            found = await question()
            charged = found.charged
        except (ProviderBusy, ProviderRefusesAccess):
            charged = ZERO
            raise
        finally:
            # No await here: Ctrl-C may have ended the event loop's patience already.
            questions.close(ledger, money, what, charged)
        return found


def live_options(settings: Settings) -> RunwareOptions:
    """How the doctor speaks to the server: as runs do, but always the same way, and asking more often.

    Raises ConfigError where there is no key.
    """
    chosen = settings.runware
    return runware_options(
        {
            "base_url": chosen.base_url,
            "allowed_hosts": chosen.allowed_hosts,
            "ttl_seconds": chosen.ttl_seconds,
            "task_seconds": chosen.task_seconds,
            "poll_first_seconds": 0.5,
            "poll_most_seconds": 2.0,
            "attempts": 3,
        }
    )


async def examine_live(
    settings: Settings,
    ledger: Ledger,
    store: ArtifactStore,
    on_finding: Callable[[Finding], None] = lambda _finding: None,
    settle_seconds: float = 2.0,
) -> dict[str, Any]:
    """Ask everything, buy one small model on the way, and give the document of what was found.

    settings: its budget's `run_usd` is what this visit may spend; the other caps hold too. settle_seconds:
    how long the server gets to show what it did. A visit that was interrupted after its purchase began goes
    on with that purchase.

    Raises ConfigError where there is no key or no budget, and StorageUnavailable.
    """
    if settings.budget.run_usd is None:
        raise ConfigError("a live check buys one small model; say what it may spend: --spend 0.15")
    options = live_options(settings)
    began = datetime.now(UTC)
    async with RunwareGenerator(options) as generator:
        till = Till(generator, Journal(ledger), store, Budgets(**dict(settings.budget)), retries=0)
        probe = Probe(generator.client, Listener(), settle_seconds)
        request = build_request({"settings": SETTINGS})
        order = _order(request, generator, f"doctor-{uuid.uuid4().hex[:12]}")
        visit = _Visit(probe, till, order, on_finding)
        await _ask_all(visit)
    left = ledger.headroom(scope_of(order, generator), till.budgets).states
    spent = next(state.settled for state in left if state.scope == "run")
    document = {
        "at": began.isoformat(timespec="seconds"),
        "version": __version__,
        "server": urlsplit(options.base_url).hostname,
        "run_id": order.run_id,
        "spent_usd": usd_text(spent),
        "findings": [asdict(finding) for finding in visit.findings],
        "not_asked": list(NOT_ASKED),
    }
    document["saved_at"] = await asyncio.to_thread(_save, store, began, document)
    return document


async def _ask_all(visit: _Visit) -> None:
    probe, order = visit.probe, visit.order
    request, image = order.request, order.image
    first = await visit.ask("account", probe.account)
    await visit.ask("unknown task", probe.unknown_task)
    await visit.ask("unknown parameter", lambda: probe.unknown_parameter(request))
    await visit.ask("tasks in one request", lambda: probe.batches(request))
    await visit.ask("dry run", lambda: visit.set_aside("dry run", lambda: probe.dry_run(request, image)))
    await visit.ask("generation", lambda: _generate(visit))
    bought = visit.bought
    nothing = "" if bought is not None else "no model was bought"
    uuid_ = bought.task_uuid if bought is not None else ""
    await visit.ask("the model", lambda: _model(visit), nothing)
    await visit.ask("after the end", lambda: probe.afterwards(uuid_), nothing)
    await visit.ask(
        "the same UUID again",
        lambda: visit.set_aside("replay", lambda: probe.replay(uuid_, request, image)),
        nothing,
    )
    before = None if first is None else Decimal(str(first.facts["balance"]))
    await visit.ask("account against ledger", lambda: _account_against_ledger(visit, before))


async def _generate(visit: _Visit) -> Found:
    """Buy the model; what was heard of it is told also where it failed."""
    till, order = visit.till, visit.order
    estimate = estimate_for(order, till)
    try:
        visit.bought = await buy_again(order, till)
    except BudgetExceeded:
        raise
    except TrellisError as error:
        intent = await asyncio.to_thread(till.journal.latest, order.request_key)
        heard = visit.probe.course(
            "generation", intent.task_uuid if intent else "", format_usd(estimate.likely)
        )
        words = ("no model came of it: " + clean_text(str(error)), *heard.says)
        return Found(words, {**heard.facts, "failed": type(error).__name__})
    heard = visit.probe.course("generation", visit.bought.task_uuid, format_usd(estimate.likely))
    bill = visit.bought.bill
    words = (f"bought for {format_usd(bill.amount)}, booked by {bill.source.replace('_', ' ')}", *heard.says)
    facts = {"task_uuid": visit.bought.task_uuid, "booked_usd": usd_text(bill.amount), "source": bill.source}
    return Found(words, {**heard.facts, **facts})


async def _model(visit: _Visit) -> Found:
    """What the GLB is made of."""
    assert visit.bought is not None
    glb = await asyncio.to_thread(visit.till.store.get_blob, visit.bought.glb)
    return model_found(glb, visit.order.request.settings.decimationTarget)


async def _account_against_ledger(visit: _Visit, before: Decimal | None) -> Found:
    """By how much the account fell in this visit, and by how much the ledger says it should have."""
    after = (await visit.probe.client.balance()).amount
    scope = scope_of(visit.order, visit.till.generator)
    states = visit.till.journal.ledger.headroom(scope, visit.till.budgets).states
    settled = next(state.settled for state in states if state.scope == "run")
    if before is None:
        words = f"the account holds {format_usd(after)}; what it held before is not known"
        return Found((words,), {"after": usd_text(after)})
    fell = before - after
    words = "they agree" if fell == settled else "they do not agree: bills may lag, or somebody else bought"
    return Found(
        (f"the account fell by {format_usd(fell)}, the ledger says {format_usd(settled)}; {words}",),
        {
            "before": usd_text(before),
            "after": usd_text(after),
            "fell": usd_text(fell),
            "settled": usd_text(settled),
        },
    )


def _order(request: GenerationRequest, generator: RunwareGenerator, run_id: str) -> Order:
    png = plain_vase()
    image = InputImage(png, hashlib.sha256(png).hexdigest())
    key = request_key(request, image.sha256, str(generator.identity))
    return Order(CATALOG, SKU, run_id, request, image, key)


def _save(store: ArtifactStore, at: datetime, document: dict[str, Any]) -> str:
    """Keep the document in the store, beside an earlier one of the same day."""
    data = json.dumps(document, indent=1).encode()
    for name in (f"{at:%Y-%m-%d}", f"{at:%Y-%m-%dT%H%M%S.%fZ}"):
        path = f"doctor/{name}.json"
        if store.create(path, data):
            break
    return store.location(path)
