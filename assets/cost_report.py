"""`cost_report`: what the catalog has cost so far, from the ledger, as numbers that plot over time."""

# Dagster inspects annotations at run time, so they are not deferred in this module.
from decimal import Decimal

import dagster as dg

from assets.opening import LineSettings
from resources.ledger import LedgerResource


def build_cost_report(settings: LineSettings) -> dg.AssetsDefinition:
    """The unpartitioned asset that sums one catalog's spend."""
    catalog = settings.name

    @dg.asset(
        key=dg.AssetKey([catalog, "cost_report"]),
        deps=[dg.AssetKey([catalog, "product_models"])],
        group_name=catalog,
        code_version="1",
        description="Settled and reserved spend of this catalog, by generator and day.",
    )
    def cost_report(ledger: dg.ResourceParam[LedgerResource]) -> dg.MaterializeResult[None]:
        from trellis_pipeline.costs.money import format_usd
        from trellis_pipeline.costs.reports import report

        with ledger.open() as books:
            lines = {by: report(books, by=by, catalog=catalog) for by in ("generator", "day")}
        total = sum((line.settled_usd for line in lines["generator"]), start=Decimal(0))
        reserved = sum((line.reserved_usd for line in lines["generator"]), start=Decimal(0))
        count = sum(line.generations for line in lines["generator"])
        rows = "\n".join(
            f"| {by} | {line.key} | {format_usd(line.settled_usd)} | {format_usd(line.reserved_usd)} "
            f"| {line.generations} | {line.seconds:.1f} |"
            for by, group in lines.items()
            for line in group
        )
        head = "| by | key | settled | reserved | generations | seconds |\n|---|---|---|---|---|---|\n"
        return dg.MaterializeResult(
            metadata={
                "settled_usd": float(total),
                "reserved_usd": float(reserved),
                "generations": count,
                "generation_seconds": sum(line.seconds for line in lines["generator"]),
                "table": dg.MetadataValue.md(head + rows),
            }
        )

    return cost_report
