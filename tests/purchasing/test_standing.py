"""Where a whole catalog stands, looked up at once: certificates, open intents, budgets of products."""

import json
from decimal import Decimal

import pytest
from small_catalogs import InstantGenerator, box_glb

from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.errors import StorageError
from trellis_pipeline.generation.generator import InputImage
from trellis_pipeline.generation.request import build_request, request_key
from trellis_pipeline.purchasing.generations import Order, certificate_path
from trellis_pipeline.purchasing.journal import Journal
from trellis_pipeline.purchasing.standing import LISTED_FROM, bought, in_flight, spent_by_product, terms_of
from trellis_pipeline.purchasing.till import Till
from trellis_pipeline.storage.local import LocalStore


class CountingStore(LocalStore):
    """A folder that counts how often it is asked for one record or one blob."""

    asked = 0

    def read(self, path):
        self.asked += 1
        return super().read(path)

    def has_blob(self, ref):
        self.asked += 1
        return super().has_blob(ref)


@pytest.fixture
def store(tmp_path):
    return CountingStore(tmp_path / "store")


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}") as ledger:
        yield ledger


def orders(count, **settings):
    made = []
    for seed in range(count):
        request, image = build_request({"seed": seed, **settings}), InputImage(b"", "a" * 64)
        key = request_key(request, image.sha256, "runware/m/1")
        made.append(Order("shop", f"P{seed}", "plan", request, image, key))
    return made


def buy(store, order, data=b""):
    blob = store.put_blob(box_glb(), ".glb")
    certificate = {
        "request_key": order.request_key,
        "glb": {"sha256": blob.sha256, "size": blob.size, "suffix": blob.suffix},
        "seed": order.request.seed,
        "cost_usd": "0.03",
        "seconds": 1.0,
        "provenance": {},
    }
    store.write(certificate_path(order.request_key), data or json.dumps(certificate).encode())
    return blob


@pytest.mark.parametrize("count", [5, LISTED_FROM + 5])
def test_what_was_bought_is_found_however_many_are_asked_for(store, count):
    asked = orders(count)
    for order in asked[::2]:
        buy(store, order)
    assert bought(store, asked) == {order.request_key for order in asked[::2]}
    assert bought(store, []) == set()


def test_what_was_never_bought_costs_no_request_each(store):
    asked = orders(LISTED_FROM + 300)
    buy(store, asked[0])
    store.asked = 0
    assert bought(store, asked) == {asked[0].request_key}
    assert store.asked == 2  # the one certificate that is listed, and its bytes


@pytest.mark.parametrize("count", [1, LISTED_FROM])
def test_a_certificate_without_its_bytes_is_not_bought(store, tmp_path, count):
    asked = orders(count)
    blob = buy(store, asked[0])
    (tmp_path / "store" / blob.key).unlink()
    assert bought(store, asked) == set()


def test_a_damaged_certificate_is_named(store):
    (order,) = orders(1)
    buy(store, order, b"{broken")
    with pytest.raises(StorageError, match="delete it to generate again"):
        bought(store, [order])


def scope(order, catalog="shop"):
    return SpendScope(catalog, order.sku, "run", "runware", "m", order.request.preset, order.request_key)


def test_only_open_intents_whose_money_stands_are_under_way(ledger):
    journal = Journal(ledger)
    under_way, bought_since, given_up = (
        journal.begin(Decimal("0.06"), scope(order), Budgets(), after=None) for order in orders(3)
    )
    for intent, close in ((bought_since, ledger.settle), (given_up, ledger.release)):
        reservation = ledger.find(intent.task_uuid)
        if close == ledger.settle:
            close(reservation, Decimal("0.03"), source="provider_cost", also=journal.closing(intent, "done"))
        else:
            close(reservation, "refused", also=journal.closing(intent, "failed"))
    assert in_flight(journal) == {under_way.request_key}


def test_each_product_is_charged_with_what_it_has_settled_and_reserved_in_its_own_catalog(ledger):
    first, second = orders(2)
    open_one = ledger.reserve(Decimal("0.06"), scope(first), Budgets())
    ledger.reserve(Decimal("0.05"), scope(first), Budgets())
    ledger.settle(open_one, Decimal("0.03"), source="provider_cost")
    ledger.reserve(Decimal("0.07"), scope(second, "shop_2"), Budgets())
    ledger.reserve(Decimal("0.09"), scope(second, "shopX2"), Budgets())
    assert spent_by_product(ledger, "shop") == {"P0": Decimal("0.08")}
    assert spent_by_product(ledger, "shop_2") == {"P1": Decimal("0.07")}


class Runware(InstantGenerator):
    """In the price book."""

    def __init__(self):
        super().__init__(paid=True)
        self.identity = type(self.identity)("runware", "microsoft:trellis-2@4b", "1")


def test_terms_stand_on_the_list_until_there_is_history_and_know_several_results(store, ledger):
    till = Till(Runware(), Journal(ledger), store, Budgets(total_usd=Decimal(5)))
    (single,), (several,) = orders(1), orders(1, numberResults=4)
    terms = terms_of([single, several], till)
    assert terms[single.request.preset].costs == ()
    assert terms[single.request.preset].estimate.basis == "list_price"
    assert terms[single.request.preset].seconds == 17.0
    assert terms[single.request.preset].seconds_basis == "published"

    for number in range(25):
        event = SpendScope("x", f"S{number}", "r", "runware", "m", single.request.preset, f"k{number}")
        reservation = ledger.reserve(Decimal("0.1"), event, Budgets())
        ledger.settle(reservation, Decimal(number + 20) / 1000, source="provider_cost", seconds=number + 1.0)
    terms = terms_of([single, several], till)
    assert len(terms[single.request.preset].costs) == 25
    assert terms[single.request.preset].seconds == 13.0
    # Four results are expected to cost four times one, but their spread is not known from single ones.
    assert terms[several.request.preset].costs == ()
    assert terms[several.request.preset].estimate.likely == 4 * terms[single.request.preset].estimate.likely
    assert terms[several.request.preset].seconds == 4 * 17.0
