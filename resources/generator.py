"""The generator as a Dagster resource, chosen by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import dagster as dg

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.generator import Generator
from trellis_pipeline.generation.request import GenerationRequest, build_request


class GeneratorResource(dg.ConfigurableResource[Generator]):
    """name: `draft` (a blockout from the silhouette, on the CPU, free).

    seed and settings: the request every product gets unless its catalog row says otherwise.
    """

    name: str = "draft"
    seed: int = 42
    settings: dict[str, Any] = {}

    def open(self, run_cpu: Callable[..., Awaitable[Any]]) -> Generator:
        """The generator. run_cpu: calls a top-level function in a worker process.

        Raises ConfigError for a name that is not known.
        """
        if self.name == "draft":
            from trellis_pipeline.generation.draft_generator import DraftGenerator

            return DraftGenerator(run_cpu)
        raise ConfigError(f"generator {self.name!r} is not known; known is draft")

    def request(self, *overrides: Mapping[str, object]) -> GenerationRequest:
        """The validated request, later overrides winning. Raises ConfigError."""
        return build_request({"seed": self.seed, "settings": self.settings}, *overrides)
