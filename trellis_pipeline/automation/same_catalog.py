"""A name that was only made from a path must not lead into another catalog's results.

`spring/shop.csv` and `summer/shop.csv` are both called `shop` where no settings name them. Run into one
output, the second would retire the products of the first and replace its files, and nobody would be told.
"""

from __future__ import annotations

import os
from urllib.parse import unquote

from assets.catalog_snapshot import load_source
from trellis_pipeline.config import Settings
from trellis_pipeline.config_products import CatalogByPath, CatalogSettings
from trellis_pipeline.errors import ConfigError
from trellis_pipeline.storage.store import ArtifactStore


def refuse_namesake(settings: Settings, catalog: CatalogSettings, store: ArtifactStore) -> None:
    """Raise ConfigError if the store has results under this name that came from somewhere else.

    Only for a catalog that was given by its path: one that the settings name may move.
    """
    if not isinstance(catalog, CatalogByPath):
        return
    source, before = settings.catalog_source(catalog), load_source(store, catalog.name)
    if before is None or _place(before) == _place(source):
        return
    name = catalog.name
    raise ConfigError(
        f"{store.location(name)} has the results of {before}; {source} would be called {name} too and "
        "replace them. Give it an output of its own with --output, or another name in trellis.toml: "
        f'[[catalogs]] with name = "{name}_2" and source = "{source}". If it is the same catalog at a '
        f'new place, write name = "{name}" there'
    )


def _place(source: str) -> str:
    """The same text for the same catalog, however its path is written."""
    if "://" in source and not source.startswith("file://"):
        return source.rstrip("/")
    return os.path.realpath(unquote(source[len("file://") :]) if source.startswith("file://") else source)
