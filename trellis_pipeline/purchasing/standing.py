"""Where the products of a whole catalog stand: bought, under way, and how much room their budgets have.

A quote asks this for every product at once. One request for each would take minutes on a bucket, so each
question is asked for all of them together: certificates are listed (a thousand a request), open intents and
running totals are read with one query each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import select

from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.schema import scope_totals
from trellis_pipeline.purchasing.generations import Order, certificate_path, find_generation
from trellis_pipeline.purchasing.published import PUBLISHED_SECONDS
from trellis_pipeline.purchasing.quote import Terms
from trellis_pipeline.purchasing.till import Till, estimate_for

if TYPE_CHECKING:
    from trellis_pipeline.purchasing.journal import Journal
    from trellis_pipeline.storage.store import ArtifactStore

# From this many orders on, listing all certificates takes fewer requests than asking for each.
LISTED_FROM = 200
_THREADS = 32


def bought(store: ArtifactStore, orders: Sequence[Order]) -> set[str]:
    """The request keys of those orders whose generation is in the store, certificate and bytes.

    Raises StorageError for a damaged certificate, as buying it would.
    """
    wanted = {order.request_key: order for order in orders}
    if len(wanted) >= LISTED_FROM:
        folder, _, _ = certificate_path("").rpartition("/")
        paths = set(store.list(folder))
        wanted = {key: order for key, order in wanted.items() if certificate_path(key) in paths}

    def is_there(order: Order) -> bool:
        return find_generation(store, order) is not None

    with ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="bought") as pool:
        found = pool.map(is_there, wanted.values())
        return {key for key, there in zip(wanted, found, strict=True) if there}


def in_flight(journal: Journal) -> set[str]:
    """The request keys that somebody is buying, or was when they were stopped, with the money set aside."""
    standing = {reservation.id for reservation in journal.ledger.open_reservations()}
    return {intent.request_key for intent in journal.open_intents() if intent.task_uuid in standing}


def spent_by_product(ledger: Ledger, catalog: str) -> dict[str, Decimal]:
    """USD settled and reserved for each product of a catalog, by SKU; those without any are left out."""
    prefix = f"{catalog}/"
    query = select(scope_totals.c.key, scope_totals.c.settled, scope_totals.c.reserved).where(
        scope_totals.c.scope == "product", scope_totals.c.key.startswith(prefix, autoescape=True)
    )
    with ledger.reading() as connection:
        return {row.key.removeprefix(prefix): row.settled + row.reserved for row in connection.execute(query)}


def terms_of(orders: Iterable[Order], till: Till) -> dict[str, Terms]:
    """What a purchase of each preset among the orders costs and takes.

    Raises ConfigError where a paid generator has no price.
    """
    first: dict[str, Order] = {}
    for order in orders:
        first.setdefault(order.request.preset, order)
    return {preset: _terms(order, till) for preset, order in first.items()}


def _terms(order: Order, till: Till) -> Terms:
    """A history counts only if it is the one the estimate stands on, not a list price or single results."""
    ledger, identity, preset = till.journal.ledger, till.generator.identity, order.request.preset
    estimate = estimate_for(order, till)
    costs = ledger.history(identity.name, preset)
    if estimate.basis != "history" or len(costs) != estimate.samples:
        costs = ()
    times = ledger.seconds_history(identity.name, preset)
    if times:
        return Terms(estimate, costs, sum(times) / len(times), "history")
    model, settings = identity.model, order.request.settings
    published = PUBLISHED_SECONDS.get((model, settings.resolution)) or PUBLISHED_SECONDS.get((model, None))
    if published is None:
        return Terms(estimate, costs)
    # Several results of one purchase may be made one after the other.
    return Terms(estimate, costs, published * order.request.numberResults, "published")
