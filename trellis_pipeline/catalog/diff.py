"""What changed between two snapshots of a catalog, and why each product counts as changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trellis_pipeline.catalog.snapshot import Snapshot

Reason = Literal["row", "image", "both"]


@dataclass(frozen=True, slots=True)
class ChangedProduct:
    """A product that is in both snapshots, but differs. why: its row, its photo's bytes, or both."""

    sku: str
    why: Reason


@dataclass(frozen=True, slots=True)
class CatalogDiff:
    """The SKUs to be made, made again and retired.

    new and changed are in the order of the newer catalog, removed in that of the older one. Every product of
    the newer catalog is in `new`, in `changed` or counted in `unchanged_count`.
    """

    new: tuple[str, ...]
    changed: tuple[ChangedProduct, ...]
    removed: tuple[str, ...]
    unchanged_count: int

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to do."""
        return not (self.new or self.changed or self.removed)


def diff_snapshots(old: Snapshot | None, new: Snapshot) -> CatalogDiff:
    """Compare two snapshots by SKU; without an old one everything is new.

    The order of rows does not matter. A photo counts as changed if its state is known on both sides and
    differs: an unknown state is no evidence, and a false alarm would make a paid product anew.
    """
    before = (
        dict(zip(_skus(old), zip(old.row_hashes, old.image_states, strict=True), strict=True)) if old else {}
    )
    added: list[str] = []
    changed: list[ChangedProduct] = []
    unchanged_count = 0
    for product, row_hash, state in zip(new.products, new.row_hashes, new.image_states, strict=True):
        known = before.pop(product.sku, None)
        if known is None:
            added.append(product.sku)
            continue
        row_differs = known[0] != row_hash
        image_differs = known[1] != state and bool(known[1]) and bool(state)
        if row_differs and image_differs:
            changed.append(ChangedProduct(product.sku, "both"))
        elif row_differs:
            changed.append(ChangedProduct(product.sku, "row"))
        elif image_differs:
            changed.append(ChangedProduct(product.sku, "image"))
        else:
            unchanged_count += 1
    # What was not taken out is only in the older catalog; a dict keeps its order.
    return CatalogDiff(tuple(added), tuple(changed), tuple(before), unchanged_count)


def _skus(snapshot: Snapshot) -> list[str]:
    return [product.sku for product in snapshot.products]
