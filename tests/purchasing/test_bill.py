"""The bill: the provider's numbers, all of them, and never nothing for something."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from trellis_pipeline.generation.generator import GeneratedModel
from trellis_pipeline.purchasing.bill import bill_for

RESERVED = Decimal("0.256")


def model(text, **provenance):
    cost = Decimal(text) if text else None
    return GeneratedModel(b"glb", 1, cost, 1.0, text, provenance=provenance)


def test_all_results_are_on_the_bill_with_the_providers_own_words():
    bill = bill_for([model("0.0271"), model("0.03")], RESERVED, 2)
    assert (bill.amount, bill.source, bill.raw_cost_text) == (
        Decimal("0.0571"),
        "provider_cost",
        "0.0271 + 0.03",
    )


def test_a_result_without_a_price_counts_as_its_share_of_what_was_set_aside():
    bill = bill_for([model("0.03"), model("")], RESERVED, 4)
    assert (bill.amount, bill.source) == (Decimal("0.03") + RESERVED / 4, "estimate")


def test_a_result_whose_file_is_gone_is_billed_too():
    lost = [{"result_uuid": "x", "cost_usd": "0.02"}, {"result_uuid": "y", "cost_usd": "free?"}]
    bill = bill_for([model("0.03", results_lost=lost)], RESERVED, 4)
    assert bill.amount == Decimal("0.05") + RESERVED / 4
    assert bill.source == "estimate"


@given(st.lists(st.one_of(st.just(""), st.decimals(0, 100, places=6).map(str)), min_size=1, max_size=4))
def test_a_bill_is_never_below_what_is_known(texts):
    known = sum((Decimal(text) for text in texts if text), Decimal(0))
    assert bill_for([model(text) for text in texts], RESERVED, len(texts)).amount >= known
