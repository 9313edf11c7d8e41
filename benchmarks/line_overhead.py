"""What the line itself costs per product: everything but the generation, on SQLite and a local disk.

    python benchmarks/line_overhead.py 100 1000 10000

An instant generator returns the same box for every product, so what is measured is fetching, cropping,
finishing, quality, the journal, the ledger, the store and Dagster's bookkeeping: four assets and six checks
each. The peer in the same run is Dagster alone: the same number of products, assets and events with nothing
done. A run begins with loading libraries and starting workers, whatever the number of products; a run of one
product shows how long that takes, and the others are given with it and without. Peak memory is that of this
process (the workers' does not grow with the catalog). Previews are drawn at 64 px, because drawing is work
and not overhead.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "support")]


def measure(kind: str, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seconds = line(Path(folder), count) if kind == "line" else dagster_alone(Path(folder), count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = time.process_time() / count * 1000
    print(json.dumps({"seconds": seconds, "cpu_ms": cpu, "mib": peak}))


def line(folder: Path, count: int) -> float:
    """A catalog of `count` products with small photos, through the line."""
    from small_catalogs import InstantGenerator, InstantGeneratorResource, draw_photo, settings_for

    from trellis_pipeline.automation.in_process import run_catalog

    # A hundred different photos; more would measure the drawing.
    for number in range(min(count, 100)):
        draw_photo(folder / f"{number}.png", number)
    rows = "\n".join(f"SKU-{n:06d},{n % 100}.png,Bottle {n}" for n in range(count))
    (folder / "catalog.csv").write_text(f"sku,image,title\n{rows}\n")
    settings = settings_for(
        folder, folder / "catalog.csv", run={"products_per_run": 500, "workers": 0}, previews={"px": 64}
    )
    generator = InstantGeneratorResource.around(InstantGenerator())
    started = time.perf_counter()
    done = run_catalog(settings, settings.catalogs[0], generator=generator)
    seconds = time.perf_counter() - started
    assert len(done.products) == count
    assert all(product.status in {"generated", "cached"} for product in done.products)
    return seconds


def dagster_alone(folder: Path, count: int) -> float:
    """The same events from a body that does nothing."""
    import dagster as dg

    from assets.dagster_events import report_checks
    from assets.line import CHECK_NAMES, STAGES
    from assets.records import Check

    partitions = dg.DynamicPartitionsDefinition(name="bare_products")
    checks = [
        Check(name=name, passed=True, severity="error", value=1, limit=2, message="") for name in CHECK_NAMES
    ]

    @dg.multi_asset(
        specs=[stage.spec("bare", partitions) for stage in STAGES],
        check_specs=[dg.AssetCheckSpec(name, asset=["bare", "model_quality"]) for name in CHECK_NAMES],
        can_subset=True,
    )
    def bare(context: dg.AssetExecutionContext):
        for number in range(count):
            for stage in STAGES:
                yield dg.AssetMaterialization(
                    ["bare", stage.name], partition=str(number), metadata={"seconds": 0.1, "triangles": 12}
                )
            report_checks(context, dg.AssetKey(["bare", "model_quality"]), str(number), checks)

    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        instance.add_dynamic_partitions("bare_products", [str(n) for n in range(count)])
        started = time.perf_counter()
        dg.materialize([bare], instance=instance, run_config=quiet, raise_on_error=False)
        return time.perf_counter() - started


def main() -> None:
    """Each measurement in a process of its own, so that peak memory is its own."""
    if len(sys.argv) > 2 and sys.argv[1] in {"line", "dagster"}:
        measure(sys.argv[1], int(sys.argv[2]))
        return
    counts = [int(argument) for argument in sys.argv[1:]] or [100, 1000]
    for kind in ("line", "dagster"):
        start = apart(kind, 1)["seconds"]
        print(f"{kind:8} {1:6} product  {start:7.2f} s", flush=True)
        for count in counts:
            seen = apart(kind, count)
            each, further = seen["seconds"] / count * 1000, (seen["seconds"] - start) / (count - 1) * 1000
            print(
                f"{kind:8} {count:6} products {each:7.1f} ms each, {further:7.1f} ms without the start, "
                f"{seen['cpu_ms']:7.1f} ms CPU, {seen['mib']:6.0f} MiB",
                flush=True,
            )


def apart(kind: str, count: int) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, kind, str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seen: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seen


if __name__ == "__main__":
    main()
