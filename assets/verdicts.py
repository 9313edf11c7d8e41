"""What each product of a catalog stands on now: its request and the verdict on its model.

Read from the records that the stages left, as the report does, but only two facts of each.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from assets.paths import record_path, snapshot_path
from assets.records import ModelQuality
from assets.records import ProductModel as ModelRecord
from trellis_pipeline.costs.accepted import ProductModel
from trellis_pipeline.errors import BlobMissing
from trellis_pipeline.storage.store import ArtifactStore

if TYPE_CHECKING:
    from collections.abc import Mapping

_READERS = 16  # records are small and many; on S3 each one is a round trip


def models_of(store: ArtifactStore, catalog: str) -> dict[str, ProductModel]:
    """The model of each SKU of the last snapshot; products without a model are left out.

    A verdict on an earlier attempt is no verdict. Raises StorageUnavailable.
    """
    from trellis_pipeline.catalog.snapshot import skus_from_parquet

    try:
        skus = skus_from_parquet(store.read(snapshot_path(catalog)))
    except BlobMissing:
        return {}
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda sku: _model(store, catalog, sku), skus)
        return {sku: model for sku, model in zip(skus, found, strict=True) if model is not None}


def _model(store: ArtifactStore, catalog: str, sku: str) -> ProductModel | None:
    made = _record(store, record_path(catalog, sku, ModelRecord.stage))
    if "request_key" not in made:
        return None
    judged = _record(store, record_path(catalog, sku, ModelQuality.stage))
    current = judged.get("attempt") == made.get("attempt")
    return ProductModel(made["request_key"], judged.get("verdict") if current else None)


def _record(store: ArtifactStore, path: str) -> Mapping[str, Any]:
    """A record as it stands, empty where there is none or it is damaged."""
    try:
        record = json.loads(store.read(path))
    except (BlobMissing, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
