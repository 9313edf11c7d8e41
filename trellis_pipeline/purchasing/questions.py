"""Questions to the provider that may turn out to cost money, and those that a killed process left unanswered.

`doctor --live` asks two of them. They are no purchases: nothing is wanted, and there is no task that anybody
could ask about later. So they have no intent in the journal, and who asks stands in the reservation's own
name. Where that process is gone, nobody will learn what the question did cost, and it is booked as bought: a
budget may hold a little less than it could, but never less than was spent. `costs reconcile` finds the rest.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.events import Reservation
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.errors import LedgerError
from trellis_pipeline.purchasing.processes import is_gone, this_process

OVER_AFTER = timedelta(hours=1)
"""Longer than any question takes: also of a process on another machine it is known then that it is gone."""

_MARK = "doctor: "
_NAME = "question/"


@dataclass(frozen=True, slots=True)
class Question:
    """A question whose price is not known. what: in a word or two. is_left: whoever asked it is gone."""

    reservation: Reservation
    what: str
    is_left: bool


def set_aside(ledger: Ledger, what: str, amount: Decimal, scope: SpendScope, budgets: Budgets) -> Reservation:
    """Reserve `amount` USD for a question that this process is about to ask. Raises what `reserve` raises."""
    return ledger.reserve(
        amount,
        replace(scope, request_key=f"{_MARK}{what}"),
        budgets,
        reservation_id=f"{_NAME}{this_process()}/{uuid.uuid4().hex}",
    )


def close(ledger: Ledger, money: Reservation, what: str, charged: Decimal | None) -> None:
    """Book what a question did cost. charged: USD; None where nobody knows, which counts as bought.

    Raises LedgerError where it was booked before.
    """
    if charged == 0:
        ledger.release(money, f"{_MARK}{what}: nothing was bought")
    elif charged is None:
        ledger.settle(money, money.amount, source="estimate", cause=what)
    else:
        ledger.settle(money, charged, source="provider_cost", cause=what)


def open_questions(ledger: Ledger, *, now: datetime | None = None) -> tuple[Question, ...]:
    """All questions that money is set aside for, oldest first."""
    at = now or datetime.now(UTC)
    return tuple(
        Question(money, money.scope.request_key.removeprefix(_MARK), _is_left(money, at))
        for money in ledger.open_reservations()
        if money.scope.request_key.startswith(_MARK)
    )


def close_left(ledger: Ledger, question: Question) -> bool:
    """Book a question that was left as bought; False where somebody else has booked it meanwhile."""
    try:
        close(ledger, question.reservation, question.what, None)
    except LedgerError:
        if ledger.find(question.reservation.id) is not None:
            raise
        return False
    return True


def _is_left(money: Reservation, now: datetime) -> bool:
    process = money.id.removeprefix(_NAME).rpartition("/")[0] if money.id.startswith(_NAME) else ""
    return is_gone(process) or now - money.made_at > OVER_AFTER
