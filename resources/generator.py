"""The generator as a Dagster resource, chosen by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.generator import Generator
from trellis_pipeline.generation.request import GenerationRequest, build_request

if TYPE_CHECKING:
    from trellis_pipeline.generation.runware.options import RunwareOptions, UploadSlot

NAMES = ("draft", "runware")

NewSlot = Callable[[str], "UploadSlot"]


class GeneratorResource(dg.ConfigurableResource[Generator]):
    """name: `draft` (a blockout from the silhouette, on the CPU, free) or `runware` (bought).

    seed, results and settings: the request every product gets unless its catalog row says otherwise.
    retries: further purchases after a task that failed. webhooks_url: where the provider reaches us.
    upload_to_store: let the provider bring each model to the bucket.
    runware: options of the provider's client; the API key is not among them, since Dagster shows what stands
    here, and is read from the environment when the generator is opened.
    """

    name: str = "draft"
    seed: int = 42
    results: int = 1
    retries: int = 1
    settings: dict[str, Any] = {}
    webhooks_url: str | None = None
    upload_to_store: bool = False
    runware: dict[str, Any] = {}

    def open(self, run_cpu: Callable[..., Awaitable[Any]], new_slot: NewSlot | None = None) -> Generator:
        """The generator. Where it has an `aclose`, that is to be awaited in the event loop that used it.

        run_cpu: calls a top-level function in a worker process. new_slot: makes a place in the store for a
        task's file, for providers that upload by themselves.

        Raises ConfigError for a name that is not known, or where the API key is missing.
        """
        if self.name == "draft":
            from trellis_pipeline.generation.draft_generator import DraftGenerator

            return DraftGenerator(run_cpu)
        if self.name == "runware":
            from trellis_pipeline.generation.runware.generator import RunwareGenerator

            return RunwareGenerator(runware_options(self.runware, new_slot))
        raise ConfigError(f"generator {self.name!r} is not known; known are {', '.join(NAMES)}")

    def request(self, *overrides: Mapping[str, object]) -> GenerationRequest:
        """The validated request, later overrides winning. Raises ConfigError."""
        base = {"seed": self.seed, "numberResults": self.results, "settings": self.settings}
        return build_request(base, *overrides)


def runware_options(chosen: Mapping[str, Any], new_slot: NewSlot | None = None) -> RunwareOptions:
    """What the provider's client is told. chosen: see `RunwareSettings.client_options`.

    Raises ConfigError where RUNWARE_API_KEY is not in the environment, or an option cannot work.
    """
    from trellis_pipeline.config import runware_api_key
    from trellis_pipeline.generation.runware.options import ApiKey, RunwareOptions

    key = ApiKey(runware_api_key().get_secret_value())
    hosts = tuple(chosen.get("allowed_hosts", (".runware.ai",)))
    return RunwareOptions(api_key=key, upload_slot=new_slot, **{**chosen, "allowed_hosts": hosts})
