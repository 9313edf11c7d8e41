"""Whatever order things happen in: the wall holds, and the totals are what the events add up to."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from trellis_pipeline.costs.budgets import SCOPES, Budgets, SpendScope
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import report, totals
from trellis_pipeline.errors import BudgetExceeded, LedgerError, SpendingPaused

EMPTY = Path(tempfile.gettempdir()) / "unset"
amounts = st.integers(0, 3_000_000_000).map(lambda nano: Decimal(nano).scaleb(-9))
caps = st.none() | st.integers(0, 6_000_000_000).map(lambda nano: Decimal(nano).scaleb(-9))
names = st.sampled_from(["a", "b"])


@pytest.fixture(scope="module", autouse=True)
def empty_ledger(tmp_path_factory):
    """A migrated ledger to copy, since every example starts with one."""
    global EMPTY  # noqa: PLW0603
    EMPTY = tmp_path_factory.mktemp("empty") / "ledger.db"
    Ledger.open(f"sqlite:///{EMPTY}").close()


class Books(RuleBasedStateMachine):
    """A ledger beside the simplest possible model of it."""

    pending = Bundle("pending")
    ended = Bundle("ended")

    @initialize(caps=st.fixed_dictionaries({f"{scope}_usd": caps for scope in SCOPES}))
    def begin(self, caps):
        self.folder = Path(tempfile.mkdtemp(prefix="books-"))
        shutil.copy(EMPTY, self.folder / "ledger.db")
        self.now = datetime(2026, 11, 22, 12, tzinfo=UTC)
        self.told = []
        self.paused = False
        self.ledger = Ledger.open(
            f"sqlite:///{self.folder / 'ledger.db'}", clock=lambda: self.now, on_alert=self.told.append
        )
        self.budgets = Budgets(**caps)
        self.held = {}  # reservation id -> (scope keys, amount)
        self.spent = []  # (scope keys, amount)

    @rule(target=pending, amount=amounts, catalog=names, sku=names, run=names)
    def reserve(self, amount, catalog, sku, run):
        scope = SpendScope(catalog, sku, run, "runware", "m", "1024", "k")
        keys = scope.keys(self.now.date())
        fits = all(
            self.budgets.cap(name) is None or self.balance(name, key) + amount <= self.budgets.cap(name)
            for name, key in keys.items()
        )
        try:
            reservation = self.ledger.reserve(amount, scope, self.budgets)
        except SpendingPaused:
            assert self.paused
            return None
        except BudgetExceeded:
            assert not fits
            assert not self.paused
            return None
        assert fits
        assert not self.paused
        self.held[reservation.id] = (keys, amount)
        return reservation

    @rule(target=ended, reservation=consumes(pending), share=st.integers(0, 1000))
    def settle(self, reservation, share):
        if reservation is None:
            return None
        actual = (reservation.amount * share / 1000).quantize(Decimal("1e-9"))
        self.ledger.settle(reservation, actual, source="provider_cost")
        keys, _ = self.held.pop(reservation.id)
        self.spent.append((keys, actual))
        return reservation

    @rule(target=ended, reservation=consumes(pending))
    def release(self, reservation):
        if reservation is None:
            return None
        self.ledger.release(reservation, "test")
        del self.held[reservation.id]
        return reservation

    @rule(reservation=ended, again=st.sampled_from(["settle", "release"]))
    def end_again(self, reservation, again):
        if reservation is not None:
            settle = partial(self.ledger.settle, amount=Decimal(0), source="provider_cost")
            release = partial(self.ledger.release, cause="test")
            with pytest.raises(LedgerError):
                (settle if again == "settle" else release)(reservation)

    @rule(pause=st.booleans())
    def throw_the_kill_switch(self, pause):
        self.ledger.pause("test") if pause else self.ledger.resume()
        self.paused = pause

    @invariant()
    def nothing_is_told_twice(self):
        if hasattr(self, "ledger"):
            given = [(alert.state.scope, alert.state.key, alert.percent) for alert in self.told]
            assert len(given) == len(set(given))

    @rule(hours=st.integers(-30, 30))
    def let_the_clock_jump(self, hours):
        self.now += timedelta(hours=hours)

    def balance(self, scope, key):
        """Settled plus reserved, by the model."""
        entries = [*self.held.values(), *self.spent]
        return sum((amount for keys, amount in entries if keys[scope] == key), Decimal(0))

    @invariant()
    def totals_are_the_sum_of_the_events(self):
        if hasattr(self, "ledger"):
            assert self.ledger.verify() == ()
            line = totals(self.ledger)
            assert line.settled_usd == sum((amount for _, amount in self.spent), Decimal(0))
            assert line.reserved_usd == sum((amount for _, amount in self.held.values()), Decimal(0))

    @invariant()
    def no_cap_is_ever_crossed(self):
        if hasattr(self, "ledger"):
            for scope in SCOPES:
                cap = self.budgets.cap(scope)
                if cap is not None and scope != "total":
                    for line in report(self.ledger, scope):
                        assert line.settled_usd + line.reserved_usd <= cap
            line = totals(self.ledger)
            assert (
                self.budgets.total_usd is None
                or line.settled_usd + line.reserved_usd <= self.budgets.total_usd
            )

    def teardown(self):
        if hasattr(self, "ledger"):
            self.ledger.close()
            shutil.rmtree(self.folder)


TestBooks = Books.TestCase
TestBooks.settings = settings(
    max_examples=20,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
