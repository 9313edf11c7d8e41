"""Handing a task in: what a refusal proves once an answer got lost, and what a pause still stops."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from far_provider import Death, FarGenerator, FarProvider
from runware_parts import crop, error, finished, options, small_glb
from scripted_server import RESET, http, scripted_server
from sqlalchemy import update

from trellis_pipeline.costs.budgets import Budgets
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import totals
from trellis_pipeline.costs.schema import intents
from trellis_pipeline.errors import OutcomeUnknown, SpendingPaused
from trellis_pipeline.generation.request import build_request, request_key
from trellis_pipeline.generation.runware.generator import RunwareGenerator
from trellis_pipeline.purchasing import errand
from trellis_pipeline.purchasing.buy import buy
from trellis_pipeline.purchasing.generations import Order
from trellis_pipeline.purchasing.journal import Journal
from trellis_pipeline.purchasing.till import Till
from trellis_pipeline.storage.store import open_store

NOTHING = http({"data": []})


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}") as ledger:
        yield ledger


@pytest.fixture(autouse=True)
def _soon_visible(monkeypatch):
    monkeypatch.setattr(errand, "VISIBLE_AFTER_SECONDS", 0.01)


def order(generator, seed=42):
    request = build_request({"seed": seed})
    key = request_key(request, crop().sha256, str(generator.identity))
    return Order("shop", f"SKU-{seed}", "run-1", request, crop(), key)


def till_for(generator, ledger, tmp_path):
    store = open_store((tmp_path / "store").as_uri())
    return Till(generator, Journal(ledger), store, Budgets(total_usd=Decimal(5)))


def run(ledger, tmp_path, server, products=1, **more):
    """A run over products: for each the purchase or what it raised."""

    async def go():
        async with RunwareGenerator(options(server.base_url, **more)) as generator:
            till = till_for(generator, ledger, tmp_path)
            buying = [buy(order(generator, seed), till) for seed in range(products)]
            return await asyncio.gather(*buying, return_exceptions=True)

    return asyncio.run(go())


# -- refused, after an answer got lost -----------------------------------------------------------------------


class SlowToSee:
    """Accepts the first submit without a word, refuses the second, and shows the task only when it likes."""

    def __init__(self, code):
        self.code = code
        self.submitted = []
        self.shows = False

    def __call__(self, asked):
        if asked.method == "GET":
            return http(small_glb())
        if asked.task_type == "3dInference":
            self.submitted.append(asked.tasks[0]["taskUUID"])
            if len(self.submitted) == 1:
                return [RESET]
            return http({"errors": [error(self.code, self.submitted[-1])]}, 400)
        if asked.task_type == "getTaskDetails" or not self.shows:
            return NOTHING
        link = f"http://{asked.headers['host']}/model.glb"
        return http({"data": [finished(link, task["taskUUID"]) for task in asked.tasks]})


REFUSALS = "taskAlreadyExists taskAlreadyProcessing contentPolicyViolation invalidTaskUUID providerError"


@pytest.mark.parametrize("code", REFUSALS.split())
def test_a_refusal_after_a_lost_answer_does_not_buy_a_second_model(code, ledger, tmp_path):
    provider = SlowToSee(code)
    with scripted_server(provider) as server:
        more = {"task_seconds": 0.2, "allow_private_downloads": True}
        (unknown,) = run(ledger, tmp_path, server, **more)
        assert isinstance(unknown, OutcomeUnknown)
        assert len(ledger.open_reservations()) == 1
        provider.shows = True
        (bought,) = run(ledger, tmp_path, server, **more)
    assert {bought.task_uuid} == set(provider.submitted)
    assert totals(ledger).settled_usd == bought.cost_usd == Decimal("0.0271")
    assert ledger.open_reservations() == ()


def test_a_refusal_after_a_lost_answer_is_forgotten_when_the_task_shows_itself_after_all(ledger, tmp_path):
    provider = SlowToSee("contentPolicyViolation")

    def answer(asked):
        provider.shows = len(provider.submitted) == 2
        return provider(asked)

    with scripted_server(answer) as server:
        (bought,) = run(ledger, tmp_path, server, allow_private_downloads=True)
    assert {bought.task_uuid} == set(provider.submitted)


# -- paused between the reservation and the provider ---------------------------------------------------------


def left_by_a_dead_process(generator, ledger, tmp_path, monkeypatch):
    """The purchase of a process that died on the way: its lease has run out."""
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "let_go", lambda *_: None)
        with pytest.raises(Death):
            asyncio.run(buy(order(generator), till_for(generator, ledger, tmp_path)))
    with ledger.writing() as connection:
        connection.execute(update(intents).values(lease_until=datetime.now(UTC) - timedelta(seconds=1)))


def test_what_was_reserved_before_a_pause_and_never_handed_in_is_not_handed_in_and_its_money_is_freed(
    ledger, tmp_path, monkeypatch
):
    provider = FarProvider()
    generator = FarGenerator(provider)

    def die(*_):
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "submitting", die)
        left_by_a_dead_process(generator, ledger, tmp_path, monkeypatch)
    ledger.pause("prices look wrong")
    with pytest.raises(SpendingPaused, match="prices look wrong"):
        asyncio.run(buy(order(generator), till_for(generator, ledger, tmp_path)))
    assert provider.accepted == []
    assert ledger.open_reservations() == ()
    ledger.resume()
    asyncio.run(buy(order(generator), till_for(generator, ledger, tmp_path)))
    assert len(provider.accepted) == 1


def test_what_may_have_been_handed_in_before_a_pause_keeps_its_money_set_aside(ledger, tmp_path, monkeypatch):
    provider = FarProvider(faults={"submit": ["die"]}, hidden=99)
    generator = FarGenerator(provider)
    left_by_a_dead_process(generator, ledger, tmp_path, monkeypatch)
    ledger.pause("prices look wrong")
    with pytest.raises(SpendingPaused):
        asyncio.run(buy(order(generator), till_for(generator, ledger, tmp_path)))
    assert len(ledger.open_reservations()) == 1
    assert provider.calls.count("submit") == 1
    provider.hidden = 0  # it shows itself, so it is fetched and settled
    asyncio.run(buy(order(generator), till_for(generator, ledger, tmp_path)))
    assert len(provider.accepted) == 1
    assert totals(ledger).settled_usd == provider.billed


@pytest.mark.parametrize("tasks_per_request", [1, 4])
def test_after_a_pause_no_submit_follows_that_was_waiting_for_its_turn(tasks_per_request, ledger, tmp_path):
    def answer(asked):
        if asked.number == 2:
            ledger.pause("prices look wrong")
        return http({"errors": [error("rateLimitExceeded", None)]}, 429, Retry_After="0")

    with scripted_server(answer) as server:
        outcomes = run(ledger, tmp_path, server, products=12, tasks_per_request=tasks_per_request)
    assert {type(outcome) for outcome in outcomes} == {SpendingPaused}
    assert len(server.requests) == 3
    assert ledger.open_reservations() == ()
