"""How long a catalog takes to load, beside pandas.read_csv of the same file.

pandas only splits the file and guesses types; `load_catalog` also checks every cell, makes a frozen record of
each row and finds duplicates, so the ratio says what the checking costs. Every measurement runs in a process
of its own, because peak memory cannot be taken back. Run from the repository root:

    python -m benchmarks.catalog_load [ROWS ...]
"""

from __future__ import annotations

import csv
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPEATS = 3
HEADER = [
    "sku",
    "title",
    "category",
    "image",
    "width_m",
    "height_m",
    "depth_m",
    "seed",
    "settings.resolution",
]


def write_catalog(path: Path, rows: int) -> None:
    """A catalog as a shop might keep it: nine columns, some settings, one bad row in 1,000."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for i in range(rows):
            height = "-1" if i % 1000 == 999 else f"{0.2 + i % 150 / 100:.2f}"
            resolution = "1536" if i % 10 == 0 else ""
            title, image = f"Armchair no. {i}, oak", f"photos/{i % 100:02d}/chair-{i}.webp"
            category = f"furniture/{i % 40}"
            writer.writerow([f"CHAIR-{i:07d}", title, category, image, "0.6", height, "", i, resolution])


def with_us(path: Path) -> Callable[[], Any]:
    from trellis_pipeline.catalog.readers import load_catalog

    return lambda: load_catalog(path)


def with_pandas(path: Path) -> Callable[[], Any]:
    import pandas as pd

    return lambda: pd.read_csv(path)


def snapshot_written(path: Path) -> Callable[[], Any]:
    import pyarrow.parquet  # noqa: F401  its import is not what is measured

    from trellis_pipeline.catalog.readers import load_catalog
    from trellis_pipeline.catalog.snapshot import snapshot_to_parquet

    products = load_catalog(path).products
    return lambda: snapshot_to_parquet(products)


def snapshot_read(path: Path) -> Callable[[], Any]:
    from trellis_pipeline.catalog.snapshot import snapshot_from_parquet

    data = snapshot_written(path)()
    return lambda: snapshot_from_parquet(data)


def compared(path: Path) -> Callable[[], Any]:
    from trellis_pipeline.catalog.diff import diff_snapshots
    from trellis_pipeline.catalog.readers import load_catalog
    from trellis_pipeline.catalog.snapshot import take_snapshot

    snapshot = take_snapshot(load_catalog(path).products)
    older = take_snapshot(snapshot.products[::2])
    return lambda: diff_snapshots(older, snapshot)


def photos_looked_at(path: Path) -> Callable[[], Any]:
    from trellis_pipeline.catalog.image_state import image_states
    from trellis_pipeline.catalog.readers import load_catalog

    products = load_catalog(path).products
    for product in products:
        Path(product.image).parent.mkdir(parents=True, exist_ok=True)
        Path(product.image).touch()
    return lambda: image_states(products)


SUBJECTS = {
    "load_catalog": with_us,
    "pandas.read_csv": with_pandas,
    "snapshot_to_parquet": snapshot_written,
    "snapshot_from_parquet": snapshot_read,
    "diff_snapshots": compared,
    "image_states": photos_looked_at,
}


def measure(subject: str, path: Path) -> tuple[float, float]:
    """Seconds (best of REPEATS) and the growth of peak memory in MiB during the first call."""
    call = SUBJECTS[subject](path)
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    grown = 0.0
    for repeat in range(REPEATS):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
        if repeat == 0:
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before) / 1024
        del result
    return min(seconds), grown


def main(sizes: list[int]) -> None:
    context = multiprocessing.get_context("spawn")
    print(f"{'rows':>9}  {'what':<22} {'seconds':>8} {'MiB':>7}  against pandas.read_csv")
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "catalog.csv"
            write_catalog(path, rows)
            results = {}
            for subject in SUBJECTS:
                with context.Pool(1) as pool:
                    results[subject] = pool.apply(measure, (subject, path))
        peer_seconds, _ = results["pandas.read_csv"]
        for subject, (seconds, grown) in results.items():
            ratio = f"{seconds / peer_seconds:.1f} x" if subject == "load_catalog" else ""
            print(f"{rows:>9,}  {subject:<22} {seconds:>8.3f} {grown:>7.1f}  {ratio}")


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or [1_000, 10_000, 100_000])
