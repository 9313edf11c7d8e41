"""The cost report as Dagster shows it: numbers that plot, from the ledger and the quality records."""

import json
from decimal import Decimal

import dagster as dg
from pydantic import SecretStr
from small_catalogs import settings_for

from assets.cost_report import build_cost_report
from assets.opening import LineSettings
from assets.paths import record_path, snapshot_path
from resources.ledger import LedgerResource
from resources.store import ArtifactStoreResource
from trellis_pipeline.catalog.product import Product
from trellis_pipeline.catalog.snapshot import snapshot_to_parquet
from trellis_pipeline.costs.budgets import Budgets, SpendScope


def materialized(tmp_path, spends, verdicts):
    """The metadata of one report. spends: SKU, request key, dollars, cause. verdicts: by SKU."""
    settings = settings_for(tmp_path, tmp_path / "absent.csv")
    ledger = LedgerResource(SecretStr(settings.ledger_url), Budgets())
    store = ArtifactStoreResource(url=settings.storage_url)
    shelf = store.open()
    shelf.write(
        snapshot_path("shop"), snapshot_to_parquet([Product(sku=sku, image="x.png") for sku in verdicts])
    )
    for sku, verdict in verdicts.items():
        model, judged = {"request_key": f"key-{sku}", "attempt": 1}, {"verdict": verdict, "attempt": 1}
        shelf.write(record_path("shop", sku, "product_models"), json.dumps(model).encode())
        shelf.write(record_path("shop", sku, "model_quality"), json.dumps(judged).encode())
    with ledger.open() as books:
        for sku, key, usd, cause in spends:
            scope = SpendScope("shop", sku, "run-1", "runware", "m", "1024", key)
            reservation = books.reserve(Decimal("0.05"), scope, Budgets())
            books.settle(reservation, Decimal(usd), source="provider_cost", cause=cause)
    report = build_cost_report(LineSettings(settings, settings.catalogs[0]))
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([report], resources={"store": store, "ledger": ledger}, instance=instance)
        (event,) = done.asset_materializations_for_node("shop__cost_report")
    return {name: value.value for name, value in event.metadata.items()}


def test_the_report_says_what_an_accepted_model_costs_and_where_the_rest_went(tmp_path):
    spends = [
        ("GOOD", "key-GOOD", "0.03", ""),
        ("GOOD", "an earlier attempt", "0.02", ""),
        ("BAD", "key-BAD", "0.04", ""),
        ("GONE", "key-GONE", "0.01", ""),
        ("BAD", "key-BAD", "0.06", "ResultLost"),
    ]
    found = materialized(tmp_path, spends, {"GOOD": "pass", "BAD": "fail"})
    numbers = {name: value for name, value in found.items() if name != "table"}
    assert numbers == {
        "settled_usd": 0.16,
        "reserved_usd": 0.0,
        "overrun_usd": 0.01,
        "generations": 5,
        "generation_seconds": 0.0,
        "accepted_models": 1,
        "usd_per_accepted_model": 0.16,
        "wasted_usd": 0.13,
        "reproduced_usd": 0.0,
        "failed_usd": 0.06,
        "rejected_usd": 0.04,
        "superseded_usd": 0.02,
        "abandoned_usd": 0.01,
        "unattributed_usd": 0.0,
    }
    assert "| generator | runware | $0.16 |" in found["table"]


def test_a_catalog_without_an_accepted_model_has_no_price_for_one_yet(tmp_path):
    found = materialized(tmp_path, [], {})
    assert (found["accepted_models"], found["settled_usd"]) == (0, 0.0)
    assert "usd_per_accepted_model" not in found
