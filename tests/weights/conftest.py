from __future__ import annotations

import pytest
from hub_server import hub_server
from small_weights import CONTENT, TABLE, WANTED

from trellis_pipeline.weights.hub import Hub
from trellis_pipeline.weights.plan import plan_fetch
from trellis_pipeline.weights.sources import Sources


@pytest.fixture
def hub():
    """A hub that has everything, and lets everybody in."""
    with hub_server() as server:
        for file in TABLE:
            server.serve(file, CONTENT[file.place])
        yield server


@pytest.fixture
def weights(tmp_path):
    return tmp_path / "weights"


@pytest.fixture
def client(hub, tmp_path, monkeypatch):
    """Our side of the hub, without a token and with an empty cache."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    return Hub(endpoint=hub.endpoint, cache=tmp_path / "cache")


@pytest.fixture
def planned(client, weights):
    """Makes a plan for the whole table, or a part of it."""

    def plan(files=WANTED, **sources):
        return plan_fetch(weights, tuple(files), Sources(**sources), client.in_cache)

    return plan
