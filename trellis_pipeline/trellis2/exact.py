"""On CUDA, float32 means float32 and sums are float32, whatever the process was set to.

PyTorch lets cuDNN round what goes into a float32 convolution to TF32's ten bits by default, and lets cuBLAS
add up the parts of a half precision product in half precision. Both move values by a thousandth, and the
decoders compare with zero: a voxel more or less, from a switch that anybody in the process may have set. So
they are off while a model is made, and as they were afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact_sums(device: torch.device) -> Iterator[None]:
    """No TF32, no half precision accumulation, while the block runs on a CUDA device; nothing on others.

    The switches are the whole process's: another thread that multiplies meanwhile is as exact, and slower.
    """
    if device.type != "cuda":
        yield
        return
    wanted = _switches()
    before = [_now(owner, name) for owner, name, _ in wanted]
    try:
        for owner, name, value in wanted:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(wanted, before, strict=True):
            setattr(owner, name, value)


def _switches() -> list[tuple[Any, str, object]]:
    """Owner, name and the value that is wanted, of the switches that this PyTorch has."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    halves = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    wanted = [(matmul, name, False) for name in (*halves, "allow_fp16_accumulation") if hasattr(matmul, name)]
    if hasattr(matmul, "fp32_precision"):
        # Since 2.9. Whoever has used these names may not be asked by the old ones any more.
        return [*wanted, (matmul, "fp32_precision", "ieee"), (cudnn.conv, "fp32_precision", "ieee")]
    return [*wanted, (matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]


def _now(owner: Any, name: str) -> object:
    """A switch as it can be set again. Newer PyTorch keeps a second one behind some of them."""
    split = getattr(owner, f"{name}_split_k", None)
    return getattr(owner, name) if split is None else (getattr(owner, name), split)
