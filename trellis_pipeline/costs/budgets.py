"""Budgets: five scopes, each with a cap, each holding what is settled plus what is set aside.

A reservation counts in all five at once. Which day a generation belongs to is decided when the money is set
aside, not when the bill arrives: otherwise a night's reservations would be settled into a new day that never
agreed to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

from trellis_pipeline.costs.money import ZERO, checked, format_usd

ScopeName = Literal["total", "day", "catalog", "run", "product"]
SCOPES: tuple[ScopeName, ...] = ("total", "day", "catalog", "run", "product")


@dataclass(frozen=True, slots=True)
class SpendScope:
    """What a spend event is about. `request_key` is the hash of request, image and generator."""

    catalog: str
    sku: str
    run_id: str
    generator: str
    model: str
    preset: str
    request_key: str
    attempt: int = 1

    def keys(self, day: date) -> dict[ScopeName, str]:
        """The row of each budget scope this counts in, in the order in which the rows are locked."""
        return {
            "total": "",
            "day": day.isoformat(),
            "catalog": self.catalog,
            "run": self.run_id,
            "product": f"{self.catalog}/{self.sku}",
        }


@dataclass(frozen=True, slots=True)
class Budgets:
    """Caps in USD, None for no cap. `catalog_usd` is the cap of each catalog by itself, and so on.

    Raises LedgerError for a cap that is negative or not finite.
    """

    total_usd: Decimal | None = None
    day_usd: Decimal | None = None
    catalog_usd: Decimal | None = None
    run_usd: Decimal | None = None
    product_usd: Decimal | None = None

    def __post_init__(self) -> None:
        for scope in SCOPES:
            cap = self.cap(scope)
            if cap is not None:
                checked(cap, f"budget {scope}_usd")

    def cap(self, scope: ScopeName) -> Decimal | None:
        """The cap of a scope."""
        cap: Decimal | None = getattr(self, f"{scope}_usd")
        return cap

    @property
    def any(self) -> bool:
        """Whether there is a cap at all."""
        return any(self.cap(scope) is not None for scope in SCOPES)


@dataclass(frozen=True, slots=True)
class ScopeState:
    """How one scope stands. left: USD until the cap, never negative; None without a cap."""

    scope: ScopeName
    key: str
    cap: Decimal | None
    settled: Decimal
    reserved: Decimal

    @property
    def left(self) -> Decimal | None:
        """USD that may still be reserved."""
        return None if self.cap is None else max(ZERO, self.cap - self.settled - self.reserved)

    def __str__(self) -> str:
        name = f"{self.scope} {self.key}" if self.key else self.scope
        cap = "no cap" if self.cap is None else f"cap {format_usd(self.cap)}"
        left = "" if self.left is None else f", left {format_usd(self.left)}"
        return (
            f"{name}: {cap}, settled {format_usd(self.settled)}, reserved {format_usd(self.reserved)}{left}"
        )


@dataclass(frozen=True, slots=True)
class Headroom:
    """All five scopes as they stand for one product."""

    states: tuple[ScopeState, ...]

    @property
    def left(self) -> Decimal | None:
        """USD that the tightest scope still allows; None where no scope has a cap."""
        return min((state.left for state in self.states if state.left is not None), default=None)


def headroom(
    keys: Mapping[ScopeName, str], totals: Mapping[ScopeName, tuple[Decimal, Decimal]], budgets: Budgets
) -> Headroom:
    """Put caps and totals together. totals: (settled, reserved) in USD; a scope without any is at zero."""
    return Headroom(
        tuple(
            ScopeState(scope, key, budgets.cap(scope), *totals.get(scope, (ZERO, ZERO)))
            for scope, key in keys.items()
        )
    )


def obstacle(room: Headroom, amount: Decimal) -> ScopeState | None:
    """The first scope whose cap `amount` would cross; None if it can be reserved.

    room: how the scopes stand before the reservation.
    """
    for state in room.states:
        if state.cap is not None and state.settled + state.reserved + amount > state.cap:
            return state
    return None


def refusal(state: ScopeState, amount: Decimal) -> str:
    """Why `amount` cannot be reserved in this scope, and what can be done about it."""
    return (
        f"budget of {state}; {format_usd(amount)} more would cross it, so nothing was bought. "
        f"Raise {state.scope}_usd under [budget] in trellis.toml, or wait until open reservations "
        "are settled"
    )
