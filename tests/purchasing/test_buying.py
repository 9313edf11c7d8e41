"""Buying: found before made, reserved before asked, kept before settled."""

import asyncio
from decimal import Decimal

import pytest
from small_catalogs import InstantGenerator

from trellis_pipeline.costs.budgets import Budgets
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import totals
from trellis_pipeline.errors import BudgetExceeded, ConfigError, ProviderRejected, StorageError
from trellis_pipeline.generation.generator import InputImage
from trellis_pipeline.generation.request import build_request, request_key
from trellis_pipeline.purchasing.buy import Order, buy, find_generation
from trellis_pipeline.storage.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}") as ledger:
        yield ledger


def order(generator, seed=42, sku="A"):
    request, image = build_request({"seed": seed}), InputImage(b"png", "a" * 64)
    return Order(
        "shop", sku, "run-1", request, image, request_key(request, image.sha256, str(generator.identity))
    )


def test_the_same_request_is_made_once_whoever_asks(store, ledger):
    generator = InstantGenerator()
    first = asyncio.run(buy(order(generator), generator, ledger, store, Budgets()))
    second = asyncio.run(buy(order(generator, sku="B"), generator, ledger, store, Budgets()))
    assert (first.reused, second.reused) == (False, True)
    assert first.glb == second.glb
    assert len(generator.billed) == 1
    assert totals(ledger).generations == 1


def test_a_generation_whose_bytes_were_lost_is_made_again(store, ledger, tmp_path):
    generator = InstantGenerator()
    first = asyncio.run(buy(order(generator), generator, ledger, store, Budgets()))
    (tmp_path / "store" / first.glb.key).unlink()
    assert find_generation(store, order(generator)) is None
    again = asyncio.run(buy(order(generator), generator, ledger, store, Budgets()))
    assert not again.reused
    assert store.get_blob(again.glb)
    assert find_generation(store, order(generator)) is not None


def test_a_damaged_certificate_is_named_and_not_taken_for_a_missing_one(store, ledger):
    generator = InstantGenerator()
    wanted = order(generator)
    store.write(f"generations/{wanted.request_key}.json", b"{broken")
    with pytest.raises(StorageError, match="delete it to generate again"):
        asyncio.run(buy(wanted, generator, ledger, store, Budgets()))
    assert generator.billed == []


def test_a_paid_generator_without_a_budget_refuses_and_says_how_to_set_one(store, ledger):
    generator = InstantGenerator(paid=True, cost="0.02")
    with pytest.raises(ConfigError, match="total_usd"):
        asyncio.run(buy(order(generator), generator, ledger, store, Budgets()))
    assert generator.billed == []


def test_a_generator_without_a_price_refuses_instead_of_costing_nothing(store, ledger):
    generator = InstantGenerator(paid=True, cost="0.02")
    with pytest.raises(ConfigError, match="price"):
        asyncio.run(buy(order(generator), generator, ledger, store, Budgets(total_usd=Decimal(5))))
    assert generator.billed == []


def test_a_refused_generation_releases_its_reservation(store, ledger):
    generator = InstantGenerator(refuse=frozenset({42}))
    with pytest.raises(ProviderRejected):
        asyncio.run(buy(order(generator), generator, ledger, store, Budgets()))
    assert ledger.open_reservations() == ()


class KnownPaid(InstantGenerator):
    """Paid, and in the price book under the name of the provider whose list price it shares."""

    def __init__(self, cost: str) -> None:
        super().__init__(paid=True, cost=cost)
        self.identity = type(self.identity)("runware", "microsoft:trellis-2@4b", "1")


def test_the_providers_own_number_is_what_is_settled(store, ledger):
    generator = KnownPaid("0.0314")
    bought = asyncio.run(buy(order(generator), generator, ledger, store, Budgets(total_usd=Decimal(1))))
    assert bought.cost_usd == Decimal("0.0314")
    assert totals(ledger).settled_usd == Decimal("0.0314")
    assert totals(ledger).reserved_usd == 0


def test_a_full_budget_stops_the_request_before_the_generator_hears_of_it(store, ledger):
    generator = KnownPaid("0.0314")
    with pytest.raises(BudgetExceeded):
        asyncio.run(buy(order(generator), generator, ledger, store, Budgets(total_usd=Decimal("0.05"))))
    assert generator.billed == []
    assert ledger.open_reservations() == ()
