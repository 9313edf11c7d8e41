"""The service's own tables: what was accepted, what came of it, what was billed, what is still to be told.

One file of SQLite in the service's folder. `billing` is append-only (triggers refuse anything else) and has
at most one row for a result. A task is known by its account and its UUID, which two accounts may both use.

Whoever changes a table raises `upgrade.VERSION` and says there what becomes of the folders that exist.
"""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    event,
)

from trellis_pipeline.costs.schema import Usd

metadata = MetaData()

tasks = Table(
    "tasks",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("account", Text, nullable=False),
    Column("task_uuid", Text, nullable=False),
    Column("payload", Text, nullable=False),  # the task as JSON, its image named by UUID or URL
    Column("base_url", Text, nullable=False),  # how the client reached us
    Column("accepted_at", Float, nullable=False),  # seconds since 1970
    Column("rejection", Text),  # the error that a later task of this UUID got
    UniqueConstraint("account", "task_uuid"),
)

# One row for each of a task's 1 to 4 results, made when the task is accepted.
results = Table(
    "results",
    metadata,
    Column("account", Text, primary_key=True),
    Column("task_uuid", Text, primary_key=True),
    Column("number", Integer, primary_key=True),  # from 0
    Column("result_uuid", Text, nullable=False, unique=True),
    Column("seed", Text, nullable=False),  # up to 2^63 - 1
    Column("state", Text, nullable=False),  # queued, done, failed
    Column("quote", Usd, nullable=False),
    Column("cost", Usd),  # NULL where nobody named a price
    Column("error", Text),
    Column("ended_at", Float),
    Column("expires_at", Float),
    Column("file_bytes", Integer),  # NULL again when the file has expired
    ForeignKeyConstraint(["account", "task_uuid"], ["tasks.account", "tasks.task_uuid"]),
)
Index("results_by_state", results.c.state)

billing = Table(
    "billing",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("account", Text, nullable=False),
    Column("task_uuid", Text, nullable=False),
    Column("result_uuid", Text, nullable=False, unique=True),
    Column("cost", Usd, nullable=False),
)
for _verb in ("UPDATE", "DELETE"):
    event.listen(
        billing,
        "after_create",
        DDL(  # type: ignore[no-untyped-call]
            f"CREATE TRIGGER billing_refuses_{_verb.lower()} BEFORE {_verb} ON billing "
            "BEGIN SELECT RAISE(ABORT, 'the billing log is append-only'); END"
        ),
    )

media = Table(
    "media",
    metadata,
    Column("media_uuid", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("mime", Text, nullable=False),
    Column("at", Float, nullable=False),
)
Index("media_by_content", media.c.account, media.c.sha256)

# Webhook calls and uploads that are due. They outlive a restart, so each may arrive more than once.
deliveries = Table(
    "deliveries",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("kind", Text, nullable=False),  # webhook, upload
    Column("account", Text, nullable=False),
    Column("task_uuid", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", Float, nullable=False),
)
