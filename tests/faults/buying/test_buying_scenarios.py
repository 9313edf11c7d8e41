"""Two hundred of the scenarios of `make faults`: processes die, others go on, every model is paid once.

The processes, the servers, the client between them and the database are the real ones; only the moment of
death is arranged. What is right is what the servers' billing logs say.
"""

import shutil
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from zlib import crc32

import pytest
from buying_process import DONE, MOMENTS, order_of
from buying_scenarios import (
    SIGNALS,
    awaits_scenario,
    judge,
    matrix_scenario,
    overruns,
    random_scenario,
    rivals_scenario,
    scenario_of,
)
from runware_parts import SENTINEL, crop, with_generator

from trellis_pipeline.costs.budgets import SpendScope
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.generation.task_uuid import task_uuid
from trellis_pipeline.purchasing.generations import find_generation
from trellis_pipeline.storage.store import open_store


def assert_all_well(outcomes):
    broken = {one.scenario.name: one.breaches for one in outcomes if one.breaches}
    assert broken == {}, "play one again with: python benchmarks/faults.py --play NAME"


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_crash_point_a_process_has_paid_for_each_model_once(arena, moment, signal):
    outcomes = list(arena.play_all([matrix_scenario(moment, signal, seed) for seed in range(7)]))
    assert_all_well(outcomes)
    assert sum(one.died for one in outcomes) >= 5  # SIGTERM may come when all is done


@pytest.mark.parametrize("part", range(4))
def test_on_random_bad_days_every_model_is_paid_once(arena, part):
    outcomes = list(arena.play_all([random_scenario(seed) for seed in range(14 * part, 14 * (part + 1))]))
    assert_all_well(outcomes)
    assert sum(one.died for one in outcomes) > 7


@pytest.mark.parametrize("signal", SIGNALS)
def test_of_two_processes_that_buy_the_same_one_dies_and_the_other_pays_nothing_again(arena, signal):
    outcomes = list(arena.play_all([rivals_scenario(moment, signal) for moment in MOMENTS]))
    assert_all_well(outcomes)
    assert sum(one.died for one in outcomes) >= 3  # the other may have been there first


def test_stopped_at_any_await_a_process_is_interrupted_and_the_next_one_finishes(arena):
    outcomes = list(arena.play_all([awaits_scenario(number) for number in range(4, 124, 8)]))
    assert_all_well(outcomes)
    assert sum(one.died for one in outcomes) > 8  # some had done everything by then


@pytest.mark.slow
def test_on_postgres_too_one_of_two_dies_and_everything_is_paid_once(postgres_arena):
    scenarios = [rivals_scenario(moment, signal) for moment in MOMENTS for signal in SIGNALS]
    outcomes = list(postgres_arena.play_all([replace(one, postgres=True) for one in scenarios]))
    assert_all_well(outcomes)
    assert sum(one.died for one in outcomes) >= 6


# -- what would be seen if a promise were broken -----------------------------------------------------------


@pytest.fixture
def played(arena, request):
    """A shop in which everything is right, kept as it is, and its server."""
    scenario = replace(random_scenario(0), name=request.node.name, server=0, epoch=0, client={}, cap="100")
    seeds = range(crc32(request.node.name.encode()), 2**62)
    orders = tuple(replace(order, seed=seed) for order, seed in zip(scenario.orders, seeds, strict=False))
    scenario = replace(scenario, orders=orders)
    shop = arena.shop(scenario)
    assert arena.live(shop) == [DONE]

    def judged():
        return judge(scenario, shop, arena.server(scenario).folder, 0, 1)

    assert judged().breaches == ()
    yield shop, judged
    shutil.rmtree(shop.folder)


def test_a_second_purchase_of_one_request_would_be_seen(played):
    shop, judged = played
    order = order_of(shop, shop.orders[0])

    async def buy_behind_its_back(generator):
        uuid = task_uuid(order.request_key, 2)
        await generator.submit(uuid, order.request, crop())
        await generator.collect(uuid, order.request)

    with_generator(shop.base_url, buy_behind_its_back)
    assert judged().double == (f"request {order.request_key} was paid 2 times",)
    assert judged().books != ()


def test_a_lost_model_would_be_seen(played):
    shop, judged = played
    store = open_store(shop.store_url)
    found = find_generation(store, order_of(shop, shop.orders[0]))
    (Path(shop.folder) / "store" / found.glb.key).unlink()
    assert judged().lost != ()


def test_a_difference_of_a_nano_dollar_would_be_seen(played):
    shop, judged = played
    scope = SpendScope("shop", "A", "run", "runware", "m", "1024", "k")
    with Ledger.open(shop.ledger_url) as ledger:
        ledger.adjust(Decimal("0.000000001"), scope, "a test")
    assert len(judged().books) == 1


def test_a_budget_that_did_not_hold_would_be_seen(played):
    shop, _ = played
    with Ledger.open(shop.ledger_url) as ledger:
        assert overruns(ledger, Decimal("0.05")) != []


def test_a_key_that_was_written_down_would_be_seen(played):
    shop, judged = played
    (Path(shop.folder) / "store" / "note").write_text(f"...{SENTINEL}")
    assert judged().other == ("the API key is in store/note",)


def test_a_scenario_has_one_name_and_means_the_same_each_time():
    for scenario in (matrix_scenario("after ack", "SIGTERM", 3), random_scenario(7)):
        assert scenario_of(scenario.name) == scenario
    assert rivals_scenario("after ack", "SIGKILL") == scenario_of("rivals/after ack/SIGKILL")
    with pytest.raises(ValueError, match="no scenario"):
        scenario_of("matrix/never/SIGKILL/1")
