"""Torch, or nothing here is run; a checkpoint whose shapes have a surface, and a photo."""

from __future__ import annotations

from pathlib import Path

import pytest
from input_images import as_input
from PIL import Image, ImageDraw
from tiny_checkpoint import write_checkpoint

from trellis_pipeline.generation.generator import InputImage


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tensors this small are slower on many threads, above all beside other tests."""
    torch = pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A folder of repositories. Not to be changed; copy it first."""
    return write_checkpoint(tmp_path_factory.mktemp("weights"), sheets=True)


@pytest.fixture(scope="session")
def crop() -> InputImage:
    """A bottle, cut out."""
    image = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((38, 44, 90, 115), 10, fill="firebrick")
    draw.rectangle((56, 12, 72, 52), fill="dimgray")
    return as_input(image)
