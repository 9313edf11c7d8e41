"""The spend ledger as a Dagster resource.

Not a configurable one on purpose: Dagster shows resource configuration in its UI, and a database URL or a
Slack address is a secret.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pydantic import SecretStr

from trellis_pipeline.costs.budgets import Budgets

if TYPE_CHECKING:
    from trellis_pipeline.costs.alerts import BudgetAlert
    from trellis_pipeline.costs.ledger import Ledger

logger = logging.getLogger(__name__)

ALERT_PERCENTS = (50, 80, 100)


class LedgerResource:
    """Opens the ledger at an SQLAlchemy URL, and knows the budgets that reservations must respect."""

    def __init__(
        self,
        url: SecretStr,
        budgets: Budgets,
        alert_percents: Sequence[int] = ALERT_PERCENTS,
        slack_url: SecretStr | None = None,
    ) -> None:
        self._url = url
        self.budgets = budgets
        self._alert_percents = tuple(alert_percents)
        self._slack_url = slack_url

    def open(self, on_alert: Callable[[BudgetAlert], None] | None = None) -> Ledger:
        """Open the ledger, creating or migrating its tables. Close it, or use it as a context manager.

        on_alert: is told of budgets that go to their end, besides the log and Slack. Without it nobody is:
        whoever only looks must not use an alert up.
        """
        from trellis_pipeline.costs.ledger import Ledger

        if on_alert is None:
            return Ledger.open(self._url.get_secret_value())
        tell = self._told(on_alert)
        return Ledger.open(self._url.get_secret_value(), on_alert=tell, alert_percents=self._alert_percents)

    def _told(self, on_alert: Callable[[BudgetAlert], None]) -> Callable[[BudgetAlert], None]:
        from trellis_pipeline.costs.slack import SlackAlerts

        post = SlackAlerts(self._slack_url.get_secret_value()) if self._slack_url else None

        def tell(alert: BudgetAlert) -> None:
            logger.warning("%s", alert)
            on_alert(alert)
            if post is not None:
                post(alert)

        return tell
