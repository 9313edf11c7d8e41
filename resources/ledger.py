"""The spend ledger as a Dagster resource.

Not a configurable one on purpose: Dagster shows resource configuration in its UI, and a database URL holds
a password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

from trellis_pipeline.costs.budgets import Budgets

if TYPE_CHECKING:
    from trellis_pipeline.costs.ledger import Ledger


class LedgerResource:
    """Opens the ledger at an SQLAlchemy URL, and knows the budgets that reservations must respect."""

    def __init__(self, url: SecretStr, budgets: Budgets) -> None:
        self._url = url
        self.budgets = budgets

    def open(self) -> Ledger:
        """Open the ledger, creating or migrating its tables. Close it, or use it as a context manager."""
        from trellis_pipeline.costs.ledger import Ledger

        return Ledger.open(self._url.get_secret_value())
