"""A line that cannot read what its catalog was stops like one that cannot write: once, with the reason."""

from small_catalogs import settings_for, write_catalog

from assets.catalog_snapshot import load_products
from assets.line import STAGES
from assets.opening import LineSettings, open_tools
from assets.records import LineItem
from assets.stream import RunStopped, stream
from trellis_pipeline.definitions import build_definitions


def test_a_snapshot_that_cannot_be_read_stops_the_run_with_its_name(tmp_path):
    settings = settings_for(tmp_path, write_catalog(tmp_path / "shop", ["A"]))
    snapshot = tmp_path / "output" / "shop" / "catalog.parquet"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(snapshot)
    resources = build_definitions(settings).resources
    line = LineSettings(settings, settings.catalogs[0])
    names = ("store", "generator", "catalogs", "ledger")
    with open_tools(line, "run-1", *(resources[name] for name in names)) as tools:

        def items():
            yield from map(LineItem, load_products(tools.store, "shop", {"A"}).values())

        (event,) = stream(items(), STAGES, [], tools, in_flight=4)
    assert isinstance(event, RunStopped)
    assert str(snapshot) in str(event.error)
