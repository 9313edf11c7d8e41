"""Folders that an earlier version of the service made are opened as they are, and brought up to date.

Accepted tasks and the billing log are promises, so a folder is never begun anew. The tables' version stands
in SQLite's own place for it; all steps happen in the transaction that opens the folder, so that a crash
leaves either the old tables or the new ones.
"""

from __future__ import annotations

from sqlalchemy import Connection, inspect

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.service.tables import metadata

VERSION = 1
"""Of the tables. In version 0 a task was known by its UUID alone, whosever it was."""

# SQLite cannot take a constraint from a table, so the tables are made anew. The billing log had the account
# of each line from the beginning and stays untouched, as its triggers demand.
_SET_ASIDE = (
    "DROP INDEX IF EXISTS results_by_state",
    "ALTER TABLE tasks RENAME TO old_tasks",
    "ALTER TABLE results RENAME TO old_results",
    "ALTER TABLE deliveries RENAME TO old_deliveries",
)
_TASK = "seq, account, task_uuid, payload, base_url, accepted_at, rejection"
_RESULT = "task_uuid, number, result_uuid, seed, state, quote, cost, error, ended_at, expires_at, file_bytes"
_DELIVERY = "task_uuid, kind, number, attempts, due_at"
_MOVE = (
    f"INSERT INTO tasks ({_TASK}) SELECT {_TASK} FROM old_tasks",  # noqa: S608 - names of columns
    f"INSERT INTO results (account, {_RESULT}) "  # noqa: S608
    f"SELECT account, {_RESULT} FROM old_results JOIN old_tasks USING (task_uuid)",
    f"INSERT INTO deliveries (account, {_DELIVERY}) "  # noqa: S608
    f"SELECT account, {_DELIVERY} FROM old_deliveries JOIN old_tasks USING (task_uuid) "
    "ORDER BY old_deliveries.seq",
    "DROP TABLE old_deliveries",
    "DROP TABLE old_results",
    "DROP TABLE old_tasks",
)


def make_tables(connection: Connection) -> None:
    """Make the tables, out of an earlier version's where there are such. In the caller's transaction.

    Raises ConfigError for a folder of a later version, whose tables mean we know not what.
    """
    version = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    if version > VERSION:
        raise ConfigError(
            f"the service's folder was written by a later version of this program (tables {version}, here "
            f"{VERSION}); start that version, or give this one a folder of its own"
        )
    old = version == 0 and inspect(connection).has_table("tasks")
    for statement in _SET_ASIDE if old else ():
        connection.exec_driver_sql(statement)
    metadata.create_all(connection)
    for statement in _MOVE if old else ():
        connection.exec_driver_sql(statement)
    connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")
