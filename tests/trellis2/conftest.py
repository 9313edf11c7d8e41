"""Torch, or nothing here is run; and one small checkpoint for all."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_checkpoint import write_checkpoint


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tensors this small are slower on many threads, above all beside other tests."""
    torch = pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A folder of repositories. Not to be changed; copy it first."""
    return write_checkpoint(tmp_path_factory.mktemp("weights"))
