"""Which networks are in memory when.

All of them together want about 17 GB in half precision; a generation uses them one after the other. So how
long each stays is a plan: on the device for as long as the process lives, in the machine's memory between
uses, or only while it works, read again from disk the next time.

A network's object lives on between uses, also when its tensors do not: what was compiled belongs to it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.trellis2.compiling import (
    check_compiler,
    compile_blocks,
    compiler_failed,
    is_compiler_error,
)
from trellis_pipeline.trellis2.memory import Plan
from trellis_pipeline.trellis2.repository import Repository
from trellis_pipeline.trellis2.weights import empty_network, fill

_HOST = torch.device("cpu")
_FARTHER: tuple[Plan, ...] = ("device", "host", "disk")


@dataclass(frozen=True, slots=True)
class Precision:
    """Torso dtype by kind of network. The image encoder is always float32.

    flow: float32 or bfloat16. decoder: float32, float16 or bfloat16; every threshold in a decoder is a voxel
    kept or lost, so less than the published float16 is not worth it.
    """

    flow: torch.dtype
    decoder: torch.dtype


def precision_for(device: torch.device) -> Precision:
    """What a device computes well: half precision on CUDA where it has bfloat16, else float32."""
    if device.type == "cuda":
        # NVIDIA since Ampere; AMD's cards go by the same name and all do.
        bfloat16 = torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
        return Precision(flow=torch.bfloat16 if bfloat16 else torch.float32, decoder=torch.float16)
    return Precision(flow=torch.float32, decoder=torch.float32)


class ResidentNetworks:
    """The networks of one repository on one device. One generation at a time: `use` lets one thread in."""

    def __init__(
        self,
        repository: Repository,
        device: torch.device,
        *,
        plan: Plan = "host",
        precision: Precision | None = None,
        compiled: bool = False,
    ) -> None:
        """precision: by default what the device computes well. compiled: run them through torch.compile.

        Raises ConfigError where `compiled` is asked for and there is no compiler.
        """
        if compiled:
            check_compiler(device)
        self.device = device
        self.shape_normalization = repository.shape_normalization
        self.material_normalization = repository.material_normalization
        self._repository = repository
        self._plan = plan
        self._precision = precision or precision_for(device)
        self._compiled = compiled
        self._turn = threading.Lock()
        self._built: dict[str, nn.Module] = {}
        # Names of those whose tensors are in memory; for the plan "host" with the tensors that stay there.
        self._waiting: dict[str, Mapping[str, Tensor]] = {}
        self.seconds_loading = 0.0

    @property
    def plan(self) -> Plan:
        """Where networks wait now; shrinks when memory ran out."""
        return self._plan

    @contextmanager
    def use(self, name: str) -> Iterator[nn.Module]:
        """The network on the device. Raises WeightsMissing or WeightsInvalid where it cannot be loaded."""
        with self._turn:
            try:
                began = time.perf_counter()
                network = self._bring(name)
                self.seconds_loading += time.perf_counter() - began
                yield network
            except Exception as error:
                if self._compiled and is_compiler_error(error):
                    raise compiler_failed(error) from error
                raise
            finally:
                began = time.perf_counter()
                self._put_away(name)
                self.seconds_loading += time.perf_counter() - began

    def shrink(self) -> bool:
        """Take less of the device's memory from now on. False if the plan is as small as it gets."""
        # On a CPU and on MPS the host's memory is the device's.
        return self.shrink_to("host" if self.device.type == "cuda" else "disk")

    def shrink_to(self, plan: Plan) -> bool:
        """Let networks wait where `plan` says from now on. False if they wait there or farther off by now."""
        with self._turn:
            if _FARTHER.index(plan) <= _FARTHER.index(self._plan):
                return False
            self._plan = plan
            for name in self.waiting:
                if plan == "host":
                    self._waiting[name] = self._built[name].to(_HOST).state_dict()
                self._put_away(name)
            return True

    @property
    def waiting(self) -> tuple[str, ...]:
        """Names of the networks that are held in memory between uses."""
        return tuple(self._waiting)

    @torch.inference_mode(False)  # weights outlive the generation that first needed them
    def _bring(self, name: str) -> nn.Module:
        if name not in self._repository.networks:
            raise ConfigError(f"this checkpoint has no network {name!r}")
        files = self._repository.networks[name]
        if name not in self._built:
            network = empty_network(files.class_name, files.args, self._dtype(name), files.weights)
            if self._compiled:
                compile_blocks(network)
            self._built[name] = network
        network = self._built[name]
        if name not in self._waiting:
            fill(network, files.weights, _HOST if self._plan == "host" else self.device)
            self._waiting[name] = network.state_dict() if self._plan == "host" else {}
        return network.to(self.device)

    def _dtype(self, name: str) -> torch.dtype:
        if name == "image_encoder":
            return torch.float32
        return self._precision.flow if "flow" in name else self._precision.decoder

    @torch.inference_mode(False)
    def _put_away(self, name: str) -> None:
        if name not in self._waiting:
            return
        if self._plan == "disk":
            del self._waiting[name]
            # Whoever used the network may still hold it; without its tensors it is nothing.
            self._built[name].to("meta")
        elif self._plan == "host":
            # Nothing has changed them, so what is on the device is let go of, not copied back.
            self._built[name].load_state_dict(self._waiting[name], assign=True)
        if self._plan != "device":
            _give_back_memory(self.device)


def _give_back_memory(device: torch.device) -> None:
    """Free what an allocator keeps for later, so that the next network finds it in one piece."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
