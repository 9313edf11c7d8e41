"""SIGKILL at the worst moments: what is visible is whole, what was bought stays bought, a rerun finishes."""

import pytest
from line_process import (
    Plan,
    assert_books_are_right,
    assert_consistent,
    assert_nobody_stays,
    assert_whole,
    billed,
    run,
    start,
    statuses,
)
from small_catalogs import settings_for, write_catalog

from trellis_pipeline.automation.instance import open_instance

SKUS = ("A", "B", "C")
ONE_BY_ONE = {"run": {"workers": 1, "in_flight": 1}}

MOMENTS = [
    # moment, generations the killed run has made, how many of them were lost before they were kept
    pytest.param("after:generate:.:2", 2, 1, id="between the generator's answer and the store"),
    pytest.param(
        "after:write:product_models.json:1", 1, 0, id="after the first model's record", marks=pytest.mark.slow
    ),
    pytest.param("before:generate:.:2", 1, 0, id="while the generator works", marks=pytest.mark.slow),
    pytest.param("before:create:generations/:2", 2, 1, id="before the certificate", marks=pytest.mark.slow),
    pytest.param("after:create:generations/:2", 2, 0, id="after the certificate", marks=pytest.mark.slow),
    pytest.param("after:publish:model.glb:2", 2, 0, id="published, not recorded", marks=pytest.mark.slow),
    pytest.param("after:write:model_quality.json:3", 3, 0, id="before the report", marks=pytest.mark.slow),
    pytest.param("after:publish:catalog.parquet:1", 0, 0, id="after the snapshot", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("moment", "made", "lost"), MOMENTS)
def test_a_killed_run_leaves_nothing_half_written_and_the_next_one_finishes(tmp_path, moment, made, lost):
    catalog = str(write_catalog(tmp_path / "shop", SKUS))
    home = tmp_path / "home"
    killed = start(Plan(str(home), catalog, die=moment, sections=ONE_BY_ONE))
    _, err = killed.communicate(timeout=240)
    assert killed.returncode == -9, err[-2000:]
    assert_nobody_stays(killed.pid)
    assert_whole(home / "output")
    assert len(billed(home)) == made

    after = run(Plan(str(home), catalog, sections=ONE_BY_ONE))
    assert set(statuses(after)) == set(SKUS)
    assert set(statuses(after).values()) <= {"generated", "cached"}
    assert assert_whole(home / "output") > 20
    for sku in SKUS:
        assert_consistent(home / "output", sku)
    # This generator is free and knows no request it was asked before, so an answer that died with the
    # process is made again; everything that was kept is not.
    assert len(billed(home)) == len(SKUS) + lost
    assert len(set(billed(home))) == len(SKUS)
    assert_books_are_right(home)

    with open_instance(settings_for(home)) as instance:
        ends = [record.status.value for record in instance.get_runs()]
    assert "STARTED" not in ends
    assert ends.count("FAILURE") == 1


def test_a_run_whose_process_number_was_given_to_another_is_an_orphan_too(tmp_path):
    import dagster as dg

    from trellis_pipeline.automation.instance import PROCESS_TAG, end_orphans
    from trellis_pipeline.purchasing.processes import this_process

    @dg.op
    def nothing():
        pass

    @dg.job
    def job():
        nothing()

    with open_instance(settings_for(tmp_path)) as instance:
        host, pid, birth = this_process().split(":")
        tags = {"ours": f"{host}:{pid}:{birth}", "before us": f"{host}:{pid}:1", "elsewhere": f"far:{pid}:1"}
        runs = {
            name: instance.create_run_for_job(
                job, status=dg.DagsterRunStatus.STARTED, tags={PROCESS_TAG: tag}
            )
            for name, tag in tags.items()
        }
        end_orphans(instance)
        ends = {name: instance.get_run_by_id(run.run_id).status.value for name, run in runs.items()}
    assert ends == {"ours": "STARTED", "before us": "FAILURE", "elsewhere": "STARTED"}
