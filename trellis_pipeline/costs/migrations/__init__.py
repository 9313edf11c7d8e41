"""Database migrations of the ledger: `migrate(engine)` brings any ledger to the schema of this version.

Opening a ledger is common and migrating is rare, so the version is looked up first and Alembic is loaded only
where there is something to do. The version stands in a table of its own name, because the database may be
shared with Dagster, which keeps an `alembic_version` itself.
"""

from __future__ import annotations

import threading
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from trellis_pipeline.errors import LedgerError

VERSION_TABLE = "trellis_ledger_version"
REVISIONS = (
    "0001",
    "0002",
    "0003",
    "0004",
)  # in order; the last one is what this version of the library works with
_MIGRATION_LOCK = 7210315  # any number that nothing else in the database uses for an advisory lock
_alone = threading.Lock()  # what Alembic works on is global in its process


def migrate(engine: Engine, revision: str = REVISIONS[-1]) -> None:
    """Create or upgrade the ledger's tables. Safe from many threads and processes at once: one does it.

    revision: where to stop; for tests of later migrations.

    Raises LedgerError for a ledger made by a newer version of this library.
    """
    with engine.connect().execution_options(read_only=True) as connection:
        current = current_revision(connection)
    if current == revision:
        return
    if current and current not in REVISIONS:
        raise LedgerError(
            f"the ledger has schema {current}, this version knows {REVISIONS[-1]}; upgrade trellis-pipeline"
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with _alone, engine.begin() as connection:
        # The lock comes before Alembic reads the version: whoever waited here finds the work done.
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def current_revision(connection: Connection) -> str:
    """The revision of the ledger in this database, empty where there is none yet."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return ""
    # The table name is the constant above.
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
    return str(found or "")
