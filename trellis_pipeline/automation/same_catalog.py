"""A name that was only made from a path must not lead into another catalog's results.

`spring/shop.csv` and `summer/shop.csv` are both called `shop` where no settings name them. Run into one
output, the second would retire the products of the first and replace its files, and nobody would be told.
"""

from __future__ import annotations

import os
from urllib.parse import unquote

from assets.catalog_snapshot import Origin, load_origin
from trellis_pipeline.config import Settings
from trellis_pipeline.config_products import CatalogByPath, CatalogSettings
from trellis_pipeline.errors import ConfigError
from trellis_pipeline.storage.store import ArtifactStore


def refuse_namesake(settings: Settings, catalog: CatalogSettings, store: ArtifactStore) -> None:
    """Raise ConfigError if the store has results under this name that came from somewhere else.

    Only for a catalog that was given by its path: one that the settings name may move. A folder that holds
    the catalog and its results may be moved or copied as a whole.
    """
    if not isinstance(catalog, CatalogByPath):
        return
    name = catalog.name
    now, before = Origin(settings.catalog_source(catalog), store.location(name)), load_origin(store, name)
    if (
        before is None
        or _place(before.source) == _place(now.source)
        or _from_results(before) == _from_results(now)
    ):
        return
    source = now.source
    raise ConfigError(
        f"{now.results_at} has the results of {before.source}; {source} would be called {name} too and "
        "replace them. Give it an output of its own with --output, or another name in trellis.toml: "
        f'[[catalogs]] with name = "{name}_2" and source = "{source}". If it is the same catalog at a '
        f'new place, write name = "{name}" there'
    )


def _from_results(origin: Origin) -> str:
    """The way from the results to the catalog, which stays the same when both move together."""
    source, results_at = _place(origin.source), _place(origin.results_at)
    return source if "://" in source + results_at else os.path.relpath(source, results_at)


def _place(source: str) -> str:
    """The same text for the same catalog, however its path is written."""
    if "://" in source and not source.startswith("file://"):
        return source.rstrip("/")
    return os.path.realpath(unquote(source[len("file://") :]) if source.startswith("file://") else source)
