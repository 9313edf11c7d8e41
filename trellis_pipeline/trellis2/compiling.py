"""torch.compile for the networks that are worth it: the transformers.

Their blocks are alike, so one block is compiled and serves for all of its network; token counts differ from
object to object and are left open. The decoders are not compiled: what they do depends on which voxels exist.
Compiling takes minutes in a process's first generation and wants a C++ compiler, on CUDA also Triton. Whoever
asks for it and has none is told so before anything is loaded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.trellis2.dino import DinoEncoder
from trellis_pipeline.trellis2.flow import FlowTransformer

_WAY_OUT = "set [local] compile = false; everything works without"


def check_compiler(device: torch.device) -> None:
    """Compile something small for a device. Raises ConfigError, with the compiler's words, if that fails."""
    if device.type == "mps":
        raise ConfigError(f"torch.compile is not used on MPS: {_WAY_OUT}")
    try:
        torch.compile(_something_small)(torch.zeros(8, device=device))
    except Exception as error:
        if not is_compiler_error(error):
            raise
        raise compiler_failed(error) from None


def compile_blocks(network: nn.Module) -> None:
    """Let the blocks of a transformer be compiled at their first use. Other networks stay as they are."""
    blocks: Any = ()
    if isinstance(network, FlowTransformer):
        blocks = network.blocks
    elif isinstance(network, DinoEncoder):
        blocks = network.layer
    for block in blocks:
        block.compile(dynamic=True)


def is_compiler_error(error: Exception) -> bool:
    """Whether an error comes from torch.compile rather than from what was compiled."""
    return any(cls.__module__.startswith(("torch._dynamo", "torch._inductor")) for cls in type(error).__mro__)


def compiler_failed(error: Exception) -> ConfigError:
    """The same, said to the user."""
    reason = str(error).strip().partition("\n")[0]
    return ConfigError(f"torch.compile does not work here ({reason}): {_WAY_OUT}")


def _something_small(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
