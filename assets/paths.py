"""Where things stand in the artifact store, for people and for the next stage.

<catalog>/report.html                     the report, with relative links to everything below
<catalog>/catalog.parquet                 the last snapshot of the catalog
<catalog>/catalog_problems.json           where it was read, its bad rows and its ignored columns
<catalog>/products/<sku>/model.glb        what a shop takes
<catalog>/products/<sku>/<stage>.json     the record of each stage: lineage, figures, verdict
generations/<request_key>.json            what was bought, by request
blobs/…                                   the bytes themselves, by content
"""

from __future__ import annotations


def product_path(catalog: str, sku: str, name: str) -> str:
    """A product's file."""
    return f"{catalog}/products/{sku}/{name}"


def record_path(catalog: str, sku: str, stage: str) -> str:
    """A product's record of one stage."""
    return product_path(catalog, sku, f"{stage}.json")


def snapshot_path(catalog: str) -> str:
    """The catalog as it was when its partitions were last brought up to date."""
    return f"{catalog}/catalog.parquet"


def catalog_problems_path(catalog: str) -> str:
    """Where that snapshot was read, and what it could not take: bad rows and ignored columns."""
    return f"{catalog}/catalog_problems.json"


def report_path(catalog: str) -> str:
    """The static report."""
    return f"{catalog}/report.html"


def quality_table_path(catalog: str) -> str:
    """One row for each product, for those who would rather query than look."""
    return f"{catalog}/quality.parquet"
