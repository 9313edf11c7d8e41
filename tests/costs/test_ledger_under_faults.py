"""Ledgers of another version, damaged files, lost servers, killed writers, passwords that must not show."""

from __future__ import annotations

import logging
import signal
import sqlite3
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

import trellis_pipeline
from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.database import connect, parse_url
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.migrations import REVISIONS, VERSION_TABLE, current_revision, migrate
from trellis_pipeline.costs.reports import totals
from trellis_pipeline.costs.schema import metadata
from trellis_pipeline.errors import ConfigError, LedgerError, StorageUnavailable

PACKAGE_PARENT = str(Path(trellis_pipeline.__file__).parents[1])
SECRET = "hunter2sentinel"
TEN_CENTS = Decimal("0.10")
CHAIR = SpendScope("demo", "CHAIR-7", "run-1", "runware", "microsoft:trellis-2@4b", "1024", "key")


# -- versions ----------------------------------------------------------------------------------------------


def test_migrating_from_nothing_makes_exactly_the_tables_the_code_works_with(url):
    engine = connect(parse_url(url))
    migrate(engine)
    with engine.connect() as connection:
        assert current_revision(connection) == REVISIONS[-1]
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_a_ledger_of_the_first_version_keeps_its_events_and_gets_its_totals(url):
    engine = connect(parse_url(url))
    migrate(engine, "0001")
    columns = (
        "event_id, ts, day, kind, reservation_id, amount, settled_change, reserved_change, currency, source,"
        " price_book_version, generator, model, catalog, sku, preset, run_id, attempt, request_key,"
        " raw_cost_text, seconds, cause"
    )
    rest = "'USD', 'provider_cost', '', 'runware', 'm', 'demo', 'CHAIR-7', '1024', 'run-1', 1, 'k', '', 0, ''"
    one = 250_000_000 if engine.dialect.name == "sqlite" else "0.25"
    with engine.begin() as connection:
        for row in [
            f"'e1', '2026-01-01 10:00:00', '2026-01-01', 'settle', 'r1', {one}, {one}, 0",
            f"'e2', '2026-01-02 10:00:00', '2026-01-02', 'reserve', 'r2', {one}, 0, {one}",
        ]:
            connection.execute(text(f"INSERT INTO spend_events ({columns}) VALUES ({row}, {rest})"))
        connection.execute(text(f"INSERT INTO open_reservations VALUES ('r2', '2026-01-02 10:00:00', {one})"))
    engine.dispose()
    with Ledger.open(url) as ledger:
        assert ledger.verify() == ()
        assert ledger.headroom(CHAIR, Budgets(total_usd=Decimal(1))).left == Decimal("0.50")
        (left,) = ledger.open_reservations()
        ledger.release(left, "found after the upgrade")
        assert totals(ledger).settled_usd == Decimal("0.25")


def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(url):
    Ledger.open(url).close()
    engine = create_engine(parse_url(url))
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0999'"))
    engine.dispose()
    with pytest.raises(LedgerError, match=r"0999.*upgrade trellis-pipeline"):
        Ledger.open(url)


def test_the_ledger_can_share_a_database_with_another_user_of_alembic(url):
    engine = create_engine(parse_url(url)) if url.startswith("postgresql") else connect(parse_url(url))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num TEXT)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('theirs')"))
    Ledger.open(url).close()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [
            "theirs"
        ]
        assert inspect(connection).has_table("spend_events")
    engine.dispose()


def test_threads_that_open_new_ledgers_at_once_do_not_disturb_each_other(tmp_path):
    def open_one(number):
        with Ledger.open(f"sqlite:///{tmp_path / str(number % 8)}.db") as ledger:
            return ledger.verify()

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(open_one, range(16))) == [()] * 16


def test_opening_a_ledger_that_is_up_to_date_loads_no_migration_library(sqlite_url):
    Ledger.open(sqlite_url).close()
    code = (
        "import sys; from trellis_pipeline.costs.ledger import Ledger; Ledger.open(sys.argv[1]).close(); "
        "assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, sqlite_url], check=True, cwd=PACKAGE_PARENT)


# -- faults ------------------------------------------------------------------------------------------------

SPENDER = """
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.ledger import Ledger

scope = SpendScope("demo", "A", "run", "runware", "m", "1024", "k")
step, die_at = 0, int(sys.argv[2])

def maybe_die(connection):
    global step
    step += 1
    if step == die_at:
        os.kill(os.getpid(), signal.SIGKILL)  # everything is written, nothing is committed

with Ledger.open(sys.argv[1]) as ledger:
    while True:
        reservation = ledger.reserve(Decimal("0.10"), scope, Budgets(), also=maybe_die)
        print("reserved", reservation.id, flush=True)
        ledger.settle(reservation, Decimal("0.05"), source="provider_cost", also=maybe_die)
        print("settled", reservation.id, flush=True)
"""


@pytest.mark.parametrize("die_at", [1, 2, 7, 12])
def test_a_writer_killed_before_its_commit_leaves_books_that_add_up_to_what_it_was_told(url, die_at):
    Ledger.open(url).close()
    process = subprocess.run(
        [sys.executable, "-c", SPENDER, url, str(die_at)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
        cwd=PACKAGE_PARENT,
    )
    assert process.returncode == -signal.SIGKILL
    told = [line.split() for line in process.stdout.splitlines()]
    settled = {name for word, name in told if word == "settled"}
    still_open = {name for word, name in told if word == "reserved"} - settled
    with Ledger.open(url) as ledger:
        assert ledger.verify() == ()
        assert {reservation.id for reservation in ledger.open_reservations()} == still_open
        assert totals(ledger).settled_usd == len(settled) * Decimal("0.05")
        ledger.reserve(TEN_CENTS, CHAIR, Budgets())  # no lock was left behind


def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path):
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is not a database, it is a note to self " * 100)
    with pytest.raises(StorageUnavailable, match=r"ledger\.db.*not a database"):
        Ledger.open(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"this is not")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageUnavailable, match="books"):
        Ledger.open(f"sqlite:///{tmp_path}/file/books/ledger.db")


def test_a_full_disk_refuses_the_reservation_and_the_books_stay_right(sqlite_url):
    with Ledger.open(sqlite_url) as ledger:
        ledger.reserve(TEN_CENTS, CHAIR, Budgets())

        # SQLite's own limit answers like a disk without space, at any page that has to be added.
        def fill(connection):
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            connection.exec_driver_sql("CREATE TABLE filler AS SELECT zeroblob(1000000) AS filling")

        with pytest.raises(StorageUnavailable, match="full"):
            ledger.reserve(TEN_CENTS, CHAIR, Budgets(), also=fill)
        assert len(ledger.open_reservations()) == 1
        assert ledger.verify() == ()


def test_a_locked_database_is_waited_for_and_then_reported(sqlite_url, monkeypatch):
    monkeypatch.setattr("trellis_pipeline.costs.database.BUSY_SECONDS", 0.2)
    with Ledger.open(sqlite_url) as ledger:
        other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable, match="locked"):
            ledger.reserve(TEN_CENTS, CHAIR, Budgets())
        other.execute("ROLLBACK")
        other.close()
        ledger.reserve(TEN_CENTS, CHAIR, Budgets())


def test_connections_dropped_by_the_server_are_replaced(postgres_url, postgres):
    with Ledger.open(postgres_url) as ledger:
        ledger.reserve(TEN_CENTS, CHAIR, Budgets())
        postgres.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid();")
        ledger.reserve(TEN_CENTS, CHAIR, Budgets())
        assert len(ledger.open_reservations()) == 2


def test_a_connection_dropped_in_mid_transaction_reserves_nothing(postgres_url, postgres):
    def drop(connection):
        postgres.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid();")
        connection.execute(text("SELECT 1"))

    with Ledger.open(postgres_url) as ledger:
        with pytest.raises(StorageUnavailable):
            ledger.reserve(TEN_CENTS, CHAIR, Budgets(), also=drop)
        assert ledger.open_reservations() == ()
        assert ledger.verify() == ()


# -- URLs and passwords ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "ledger.db",
        "sqlite://",
        "sqlite:///relative.db",
        "sqlite:///:memory:",
        f"mysql://root:{SECRET}@db/ledger",
        f"postgresql://root:{SECRET}@db",
        f"postgresql://root:{SECRET}@db:port/ledger",
        f"postgresql://root:{SECRET}@[::1/ledger",
    ],
)
def test_a_ledger_url_that_cannot_work_is_refused_without_repeating_it(bad):
    with pytest.raises(ConfigError) as caught:
        Ledger.open(bad)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert "sqlite:////" in str(caught.value)


def test_any_spelling_of_postgres_uses_the_driver_that_is_installed():
    for scheme in ["postgres", "postgresql", "postgresql+psycopg2"]:
        assert parse_url(f"{scheme}://u:p@h/d").drivername == "postgresql+psycopg2"


def test_a_password_never_shows_in_errors_logs_or_repr(caplog, capsys):
    caplog.set_level(logging.DEBUG)
    for url in [
        f"postgresql://{SECRET}u:{SECRET}@127.0.0.1:9/ledger",
        f"postgresql://127.0.0.1:9/ledger?user={SECRET}u&password={SECRET}",
        f"postgresql://u:{SECRET}@127.0.0.1:9/ledger?{SECRET}={SECRET}",
        f"postgresql://u:{SECRET}@no-such-host.invalid/ledger",
    ]:
        with pytest.raises(StorageUnavailable, match="postgresql://") as caught:
            Ledger.open(url)
        assert SECRET not in "".join(traceback.format_exception(caught.value))
    printed = capsys.readouterr()
    assert SECRET not in caplog.text + printed.out + printed.err


def test_a_password_that_works_does_not_show_either(postgres_url, caplog):
    caplog.set_level(logging.DEBUG)
    url = postgres_url.replace("postgres:@", f"postgres:{SECRET}@")  # a trusting server accepts any password
    assert url != postgres_url
    with Ledger.open(url) as ledger:
        reservation = ledger.reserve(TEN_CENTS, CHAIR, Budgets())
        ledger.release(reservation, "test")
        with pytest.raises(LedgerError) as caught:
            ledger.release(reservation, "test")
        shown = repr(ledger) + str(vars(ledger)) + "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown + caplog.text
