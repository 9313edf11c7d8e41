"""Servers and nurseries for the scenarios of a module, and a PostgreSQL for those that want one."""

import uuid

import pytest
from buying_scenarios import Arena
from databases import postgres  # noqa: F401


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    with Arena(tmp_path_factory.mktemp("arena")) as arena:
        yield arena


@pytest.fixture(scope="module")
def postgres_arena(tmp_path_factory, postgres):  # noqa: F811
    def new_url():
        name = f"shop_{uuid.uuid4().hex}"
        postgres.psql(f"CREATE SCHEMA {name};")
        return f"{postgres.get_uri()}&options=-csearch_path%3D{name}"

    with Arena(tmp_path_factory.mktemp("postgres"), lanes=2, postgres_url=new_url) as arena:
        yield arena
