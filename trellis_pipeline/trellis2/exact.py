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

_NEWER = "fp32_precision"


@contextmanager
def exact_sums(device: torch.device) -> Iterator[None]:
    """No TF32, no half precision accumulation, while the block runs on a CUDA device; nothing on others.

    The switches are the whole process's: another thread that multiplies meanwhile is as exact, and slower.
    """
    if device.type != "cuda":
        yield
        return
    switches = _switches()
    before = [_now(owner, name) for owner, name in switches]
    try:
        for owner, name in switches:
            setattr(owner, name, "ieee" if name == _NEWER else False)
        yield
    finally:
        for (owner, name), value in zip(switches, before, strict=True):
            if value is not None:
                setattr(owner, name, value)


def _switches() -> list[tuple[Any, str]]:
    """Those that this PyTorch has, in the order in which they have to be set.

    TF32 has newer switches since 2.9, which the older ones set as well. Where the two do not agree, whoever
    asks by the older names is refused an answer, torch.compile among them; so both are set.
    """
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    halves = (f"allow_{kind}_reduced_precision_reduction" for kind in ("fp16", "bf16"))
    found = [(matmul, name) for name in (*halves, "allow_fp16_accumulation") if hasattr(matmul, name)]
    found += [(matmul, "allow_tf32"), (cudnn, "allow_tf32")]
    if hasattr(matmul, _NEWER):
        found += [(owner, _NEWER) for owner in (matmul, cudnn.conv, cudnn.rnn)]
    return found


def _now(owner: Any, name: str) -> object:
    """A switch as it can be set again, None if it cannot be asked: somebody has set only the newer ones."""
    try:
        value = getattr(owner, name)
    except RuntimeError:
        return None
    split = getattr(owner, f"{name}_split_k", None)  # newer PyTorch keeps a second one behind some of them
    return value if split is None else (value, split)
