"""Purchases that were begun and that nobody wants any more: no money stays set aside for them."""

import asyncio
import hashlib
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from far_provider import FarGenerator, FarProvider
from PIL import Image
from small_catalogs import box_glb

from trellis_pipeline.costs.budgets import Budgets
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import totals
from trellis_pipeline.errors import OutcomeUnknown, ProviderBusy
from trellis_pipeline.generation.generator import GeneratedModel, InputImage
from trellis_pipeline.generation.request import build_request, request_key
from trellis_pipeline.purchasing import errand
from trellis_pipeline.purchasing.buy import buy
from trellis_pipeline.purchasing.generations import Order, find_generation
from trellis_pipeline.purchasing.journal import Journal
from trellis_pipeline.purchasing.leftovers import finish_leftovers
from trellis_pipeline.purchasing.till import Till
from trellis_pipeline.storage.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}") as ledger:
        yield ledger


def leave_open(provider, store, ledger, monkeypatch, error=OutcomeUnknown, crop=b"png", results=1):
    """A purchase whose outcome nobody knows. Gives its order and the till of somebody who comes later."""
    monkeypatch.setattr(errand, "VISIBLE_AFTER_SECONDS", 0.01)
    generator = FarGenerator(provider)
    image = InputImage(crop, hashlib.sha256(crop).hexdigest())
    request = build_request({"seed": 7, "numberResults": results})
    key = request_key(request, image.sha256, str(generator.identity))
    order = Order("shop", "A", "run-1", request, image, key)
    budgets = Budgets(total_usd=Decimal(5))
    with pytest.raises(error):
        asyncio.run(buy(order, Till(generator, Journal(ledger), store, budgets)))
    assert len(ledger.open_reservations()) == 1
    return order, Till(generator, Journal(ledger), store, budgets)


def finish(till, **options):
    (ended,) = asyncio.run(finish_leftovers(till, **options))
    return ended


def test_what_was_made_meanwhile_is_kept_and_settled(store, ledger, monkeypatch):
    provider = FarProvider(faults={"collect": ["too long"]})
    order, till = leave_open(provider, store, ledger, monkeypatch)
    assert finish(till).end == "kept"
    assert find_generation(store, order).seed == 7
    assert totals(ledger).settled_usd == provider.billed
    assert ledger.open_reservations() == ()
    assert asyncio.run(finish_leftovers(till)) == []


def test_what_failed_meanwhile_is_released(store, ledger, monkeypatch):
    provider = FarProvider(faults={"submit": ["will fail"], "collect": ["too long"]})
    _, till = leave_open(provider, store, ledger, monkeypatch)
    assert finish(till).end == "failed"
    assert totals(ledger).settled_usd == totals(ledger).reserved_usd == 0


def test_what_the_provider_lost_is_booked_as_paid(store, ledger, monkeypatch):
    provider = FarProvider(faults={"collect": ["too long", "gone"]})
    _, till = leave_open(provider, store, ledger, monkeypatch)
    assert finish(till).end == "lost"
    assert totals(ledger).settled_usd > 0
    assert ledger.open_reservations() == ()


def test_what_the_provider_does_not_know_is_given_up_only_after_an_hour(store, ledger, monkeypatch):
    provider = FarProvider(faults={"submit": ["lost before", "lost before", "lost before"]})
    _, till = leave_open(provider, store, ledger, monkeypatch)
    assert finish(till).end == "still open"
    assert len(ledger.open_reservations()) == 1
    assert finish(till, now=datetime.now(UTC) + timedelta(hours=2)).end == "never accepted"
    assert ledger.open_reservations() == ()
    assert provider.accepted == []


def test_a_provider_that_does_not_answer_leaves_everything_open(store, ledger, monkeypatch):
    provider = FarProvider(faults={"submit": ["lost after"], "knows": ["busy", "busy"]})
    _, till = leave_open(provider, store, ledger, monkeypatch, ProviderBusy)
    ended = finish(till)
    assert (ended.end, ended.reason) == ("still open", "try later")
    assert len(ledger.open_reservations()) == 1
    assert finish(till).end == "kept"
    assert totals(ledger).settled_usd == provider.billed


def collected_as(monkeypatch, *glbs):
    """The provider made these."""

    async def collect(*_args, **_more):
        return [GeneratedModel(glb, 7 + n, Decimal("0.03"), 1.5, "0.03") for n, glb in enumerate(glbs)]

    monkeypatch.setattr(FarGenerator, "collect", collect)


def test_of_several_results_the_one_is_kept_that_looks_most_like_the_photo(store, ledger, monkeypatch):
    tall, photo = Image.new("RGBA", (64, 64)), io.BytesIO()
    tall.paste("orange", (26, 2, 38, 62))
    tall.save(photo, "PNG")
    store.put_blob(photo.getvalue(), ".png")
    provider = FarProvider(faults={"collect": ["too long"]})
    order, till = leave_open(provider, store, ledger, monkeypatch, crop=photo.getvalue(), results=3)
    collected_as(monkeypatch, box_glb(), box_glb(height=5.0), box_glb(height=2.0))
    assert finish(till).end == "kept"
    found = find_generation(store, order)
    assert found.seed == 8
    assert [result.score["silhouette_iou"] > 0.7 for result in found.results] == [False, True, False]


def test_of_several_results_of_a_photo_that_is_gone_a_valid_one_is_kept(store, ledger, monkeypatch):
    provider = FarProvider(faults={"collect": ["too long"]})
    order, till = leave_open(provider, store, ledger, monkeypatch, results=2)
    collected_as(monkeypatch, b"not a model", box_glb())
    assert finish(till).end == "kept"
    assert find_generation(store, order).seed == 8


def test_what_somebody_is_just_buying_is_left_alone(store, ledger, monkeypatch):
    provider = FarProvider(faults={"collect": ["too long"]})
    _, till = leave_open(provider, store, ledger, monkeypatch)
    buyer = Journal(ledger)
    (intent,) = buyer.open_intents()
    assert buyer.take_over(intent) is not None
    assert finish(till).end == "in other hands"
    assert len(ledger.open_reservations()) == 1
