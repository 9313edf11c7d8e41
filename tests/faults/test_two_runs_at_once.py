"""Two processes run one catalog into one output and one Dagster home at the same time."""

from line_process import (
    Plan,
    assert_books_are_right,
    assert_consistent,
    assert_whole,
    billed,
    finish,
    run,
    start,
    statuses,
)
from small_catalogs import settings_for, write_catalog

from trellis_pipeline.automation.instance import open_instance

SKUS = tuple(f"CAN-{number}" for number in range(6))


def test_both_end_well_and_every_product_has_one_consistent_set_of_files(tmp_path):
    catalog = str(write_catalog(tmp_path / "shop", SKUS))
    home = tmp_path / "home"
    gate = tmp_path / "both are here"
    plan = Plan(str(home), catalog, wait_for=str(gate))
    runs = [start(plan), start(plan)]
    gate.touch()
    for summary in [finish(process) for process in runs]:
        assert set(statuses(summary)) == set(SKUS)
        assert set(statuses(summary).values()) <= {"generated", "cached"}
        assert summary["stopped"] is None
    assert_whole(home / "output")
    for sku in SKUS:
        assert_consistent(home / "output", sku)
    assert_books_are_right(home)
    with open_instance(settings_for(home)) as instance:
        ends = {record.status.value for record in instance.get_runs()}
        known = instance.get_dynamic_partitions("shop_products")
    assert ends == {"SUCCESS"}
    assert sorted(known) == sorted(SKUS)

    bought = len(billed(home))
    assert set(statuses(run(Plan(str(home), catalog))).values()) == {"cached"}
    assert len(billed(home)) == bought
