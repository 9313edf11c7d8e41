"""The Dagster home: made when missing, left alone when configured, and followed when it moves."""

import dagster as dg
from dagster._core.storage.event_log import SqliteEventLogStorage
from small_catalogs import settings_for

from trellis_pipeline.automation.event_log import CachedSqliteEventLog
from trellis_pipeline.automation.instance import open_instance


def test_a_new_home_has_telemetry_off_and_its_event_log_inside(tmp_path):
    with open_instance(settings_for(tmp_path)) as instance:
        assert isinstance(instance.event_log_storage, CachedSqliteEventLog)
        assert not instance.telemetry_enabled
    assert (tmp_path / ".trellis" / "dagster" / "history" / "runs" / "index.db").exists()


def test_what_our_event_log_wrote_the_stock_class_reads(tmp_path):
    key = dg.AssetKey("thing")
    with open_instance(settings_for(tmp_path)) as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition="a"))
    stock = SqliteEventLogStorage(str(tmp_path / ".trellis" / "dagster" / "history" / "runs"))
    assert stock.get_materialized_partitions(key) == {"a"}


def test_a_home_that_was_moved_keeps_its_history(tmp_path):
    key = dg.AssetKey("thing")
    with open_instance(settings_for(tmp_path / "old")) as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization(key))
    (tmp_path / "old").rename(tmp_path / "new")
    with open_instance(settings_for(tmp_path / "new")) as instance:
        assert instance.get_latest_materialization_event(key) is not None
    assert not (tmp_path / "old").exists()


def test_a_home_with_its_own_configuration_is_left_as_it_is(tmp_path):
    settings = settings_for(tmp_path)
    settings.dagster_home.mkdir(parents=True)
    own = "telemetry:\n  enabled: false\n"
    (settings.dagster_home / "dagster.yaml").write_text(own)
    with open_instance(settings):
        pass
    assert (settings.dagster_home / "dagster.yaml").read_text() == own
