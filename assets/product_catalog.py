"""`product_catalog`: the rows of the catalog, validated, and the product partitions brought up to date.

Bad rows are named in the metadata and left out; good rows go on. Retired products lose their partition, not
their files.
"""

# Dagster inspects annotations at run time, so they are not deferred in this module.
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
from sqlalchemy.exc import IntegrityError

from assets.catalog_snapshot import (
    catalog_version,
    column_hint,
    keep_problems,
    load_snapshot,
    partitions_of,
)
from assets.opening import LineSettings
from assets.paths import snapshot_path
from resources.catalog import CatalogResource
from resources.store import ArtifactStoreResource
from trellis_pipeline.errors import StorageUnavailable
from trellis_pipeline.storage.store import BlobRef

if TYPE_CHECKING:
    from trellis_pipeline.catalog.diff import CatalogDiff
    from trellis_pipeline.catalog.readers import CatalogLoad

# Dagster asks its database for all keys of one call at once: databases limit how many that may be, and the
# statement with all of them stays in memory.
_KEYS_PER_CALL = 1_000
_ADD_ATTEMPTS = 5
_SHOWN = 200


def build_product_catalog(settings: LineSettings) -> dg.AssetsDefinition:
    """The unpartitioned asset at the head of one catalog's line."""
    catalog = settings.name
    partitions = partitions_of(catalog)

    @dg.asset(
        key=dg.AssetKey([catalog, "product_catalog"]),
        group_name=catalog,
        code_version="1",
        kinds={"parquet"},
        description="The catalog's rows: validated, compared with the last snapshot, made into partitions.",
    )
    def product_catalog(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, catalogs: CatalogResource
    ) -> dg.MaterializeResult[None]:
        from trellis_pipeline.catalog.rows import row_name

        started = time.perf_counter()
        loaded = catalogs.load(settings.source)
        diff, _ = refresh_snapshot(catalog, loaded, store, catalogs)
        sync_partitions(context.instance, partitions, [product.sku for product in loaded.products])
        for problem in loaded.problems[:_SHOWN]:
            context.log.warning(f"{row_name(problem.row, problem.sku)}: {problem.reason}")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(catalog_version(catalog)),
            metadata=_metadata(loaded, diff, time.perf_counter() - started),
        )

    return product_catalog


def refresh_snapshot(
    catalog: str,
    loaded: "CatalogLoad",
    store: ArtifactStoreResource,
    catalogs: CatalogResource,
    since: BlobRef | None = None,
) -> tuple["CatalogDiff", BlobRef]:
    """Keep the loaded catalog as a snapshot, make it the current one, and say what changed.

    since: the snapshot to compare with; the current one if left out.
    """
    from trellis_pipeline.catalog.diff import diff_snapshots
    from trellis_pipeline.catalog.image_state import image_states, last_known
    from trellis_pipeline.catalog.snapshot import encode_snapshot, snapshot_from_parquet, take_snapshot

    shelf = store.open()
    before = load_snapshot(shelf, catalog) if since is None else snapshot_from_parquet(shelf.get_blob(since))
    states = image_states(loaded.products, head=catalogs.s3_state)
    snapshot = take_snapshot(loaded.products, last_known(states, before) if before else states)
    blob = shelf.put_blob(encode_snapshot(snapshot), ".parquet")
    shelf.publish(snapshot_path(catalog), blob)
    keep_problems(shelf, catalog, loaded)
    return diff_snapshots(before, snapshot), blob


def sync_partitions(
    instance: dg.DagsterInstance, partitions: dg.DynamicPartitionsDefinition, skus: Sequence[str]
) -> None:
    """Make the partitions exactly these products: add what is new, retire what is gone."""
    name = partitions.name
    assert name is not None
    known = set(instance.get_dynamic_partitions(name))
    fresh = [sku for sku in skus if sku not in known]
    for start in range(0, len(fresh), _KEYS_PER_CALL):
        _add_partitions(instance, name, fresh[start : start + _KEYS_PER_CALL])
    for sku in known.difference(skus):
        instance.delete_dynamic_partition(name, sku)


def _add_partitions(instance: dg.DagsterInstance, name: str, skus: Sequence[str]) -> None:
    """Add what is missing. Dagster looks first and inserts then, so another run may come in between."""
    for _ in range(_ADD_ATTEMPTS):
        try:
            return instance.add_dynamic_partitions(name, skus)
        except IntegrityError:
            continue
    raise StorageUnavailable(
        f"partitions {name}: other runs keep changing them; try again when they are done"
    )


def _metadata(loaded: "CatalogLoad", diff: "CatalogDiff", seconds: float) -> dict[str, Any]:
    problems = "\n".join(
        f"| {p.row} | {_cell(p.sku)} | {_cell(p.reason)} |" for p in loaded.problems[:_SHOWN]
    )
    changed = [change.sku for change in diff.changed]
    unknown = [column_hint(column) for column in loaded.unknown_columns]
    return {
        "products": len(loaded.products),
        "bad_rows": len(loaded.problems),
        "new": len(diff.new),
        "changed": len(diff.changed),
        "removed": len(diff.removed),
        "seconds": seconds,
        "source": loaded.source,
        **({"ignored_columns": "; ".join(unknown)} if unknown else {}),
        **_names("new_products", diff.new),
        **_names("changed_products", changed),
        **_names("removed_products", diff.removed),
        **(
            {"problems": dg.MetadataValue.md(f"| row | sku | reason |\n|---|---|---|\n{problems}")}
            if problems
            else {}
        ),
    }


def _names(label: str, skus: Sequence[str]) -> dict[str, Any]:
    if not skus:
        return {}
    rest = f" and {len(skus) - _SHOWN} more" if len(skus) > _SHOWN else ""
    return {label: ", ".join(skus[:_SHOWN]) + rest}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
