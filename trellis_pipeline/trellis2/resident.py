"""Which networks are in memory when.

All of them together want about 17 GB in half precision; a generation uses them one after the other. So how
long each stays is a plan: on the device for as long as the process lives, in the machine's memory between
uses, or only while it works, read again from disk the next time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.trellis2.repository import Repository
from trellis_pipeline.trellis2.weights import load_network

Plan = Literal["device", "host", "disk"]
"""Where a network waits for its next use."""


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
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return Precision(flow=torch.bfloat16, decoder=torch.float16)
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
    ) -> None:
        """precision: by default what the device computes well."""
        self.device = device
        self.shape_normalization = repository.shape_normalization
        self.material_normalization = repository.material_normalization
        self._repository = repository
        self._plan = plan
        self._precision = precision or precision_for(device)
        self._waiting: dict[str, nn.Module] = {}
        self._turn = threading.Lock()

    @contextmanager
    def use(self, name: str) -> Iterator[nn.Module]:
        """The network on the device. Raises WeightsMissing or WeightsInvalid where it cannot be loaded."""
        with self._turn:
            network = self._waiting[name] if name in self._waiting else self._load(name)
            try:
                yield network.to(self.device)
            finally:
                self._put_away(name, network)

    def shrink(self) -> bool:
        """Take less of the device's memory from now on. False if the plan is as small as it gets."""
        with self._turn:
            on_cpu = self.device.type == "cpu"
            if self._plan == "disk" or (self._plan == "host" and not on_cpu):
                return False
            self._plan = "disk" if on_cpu else "host"
            for name, network in list(self._waiting.items()):
                self._put_away(name, network)
            return True

    @property
    def waiting(self) -> tuple[str, ...]:
        """Names of the networks that are held in memory between uses."""
        return tuple(self._waiting)

    def _load(self, name: str) -> nn.Module:
        if name not in self._repository.networks:
            raise ConfigError(f"this checkpoint has no network {name!r}")
        files = self._repository.networks[name]
        is_flow = "flow" in name
        dtype = self._precision.flow if is_flow else self._precision.decoder
        if name == "image_encoder":
            dtype = torch.float32
        return load_network(files.class_name, files.args, files.weights, dtype=dtype, device=self.device)

    def _put_away(self, name: str, network: nn.Module) -> None:
        if self._plan == "disk":
            self._waiting.pop(name, None)
            # Whoever used the network may still hold it; without its tensors it is nothing.
            network.to("meta")
        else:
            self._waiting[name] = network.to("cpu") if self._plan == "host" else network
        if self._plan != "device" and self.device.type == "cuda":
            torch.cuda.empty_cache()
