"""`cost_report`: what the catalog has cost so far, from the ledger, as numbers that plot over time.

Beside the sums stands what they bought: dollars per accepted model, and what was spent on models that are not
in use, by cause.
"""

# Dagster inspects annotations at run time, so they are not deferred in this module.
from decimal import Decimal

import dagster as dg

from assets.opening import LineSettings
from resources.ledger import LedgerResource
from resources.store import ArtifactStoreResource


def build_cost_report(settings: LineSettings) -> dg.AssetsDefinition:
    """The unpartitioned asset that sums one catalog's spend."""
    catalog = settings.name

    @dg.asset(
        key=dg.AssetKey([catalog, "cost_report"]),
        deps=[dg.AssetKey([catalog, name]) for name in ("product_models", "model_quality")],
        group_name=catalog,
        code_version="2",
        description="Settled and reserved spend of this catalog, by generator, day and what became of it.",
    )
    def cost_report(
        store: ArtifactStoreResource, ledger: dg.ResourceParam[LedgerResource]
    ) -> dg.MaterializeResult[None]:
        from assets.verdicts import models_of
        from trellis_pipeline.costs.accepted import WASTE, by_fate, spend_by_request
        from trellis_pipeline.costs.money import format_usd
        from trellis_pipeline.costs.reports import report
        from trellis_pipeline.costs.stage_seconds import stage_totals

        products = models_of(store.open(), catalog)
        with ledger.open() as books:
            lines = {by: report(books, by=by, catalog=catalog) for by in ("generator", "day")}
            stages = stage_totals(books, catalog)
            spent = by_fate(spend_by_request(books, catalog), products)
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
                "overrun_usd": float(sum(line.overrun_usd for line in lines["generator"])),
                "generations": count,
                "generation_seconds": sum(line.seconds for line in lines["generator"]),
                **{f"{stage.generator}_{stage.stage}_seconds": stage.seconds for stage in stages},
                "accepted_models": spent.accepted,
                "wasted_usd": float(spent.wasted),
                **{f"{fate}_usd": float(spent.usd[fate]) for fate in WASTE},
                "reproduced_usd": float(spent.usd["reproduced"]),
                **(
                    {}
                    if spent.per_accepted is None
                    else {"usd_per_accepted_model": float(spent.per_accepted)}
                ),
                "table": dg.MetadataValue.md(head + rows),
            }
        )

    return cost_report
