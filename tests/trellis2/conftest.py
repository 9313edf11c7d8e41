"""One small checkpoint for all. Modules that need torch skip themselves without it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from tiny_checkpoint import write_checkpoint


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tensors this small are slower on many threads, above all beside other tests."""
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A folder of repositories. Not to be changed; copy it first."""
    return write_checkpoint(tmp_path_factory.mktemp("weights"))
