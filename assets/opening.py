"""From settings and resources to the tools of one run, opened together and closed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from assets.tools import LineTools
from assets.workers import WorkerPool
from resources.catalog import CatalogResource
from resources.generator import GeneratorResource, PictureUrl
from resources.ledger import LedgerResource
from resources.store import ArtifactStoreResource
from trellis_pipeline.config import Settings
from trellis_pipeline.config_products import CatalogSettings
from trellis_pipeline.config_purchasing import is_of_this_network
from trellis_pipeline.errors import (
    BlobMissing,
    ConfigError,
    ProductError,
    SourceImageError,
    StorageUnavailable,
)
from trellis_pipeline.generation.generator import Closable

if TYPE_CHECKING:
    from trellis_pipeline.catalog.product import Product
    from trellis_pipeline.costs.alerts import BudgetAlert
    from trellis_pipeline.generation.request import GenerationRequest
    from trellis_pipeline.quality.profiles import Profile


# How long a provider may take to bring a file that it was allowed to upload.
_SLOT_SECONDS = 6 * 3600
# How long it may take to fetch a picture. Each submit gets a link of its own.
_PICTURE_SECONDS = 3600

GPU_POOL = "trellis_gpu"


@dataclass(frozen=True, slots=True)
class LineSettings:
    """The settings that concern one catalog's line."""

    settings: Settings
    catalog: CatalogSettings

    @property
    def name(self) -> str:
        """The catalog's name."""
        return self.catalog.name

    @property
    def source(self) -> str:
        """Where its rows come from, absolute."""
        return self.settings.catalog_source(self.catalog)

    @property
    def products_per_run(self) -> int:
        """How many products one run takes."""
        return self.settings.run.products_per_run

    @property
    def in_flight(self) -> int:
        """How many products are on the line at once."""
        return self.settings.run.in_flight

    @property
    def pool(self) -> str | None:
        """The Dagster pool of the line's step: limits how many runs wait for this machine's devices."""
        return GPU_POOL if self.settings.generation.generator == "local" else None

    def profile(self) -> Profile:
        """The limits that gate this catalog."""
        from trellis_pipeline.quality.profiles import Profile

        name, limits = self.settings.profile_for(self.catalog)
        return Profile(
            name=name,
            max_triangles=limits.max_triangles,
            max_texture_px=limits.max_texture_px,
            max_file_bytes=round(limits.max_file_mb * 1_000_000),
            require_watertight=limits.require_watertight,
            min_silhouette_iou=limits.min_silhouette_iou,
        )


@contextmanager
def open_tools(
    line: LineSettings,
    run_id: str,
    store: ArtifactStoreResource,
    generator: GeneratorResource,
    catalogs: CatalogResource,
    ledger: LedgerResource,
    device: str | None = None,
    *,
    asks: bool = True,
) -> Iterator[LineTools]:
    """Open what the stages need. device: for a local generator, instead of the configured one. asks: False
    where no stage is run that asks the generator; see `GeneratorResource.open`.

    Raises ConfigError or StorageUnavailable before any product is touched.
    """
    import httpx

    from trellis_pipeline.imagery.fetch import fetch_if_changed
    from trellis_pipeline.imagery.fetch_limits import FetchLimits
    from trellis_pipeline.imagery.fetch_web import Fetched
    from trellis_pipeline.imagery.make_crop import CropOptions
    from trellis_pipeline.purchasing.journal import Journal
    from trellis_pipeline.purchasing.till import Till

    imagery = line.settings.imagery
    limits = FetchLimits(
        max_bytes=imagery.max_bytes,
        timeout_seconds=imagery.timeout_seconds,
        allow_private_addresses=imagery.allow_private_addresses,
        allowed_hosts=imagery.allowed_hosts,
    )

    read_s3 = partial(catalogs.read_s3, most_bytes=limits.max_bytes + 1)
    clients: list[httpx.AsyncClient] = []  # one for all photos, made by the first that needs it

    async def fetch(location: str, etag: str) -> Fetched:
        if location.startswith("http") and not clients:
            clients.append(httpx.AsyncClient(trust_env=False))  # as where each has its own, see `fetch_url`
        client = clients[0] if clients else None
        return await fetch_if_changed(location, limits, etag, client=client, read_s3=read_s3)

    async def end_connections() -> None:
        while clients:
            await clients.pop().aclose()
        if isinstance(maker, Closable):
            await maker.aclose()

    workers = WorkerPool(line.settings.run.workers)
    try:
        alerts: SimpleQueue[BudgetAlert] = SimpleQueue()
        with ledger.open(alerts.put) as books:
            shelf = store.open()
            new_slot = store.new_slot(_SLOT_SECONDS) if generator.upload_to_store else None
            maker = generator.open(
                workers.run, new_slot, device, picture_url=_picture_url(store, generator), asks=asks
            )
            till = Till(
                maker,
                Journal(books),
                shelf,
                ledger.budgets,
                retries=generator.retries,
                webhooks_url=generator.webhooks_url,
                prices=generator.prices(),
                expected_seconds=generator.expected_seconds(),
            )
            yield LineTools(
                catalog=line.name,
                run_id=run_id,
                store=shelf,
                till=till,
                workers=workers,
                fetch=fetch,
                end_connections=end_connections,
                image_state=_image_state(catalogs),
                request=_requests(line, generator),
                crop_options=CropOptions(
                    max_pixels=imagery.max_pixels,
                    matte=imagery.matte,
                    weights=line.settings.local.weights.expanduser(),
                ),
                profile=line.profile(),
                preview_px=line.settings.previews.px,
                hold=line.settings.triage.hold,
                alerts=alerts,
            )
    finally:
        workers.close()


def _picture_url(store: ArtifactStoreResource, generator: GeneratorResource) -> PictureUrl | None:
    """Links to crops, where the provider is to fetch them. Raises ConfigError where nobody could."""
    if generator.name != "runware" or generator.runware.get("image_input") != "url":
        return None
    links = store.picture_url(_PICTURE_SECONDS)
    if links is None:
        raise ConfigError(
            f'runware.image_input = "url" needs a storage that the provider can read: {store.url} is on this '
            'machine. Use an s3:// url under [storage], or image_input = "upload" or "data_uri"'
        )
    if generator.seller == "runware" and store.s3_endpoint and is_of_this_network(store.s3_endpoint):
        raise ConfigError(
            f'runware.image_input = "url": Runware cannot reach a bucket at {store.s3_endpoint}; '
            'use image_input = "upload" or "data_uri"'
        )
    return links


def _requests(
    line: LineSettings, generator: GeneratorResource
) -> Callable[[Product, int], GenerationRequest]:
    """Settings, then the catalog's, then the product's own; each further attempt takes the next seed."""
    generator.request(line.catalog.generation)  # a wrong setting fails the run now, not every product

    def request(product: Product, attempt: int) -> GenerationRequest:
        try:
            first = generator.request(line.catalog.generation, product.settings)
        except ConfigError as error:
            # The settings that all products share were checked above, so this is the product's own row.
            raise ProductError(f"catalog row {product.row}: {error}") from None
        return first.model_copy(update={"seed": (first.seed + attempt - 1) % 2**63})

    return request


def _image_state(catalogs: CatalogResource) -> Callable[[str], str]:
    def state(location: str) -> str:
        from trellis_pipeline.catalog.image_state import MISSING, UNKNOWN, local_image_state

        if location.startswith("s3://"):
            try:
                return catalogs.s3_state(location)
            except BlobMissing:
                return MISSING
            except (SourceImageError, StorageUnavailable):
                return UNKNOWN  # whoever fetches it says why
        if location.startswith(("http://", "https://")):
            return ""
        return local_image_state(location)

    return state
