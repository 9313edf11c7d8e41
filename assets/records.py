"""What each stage leaves behind for a product: one small JSON record beside the files it made.

The records are the product's lineage: each names the inputs it was made from (`inputs_key`) and the content
it holds (`data_version`), so a stage can tell that nothing changed without doing its work again, and a
later stage can run alone on what earlier runs left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict

from trellis_pipeline.catalog.product import Product
from trellis_pipeline.costs.money import Usd
from trellis_pipeline.errors import ProductError
from trellis_pipeline.storage.store import BlobRef


def fingerprint(*parts: object) -> str:
    """sha256 (hex) of JSON-able parts in canonical form."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class StageRecord(BaseModel):
    """inputs_key: identity of everything the stage read. data_version: identity of what it made."""

    model_config = ConfigDict(frozen=True)
    stage: ClassVar[str]

    inputs_key: str
    data_version: str
    seconds: float
    thumbnail: BlobRef | None = None

    def blobs(self) -> tuple[BlobRef, ...]:
        """Every blob this record stands on; a record without its blobs is worth nothing."""
        return tuple(value for _, value in self if isinstance(value, BlobRef))


class SourceImage(StageRecord):
    """The photo as fetched. location: without query string, which may hold a signature.

    etag: what the server called these bytes, empty where it does not say. fetched_as: a hash of the whole
    location and of what was asked of the photo there; the ETag is only good for that.
    """

    stage = "source_images"

    photo: BlobRef
    location: str
    format: str
    mode: str
    width: int
    height: int
    has_alpha: bool
    notes: tuple[str, ...] = ()
    etag: str = ""
    fetched_as: str = ""


class Flag(BaseModel):
    """A triage flag as the crop stage raised it."""

    model_config = ConfigDict(frozen=True)
    code: str
    message: str


class ProductCrop(StageRecord):
    """The square RGBA crop that a generator sees."""

    stage = "product_crops"

    crop: BlobRef
    width: int
    height: int
    matte_method: str
    agreement: float | None
    object_share: float
    flags: tuple[Flag, ...] = ()
    notes: tuple[str, ...] = ()


class ProductModel(StageRecord):
    """The finished GLB. generation: the blob as the generator returned it, before scale and certificate.

    base_key: the request key of the first attempt, which tells whether a later attempt still answers the
    same question. reused: the generation was found, not made (and not paid) for this record. cost_usd: spent
    when this record was made. model_cost_usd: what the generation cost, whenever it was bought, if it was
    bought for this product; of products that share a photo, one bears the cost.
    """

    stage = "product_models"

    model: BlobRef
    preview: BlobRef
    generation: BlobRef
    request_key: str
    base_key: str
    attempt: int
    seed: int
    request: dict[str, Any]
    generator: str
    paid: bool
    reused: bool
    cost_usd: Usd
    model_cost_usd: Usd = Decimal(0)
    generation_seconds: float
    triangles: int
    vertices: int
    max_texture_px: int
    certificate: dict[str, Any]


class Check(BaseModel):
    """One gate of the profile, judged."""

    model_config = ConfigDict(frozen=True)
    name: str
    passed: bool
    severity: str
    value: float | int | bool | None
    limit: float | int | bool | None
    message: str


class ModelQuality(StageRecord):
    """The QA record and its verdict. `report` has the keys of `trellis-pipeline inspect --json`."""

    stage = "model_quality"

    report: dict[str, Any]
    attempt: int
    profile: str
    checks: tuple[Check, ...]
    verdict: str


R = TypeVar("R", bound=StageRecord)


@dataclass(frozen=True, slots=True)
class LineItem:
    """A product on its way down the line, with what the stages so far have left.

    attempt: which seed to use for the model, counted from 1; None keeps the one made before.
    """

    product: Product
    attempt: int | None = None
    records: Mapping[str, StageRecord] = field(default_factory=dict)
    fresh: frozenset[str] = frozenset()

    def need(self, kind: type[R]) -> R:
        """The record of an earlier stage. Raises ProductError when that stage has not run yet."""
        record = self.records.get(kind.stage)
        if not isinstance(record, kind):
            raise ProductError(f"there is nothing from {kind.stage} yet: materialize {kind.stage} first")
        return record

    def maybe(self, kind: type[R]) -> R | None:
        """The record of an earlier stage, or None."""
        record = self.records.get(kind.stage)
        return record if isinstance(record, kind) else None

    def with_record(self, record: StageRecord, *, fresh: bool) -> LineItem:
        """The same product, one stage further. fresh: the record was made now, not found."""
        return replace(
            self,
            records={**self.records, record.stage: record},
            fresh=self.fresh | {record.stage} if fresh else self.fresh,
        )
