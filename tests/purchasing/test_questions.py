"""Questions of the doctor that may cost money: who is gone is known, and nothing is booked twice."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.reports import totals
from trellis_pipeline.errors import LedgerError
from trellis_pipeline.purchasing import questions

SCOPE = SpendScope("doctor", "CHECK", "run-1", "runware", "m", "512", "key")
PRICE = Decimal("0.0640")


def elsewhere(ledger, what):
    """A question that a process on another machine asks, or one of an older version, which has no name."""
    name = None if what == "unnamed" else f"question/elsewhere:4:99/{what}"
    scope = SpendScope("doctor", "CHECK", "run-1", "runware", "m", "512", f"doctor: {what}")
    return ledger.reserve(PRICE, scope, Budgets(), reservation_id=name)


def test_a_question_of_a_living_process_is_not_left(ledger):
    questions.set_aside(ledger, "dry run", PRICE, SCOPE, Budgets())
    (question,) = questions.open_questions(ledger)
    assert (question.what, question.is_left, question.reservation.amount) == ("dry run", False, PRICE)


@pytest.mark.parametrize("what", ["named", "unnamed"])
def test_of_a_process_that_cannot_be_looked_for_it_is_known_after_an_hour(ledger, what):
    elsewhere(ledger, what)
    for minutes, is_left in ((59, False), (61, True)):
        (question,) = questions.open_questions(ledger, now=datetime.now(UTC) + timedelta(minutes=minutes))
        assert question.is_left is is_left


def test_two_who_book_the_same_question_book_it_once(ledger):
    elsewhere(ledger, "dry run")
    (question,) = questions.open_questions(ledger)
    assert [questions.close_left(ledger, question) for _ in range(2)] == [True, False]
    assert totals(ledger).settled_usd == PRICE
    assert ledger.verify() == ()


@pytest.mark.parametrize(("charged", "settled"), [(None, PRICE), (Decimal(0), 0), (Decimal("0.03"),) * 2])
def test_what_nobody_knows_counts_as_bought_and_what_is_known_is_booked(ledger, charged, settled):
    money = questions.set_aside(ledger, "replay", PRICE, SCOPE, Budgets())
    questions.close(ledger, money, "replay", charged)
    assert ledger.open_reservations() == ()
    assert totals(ledger).settled_usd == settled
    with pytest.raises(LedgerError):
        questions.close(ledger, money, "replay", charged)


def test_a_purchase_is_no_question(ledger):
    ledger.reserve(PRICE, SCOPE, Budgets())
    assert questions.open_questions(ledger) == ()
