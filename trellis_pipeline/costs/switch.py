"""The kill switch: one row in the ledger's database, which every reservation looks for before it stands.

It is a row and not a flag in a process because what has to stop is usually running somewhere else. It is read
under the lock that reservations are made under, and written under the same one: when a pause is committed, no
reservation can follow it, on any machine. What was reserved before may still be settled or released, but is
no longer handed in: the journal looks for the row before every attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from trellis_pipeline.costs.events import text
from trellis_pipeline.costs.schema import switches
from trellis_pipeline.errors import ConfigError, SpendingPaused

_SPENDING = "spending"


@dataclass(frozen=True, slots=True)
class Pause:
    """Spending is paused. since: when it was switched off first. reason: in the words of who did."""

    since: datetime
    reason: str

    def __str__(self) -> str:
        return f"spending is paused since {self.since:%Y-%m-%d %H:%M} UTC: {self.reason}"


def checked_reason(reason: str) -> str:
    """The reason as one line. Raises ConfigError where there is none: whoever finds the pause needs it."""
    harmless = "".join(letter if letter.isprintable() else " " for letter in text(reason))
    line = " ".join(harmless.split())[:500]
    if not line:
        raise ConfigError('a pause needs a reason, for example --reason "prices look wrong"')
    return line


def read(connection: Connection) -> Pause | None:
    """The pause in force, None while money may be spent."""
    row = connection.execute(
        select(switches.c.since, switches.c.reason).where(switches.c.name == _SPENDING)
    ).one_or_none()
    return None if row is None else Pause(row.since, row.reason)


def check(connection: Connection, product: str) -> None:
    """Raise SpendingPaused for `product`, named as `catalog/sku`, while a pause is in force."""
    paused = read(connection)
    if paused:
        raise SpendingPaused(
            f"{product}: {paused}. Nothing was bought now; `trellis-pipeline costs resume` lifts it"
        )


def write(connection: Connection, pause: Pause | None) -> None:
    """Put a pause in force, or lift it with None. The caller holds the lock on the total row."""
    is_spending = switches.c.name == _SPENDING
    if pause is None:
        connection.execute(delete(switches).where(is_spending))
    elif read(connection) is None:
        connection.execute(
            insert(switches), {"name": _SPENDING, "since": pause.since, "reason": pause.reason}
        )
    else:
        connection.execute(update(switches).where(is_spending).values(reason=pause.reason))
