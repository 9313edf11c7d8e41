"""The ledger's database connection: SQLite in a file, or Postgres by URL.

SQLite runs with a write-ahead log and `synchronous=FULL`: every commit waits for the disk. With NORMAL a
power cut may take the last commits back, and a reservation taken back after its request was sent is money
that no budget knows of. A file serves every thread and process of one machine; several machines need
Postgres, since the write-ahead log does not work over network file systems.

Errors leave this module without URLs, parameters or driver objects: any of them may hold the password.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from trellis_pipeline.errors import ConfigError, LedgerError, StorageUnavailable

# Longer than an overbooked machine stands still: who waits has not written yet and loses nothing by waiting,
# while one that gives up fails a product.
BUSY_SECONDS = 120.0


def parse_url(text: str) -> URL:
    """A ledger URL: `sqlite:////absolute/file.db` or `postgresql://user:password@host/database`.

    Postgres is reached through psycopg2, also where the URL does not say so (SQLAlchemy 2.1 would take
    psycopg 3). Raises ConfigError, without repeating the URL.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None
    if (
        url is not None
        and url.drivername in {"postgresql", "postgres", "postgresql+psycopg2"}
        and url.database
    ):
        return url.set(drivername="postgresql+psycopg2")
    if url is not None and url.drivername in {"sqlite", "sqlite+pysqlite"}:
        if url.database and url.database != ":memory:" and Path(url.database).is_absolute() and not url.query:
            return url
        raise ConfigError("a SQLite ledger is a file with an absolute path: sqlite:////data/ledger.db")
    raise ConfigError(
        "the ledger URL must be sqlite:////absolute/file.db or postgresql://user:password@host/database"
    )


def describe(url: URL) -> str:
    """The URL as it may be shown: no user, no password, no options."""
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{url.database}"
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{url.host or 'localhost'}{port}/{url.database}"


def connect(url: URL) -> Engine:
    """An engine for a parsed URL; the folder of a SQLite file is made.

    Raises ConfigError where the driver is not installed, StorageUnavailable where the folder cannot be made.
    """
    if url.get_backend_name() == "sqlite":
        folder = Path(str(url.database)).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageUnavailable(
                f"the ledger's folder {folder} cannot be made: {error.strerror}"
            ) from error
        engine = create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        # A connection that the server dropped is noticed before it is used; 50 threads share 15 connections.
        # Whoever waits for a row must see what was committed meanwhile, whatever the server's own default is.
        return create_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=True,
            pool_timeout=BUSY_SECONDS,
            isolation_level="READ COMMITTED",
        )
    except (ImportError, NoSuchModuleError):
        raise ConfigError(
            "a Postgres ledger needs psycopg2: pip install 'trellis-pipeline[postgres]'"
        ) from None


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = (
        None  # transactions begin where `_begin_sqlite` says, not where the driver guesses
    )
    # Switching to the write-ahead log does not wait for others who switch at the same moment.
    for attempt in range(10):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError:
            if attempt == 9:
                raise
            time.sleep(0.02 * 2**attempt)
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection: Connection) -> None:
    # A write transaction takes the lock first: one that reads, then writes, would fail instead of waiting.
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


@contextlib.contextmanager
def database_errors(url: URL) -> Iterator[None]:
    """Turn what SQLAlchemy raises into LedgerError (a broken rule) or StorageUnavailable (anything else)."""
    try:
        yield
    except IntegrityError as error:
        raise LedgerError(f"{describe(url)} refused an event: {_reason(error, url)}") from None
    except SQLAlchemyError as error:
        raise StorageUnavailable(
            f"the ledger {describe(url)} cannot be used: {_reason(error, url)}"
        ) from None


def _reason(error: SQLAlchemyError, url: URL) -> str:
    """The first line of what the database said, with everything that stands secret in the URL blotted out."""
    text = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    secrets = [url.password, url.username, *(value for value in url.query.values() if isinstance(value, str))]
    for secret in secrets:
        if secret:
            text = text.replace(str(secret), "***")
    return text[:300] or type(error).__name__
