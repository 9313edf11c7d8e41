"""What is asked of a generator: the result-shaping part of a `3dInference` request.

The field names, ranges and defaults are those of the provider's API document for
`microsoft:trellis-2@4b`, so that a request means the same to every generator and goes over the wire as it
is. How the answer is delivered (webhook, upload endpoint, time to live) does not shape the model, so it
stays with the transport and out of the request's identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.wire_faults import FaultFinder

TRELLIS_2: Literal["microsoft:trellis-2@4b"] = "microsoft:trellis-2@4b"

_FROZEN = ConfigDict(frozen=True, extra="forbid", strict=True)


class SamplerSettings(BaseModel):
    """One of the three flow-matching samplers. What is left out keeps the model's own default."""

    model_config = _FROZEN

    steps: Annotated[int, Field(ge=1, le=50)] | None = None
    guidanceStrength: Annotated[float, Field(ge=1, le=10)] | None = None  # noqa: N815 - the wire's name
    guidanceRescale: Annotated[float, Field(ge=0, le=1)] | None = None  # noqa: N815
    rescaleT: Annotated[float, Field(ge=1, le=6)] | None = None  # noqa: N815


class GenerationSettings(BaseModel):
    """Technical parameters of one generation, nested under `settings` on the wire.

    resolution: voxel grid. decimationTarget: triangles after simplification. textureSize: pixels.
    """

    model_config = _FROZEN

    resolution: Literal[512, 1024, 1536] = 1024
    decimationTarget: Annotated[int, Field(ge=100_000, le=1_000_000)] = 500_000  # noqa: N815
    remesh: bool = True
    textureSize: Annotated[int, Field(ge=1024, le=4096, multiple_of=1024)] = 2048  # noqa: N815
    sparseStructure: SamplerSettings = SamplerSettings()  # noqa: N815
    shapeSlat: SamplerSettings = SamplerSettings()  # noqa: N815
    texSlat: SamplerSettings = SamplerSettings()  # noqa: N815

    @property
    def steps(self) -> tuple[int | None, int | None, int | None]:
        """Sampler steps of structure, shape and texture; None is the model's own default."""
        return self.sparseStructure.steps, self.shapeSlat.steps, self.texSlat.steps


class GenerationRequest(BaseModel):
    """One request. Frozen, so that its key stays true.

    seed: 0 to 2^63 - 1. The API document prints 2^64-ish as the maximum, which no int64 holds, and draws a
    random seed when none is given; we always send one, or the model could not be made again. The default
    is the original model's own, 42.
    """

    model_config = _FROZEN

    model: Literal["microsoft:trellis-2@4b"] = TRELLIS_2
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 42
    numberResults: Annotated[int, Field(ge=1, le=4)] = 1  # noqa: N815
    settings: GenerationSettings = GenerationSettings()

    def wire(self) -> dict[str, Any]:
        """The request as plain JSON data, without what was left to the model's defaults."""
        data = self.model_dump(exclude_none=True)
        data["settings"] = {key: value for key, value in data["settings"].items() if value != {}}
        return data

    @property
    def preset(self) -> str:
        """What decides the price of a generation, as one word for the ledger's history.

        The provider bills time, so sampler steps are part of it where any are set: `steps:50-auto-50`.
        """
        s = self.settings
        words = [s.resolution, s.textureSize, s.decimationTarget, "remesh" if s.remesh else "raw"]
        if any(s.steps):
            words.append("steps:" + "-".join(str(steps or "auto") for steps in s.steps))
        if self.numberResults > 1:
            words.append(f"x{self.numberResults}")
        return "/".join(map(str, words))


def build_request(*layers: Mapping[str, object]) -> GenerationRequest:
    """Merge settings, later layers winning, into a validated request.

    Each layer maps wire paths to values: `{"seed": 7, "settings.resolution": 1536}`; nested mappings are
    accepted too. Raises ConfigError naming the path, the value and what is allowed.
    """
    tree: dict[str, Any] = {}
    for layer in layers:
        for path, value in _flatten(layer).items():
            _put(tree, path.split("."), value)
    try:
        return GenerationRequest.model_validate(tree)
    except pydantic.ValidationError as error:
        faults = FaultFinder(GenerationRequest).faults(error.errors())
        raise ConfigError("; ".join(f"generation setting {fault}" for fault in faults)) from None


def request_key(
    request: GenerationRequest,
    image_sha256: str,
    generator_identity: str,
    dimensions_m: tuple[float | None, ...] | None = None,
) -> str:
    """The identity of one generation: sha256 (hex) over everything that shapes its result.

    dimensions_m takes part only for generators that build to size; a bought model is scaled afterwards, and
    a corrected catalog dimension must not buy it again.
    """
    statement: dict[str, Any] = {
        "request": request.wire(),
        "image": image_sha256,
        "generator": generator_identity,
    }
    if dimensions_m is not None:
        statement["dimensions_m"] = list(dimensions_m)
    return hashlib.sha256(json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def setting_paths() -> tuple[str, ...]:
    """Every path that a catalog column or `[generation]` may set."""

    def walk(model: type[BaseModel], prefix: str) -> list[str]:
        paths = []
        for name, field in model.model_fields.items():
            nested = field.annotation
            if isinstance(nested, type) and issubclass(nested, BaseModel):
                paths += walk(nested, f"{prefix}{name}.")
            else:
                paths.append(prefix + name)
        return paths

    return tuple(walk(GenerationRequest, ""))


def _flatten(layer: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in layer.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def _put(tree: dict[str, Any], path: list[str], value: object) -> None:
    *parents, leaf = path
    for name in parents:
        branch = tree.setdefault(name, {})
        if not isinstance(branch, dict):
            raise ConfigError(f"generation.{'.'.join(path)}: {name} is a value, not a group of settings")
        tree = branch
    tree[leaf] = value
