"""Budget alerts: half of a cap is gone, most of it, all of it. Each is given once.

A threshold is measured on what is settled plus what is set aside, because that is what the cap is compared
with, and because a warning is worth more before the bills arrive. A reservation that is refused counts as
100 %: reservations hardly ever land on a cap exactly, and the refusal is when it starts to hurt. Given alerts
are kept in the ledger's database, so that neither a restart nor a second machine repeats them; a cap that is
changed is a new matter and alerts anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection, and_, insert, or_, select

from trellis_pipeline.costs.budgets import ScopeState
from trellis_pipeline.costs.money import NANO, format_usd
from trellis_pipeline.costs.schema import alerts as given
from trellis_pipeline.errors import ConfigError

logger = logging.getLogger(__name__)

ALERT_PERCENTS = (50, 80, 100)


@dataclass(frozen=True, slots=True)
class BudgetAlert:
    """A scope has reached `percent` of its cap. refused: USD that did not fit, where that is the cause."""

    state: ScopeState
    percent: int
    refused: Decimal | None = None

    def __str__(self) -> str:
        if self.refused is None:
            return f"{self.percent} % of a budget is used: {self.state}"
        return f"a budget is used up: {self.state}; {format_usd(self.refused)} more was refused"


OnAlert = Callable[[BudgetAlert], None]
"""Called in the thread that spent, after the transaction is committed. May take a moment; holds no lock."""


def reached(states: Iterable[ScopeState], percents: Sequence[int]) -> tuple[BudgetAlert, ...]:
    """Every threshold that stands reached in these scopes, whether it was told before or not.

    A scope without a cap, or in which nothing is used yet, reaches none.
    """
    return tuple(
        BudgetAlert(state, percent)
        for state in states
        if state.cap is not None and state.settled + state.reserved > 0
        for percent in percents
        if (state.settled + state.reserved) * 100 >= state.cap * percent
    )


def not_given(connection: Connection, alerts: Sequence[BudgetAlert]) -> tuple[BudgetAlert, ...]:
    """Those of `alerts` that nobody was told yet."""
    if not alerts:
        return ()
    places = {(alert.state.scope, alert.state.key) for alert in alerts}
    query = select(given.c.scope, given.c.key, given.c.percent, given.c.cap).where(
        or_(*(and_(given.c.scope == scope, given.c.key == key) for scope, key in sorted(places)))
    )
    known = {tuple(row) for row in connection.execute(query)}
    return tuple(alert for alert in alerts if _identity(alert) not in known)


def record(connection: Connection, alerts: Sequence[BudgetAlert], now: datetime) -> tuple[BudgetAlert, ...]:
    """Write down those of `alerts` that are new, and return them. The caller holds the total row's lock."""
    new = not_given(connection, alerts)
    if new:
        names = ("scope", "key", "percent", "cap")
        rows = [dict(zip(names, _identity(alert), strict=True)) | {"ts": now} for alert in new]
        connection.execute(insert(given), rows)
    return new


class Alarm:
    """Who is told of alerts, and at which percentages. Nothing is written where nobody listens."""

    def __init__(self, on_alert: OnAlert | None, percents: Iterable[int] = ALERT_PERCENTS) -> None:
        """Raises ConfigError for a percentage that is no whole number from 1 to 100."""
        chosen = tuple(percents)
        for percent in chosen:
            if isinstance(percent, bool) or not isinstance(percent, int) or not 1 <= percent <= 100:
                raise ConfigError(
                    f"budget alerts are given at whole percentages from 1 to 100, not {percent!r}"
                )
        self._on_alert = on_alert
        self._percents = chosen if on_alert else ()

    def due(
        self, connection: Connection, states: Iterable[ScopeState], now: datetime
    ) -> tuple[BudgetAlert, ...]:
        """The alerts these scopes have come to and nobody was told yet; written down as given."""
        return record(connection, reached(states, self._percents), now)

    def refused(self, connection: Connection, state: ScopeState, amount: Decimal) -> tuple[BudgetAlert, ...]:
        """The alert that `amount` USD did not fit into this scope, unless it was given; writes nothing."""
        alert = BudgetAlert(state, 100, refused=amount)
        return not_given(connection, (alert,) if 100 in self._percents else ())

    def tell(self, alerts: Iterable[BudgetAlert]) -> None:
        """Pass alerts on, the highest of each scope: a jump from 40 % to 90 % is one piece of news."""
        highest: dict[tuple[str, str], BudgetAlert] = {}
        for alert in alerts:
            place = (alert.state.scope, alert.state.key)
            if place not in highest or alert.percent > highest[place].percent:
                highest[place] = alert
        for alert in highest.values():
            try:
                if self._on_alert:
                    self._on_alert(alert)
            except Exception as error:  # noqa: BLE001 - news about money must not stop what spends it rightly
                logger.warning("a budget alert could not be passed on (%s): %s", type(error).__name__, alert)


def _identity(alert: BudgetAlert) -> tuple[str, str, int, Decimal]:
    cap = alert.state.cap
    assert cap is not None  # scopes without a cap reach nothing
    return (alert.state.scope, alert.state.key, alert.percent, cap.quantize(NANO))
