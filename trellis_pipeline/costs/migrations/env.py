"""Alembic's entry point: runs the migrations on the connection, in the transaction, of `migrate`."""

from __future__ import annotations

from alembic import context

from trellis_pipeline.costs.migrations import VERSION_TABLE
from trellis_pipeline.costs.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
