"""A worker process that dies takes down its own product and no other."""

import asyncio
import os
import time

import pytest
from line_process import Plan, assert_consistent, assert_whole, end_this_worker, run
from small_catalogs import write_catalog

from assets.workers import WorkerPool
from trellis_pipeline.errors import ProductError


def square(number):
    time.sleep(0.05)
    return number * number


def pid():
    return os.getpid()


def test_jobs_that_shared_a_pool_with_a_dying_one_are_done_all_the_same():
    pool = WorkerPool(2)

    async def all_at_once():
        jobs = [pool.run(square, n) for n in range(8)]
        jobs.insert(3, pool.run(end_this_worker))
        return await asyncio.gather(*jobs, return_exceptions=True)

    try:
        results = asyncio.run(all_at_once())
        guilty = results.pop(3)
        assert isinstance(guilty, ProductError)
        assert "end_this_worker" in str(guilty)
        assert [done.value for done in results] == [n * n for n in range(8)]
    finally:
        pool.close()


def test_a_pool_that_is_closed_leaves_no_process_behind():
    pool = WorkerPool(1)
    worker = asyncio.run(pool.run(pid)).value
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.slow
def test_a_product_that_kills_its_worker_fails_by_name_and_the_others_finish(tmp_path):
    rows = [{"sku": "POISON", "image": "A.png", "seed": "666"}]
    catalog = write_catalog(tmp_path / "shop", ["A", "B", "C"], rows)
    home = tmp_path / "home"
    summary = run(Plan(str(home), str(catalog), crash_seeds=[666]))
    products = {product["sku"]: product for product in summary["products"]}
    assert {sku: product["status"] for sku, product in products.items()} == {
        "A": "generated",
        "B": "generated",
        "C": "generated",
        "POISON": "failed",
    }
    assert products["POISON"]["failed_stage"] == "product_models"
    assert "worker process died" in products["POISON"]["error"]
    assert_whole(home / "output")
    for sku in ("A", "B", "C"):
        assert_consistent(home / "output", sku)
