"""One tick of the catalog sensor over a large catalog: Dagster gives a tick 60 seconds.

    python benchmarks/catalog_tick.py 100000

First tick: everything is new (partitions made, runs asked for). Second: nothing changed. Third: ten rows and
ten photos changed. The peer in the same run is pandas reading the same file.
"""

import sys
import tempfile
import time
from pathlib import Path

import dagster as dg
import pandas as pd

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "support")]
from small_catalogs import draw_photo, settings_for  # noqa: E402

from trellis_pipeline.automation.instance import open_instance  # noqa: E402
from trellis_pipeline.definitions import build_definitions  # noqa: E402


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(100):
            draw_photo(folder / f"{number}.png", number)
        rows = [f"SKU-{n:06d},{n % 100}.png,Bottle {n}" for n in range(count)]
        catalog = folder / "catalog.csv"
        catalog.write_text("sku,image,title\n" + "\n".join(rows) + "\n")
        started = time.perf_counter()
        pd.read_csv(catalog)
        print(f"pandas.read_csv        {time.perf_counter() - started:6.2f} s")
        settings = settings_for(folder, catalog)
        definitions = build_definitions(settings)
        sensor = definitions.get_repository_def().get_sensor_def("shop_catalog_sensor")
        cursor = None
        with open_instance(settings) as instance:
            for label in ("all new", "nothing changed", "ten rows changed"):
                if label.startswith("ten"):
                    rows[:10] = [row + " again" for row in rows[:10]]
                    catalog.write_text("sku,image,title\n" + "\n".join(rows) + "\n")
                started = time.perf_counter()
                with dg.build_sensor_context(
                    instance=instance, cursor=cursor, resources=dict(definitions.resources)
                ) as context:
                    tick = sensor.evaluate_tick(context)
                asked = len(tick.run_requests or [])
                print(f"tick: {label:16} {time.perf_counter() - started:6.2f} s, {asked} runs asked for")
                cursor = tick.cursor or cursor


if __name__ == "__main__":
    main()
