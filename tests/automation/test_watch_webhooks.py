"""Purchases that nobody waits for: with news or without, they are taken up, each once for each reason."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import update

from resources.ledger import LedgerResource
from trellis_pipeline.automation.watch_webhooks import build_webhook_sensor, to_ask
from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.schema import intents
from trellis_pipeline.purchasing.journal import Journal
from trellis_pipeline.purchasing.webhooks import OpenPurchase, new_token, note_callback

LIMIT = timedelta(minutes=10)
LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


class Shop:
    """A ledger with purchases of the catalog `shop`, and the sensor that looks after them."""

    def __init__(self, ledger, url):
        self.ledger = ledger
        self.journal = Journal(ledger)
        self.resource = LedgerResource(SecretStr(url), Budgets())
        self.sensor = build_webhook_sensor("shop", 2, left_after_seconds=LIMIT.total_seconds())

    def buy(self, sku, attempt=1, catalog="shop"):
        """A purchase under way: its run is at it. Returns the task and its token."""
        scope = SpendScope(catalog, sku, "run-1", "runware", "m", "1024", f"{sku}-{attempt}", attempt)
        token = new_token("https://hooks.example.com")
        intent = self.journal.begin(Decimal("0.10"), scope, Budgets(), after=None, token_sha256=token.sha256)
        return intent.task_uuid, token.secret

    def leave(self, task, **values):
        """The run is gone."""
        with self.ledger.writing() as connection:
            connection.execute(
                update(intents)
                .where(intents.c.task_uuid == task)
                .values(owner="", lease_until=LONG_AGO, **values)
            )

    def tick(self, cursor=None):
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(
                instance=instance, cursor=cursor, resources={"ledger": self.resource}
            )
            with context:
                return self.sensor.evaluate_tick(context)


@pytest.fixture
def shop(ledger, url):
    return Shop(ledger, url)


def config_of(tick):
    return [request.run_config["ops"]["shop_line"]["config"] for request in tick.run_requests]


def products_of(tick):
    return [config["products"] for config in config_of(tick)]


def test_news_for_a_purchase_that_nobody_waits_for_starts_a_run_for_that_product_only(shop):
    task, token = shop.buy("A")
    shop.leave(task)
    waiting, _ = shop.buy("B")
    shop.leave(waiting)
    assert note_callback(shop.ledger, task, token) == "news"
    tick = shop.tick()
    assert products_of(tick) == [["A"]]
    assert tick.run_requests[0].job_name == "shop_products_job"


def test_news_for_a_purchase_that_a_run_is_waiting_for_is_left_to_that_run(shop):
    task, token = shop.buy("A")
    note_callback(shop.ledger, task, token)
    tick = shop.tick()
    assert tick.run_requests == []
    assert "1 purchases are open" in tick.skip_message
    # The run died after the call and before it could look: now it is the sensor's.
    shop.leave(task)
    assert products_of(shop.tick(tick.cursor)) == [["A"]]


def test_a_call_that_never_comes_is_made_up_for_by_age(shop):
    task, _ = shop.buy("A")
    shop.leave(task)
    assert shop.tick().run_requests == []
    shop.leave(task, made_at=datetime.now(UTC) - LIMIT)
    assert products_of(shop.tick()) == [["A"]]


def test_repeated_ticks_start_nothing_twice(shop):
    task, token = shop.buy("A")
    shop.leave(task)
    note_callback(shop.ledger, task, token)
    first, again = shop.tick(), shop.tick()
    # The daemon died before it stored the cursor: the same key, so Dagster starts no second run.
    assert [r.run_key for r in first.run_requests] == [r.run_key for r in again.run_requests]
    assert shop.tick(first.cursor).run_requests == []
    note_callback(shop.ledger, task, token)
    assert shop.tick(first.cursor).run_requests == []


def test_what_joins_later_does_not_start_the_others_again(shop):
    tasks = {sku: shop.buy(sku) for sku in "ABC"}
    for task, _ in tasks.values():
        shop.leave(task)
    note_callback(shop.ledger, *tasks["A"])
    first = shop.tick()
    note_callback(shop.ledger, *tasks["B"])
    note_callback(shop.ledger, *tasks["C"])
    second = shop.tick(first.cursor)
    assert (products_of(first), products_of(second)) == ([["A"]], [["B", "C"]])
    assert first.run_requests[0].run_key != second.run_requests[0].run_key


def test_a_purchase_with_another_seed_is_resumed_with_that_seed_in_chunks(shop):
    for sku, attempt in (("A", 1), ("B", 3), ("C", 1), ("B", 2)):
        task, token = shop.buy(sku, attempt)
        shop.leave(task)
        note_callback(shop.ledger, task, token)
    assert config_of(shop.tick()) == [
        {"products": ["A", "B"], "attempts": {"B": 3}},
        {"products": ["C"], "attempts": {}},
    ]


def test_other_catalogs_and_finished_purchases_are_not_its_affair(shop):
    for catalog in ("shop", "other"):
        task, token = shop.buy("A", catalog=catalog, attempt=1 if catalog == "shop" else 2)
        shop.leave(task)
        note_callback(shop.ledger, task, token)
        if catalog == "shop":
            closing = shop.journal.closing(shop.journal.find(task), "done")
            shop.ledger.release(shop.ledger.find(task), "test", also=closing)
    assert shop.tick().run_requests == []


def test_the_cursor_forgets_what_is_over(shop):
    task, token = shop.buy("A")
    shop.leave(task)
    note_callback(shop.ledger, task, token)
    cursor = shop.tick().cursor
    assert set(json.loads(cursor)) == {task}
    shop.ledger.release(
        shop.ledger.find(task), "test", also=shop.journal.closing(shop.journal.find(task), "failed")
    )
    assert json.loads(shop.tick(cursor).cursor) == {}


def test_a_cursor_edited_by_hand_does_not_stop_it(shop):
    task, token = shop.buy("A")
    shop.leave(task)
    note_callback(shop.ledger, task, token)
    for cursor in ("{", "[]", '"x"', "7", "null"):
        assert products_of(shop.tick(cursor)) == [["A"]]


def test_without_its_database_the_tick_says_so():
    sensor = build_webhook_sensor("shop", 2)
    resource = LedgerResource(SecretStr("sqlite:////proc/no/such/ledger.db"), Budgets())
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance=instance, resources={"ledger": resource}) as context,
    ):
        tick = sensor.evaluate_tick(context)
    assert "/proc/no/such" in tick.skip_message


def test_it_is_off_until_it_is_switched_on():
    assert build_webhook_sensor("shop", 2).default_status.value == "STOPPED"
    assert build_webhook_sensor("shop", 2, enabled=True).default_status.value == "RUNNING"


def left(minutes, **values):
    now = datetime.now(UTC)
    return OpenPurchase(
        **{
            "task_uuid": "t",
            "sku": "A",
            "attempt": 1,
            "owner": "",
            "lease_until": now - timedelta(hours=2),
            "made_at": now - timedelta(minutes=minutes),
            "called_back_at": None,
            **values,
        }
    ), now


def test_a_product_that_fails_every_time_is_tried_ever_more_rarely():
    purchase, made = left(0)
    seen, tries = {}, []
    for minute in range(3 * 24 * 60):
        asked = to_ask([purchase], seen, made + timedelta(minutes=minute), LIMIT)
        seen |= asked
        tries += [minute] if asked else []
    assert tries == [10, 20, 40, 80, 160, 320, 640, 1280, 2560]


def test_a_run_that_dies_each_time_it_takes_the_purchase_up_is_not_started_each_time():
    purchase, now = left(15)
    asked = to_ask([purchase], {}, now, LIMIT)
    assert set(asked) == {"t"}
    # It took the purchase over, which moves the lease, and died.
    later = now + timedelta(minutes=3)
    died, _ = left(15, made_at=purchase.made_at, owner="host:1:1", lease_until=later - timedelta(seconds=1))
    assert to_ask([died], asked, later, LIMIT) == {}


def test_who_holds_a_valid_lease_is_not_disturbed():
    held, now = left(600, owner="host:1:1", lease_until=datetime.now(UTC) + timedelta(minutes=1))
    assert to_ask([held], {}, now, LIMIT) == {}


@given(st.integers(-(10**6), 10**6), st.booleans(), st.booleans())
def test_no_clock_makes_it_ask_twice_for_one_reason(minutes, news, owned):
    purchase, now = left(
        minutes,
        owner="host:1:1" if owned else "",
        called_back_at=datetime.now(UTC) if news else None,
    )
    asked = to_ask([purchase], {}, now, LIMIT)
    assert to_ask([purchase], asked, now, LIMIT) == {}
