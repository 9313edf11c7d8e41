"""A stage of the line: its name, its identity, its work, and how its result looks in the Dagster UI.

Running a stage is the same for all of them, so it is written once here: if the record on the shelf was made
from the same inputs and its files are still there, it is kept; otherwise the work is done and the new record
replaces it as the last step, so that a killed run leaves either the old record or the new one.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import dagster as dg
import pydantic

from assets.paths import record_path
from assets.records import LineItem, StageRecord, fingerprint
from assets.tools import LineTools
from trellis_pipeline.errors import BlobMissing, StorageError

R = TypeVar("R", bound=StageRecord)


@dataclass(frozen=True, slots=True)
class Stage(Generic[R]):
    """One asset of the line.

    version: code version; raise it when the same inputs give another result.
    identity: JSON-able parts of everything the stage reads. make: does the work; it gets the inputs_key.
    Where only a look tells whether anything changed, it may return the record that the item carries already.
    """

    record: type[R]
    version: str
    after: str | None
    description: str
    identity: Callable[[LineItem, LineTools], tuple[object, ...]]
    make: Callable[[LineItem, LineTools, str], Awaitable[R]]
    metadata: Callable[[R], Mapping[str, Any]]
    kinds: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The asset's name within its catalog."""
        return self.record.stage

    def asset_key(self, catalog: str) -> dg.AssetKey:
        """`<catalog>/<stage>`."""
        return dg.AssetKey([catalog, self.name])

    def spec(self, catalog: str, partitions: dg.PartitionsDefinition[str]) -> dg.AssetSpec:
        """The asset as Dagster shows it."""
        upstream = dg.AssetKey([catalog, self.after or "product_catalog"])
        return dg.AssetSpec(
            self.asset_key(catalog),
            deps=[upstream],
            group_name=catalog,
            description=self.description,
            code_version=self.version,
            partitions_def=partitions,
            kinds=set(self.kinds),
            skippable=True,
        )


def load_record(stage: Stage[R], item: LineItem, tools: LineTools) -> R | None:
    """The record on the shelf, or None where there is none or it was damaged or written by other code."""
    try:
        data = tools.store.read(record_path(tools.catalog, item.product.sku, stage.name))
        return stage.record.model_validate_json(data)
    except (BlobMissing, pydantic.ValidationError):
        return None


async def run_stage(stage: Stage[R], item: LineItem, tools: LineTools) -> LineItem:
    """Bring one product through one stage. Raises what the stage's work raises."""
    found, key, current = await asyncio.to_thread(_look_up, stage, item, tools)
    if found is not None:
        item = item.with_record(found, fresh=False)
        if current:
            return item
    record = await stage.make(item, tools, key)
    if record is found:
        return item
    await asyncio.to_thread(
        tools.store.write,
        record_path(tools.catalog, item.product.sku, stage.name),
        record.model_dump_json(indent=1).encode(),
    )
    return item.with_record(record, fresh=True)


def current_key(stage: Stage[R], item: LineItem, tools: LineTools) -> str:
    """The `inputs_key` that a record made now would have; the item carries the record that is there."""
    return fingerprint(stage.name, stage.version, *stage.identity(item, tools))


def _look_up(stage: Stage[R], item: LineItem, tools: LineTools) -> tuple[R | None, str, bool]:
    """The record on the shelf, the key that a current one would have, and whether it is current."""
    found = load_record(stage, item, tools)
    if found is not None:
        item = item.with_record(found, fresh=False)
    key = current_key(stage, item, tools)
    return found, key, found is not None and found.inputs_key == key and is_intact(found, tools)


def is_intact(record: StageRecord, tools: LineTools) -> bool:
    """The files that the record stands on are all there."""
    try:
        return all(tools.store.has_blob(blob) for blob in record.blobs())
    except StorageError:
        return False


def picture(data: bytes) -> dg.MetadataValue[Any]:
    """A tiny WebP that the Dagster UI shows in its metadata table."""
    return dg.MetadataValue.md(f"![](data:image/webp;base64,{base64.b64encode(data).decode()})")
