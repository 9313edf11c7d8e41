"""Buying: found before made, reserved before asked, kept before settled, and never twice."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from far_provider import Death, FarGenerator, FarProvider
from hypothesis import given, settings
from hypothesis import strategies as st
from small_catalogs import InstantGenerator
from sqlalchemy import select, update

from trellis_pipeline.costs.accepted import spend_by_request
from trellis_pipeline.costs.budgets import Budgets
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.price_book import load_price_book
from trellis_pipeline.costs.reports import totals
from trellis_pipeline.costs.schema import intents, spend_events
from trellis_pipeline.costs.stage_seconds import stage_totals
from trellis_pipeline.errors import (
    BudgetExceeded,
    ConfigError,
    GenerationError,
    OutcomeUnknown,
    ProviderBusy,
    ProviderRejected,
    ResultLost,
    Spent,
    StorageError,
    TaskFailed,
)
from trellis_pipeline.generation.generator import InputImage, Interrupted
from trellis_pipeline.generation.request import build_request, request_key
from trellis_pipeline.purchasing import errand
from trellis_pipeline.purchasing.buy import buy, buy_again
from trellis_pipeline.purchasing.generations import Choice, Order, find_generation
from trellis_pipeline.purchasing.journal import Journal
from trellis_pipeline.purchasing.till import Till
from trellis_pipeline.storage.store import open_store

FIVE_DOLLARS = Budgets(total_usd=Decimal(5))


@pytest.fixture
def store(tmp_path):
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}") as ledger:
        yield ledger


@pytest.fixture(autouse=True)
def _soon_visible(monkeypatch):
    monkeypatch.setattr(errand, "VISIBLE_AFTER_SECONDS", 0.01)


def order(generator, seed=42, sku="A", results=1):
    request, image = build_request({"seed": seed, "numberResults": results}), InputImage(b"png", "a" * 64)
    key = request_key(request, image.sha256, str(generator.identity))
    return Order("shop", sku, "run-1", request, image, key)


def purchase(generator, ledger, store, budgets=FIVE_DOLLARS, wanted=None, **options):
    """One process buys; each call is another process as far as the journal can tell."""
    till = Till(generator, Journal(ledger), store, budgets, **options)
    return asyncio.run(buy(wanted or order(generator), till))


def left_by_a_dead_process(ledger):
    """Open intents belong to somebody who lives no more: their lease has run out."""
    with ledger.writing() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(update(intents).where(intents.c.state == "open").values(lease_until=past))


def die(monkeypatch, generator, ledger, store):
    """A process that dies has no time to tidy up."""
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "let_go", lambda *_: None)
        with pytest.raises(Death):
            purchase(generator, ledger, store)
    left_by_a_dead_process(ledger)


# -- a generator in this process ---------------------------------------------------------------------------


def test_the_same_request_is_made_once_whoever_asks(store, ledger):
    generator = InstantGenerator()
    first = purchase(generator, ledger, store, Budgets())
    second = purchase(generator, ledger, store, Budgets(), order(generator, sku="B"))
    assert (first.reused, second.reused) == (False, True)
    assert first.glb == second.glb
    assert len(generator.billed) == 1
    assert totals(ledger).generations == 1


class OwnMachine(InstantGenerator):
    """A generator on the user's own GPU: its time costs money whether or not a model comes of it."""

    def __init__(self, *, fails: bool) -> None:
        super().__init__(paid=True, cost="0.02")
        self.fails = fails

    async def generate(self, request, image, progress=lambda _share: None):
        if self.fails:
            error = GenerationError("the decoder made no voxels")
            error.spent = Spent(Decimal("0.03"), {"load": 4.0, "generate": 26.0})
            raise error
        (model,) = await super().generate(request, image, progress)
        spent = {"load": 4.0, "generate": 16.0}
        return [replace(model, raw_cost_text="", cost_usd=Decimal("0.02"), stage_seconds=spent)]


def own_machine(ledger, store, *, fails, seed=42):
    prices = load_price_book().with_gpu_second("instant", Decimal("0.001"))
    generator = OwnMachine(fails=fails)
    wanted = order(generator, seed=seed)
    return purchase(generator, ledger, store, wanted=wanted, prices=prices, expected_seconds={1024: 20.0})


def test_time_on_the_own_machine_is_booked_at_its_price_and_stage_by_stage(store, ledger):
    bought = own_machine(ledger, store, fails=False)
    assert totals(ledger).settled_usd == bought.cost_usd == Decimal("0.02")
    assert {total.stage: total.seconds for total in stage_totals(ledger)} == {"load": 4.0, "generate": 16.0}
    with ledger.reading() as connection:
        settled = connection.execute(select(spend_events).where(spend_events.c.kind == "settle")).one()
    assert settled.source == "gpu_time"


def test_time_that_brought_no_model_is_booked_all_the_same_and_the_next_attempt_is_free_to_go(store, ledger):
    with pytest.raises(GenerationError, match="no voxels"):
        own_machine(ledger, store, fails=True)
    assert totals(ledger).settled_usd == Decimal("0.03")
    assert not ledger.open_reservations()
    assert not own_machine(ledger, store, fails=False).reused
    assert totals(ledger).settled_usd == Decimal("0.05")


def test_time_that_was_interrupted_is_booked_and_the_model_is_made_by_the_next_run(store, ledger):
    class Endless(OwnMachine):
        async def generate(self, request, image, progress=lambda _share: None):
            begun.set()
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                raise Interrupted(Spent(Decimal("0.015"), {"load": 4.0, "generate": 11.0})) from None

    async def interrupted():
        till = Till(generator, Journal(ledger), store, FIVE_DOLLARS, prices=prices, expected_seconds=seconds)
        work = asyncio.ensure_future(buy(order(generator), till))
        await begun.wait()
        work.cancel()
        await asyncio.wait([work])
        return work.cancelled()

    begun, seconds = asyncio.Event(), {1024: 20.0}
    generator = Endless(fails=False)
    prices = load_price_book().with_gpu_second("instant", Decimal("0.001"))
    assert asyncio.run(interrupted())
    assert totals(ledger).settled_usd == Decimal("0.015")
    assert not ledger.open_reservations()
    own_machine(ledger, store, fails=False)
    assert totals(ledger).settled_usd == Decimal("0.035")


def test_many_who_want_the_same_at_once_get_one(store, ledger):
    generator = InstantGenerator()

    async def all_at_once():
        tills = [Till(generator, Journal(ledger), store, Budgets()) for _ in range(8)]
        return await asyncio.gather(*(buy(order(generator), till) for till in tills))

    bought = asyncio.run(all_at_once())
    assert len(generator.billed) == 1
    assert {one.glb.sha256 for one in bought} == {bought[0].glb.sha256}
    assert sum(not one.reused for one in bought) == 1


def test_a_generation_whose_bytes_were_lost_is_made_again(store, ledger, tmp_path):
    generator = InstantGenerator()
    first = purchase(generator, ledger, store, Budgets())
    (tmp_path / "store" / first.glb.key).unlink()
    assert find_generation(store, order(generator)) is None
    again = purchase(generator, ledger, store, Budgets())
    assert not again.reused
    assert store.get_blob(again.glb)
    assert find_generation(store, order(generator)) is not None


def test_a_damaged_certificate_is_named_and_not_taken_for_a_missing_one(store, ledger):
    generator = InstantGenerator()
    wanted = order(generator)
    store.write(f"generations/{wanted.request_key}.json", b"{broken")
    with pytest.raises(StorageError, match="delete it to generate again"):
        purchase(generator, ledger, store, Budgets())
    assert generator.billed == []


def test_a_paid_generator_without_a_budget_refuses_and_says_how_to_set_one(store, ledger):
    generator = InstantGenerator(paid=True, cost="0.02")
    with pytest.raises(ConfigError, match="total_usd"):
        purchase(generator, ledger, store, Budgets())
    assert generator.billed == []


def test_a_generator_without_a_price_refuses_instead_of_costing_nothing(store, ledger):
    generator = InstantGenerator(paid=True, cost="0.02")
    with pytest.raises(ConfigError, match="price"):
        purchase(generator, ledger, store)
    assert generator.billed == []


def test_a_refused_generation_releases_its_reservation(store, ledger):
    generator = InstantGenerator(refuse=frozenset({42}))
    with pytest.raises(ProviderRejected):
        purchase(generator, ledger, store, Budgets())
    assert ledger.open_reservations() == ()
    assert Journal(ledger).open_intents() == ()


# -- a provider at the other end of a network --------------------------------------------------------------


def test_the_providers_own_number_is_what_is_settled(store, ledger):
    provider = FarProvider(cost="0.0314")
    bought = purchase(FarGenerator(provider), ledger, store)
    assert bought.cost_usd == Decimal("0.0314")
    assert totals(ledger).settled_usd == Decimal("0.0314")
    assert totals(ledger).reserved_usd == 0


def test_a_full_budget_stops_the_request_before_the_provider_hears_of_it(store, ledger):
    provider = FarProvider()
    with pytest.raises(BudgetExceeded):
        purchase(FarGenerator(provider), ledger, store, Budgets(total_usd=Decimal("0.05")))
    assert provider.calls == []
    assert ledger.open_reservations() == ()
    assert Journal(ledger).open_intents() == ()


@pytest.mark.parametrize("fault", ["lost before", "lost after"])
def test_a_lost_answer_is_asked_for_before_anything_is_sent_again(store, ledger, fault):
    provider = FarProvider(faults={"submit": [fault]})
    bought = purchase(FarGenerator(provider), ledger, store)
    assert len(provider.accepted) == 1
    assert provider.calls[:2] == ["submit", "knows"]
    assert totals(ledger).settled_usd == provider.billed == bought.cost_usd


def test_a_task_that_becomes_visible_late_is_waited_for(store, ledger):
    provider = FarProvider(faults={"submit": ["lost after"]}, hidden=1)
    purchase(FarGenerator(provider), ledger, store)
    assert provider.calls == ["submit", "knows", "knows", "collect"]
    assert totals(ledger).settled_usd == provider.billed


@pytest.mark.parametrize("step", ["submit", "collect"])
def test_a_killed_purchase_is_taken_up_and_paid_once(store, ledger, monkeypatch, step):
    provider = FarProvider(faults={step: ["die"]})
    generator = FarGenerator(provider)
    die(monkeypatch, generator, ledger, store)
    bought = purchase(generator, ledger, store)
    assert len(provider.accepted) == 1
    assert totals(ledger).settled_usd == provider.billed == bought.cost_usd
    assert totals(ledger).reserved_usd == 0


def test_a_purchase_killed_between_store_and_ledger_is_settled_when_it_is_found(store, ledger, monkeypatch):
    provider = FarProvider(cost="0.0271")
    generator = FarGenerator(provider)

    def die_instead(*_args, **_more):
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "settle", die_instead)
        with pytest.raises(Death):
            purchase(generator, ledger, store)
    assert totals(ledger).settled_usd == 0
    left_by_a_dead_process(ledger)
    found = purchase(generator, ledger, store)
    assert found.reused
    assert totals(ledger).settled_usd == provider.billed == Decimal("0.0271")
    assert ledger.open_reservations() == ()
    assert len(provider.accepted) == 1


def test_what_is_still_processing_at_the_deadline_keeps_its_reservation_and_is_fetched_later(store, ledger):
    provider = FarProvider(faults={"collect": ["too long"]})
    generator = FarGenerator(provider)
    with pytest.raises(OutcomeUnknown):
        purchase(generator, ledger, store)
    assert len(ledger.open_reservations()) == 1
    purchase(generator, ledger, store)
    assert provider.calls == ["submit", "collect", "knows", "collect"]
    assert totals(ledger).settled_usd == provider.billed
    assert ledger.open_reservations() == ()


def test_a_busy_provider_that_took_nothing_gives_the_money_back(store, ledger):
    provider = FarProvider(faults={"submit": ["busy"]})
    with pytest.raises(ProviderBusy):
        purchase(FarGenerator(provider), ledger, store)
    assert ledger.open_reservations() == ()
    purchase(FarGenerator(provider), ledger, store)
    assert len(provider.accepted) == 1


def test_a_busy_provider_that_may_have_taken_it_earlier_keeps_the_money_set_aside(store, ledger):
    provider = FarProvider(faults={"submit": ["lost after", "busy"]}, hidden=2)
    with pytest.raises(ProviderBusy):
        purchase(FarGenerator(provider), ledger, store)
    assert len(ledger.open_reservations()) == 1
    purchase(FarGenerator(provider), ledger, store)
    assert len(provider.accepted) == 1
    assert totals(ledger).settled_usd == provider.billed


def test_a_provider_that_cannot_be_asked_is_not_taken_for_one_that_knows_nothing(store, ledger):
    provider = FarProvider(faults={"submit": ["lost after"], "knows": ["busy"]})
    with pytest.raises(ProviderBusy):
        purchase(FarGenerator(provider), ledger, store)
    assert len(ledger.open_reservations()) == 1


def test_a_task_that_failed_is_tried_again_as_a_purchase_of_its_own(store, ledger):
    provider = FarProvider(faults={"submit": ["will fail"]})
    bought = purchase(FarGenerator(provider), ledger, store)
    assert len(set(provider.accepted)) == 2
    assert Journal(ledger).latest(bought.request_key).number == 2
    assert totals(ledger).settled_usd == provider.billed == Decimal("0.03")


def test_a_task_that_keeps_failing_is_given_up_and_costs_nothing(store, ledger):
    provider = FarProvider(faults={"submit": ["will fail"] * 3})
    with pytest.raises(TaskFailed):
        purchase(FarGenerator(provider), ledger, store, retries=2)
    assert len(provider.accepted) == 3
    assert totals(ledger).settled_usd == totals(ledger).reserved_usd == 0


def test_a_paid_model_whose_file_is_gone_is_booked_as_paid(store, ledger):
    provider = FarProvider(faults={"collect": ["gone"]})
    with pytest.raises(ResultLost):
        purchase(FarGenerator(provider), ledger, store)
    assert totals(ledger).settled_usd == Decimal("0.064")
    assert totals(ledger).reserved_usd == 0
    assert Journal(ledger).latest(order(FarGenerator(provider)).request_key).state == "failed"


def test_a_result_without_a_price_is_booked_as_what_was_set_aside_for_it(store, ledger):
    bought = purchase(FarGenerator(FarProvider(cost=None)), ledger, store)
    assert bought.cost_usd == totals(ledger).settled_usd == Decimal("0.064")
    assert bought.bill.source == "estimate"


def test_a_paid_model_that_the_store_lost_is_fetched_again_without_paying(store, ledger, tmp_path):
    provider = FarProvider()
    generator = FarGenerator(provider)
    first = purchase(generator, ledger, store)
    (tmp_path / "store" / first.glb.key).unlink()
    again = purchase(generator, ledger, store)
    assert again.reused
    assert store.get_blob(again.glb)
    assert len(provider.accepted) == 1
    assert totals(ledger).settled_usd == provider.billed


def test_of_several_results_the_best_is_chosen_and_the_others_are_kept_with_their_cost(store, ledger):
    provider = FarProvider(cost="0.02")
    generator = FarGenerator(provider)
    compared = []

    async def choose(glbs):
        compared.append(len(glbs))
        return Choice(2, tuple({"silhouette_iou": 0.5 + n / 10} for n in range(len(glbs))))

    till = Till(generator, Journal(ledger), store, FIVE_DOLLARS)
    wanted = order(generator, results=4)
    bought = asyncio.run(buy(wanted, till, choose))
    assert compared == [4]
    assert bought.seed == 44
    assert bought.cost_usd == totals(ledger).settled_usd == Decimal("0.08")
    found = find_generation(store, wanted)
    assert [result.seed for result in found.results] == [42, 43, 44, 45]
    assert {result.cost_usd for result in found.results} == {Decimal("0.02")}
    assert found.results[2].score["silhouette_iou"] == 0.7


def test_two_who_both_think_they_own_a_purchase_settle_it_once(store, ledger):
    """A stopped process wakes up after another has gone on in its place."""
    provider = FarProvider()
    sleeper = FarGenerator(provider)

    async def fall_asleep(*args, **more):
        left_by_a_dead_process(ledger)
        other = Till(FarGenerator(provider), Journal(ledger), store, FIVE_DOLLARS)
        await buy(order(sleeper), other)
        return await FarGenerator(provider).collect(*args, **more)

    sleeper.collect = fall_asleep
    bought = purchase(sleeper, ledger, store)
    assert len(provider.accepted) == 1
    assert totals(ledger).settled_usd == provider.billed == bought.cost_usd
    assert totals(ledger).generations == 1


FAULTS = {
    "submit": st.sampled_from([None, "busy", "lost before", "lost after", "will fail", "die"]),
    "knows": st.sampled_from([None, "busy"]),
    "collect": st.sampled_from([None, "die", "too long"]),
}


@settings(max_examples=50, deadline=None)
@given(
    faults=st.fixed_dictionaries({step: st.lists(kind, max_size=6) for step, kind in FAULTS.items()}),
    hidden=st.integers(0, 2),
)
def test_whatever_goes_wrong_in_whatever_order_the_bill_and_the_books_agree(faults, hidden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    provider, store = FarProvider(faults=faults, hidden=hidden), open_store((folder / "store").as_uri())
    generator = FarGenerator(provider)
    with (
        Ledger.open(f"sqlite:///{folder / 'ledger.sqlite'}") as ledger,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(errand, "VISIBLE_AFTER_SECONDS", 0.001)
        patch.setattr(Journal, "let_go", lambda *_: None)
        for _ in range(20):
            try:
                bought = purchase(generator, ledger, store)
            except (Death, ProviderBusy, OutcomeUnknown, TaskFailed):
                left_by_a_dead_process(ledger)
            else:
                break
        assert store.get_blob(bought.glb)
        paid = [uuid for uuid in provider.accepted if uuid not in provider.verdicts]
        assert len(paid) == 1
        assert totals(ledger).settled_usd == provider.billed
        assert totals(ledger).reserved_usd == 0
        assert ledger.verify() == ()
        assert purchase(generator, ledger, store).reused
        assert len(provider.accepted) == len(set(provider.accepted))


def test_a_model_can_be_bought_again_on_purpose_and_stands_beside_the_first(store, ledger):
    provider = FarProvider()
    generator = FarGenerator(provider)
    first = purchase(generator, ledger, store)
    till = Till(generator, Journal(ledger), store, FIVE_DOLLARS)
    again = asyncio.run(buy_again(order(generator), till))
    assert again.task_uuid != first.task_uuid
    assert len(provider.accepted) == 2
    assert totals(ledger).settled_usd == provider.billed
    (spent,) = spend_by_request(ledger, "shop")
    assert (spent.settled, spent.reproduced) == (Decimal("0.03"), Decimal("0.03"))
    assert find_generation(store, order(generator)).task_uuid == first.task_uuid


def test_an_interrupted_reproduction_is_not_taken_for_the_model_itself(store, ledger):
    provider = FarProvider()
    generator = FarGenerator(provider)
    first = purchase(generator, ledger, store)
    provider.faults["collect"] = ["too long"]
    till = Till(generator, Journal(ledger), store, FIVE_DOLLARS)
    with pytest.raises(OutcomeUnknown):
        asyncio.run(buy_again(order(generator), till))
    assert purchase(generator, ledger, store).task_uuid == first.task_uuid
    assert len(ledger.open_reservations()) == 1
    asyncio.run(buy_again(order(generator), till))
    assert len(provider.accepted) == 2
    assert totals(ledger).settled_usd == provider.billed
    assert ledger.open_reservations() == ()
