"""How the local generator works, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from trellis_pipeline.errors import ConfigError

Plan = Literal["auto", "device", "host", "disk"]
PrecisionName = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """weights: folder of repositories. image_encoder: folder of the encoder, where it is elsewhere.

    device: `auto`, `cpu`, `mps`, `cuda` or `cuda:1`. precision: of the flow networks. plan: where networks
    wait for their next use. compile: let torch.compile at them. retry_smaller: where the memory does not
    suffice, try once more with a smaller plan. max_tokens: see `trellis2.pipeline.GenerationSettings`.
    usd_per_gpu_second: what the device costs while it works. original_remesh, normal_map and occlusion_rays
    are explained at `mesh.postprocess.options`. threads: for the steps after the device is done.
    """

    weights: Path
    image_encoder: Path | None = None
    device: str = "auto"
    precision: PrecisionName = "auto"
    plan: Plan = "auto"
    compile: bool = False
    retry_smaller: bool = True
    max_tokens: int = 49_152
    usd_per_gpu_second: Decimal = Decimal(0)
    original_remesh: bool = False
    normal_map: bool = False
    occlusion_rays: int = 0
    threads: int = 1


def local_options(chosen: Mapping[str, Any], *, device: str | None = None, threads: int = 1) -> LocalOptions:
    """Options out of plain JSON-able data, see `config_local.LocalSettings.generator_options`.

    device: instead of the configured one.

    Raises ConfigError where no price is set: work that costs nothing in the books would pass every budget.
    """
    values = {key: value for key, value in chosen.items() if key != "expected_seconds"}
    if values.get("usd_per_gpu_second") is None:
        raise ConfigError(
            'generator = "local" needs the price of its time: set [local] usd_per_gpu_second, for example '
            "0.0008 for a GPU rented at $2.88 an hour, or 0 if your machine is to count as free"
        )
    values["usd_per_gpu_second"] = Decimal(str(values["usd_per_gpu_second"]))
    for name in ("weights", "image_encoder"):
        if values.get(name) is not None:
            values[name] = Path(values[name]).expanduser()
    return LocalOptions(**values | {"threads": threads} | ({"device": device} if device else {}))
