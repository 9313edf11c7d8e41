"""How much of the ideal is left: 1,000 models of 1.7 s each, 50 at a time, bought as a run buys them.

The ideal is what the provider alone would take, ceil(1000 / 50) * 1.7 s: it makes 50 at a time, whatever is
asked of it. With just as many purchases under way, each place at the provider stands empty while a model is
fetched, kept and booked; with a quarter more, the next task is there already. Both are measured.

Between the ideal and the clock stand the client (which begins with 4 calls at once, and has to find out that
a task is done), the journal and the ledger (a commit on disk for each step), and the store. The server is
ours, in a process of its own on this machine, so its work is counted too. Memory is measured in a process for
each size: it should not grow with the catalog.

    python benchmarks/throughput.py [--orders 1000] [--concurrency 50] [--seconds 1.7] [--under-way 50 62]
        [--profile]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "support")]
from runware_parts import SENTINEL, crop  # noqa: E402
from service_process import service_process  # noqa: E402

from trellis_pipeline.costs.budgets import Budgets  # noqa: E402
from trellis_pipeline.costs.ledger import Ledger  # noqa: E402
from trellis_pipeline.costs.reports import totals  # noqa: E402
from trellis_pipeline.generation.request import build_request, request_key  # noqa: E402
from trellis_pipeline.generation.runware.generator import RunwareGenerator  # noqa: E402
from trellis_pipeline.generation.runware.options import ApiKey, RunwareOptions  # noqa: E402
from trellis_pipeline.purchasing.buy import buy  # noqa: E402
from trellis_pipeline.purchasing.generations import Order  # noqa: E402
from trellis_pipeline.purchasing.journal import Journal  # noqa: E402
from trellis_pipeline.purchasing.till import Till  # noqa: E402
from trellis_pipeline.storage.store import open_store  # noqa: E402


async def buy_all(folder: Path, ledger: Ledger, base_url: str, count: int, concurrency: int) -> float:
    """Buy that many models with the client's own settings; gives the seconds."""
    async with RunwareGenerator(RunwareOptions(api_key=ApiKey(SENTINEL), base_url=base_url)) as generator:
        store = open_store((folder / "store").as_uri())
        till = Till(generator, Journal(ledger), store, Budgets(total_usd=Decimal(500)))
        numbers = iter(range(count))

        async def carry() -> None:
            for number in numbers:
                request = build_request({"seed": number})
                key = request_key(request, crop().sha256, str(generator.identity))
                await buy(Order("shop", f"SKU-{number}", "run", request, crop(), key), till)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(carry())
        return time.perf_counter() - began


def work(folder: Path, base_url: str, count: int, concurrency: int) -> None:
    """One measurement in this process, printed as JSON."""
    with Ledger.open(f"sqlite:///{folder / 'ledger.sqlite'}") as ledger:
        began = resource.getrusage(resource.RUSAGE_SELF)
        seconds = asyncio.run(buy_all(folder, ledger, base_url, count, concurrency))
        used = resource.getrusage(resource.RUSAGE_SELF)
        settled = totals(ledger).settled_usd
    cpu = used.ru_utime + used.ru_stime - began.ru_utime - began.ru_stime
    print(json.dumps({"seconds": seconds, "cpu": cpu, "mb": used.ru_maxrss / 1024, "settled": str(settled)}))


def measure(
    count: int, concurrency: int, under_way: int, seconds: float, *, profile: bool
) -> dict[str, float]:
    """A server that makes `concurrency` at a time and a process that buys `under_way` at a time, both new."""
    folder = Path(tempfile.mkdtemp(prefix="throughput-"))
    more = ["-m", "cProfile", "-s", "tottime"] if profile else []
    try:
        at_once = str(concurrency)
        with service_process(
            folder / "service", "--seconds", str(seconds), "--concurrency", at_once
        ) as service:
            given = [str(folder), service.base_url, str(count), str(under_way)]
            done = subprocess.run(
                [sys.executable, *more, __file__, "--work", *given],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
        first, *rest = done.stdout.splitlines()
        print("\n".join(rest[:45]))
        return json.loads(first)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measure a tenth and all of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--orders", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--under-way", type=int, nargs="+", help="purchases at once")
    parser.add_argument("--seconds", type=float, default=1.7, help="of one simulated generation")
    parser.add_argument(
        "--profile", action="store_true", help="also where the buying process spends its time"
    )
    parser.add_argument("--work", nargs=4, metavar="VALUE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        folder, base_url, count, concurrency = given.work
        work(Path(folder), base_url, int(count), int(concurrency))
        return
    many = given.under_way or [given.concurrency, given.concurrency * 5 // 4]
    for count, under_way in [(given.orders // 10, many[0]), *((given.orders, number) for number in many)]:
        profile = given.profile and count == given.orders
        seen = measure(count, given.concurrency, under_way, given.seconds, profile=profile)
        ideal = math.ceil(count / given.concurrency) * given.seconds
        print(
            f"{count:6,} orders, {under_way:3} under way   {seen['seconds']:6.1f} s   ideal {ideal:6.1f} s   "
            f"ratio {seen['seconds'] / ideal:4.2f}   CPU {seen['cpu']:5.1f} s   "
            f"memory {seen['mb']:4.0f} MB   settled ${seen['settled']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
