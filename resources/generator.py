"""The generator as a Dagster resource, chosen by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dagster as dg

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.generator import Generator
from trellis_pipeline.generation.request import TRELLIS_2, GenerationRequest, build_request
from trellis_pipeline.purchasing.published import PUBLISHED_SECONDS

if TYPE_CHECKING:
    from trellis_pipeline.config import Settings
    from trellis_pipeline.costs.price_book import PriceBook
    from trellis_pipeline.generation.runware.options import RunwareOptions, UploadSlot

NAMES = ("draft", "runware", "local")

# The published seconds are an H100's; a card that somebody has at hand is slower.
_CAUTION = 10.0

NewSlot = Callable[[str], "UploadSlot"]
PictureUrl = Callable[[str], str]


class GeneratorResource(dg.ConfigurableResource[Generator]):
    """name: `draft` (a blockout from the silhouette, on the CPU, free), `runware` (bought) or `local`
    (TRELLIS.2 on this machine).

    seed, results and settings: the request every product gets unless its catalog row says otherwise.
    retries: further purchases after a task that failed. webhooks_url: where the provider reaches us.
    upload_to_store: let the provider bring each model to the bucket.
    runware: options of the provider's client; the API key is not among them, since Dagster shows what stands
    here, and is read from the environment when the generator is opened. local: options of the generator on
    this machine.
    """

    name: str = "draft"
    seed: int = 42
    results: int = 1
    retries: int = 1
    settings: dict[str, Any] = {}
    webhooks_url: str | None = None
    upload_to_store: bool = False
    runware: dict[str, Any] = {}
    local: dict[str, Any] = {}

    def open(
        self,
        run_cpu: Callable[..., Awaitable[Any]],
        new_slot: NewSlot | None = None,
        device: str | None = None,
        *,
        picture_url: PictureUrl | None = None,
        asks: bool = True,
    ) -> Generator:
        """The generator. Where it has an `aclose`, that is to be awaited in the event loop that used it.

        run_cpu: calls a top-level function in a worker process. new_slot: makes a place in the store for a
        task's file, for providers that upload by themselves. device: for a local generator, instead of the
        configured one. picture_url: gives links to pictures in the store, by content hash. asks: False for
        a generator that is described and never asked, which needs no API key.

        Raises ConfigError for a name that is not known, or where the API key, the weights or the device are
        missing.
        """
        if self.name == "draft":
            from trellis_pipeline.generation.draft_generator import DraftGenerator

            return DraftGenerator(run_cpu)
        if self.name == "runware":
            from trellis_pipeline.generation.runware.generator import RunwareGenerator

            return RunwareGenerator(runware_options(self.runware, new_slot, picture_url, asks=asks))
        if self.name == "local":
            from trellis_pipeline.generation.local.generator import LocalGenerator
            from trellis_pipeline.generation.local.options import local_options

            return LocalGenerator(local_options(self.local, device=device), run_cpu)
        raise ConfigError(f"generator {self.name!r} is not known; known are {', '.join(NAMES)}")

    @property
    def seller(self) -> str:
        """The name under which its models are signed and its money is booked, before it is opened.

        Raises ConfigError for a `base_url` that is no endpoint.
        """
        if self.name != "runware":
            return self.name
        from trellis_pipeline.generation.runware.seller import RUNWARE_URL, seller_of

        return seller_of(str(self.runware.get("base_url", RUNWARE_URL)))

    def prices(self) -> PriceBook:
        """The price book, with the user's own price of time where models are made here."""
        from trellis_pipeline.costs.price_book import load_price_book

        book, usd = load_price_book(), self.local.get("usd_per_gpu_second")
        if self.name != "local" or usd is None:
            return book
        return book.with_gpu_second(self.name, Decimal(str(usd)))

    def expected_seconds(self) -> dict[int, float]:
        """Of one model by resolution, for the first reservations of a generator that is paid by time."""
        own = self.local.get("expected_seconds")
        return {
            resolution: own or _CAUTION * seconds
            for (model, resolution), seconds in PUBLISHED_SECONDS.items()
            if model == TRELLIS_2 and resolution is not None
        }

    def request(self, *overrides: Mapping[str, object]) -> GenerationRequest:
        """The validated request, later overrides winning. Raises ConfigError."""
        base = {"seed": self.seed, "numberResults": self.results, "settings": self.settings}
        return build_request(base, *overrides)


def generator_of(settings: Settings) -> GeneratorResource:
    """The generator that is configured. Raises ConfigError for a webhook address that cannot be reached."""
    return GeneratorResource(
        name=settings.generation.generator,
        seed=settings.generation.seed,
        results=settings.generation.results,
        retries=settings.generation.retries,
        settings=settings.generation.settings,
        webhooks_url=_webhooks_url(settings),
        upload_to_store=settings.runware.upload_to_store,
        runware=settings.runware.client_options(),
        local=settings.local.generator_options(),
    )


def _webhooks_url(settings: Settings) -> str | None:
    """Where the provider is to call. A server of the user's own may stand in the same network; Runware's
    does not, and would call an address that means another machine there.
    """
    from trellis_pipeline.config_purchasing import is_of_this_network

    url = settings.webhooks.public_url
    if url is None or settings.generation.generator != "runware":
        return url
    provider = (urlsplit(settings.runware.base_url).hostname or "").rstrip(".")
    if f".{provider}".endswith(".runware.ai") and is_of_this_network(url):
        raise ConfigError(
            f"webhooks.public_url: {urlsplit(url).hostname} cannot be reached by {provider}; "
            "give an https address that can be reached from the internet, or leave it out to poll"
        )
    return url


def runware_options(
    chosen: Mapping[str, Any],
    new_slot: NewSlot | None = None,
    picture_url: PictureUrl | None = None,
    *,
    asks: bool = True,
) -> RunwareOptions:
    """What the provider's client is told. chosen: see `RunwareSettings.client_options`.

    picture_url: where there is none, pictures travel in their tasks: they are not from the store then.
    asks: False needs no API key. Raises ConfigError where RUNWARE_API_KEY is not in the environment, or an
    option cannot work.
    """
    from trellis_pipeline.config import runware_api_key
    from trellis_pipeline.generation.runware.options import ApiKey, NoApiKey, RunwareOptions

    key = ApiKey(runware_api_key().get_secret_value()) if asks else NoApiKey()
    options = {**chosen, "allowed_hosts": tuple(chosen.get("allowed_hosts", (".runware.ai",)))}
    if picture_url is None and chosen.get("image_input") == "url":
        options["image_input"] = "data_uri"
    return RunwareOptions(api_key=key, upload_slot=new_slot, picture_url=picture_url, **options)
