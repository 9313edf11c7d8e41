"""One purchase has one owner: twins in one process, and processes that wake up when others went on."""

import asyncio
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from far_provider import FarGenerator, FarProvider
from sqlalchemy import update

from trellis_pipeline.costs.budgets import Budgets
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import totals
from trellis_pipeline.costs.schema import intents
from trellis_pipeline.errors import ProviderBusy, TaskFailed
from trellis_pipeline.generation.generator import InputImage
from trellis_pipeline.generation.request import build_request, request_key
from trellis_pipeline.purchasing import errand
from trellis_pipeline.purchasing.buy import buy
from trellis_pipeline.purchasing.generations import Order
from trellis_pipeline.purchasing.journal import Journal
from trellis_pipeline.purchasing.leftovers import finish_leftovers
from trellis_pipeline.purchasing.processes import is_gone
from trellis_pipeline.purchasing.till import Till
from trellis_pipeline.storage.store import open_store


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}") as ledger:
        yield ledger


@pytest.fixture
def new_till(tmp_path, ledger, monkeypatch):
    """Each is another process, as far as the journal can tell."""
    monkeypatch.setattr(errand, "VISIBLE_AFTER_SECONDS", 0.01)
    store = open_store((tmp_path / "store").as_uri())
    return lambda generator, **more: Till(
        generator, Journal(ledger), store, Budgets(total_usd=Decimal(5)), **more
    )


def order(sku="A"):
    request, image = build_request({"seed": 7}), InputImage(b"png", "a" * 64)
    return Order("shop", sku, "run-1", request, image, request_key(request, image.sha256, "x"))


def thought_to_be_dead(ledger):
    with ledger.writing() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(update(intents).where(intents.c.state == "open").values(lease_until=past))


def assert_paid_once(ledger, provider, times=1):
    assert len(provider.accepted) == times
    assert totals(ledger).settled_usd == provider.billed == Decimal("0.03")
    assert totals(ledger).reserved_usd == 0
    assert ledger.verify() == ()


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_of_twins_in_one_process_one_buys_and_the_other_waits(ledger, new_till):
    provider = FarProvider(faults={"submit": [None, "busy"]})
    generator = FarGenerator(provider)
    real, looked = generator.collect, []

    async def slowly(*args, **more):
        await until(lambda: len(looked) > 5)
        return await real(*args, **more)

    generator.collect = slowly
    till = new_till(generator)
    real_look = till.journal.take_over
    till.journal.take_over = lambda intent: looked.append(intent) or real_look(intent)

    async def both():
        return await asyncio.gather(buy(order("A"), till), buy(order("TWIN"), till))

    bought = asyncio.run(both())
    assert sorted(one.reused for one in bought) == [False, True]
    assert provider.calls == ["submit", "collect"]
    assert_paid_once(ledger, provider)


def test_twins_whose_task_fails_both_end_with_the_second_purchase(ledger, new_till):
    provider = FarProvider(faults={"submit": ["will fail"]})
    till = new_till(FarGenerator(provider))

    async def both():
        return await asyncio.gather(buy(order("A"), till), buy(order("TWIN"), till))

    assert len({one.task_uuid for one in asyncio.run(both())}) == 1
    assert_paid_once(ledger, provider, times=2)


def test_who_is_refused_late_frees_no_money_that_another_is_spending(ledger, new_till):
    """A stopped process wakes up, hands its task in and is turned away; another has done so before it."""
    provider = FarProvider()
    sleeper, other = FarGenerator(provider), FarGenerator(provider)
    refused = asyncio.Event()
    real_collect = other.collect

    async def wait_for_the_refusal(*args, **more):
        await refused.wait()
        return await real_collect(*args, **more)

    async def story():
        going_on = []

        async def wake_up_late(*_args, **_more):
            thought_to_be_dead(ledger)
            going_on.append(asyncio.ensure_future(buy(order(), new_till(other))))
            await until(lambda: provider.accepted)
            raise ProviderBusy("try later")

        sleeper.submit, other.collect = wake_up_late, wait_for_the_refusal
        with pytest.raises(ProviderBusy):
            await buy(order(), new_till(sleeper))
        assert len(ledger.open_reservations()) == 1
        refused.set()
        return await going_on[0]

    bought = asyncio.run(story())
    assert bought.cost_usd == Decimal("0.03")
    assert_paid_once(ledger, provider)


def test_who_wakes_up_after_the_purchase_was_given_up_begins_anew_and_hands_nothing_in(ledger, new_till):
    provider = FarProvider()
    sleeper = new_till(FarGenerator(provider))
    real, naps = sleeper.journal.submitting, []

    def sleep_first(intent):
        if not naps:
            naps.append(intent)
            thought_to_be_dead(ledger)
            (ended,) = asyncio.run(finish_leftovers(new_till(FarGenerator(provider))))
            assert ended.end == "never accepted"
            assert ledger.open_reservations() == ()
        real(intent)

    sleeper.journal.submitting = sleep_first
    bought = asyncio.run(buy(order(), sleeper))
    assert provider.accepted == [bought.task_uuid] != [naps[0].task_uuid]
    assert_paid_once(ledger, provider)


def test_a_killed_process_is_gone_also_while_nobody_has_buried_it():
    tell = "from trellis_pipeline.purchasing.processes import this_process; print(this_process(), flush=True)"
    command = [sys.executable, "-c", f"import time; {tell}; time.sleep(60)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        name = process.stdout.readline().strip()
        assert not is_gone(name)
        process.kill()
        end = time.monotonic() + 120
        while not is_gone(name) and time.monotonic() < end:
            time.sleep(0.01)
        assert process.returncode is None  # not asked about: a zombie
        assert is_gone(name)


def test_who_learns_late_that_the_task_failed_leaves_alone_what_was_booked_meanwhile(ledger, new_till):
    provider = FarProvider(faults={"submit": ["will fail"]})
    sleeper = FarGenerator(provider)
    real = sleeper.collect

    async def sleep_first(*args, **more):
        thought_to_be_dead(ledger)
        with pytest.raises(TaskFailed):
            await buy(order(), new_till(FarGenerator(provider), retries=0))
        return await real(*args, **more)

    sleeper.collect = sleep_first
    with pytest.raises(TaskFailed):
        asyncio.run(buy(order(), new_till(sleeper, retries=0)))
    assert totals(ledger).settled_usd == totals(ledger).reserved_usd == 0
    assert len(provider.accepted) == 1
