"""What an accepted model costs, and where the money went that bought none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from trellis_pipeline.costs.accepted import FATES, ProductModel, by_fate, spend_by_request
from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import totals


def scope(sku, key, catalog="shop"):
    return SpendScope(catalog, sku, "run-1", "runware", "microsoft:trellis-2@4b", "1024", key)


def buy(ledger, sku, key, usd, cause="", catalog="shop"):
    reservation = ledger.reserve(Decimal("0.10"), scope(sku, key, catalog), Budgets())
    ledger.settle(reservation, Decimal(usd), source="provider_cost", cause=cause)
    return reservation


def spent(found):
    return {fate: str(usd.normalize()) for fate, usd in found.usd.items() if usd}


def test_all_that_was_spent_is_divided_by_the_models_that_were_accepted(ledger):
    buy(ledger, "GOOD", "good", "0.04")
    buy(ledger, "FINE", "fine", "0.05")
    buy(ledger, "BAD", "bad", "0.03")
    products = {
        "GOOD": ProductModel("good", "pass"),
        "FINE": ProductModel("fine", "warn"),
        "BAD": ProductModel("bad", "fail"),
    }
    found = by_fate(spend_by_request(ledger, "shop"), products)
    assert (found.accepted, found.per_accepted) == (2, Decimal("0.06"))
    assert spent(found) == {"accepted": "0.09", "rejected": "0.03"}
    assert found.wasted == Decimal("0.03")


def test_waste_is_split_by_its_cause(ledger):
    buy(ledger, "A", "a", "0.01", cause="ResultLost")  # paid, and the file was gone
    buy(ledger, "A", "a", "0.001", cause="MeshError")  # time on the own GPU, and no surface came of it
    buy(ledger, "A", "a", "0.002", cause="Interrupted")
    buy(ledger, "A", "a", "0.0001", cause="OutOfMemoryError")  # not an error of ours, and no model either
    buy(ledger, "A", "a", "0.02")  # bought again under the same request
    buy(ledger, "B", "b-1", "0.03")  # rejected, then replaced by another attempt
    buy(ledger, "B", "b-2", "0.04", cause="the provider named no price")
    buy(ledger, "C", "c", "0.05")  # removed from the catalog
    buy(ledger, "D", "d", "0.06")  # not judged yet
    ledger.adjust(Decimal("0.07"), scope("", ""), "found in the account")
    ledger.reserve(Decimal("0.08"), scope("E", "e"), Budgets())  # nobody knows yet
    ledger.release(ledger.reserve(Decimal("0.09"), scope("F", "f"), Budgets()), "ProviderRejected")
    products = {
        "A": ProductModel("a", "pass"),
        "B": ProductModel("b-2", "pass"),
        "D": ProductModel("d", None),
    }
    found = by_fate(spend_by_request(ledger, "shop"), products)
    assert spent(found) == {
        "failed": "0.0131",
        "accepted": "0.06",
        "superseded": "0.03",
        "abandoned": "0.05",
        "unjudged": "0.06",
        "unattributed": "0.07",
    }
    assert found.outcome_unknown == Decimal("0.08")
    assert found.wasted == Decimal("0.1631")
    assert found.settled == totals(ledger).settled_usd


def test_money_back_for_a_lost_result_is_taken_off_what_was_lost(ledger):
    lost = buy(ledger, "A", "a", "0.05", cause="ResultLost")
    ledger.refund(lost.id, Decimal("0.02"), "goodwill")
    found = by_fate(spend_by_request(ledger, "shop"), {})
    assert spent(found) == {"failed": "0.03"}


def test_a_model_that_was_bought_once_more_to_compare_does_not_make_the_accepted_one_dearer(ledger):
    buy(ledger, "A", "a", "0.04")
    again = buy(ledger, "A", "a", "0.05", cause="reproduction")
    ledger.refund(again.id, Decimal("0.01"), "goodwill")
    found = by_fate(spend_by_request(ledger, "shop"), {"A": ProductModel("a", "pass")})
    assert spent(found) == {"accepted": "0.04", "reproduced": "0.04"}
    assert (found.per_accepted, found.wasted) == (Decimal("0.04"), 0)
    assert found.settled == totals(ledger).settled_usd


def test_a_request_that_serves_two_products_is_well_spent_if_one_of_them_is_accepted(ledger):
    buy(ledger, "BLUE", "same-photo", "0.04")
    products = {"RED": ProductModel("same-photo", "pass"), "BLUE": ProductModel("same-photo", "fail")}
    found = by_fate(spend_by_request(ledger, "shop"), products)
    assert spent(found) == {"accepted": "0.04"}
    assert (found.accepted, found.per_accepted) == (1, Decimal("0.04"))


def test_without_an_accepted_model_there_is_no_price_for_one(ledger):
    buy(ledger, "BAD", "bad", "0.03")
    found = by_fate(spend_by_request(ledger, "shop"), {"BAD": ProductModel("bad", "fail")})
    assert (found.accepted, found.per_accepted) == (0, None)


def test_an_empty_ledger_has_wasted_nothing(ledger):
    found = by_fate(spend_by_request(ledger, "shop"), {})
    assert (found.settled, found.wasted, found.outcome_unknown) == (0, 0, 0)
    assert set(found.usd) == set(FATES)


def test_other_catalogs_and_other_days_are_left_out(url):
    now = [datetime(2026, 11, 21, 12, tzinfo=UTC)]
    with Ledger.open(url, clock=lambda: now[0]) as ledger:
        buy(ledger, "A", "a", "0.01")
        buy(ledger, "A", "a", "0.50", catalog="spring")
        now[0] += timedelta(days=1)
        buy(ledger, "B", "b", "0.02")
        today = now[0].date()
        assert [spend.sku for spend in spend_by_request(ledger, "shop")] == ["A", "B"]
        assert [spend.sku for spend in spend_by_request(ledger, "shop", since=today)] == ["B"]
        assert [spend.sku for spend in spend_by_request(ledger, "shop", until=today - timedelta(1))] == ["A"]


@pytest.mark.parametrize("verdict", ["pass", "warn", "fail", None])
def test_whatever_became_of_them_the_parts_add_up_to_what_was_settled(ledger, verdict):
    for number in range(9):
        cause = "ResultLost" if number % 4 == 0 else ""
        buy(ledger, f"P{number % 3}", f"key-{number % 5}", f"0.0{number}", cause=cause)
    products = {"P0": ProductModel("key-0", verdict), "P1": ProductModel("key-4", verdict)}
    found = by_fate(spend_by_request(ledger, "shop"), products)
    assert found.settled == totals(ledger).settled_usd == Decimal("0.36")
