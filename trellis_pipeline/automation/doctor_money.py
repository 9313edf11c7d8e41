"""What the doctor looks at before money is spent: ledger, kill switch, budgets, open purchases, API key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from trellis_pipeline.automation.check import Check, Found, folder_checks
from trellis_pipeline.config import Settings
from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.database import describe, parse_url
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.money import format_usd

OLD_PURCHASE = timedelta(days=1)


def ledger_checks(settings: Settings) -> Found:
    """The books, and what stands in them. A ledger that is not there yet is not made."""
    url = parse_url(settings.ledger_url)
    where = describe(url)
    paid = _costs_money(settings)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        yield from folder_checks("ledger", Path(str(url.database)).parent, "set `home` or [ledger] url")
        yield _budgets(settings, None, paid=paid)
        return
    with Ledger.open(settings.ledger_url) as books:
        wrong = books.verify()
        if wrong:
            first = wrong[0]
            yield Check(
                "ledger", "problem",
                f"{where}: {len(wrong)} totals do not say what the events say, the first is {first.scope} "
                f"{first.key}".rstrip(),
                "stop all runs, keep a copy, then make the totals anew from the events: Ledger.rebuild()",
            )  # fmt: skip
        else:
            yield Check("ledger", "ok", f"{where}: totals agree with the events")
        pause = books.paused()
        if pause is None:
            yield Check("spending", "ok", "not paused")
        else:
            yield Check("spending", "problem", str(pause), "trellis-pipeline costs resume lifts it")
        yield _budgets(settings, books, paid=paid)
        yield from _purchases(books)


def _costs_money(settings: Settings) -> bool:
    """A purchase does, and so does time on the user's own GPU unless it counts as free."""
    if settings.generation.generator == "local":
        return settings.local.usd_per_gpu_second != 0
    return settings.generation.generator == "runware"


def _budgets(settings: Settings, books: Ledger | None, *, paid: bool) -> Check:
    budgets = Budgets(**dict(settings.budget))
    if not paid:
        return Check("budgets", "ok", f"not needed: {settings.generation.generator} is free")
    if not budgets.any:
        return Check(
            "budgets", "problem", f"{settings.generation.generator} costs money and no budget is set",
            "set one under [budget] in trellis.toml, for example total_usd = 5.00, or give --budget",
        )  # fmt: skip
    caps = [(name, cap) for name, cap in dict(settings.budget).items() if cap is not None]
    text = ", ".join(f"{name} {format_usd(cap)}" for name, cap in caps)
    if books is not None:
        nobody = SpendScope("", "", "", settings.generation.generator, "", "", "")
        states = [s for s in books.headroom(nobody, budgets).states if s.scope in ("total", "day")]
        empty = [s.scope for s in states if s.left is not None and s.left <= 0]
        if empty:
            return Check(
                "budgets", "warning", f"{text}; nothing is left of {' and '.join(empty)}",
                "raise it under [budget]; a day's budget is new at midnight UTC",
            )  # fmt: skip
    return Check("budgets", "ok", text)


def _purchases(books: Ledger) -> Found:
    from trellis_pipeline.purchasing.journal import Journal

    limit = datetime.now(UTC) - OLD_PURCHASE
    old = [intent for intent in Journal(books).open_intents() if intent.made_at < limit]
    if not old:
        yield Check("purchases", "ok", "none is open for longer than a day")
        return
    named = ", ".join(f"{intent.catalog}/{intent.sku}" for intent in old[:5])
    more = f" and {len(old) - 5} more" if len(old) > 5 else ""
    yield Check(
        "purchases", "warning",
        f"{len(old)} are open for longer than a day, their money is set aside: {named}{more}",
        "run these products again: a run asks what became of them before it buys anything",
    )  # fmt: skip


def api_key_checks(settings: Settings) -> Found:
    """Whether there is a key where one is needed. It is not shown."""
    if settings.generation.generator != "runware":
        yield Check("api key", "ok", f"not needed by {settings.generation.generator}")
        return
    from resources.generator import runware_options

    options = runware_options({"base_url": settings.runware.base_url})
    yield Check("api key", "ok", f"RUNWARE_API_KEY is set, for {options.origin[1]}; --live tries it")
