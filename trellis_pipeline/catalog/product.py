"""A product as the catalog states it: one row, validated, with nothing fetched yet.

Everything downstream (crop, request, QA) starts from this record, so it is frozen and carries the row it
came from. `row_hash` decides whether a product changed; it covers what the user wrote, not where.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Product:
    """One product of a catalog.

    sku: the partition key; safe as a file name (see `catalog.rows`).
    image: where the photo is: an absolute path, or an `https://`, `s3://` or `file://` URL.
    width_m, height_m, depth_m: real dimensions in metres, each optional.
    settings: per-product overrides of generation settings by their wire path, for example
        `{"seed": 7, "settings.resolution": 1536}`.
    row: 1-based line (CSV, JSON Lines) or row number (Parquet) in the catalog file; 0 in a listing.
    """

    sku: str
    image: str
    title: str = ""
    category: str = ""
    width_m: float | None = None
    height_m: float | None = None
    depth_m: float | None = None
    settings: Mapping[str, Scalar] = field(default_factory=lambda: MappingProxyType({}))
    row: int = 0

    @property
    def dimensions_m(self) -> tuple[float | None, float | None, float | None]:
        """Width (x), height (y) and depth (z) in metres, None where the catalog does not say."""
        return (self.width_m, self.height_m, self.depth_m)

    def as_record(self) -> dict[str, object]:
        """The user's statement as plain JSON-able data, without the row number."""
        return {
            "sku": self.sku,
            "image": self.image,
            "title": self.title,
            "category": self.category,
            "width_m": self.width_m,
            "height_m": self.height_m,
            "depth_m": self.depth_m,
            "settings": dict(sorted(self.settings.items())),
        }

    @property
    def row_hash(self) -> str:
        """sha256 (hex) of `as_record()` as canonical JSON."""
        text = json.dumps(self.as_record(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()
