"""Settings of the local generator: where the weights are, on what device they run, what its time costs."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

_STRICT = ConfigDict(frozen=True, extra="forbid")

WEIGHTS = Path("~/.cache/trellis-pipeline/weights")

Device = Annotated[str, StringConstraints(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]


class LocalSettings(BaseModel):
    """TRELLIS.2 on this machine. weights: the folder that `weights fetch` fills.

    image_encoder: folder of a DINOv3 checkpoint that is elsewhere. usd_per_gpu_second: what the machine costs
    while a model is being made; None refuses to work, 0 is free. expected_seconds: of one model, for the
    first reservations; None is ten times what is published for an H100.
    """

    model_config = _STRICT
    weights: Path = WEIGHTS
    image_encoder: Path | None = None
    device: Device = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    plan: Literal["auto", "device", "host", "disk"] = "auto"
    compile: bool = False
    retry_smaller: bool = True
    max_tokens: Annotated[int, Field(ge=1024)] = 49_152
    usd_per_gpu_second: Annotated[Decimal, Field(ge=0)] | None = None
    expected_seconds: Annotated[float, Field(gt=0)] | None = None
    original_remesh: bool = False
    normal_map: bool = False
    occlusion_rays: Annotated[int, Field(ge=0, le=1024)] = 0

    def generator_options(self) -> dict[str, Any]:
        """What the generator is told, as plain JSON-able data; None leaves its own default."""
        return self.model_dump(mode="json", exclude_none=True)
