"""Dagster's SQLite event log with its engines kept, because a run here writes ten events for each product.

Dagster makes a new SQLAlchemy engine for every event, and with it loses every compiled statement; keeping
them takes a third off the time for each event. Nothing else differs: same files, same tables, same locks,
so the stock class can read and write what this one wrote. dagster.yaml names it; installations on Postgres
do not use it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.sql import create_engine
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine
from sqlalchemy.pool import NullPool

_KEPT = 32  # one for the index, one for each recent run; an engine without a pool holds no file open


class CachedSqliteEventLog(SqliteEventLogStorage):
    """base_dir: DAGSTER_HOME; the files stand where Dagster's own default puts them."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: dict[str, Engine] = {}
        super().__init__(os.path.join(base_dir, "history", "runs"), inst_data)  # noqa: PTH118

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> CachedSqliteEventLog:
        """Called by Dagster with the `config` of dagster.yaml."""
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = self._engine(shard)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection

    def _engine(self, shard: str) -> Engine:
        if shard not in self._engines:
            if len(self._engines) >= _KEPT:
                self._engines.clear()
            self._engines[shard] = create_engine(
                self.conn_string_for_shard(shard),
                poolclass=NullPool,
                connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS},
            )
        return self._engines[shard]
