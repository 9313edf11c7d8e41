"""Each fault of a bad day at the level at which money is spent: what is kept, booked, freed and said.

A real server misbehaves on purpose; orders are bought through ledger, journal, store and client, as in a run.
"""

import asyncio
import contextlib
import itertools
import socket
import threading
import time
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from buying_scenarios import secrets_in
from runware_parts import SENTINEL, SeedGenerator, crop, options, small_glb
from s3_server import s3_server

from resources.store import ArtifactStoreResource
from trellis_pipeline.costs.budgets import Budgets
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import totals
from trellis_pipeline.errors import OutcomeUnknown, OutOfCredit, ProviderRefusesAccess, ResultLost
from trellis_pipeline.generation.request import build_request, request_key
from trellis_pipeline.generation.runware.generator import RunwareGenerator, identity_at
from trellis_pipeline.purchasing import buy as buying
from trellis_pipeline.purchasing import errand, journal
from trellis_pipeline.purchasing.generations import Order, find_generation
from trellis_pipeline.purchasing.journal import Journal
from trellis_pipeline.purchasing.till import Till
from trellis_pipeline.purchasing.webhook_app import build_webhook_app, webhook_server
from trellis_pipeline.service.faults import Fault, FaultPlan
from trellis_pipeline.service.testing import LIST_PRICE, running_service
from trellis_pipeline.storage.store import BlobRef, open_store

RESERVED = Decimal("0.064")


class Shop:
    """Orders of one catalog at one server. `buy` gives a purchase or an error for each order."""

    def __init__(self, folder, service, ledger):
        self.folder = folder
        self.service = service
        self.ledger = ledger
        self.store = open_store((folder / "store").as_uri())

    def order(self, number, results=1):
        request = build_request({"seed": number, "numberResults": results})
        key = request_key(request, crop().sha256, str(identity_at(self.service.base_url)))
        return Order("shop", f"SKU-{number}", "run-1", request, crop(), key)

    def buy(self, count=1, results=1, webhooks_url=None, **client):
        async def go():
            async with RunwareGenerator(options(self.service.base_url, **client)) as generator:
                budgets = Budgets(total_usd=Decimal(50))
                till = Till(generator, Journal(self.ledger), self.store, budgets, webhooks_url=webhooks_url)
                orders = [self.order(number, results) for number in range(count)]
                return await asyncio.gather(
                    *(buying.buy(order, till) for order in orders), return_exceptions=True
                )

        return asyncio.run(go())

    def found(self, count=1, results=1):
        """The orders whose model is in the store."""
        orders = [self.order(number, results) for number in range(count)]
        return [find_generation(self.store, order) is not None for order in orders]

    def assert_paid_once(self, count=1, results=1):
        """Every model is there, was billed once, and the books say what the server says."""
        bills = self.service.billing()
        assert Counter(bill.task_uuid for bill in bills) == dict.fromkeys(self.service.accepted(), results)
        assert len(self.service.accepted()) == count
        assert self.found(count, results) == [True] * count
        assert totals(self.ledger).settled_usd == sum(bill.cost for bill in bills)
        self.assert_nothing_is_set_aside()

    def assert_nothing_is_set_aside(self):
        assert self.ledger.open_reservations() == ()
        assert Journal(self.ledger).open_intents() == ()
        assert self.ledger.verify() == ()


@pytest.fixture
def open_shop(tmp_path, monkeypatch):
    monkeypatch.setattr(errand, "VISIBLE_AFTER_SECONDS", 0.3)
    with contextlib.ExitStack() as stack:

        def start(*faults, **more):
            plan = FaultPlan.of(*faults)
            folder = tmp_path / "service"
            service = stack.enter_context(
                running_service(SeedGenerator(), folder=folder, faults=plan, **more)
            )
            ledger = stack.enter_context(Ledger.open(f"sqlite:///{tmp_path / 'shop' / 'ledger.sqlite'}"))
            return Shop(tmp_path / "shop", service, ledger)

        yield start
        assert secrets_in(tmp_path / "shop", SENTINEL) == []


# -- the account -------------------------------------------------------------------------------------------


def test_a_wrong_key_is_one_call_for_all_products_and_frees_the_money(open_shop):
    shop = open_shop(Fault("wrong_key", times=0))
    errors = shop.buy(count=12)
    assert {type(error) for error in errors} == {ProviderRefusesAccess}
    assert "RUNWARE_API_KEY" in str(errors[0])
    assert shop.service.struck["wrong_key"] == 1
    assert shop.service.accepted() == []
    assert totals(shop.ledger).settled_usd == 0
    shop.assert_nothing_is_set_aside()


@pytest.mark.parametrize("status", ["402", "400"])
def test_when_the_credit_ends_what_was_bought_is_kept_and_nothing_stays_set_aside(open_shop, status):
    shop = open_shop(Fault("out_of_credit", after=3, times=0, value=status))
    outcomes = shop.buy(count=10)
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert {type(error) for error in errors} == {OutOfCredit}
    assert "credit" in str(errors[0]).lower()
    assert len(errors) == 7
    assert sum(shop.found(10)) == 3
    assert totals(shop.ledger).settled_usd == 3 * LIST_PRICE
    shop.assert_nothing_is_set_aside()


# -- prices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["missing", "text", "negative", "nan", "tiny"])
def test_a_price_that_cannot_be_believed_is_booked_as_what_was_set_aside(open_shop, value):
    shop = open_shop(Fault("odd_cost", value=value, times=0))
    (bought,) = shop.buy()
    assert (bought.cost_usd, bought.bill.source) == (RESERVED, "estimate")
    assert totals(shop.ledger).settled_usd == RESERVED
    assert [bill.cost for bill in shop.service.billing()] == [LIST_PRICE]
    shop.assert_nothing_is_set_aside()


# -- tasks -------------------------------------------------------------------------------------------------


def test_a_task_that_stays_in_processing_keeps_its_money_set_aside_until_it_is_fetched(open_shop):
    shop = open_shop(Fault("stuck", seconds=3.0))
    (error,) = shop.buy(task_seconds=0.5)
    assert isinstance(error, OutcomeUnknown)
    assert "run again" in str(error)
    assert [one.amount for one in shop.ledger.open_reservations()] == [RESERVED]
    (bought,) = shop.buy()
    assert bought.cost_usd == LIST_PRICE
    shop.assert_paid_once()


def test_of_four_results_one_fails_and_three_are_kept_and_paid(open_shop):
    shop = open_shop(Fault("one_result_fails", value="2"))
    (bought,) = shop.buy(results=4)
    assert len(bought.results) == 3
    assert totals(shop.ledger).settled_usd == 3 * LIST_PRICE == bought.cost_usd
    assert sum(bill.cost for bill in shop.service.billing()) == 3 * LIST_PRICE
    shop.assert_nothing_is_set_aside()


def test_an_expired_link_is_asked_for_again_and_nothing_is_bought_again(open_shop):
    shop = open_shop(Fault("dead_link", per_task=True), Fault("file_gone", per_task=True, value="403"))
    shop.buy(count=3)
    assert shop.service.struck["dead_link"] == 3
    shop.assert_paid_once(count=3)


def test_a_model_whose_file_is_gone_for_good_is_booked_and_named_as_paid(open_shop):
    shop = open_shop(Fault("file_gone", times=0))
    (error,) = shop.buy()
    assert isinstance(error, ResultLost)
    assert totals(shop.ledger).settled_usd == RESERVED >= LIST_PRICE
    assert len(shop.service.accepted()) == 1
    shop.assert_nothing_is_set_aside()


# -- bytes that are not what they should be, each followed by good ones ------------------------------------


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("rate_limited", {"value": "1"}),
        ("rate_limited", {"times": 3}),
        ("server_error", {"times": 4, "value": "503"}),
        ("server_error", {"accepted": True, "on": "submit", "value": "500"}),
        ("reset", {"times": 2}),
        ("ack_lost", {}),
        ("truncated_json", {"times": 2}),
        ("html_200", {"times": 2}),
        ("html_error", {"accepted": True, "on": "submit"}),
        ("gzip_bomb", {"on": "submit"}),
        ("gzip_bomb", {"on": "poll"}),
        ("slow_body", {"on": "submit", "seconds": 30.0}),
        ("slow_body", {"on": "poll", "seconds": 30.0}),
        ("hidden", {"seconds": 0.2}),
        ("duplicate_items", {"times": 0}),
        ("out_of_order", {"times": 0}),
        ("foreign_items", {"times": 0}),
        ("turned_away", {"times": 2, "per_task": True}),
        ("turned_away", {"times": 2, "per_task": True, "value": "internalServerError"}),
        ("legacy_shape", {"times": 0}),
        ("truncated_file", {}),
        ("truncated_file", {"value": "wrong_length"}),
        ("glb_bomb", {}),
        ("file_reset", {}),
        ("slow_file", {"seconds": 30.0}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_whatever_the_network_does_once_each_model_is_paid_once(open_shop, name, more):
    shop = open_shop(Fault(name, **more))
    shop.buy(count=2, results=2, call_seconds=1.0, download_seconds=1.0)
    shop.buy(count=2, results=2)
    assert shop.service.struck[name] >= 1
    shop.assert_paid_once(count=2, results=2)


def test_a_redirect_to_the_metadata_service_is_not_followed_and_the_model_is_fetched_later(open_shop):
    shop = open_shop("redirect_to_metadata")
    (error,) = shop.buy()
    assert isinstance(error, OutcomeUnknown)
    assert "169.254.169.254" in str(error)
    assert len(shop.ledger.open_reservations()) == 1
    shop.buy()
    shop.assert_paid_once()


# -- clocks ------------------------------------------------------------------------------------------------


def let_clocks_jump(monkeypatch, hours):
    """Wall clocks are so many hours further each time that somebody looks."""
    jumps = itertools.count()

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=hours * next(jumps))

    monkeypatch.setattr(errand, "datetime", Clock)
    monkeypatch.setattr(journal, "datetime", Clock)
    monkeypatch.setattr(time, "time", lambda: Clock.now(UTC).timestamp())


@pytest.mark.parametrize("hours", [1, -1])
def test_a_wall_clock_that_jumps_delays_nothing_and_buys_nothing_twice(open_shop, monkeypatch, hours):
    shop = open_shop(Fault("ack_lost", per_task=True, share=0.5), Fault("hidden", seconds=0.1), seconds=0.3)
    let_clocks_jump(monkeypatch, hours)
    began = time.monotonic()
    shop.buy(count=4)
    assert time.monotonic() - began < 60  # an hour if it were waited for
    shop.assert_paid_once(count=4)


def test_a_process_whose_clock_is_an_hour_ahead_takes_a_living_ones_purchase_and_pays_nothing_twice(
    open_shop, monkeypatch
):
    shop = open_shop(seconds=1.0)
    here = threading.local()

    def now():
        return datetime.now(UTC) + timedelta(hours=getattr(here, "ahead", 0))

    monkeypatch.setattr(journal, "_now", now)
    outcomes = []

    def buy(ahead, wait_for):
        while len(shop.service.accepted()) < wait_for:
            time.sleep(0.01)
        here.ahead = ahead
        outcomes.append(shop.buy()[0])

    buyers = [threading.Thread(target=buy, args=pair) for pair in ((0, 0), (1, 1))]
    for buyer in buyers:
        buyer.start()
    for buyer in buyers:
        buyer.join()
    assert len({one.glb.sha256 for one in outcomes}) == 1
    shop.assert_paid_once()


# -- deliveries --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def webhook_endpoint(ledger):
    server = webhook_server(build_webhook_app(ledger))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.mark.parametrize("fault", ["webhook_early", "webhook_never", "webhook_forged", "webhook_duplicate"])
def test_whatever_a_webhook_does_the_model_is_fetched_and_paid_once(open_shop, fault):
    shop = open_shop(Fault(fault, times=0), seconds=0.2)
    with webhook_endpoint(shop.ledger) as url:
        shop.buy(count=3, webhooks_url=url)
        shop.service.pending_deliveries(settled=True)
    assert shop.service.struck[fault] >= 1
    shop.assert_paid_once(count=3)


@pytest.fixture(scope="module")
def s3_endpoint():
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(monkeypatch, s3_endpoint):
    """The store of a shop that keeps its models in a bucket, as runs open it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SENTINEL)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    name = f"models-{uuid.uuid4().hex}"
    bucket = ArtifactStoreResource(url=f"s3://{name}/spring", s3_endpoint=s3_endpoint, s3_region="us-east-1")
    bucket.s3_client().create_bucket(Bucket=name)
    return bucket


@pytest.mark.parametrize("fault", [Fault("upload_late", seconds=1.0), Fault("upload_never", times=0)])
def test_an_upload_that_lags_is_waited_for_and_one_that_never_comes_is_downloaded(
    open_shop, bucket, fault, caplog
):
    shop = open_shop(fault)
    shop.store = bucket.open()
    shop.buy(count=2, upload_slot=bucket.new_slot(600), upload_wait_seconds=3.0)
    assert shop.service.struck[fault.name] >= 1
    assert ("by its link" in caplog.text) == (fault.name == "upload_never")
    shop.assert_paid_once(count=2)


def test_a_bucket_that_cannot_be_read_costs_no_model_and_leaves_no_money_set_aside(open_shop, bucket):
    shop = open_shop()
    nobody = bucket.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"})
    (purchase,) = shop.buy(upload_slot=nobody.new_slot(600), upload_wait_seconds=30.0)
    assert purchase.glb == BlobRef.of(small_glb("seed 0"), ".glb")
    shop.assert_paid_once()
