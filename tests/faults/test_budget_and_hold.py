"""A budget that is used up in the middle, and photos that triage holds back before money is spent."""

from decimal import Decimal

import pytest
from line_process import Plan, assert_books_are_right, assert_consistent, assert_whole, billed, run, statuses
from PIL import Image, ImageDraw
from small_catalogs import write_catalog
from sqlalchemy import select

from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.schema import spend_events

SKUS = ("A", "B", "C", "D")
PAID = {"identity": ("runware", "microsoft:trellis-2@4b"), "cost": "0.05"}
ONE_BY_ONE = {"workers": 1, "in_flight": 1}


def highest_claim(folder):
    """The most that was ever settled plus reserved, from the events themselves."""
    with (
        Ledger.open(f"sqlite:///{folder / '.trellis' / 'ledger.sqlite'}") as ledger,
        ledger.reading() as books,
    ):
        query = select(spend_events.c.settled_change, spend_events.c.reserved_change).order_by(
            spend_events.c.seq
        )
        claim = highest = Decimal(0)
        for settled, reserved in books.execute(query):
            claim += settled + reserved
            highest = max(highest, claim)
    return highest


def test_a_used_up_budget_stops_the_run_and_keeps_what_was_bought(tmp_path):
    catalog, home = str(write_catalog(tmp_path / "shop", SKUS)), tmp_path / "home"
    cap = Decimal("0.18")
    sections = {"run": ONE_BY_ONE, "budget": {"total_usd": str(cap)}, "triage": {"hold": "never"}}
    summary = run(Plan(str(home), catalog, sections=sections, **PAID))
    bought = [sku for sku, status in statuses(summary).items() if status == "generated"]
    assert 1 <= len(bought) < len(SKUS)
    assert len(billed(home)) == len(bought)
    left = cap - len(bought) * Decimal("0.05")
    assert "total: cap $0.18" in summary["stopped"]
    assert f"left ${left:.2f}" in summary["stopped"]
    assert "total_usd" in summary["stopped"]
    assert highest_claim(home) <= cap
    assert_books_are_right(home)
    assert_whole(home / "output")
    for sku in bought:
        assert_consistent(home / "output", sku)

    sections["budget"] = {"total_usd": "5.00"}
    again = run(Plan(str(home), catalog, sections=sections, **PAID))
    assert {sku for sku, status in statuses(again).items() if status == "cached"} == set(bought)
    assert len(billed(home)) == len(set(billed(home))) == len(SKUS)


@pytest.mark.slow
def test_a_photo_cut_by_its_frame_is_held_and_not_billed_until_the_user_says_so(tmp_path):
    catalog, home = (
        write_catalog(tmp_path / "shop", ["A"], [{"sku": "CUT", "image": "cut.png"}]),
        tmp_path / "home",
    )
    image = Image.new("RGBA", (400, 400), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((150, 120, 300, 400), fill="firebrick")
    image.save(tmp_path / "shop" / "cut.png")
    sections = {"run": ONE_BY_ONE, "budget": {"total_usd": "5.00"}}
    summary = run(Plan(str(home), str(catalog), sections=sections, **PAID))
    assert statuses(summary) == {"A": "generated", "CUT": "held"}
    reason = next(product["error"] for product in summary["products"] if product["sku"] == "CUT")
    assert "runs out of the photo" in reason
    assert "[triage] hold" in reason
    assert len(billed(home)) == 1

    sections["triage"] = {"hold": "never"}
    after = run(Plan(str(home), str(catalog), sections=sections, **PAID))
    assert statuses(after) == {"A": "cached", "CUT": "generated"}
    assert len(billed(home)) == 2
    assert_consistent(home / "output", "CUT")
