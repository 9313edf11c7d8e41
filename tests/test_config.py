"""trellis.toml: wrong keys and values are named with the way out, and the environment wins."""

from decimal import Decimal
from pathlib import Path

import pytest

from resources.generator import generator_of
from trellis_pipeline.config import Settings, load_settings
from trellis_pipeline.config_products import catalog_name_for
from trellis_pipeline.errors import ConfigError


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "trellis.toml"
    path.write_text(text)
    return load_settings(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[storage]\nulr = "file://x"', 'did you mean "url"'),
        ("[imagery]\nmax_pixel = 5", 'did you mean "max_pixels"'),
        ("[quality.profiles.web]\nmax_triangle = 5", 'did you mean "max_triangles"'),
        ('[[catalogs]]\nname = "a"\nsource = "x"\nsorce = "y"', 'did you mean "source"'),
        ("[automation.nightly]\nenable = true", 'did you mean "enabled"'),
        ("[storrage]\n", 'did you mean "storage"'),
        ("[run]\nin_flight = 0", "greater than or equal to 1"),
        ('[triage]\nhold = "maybe"', "'paid', 'always' or 'never'"),
        ('[generation]\ngenerator = "magic"', "generation.generator"),
        ('[quality]\nprofile = "print"', "profile 'print' is not defined"),
        ('[[catalogs]]\nname = "Shop 1"\nsource = "x"', "cannot name a catalog"),
        ('[[catalogs]]\nname = "blobs"\nsource = "x"', "cannot name a catalog"),
        ('[[catalogs]]\nname = "a"\nsource = "x"\n[[catalogs]]\nname = "a"\nsource = "y"', "two catalogs"),
        ("[storage", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_the_way_out(tmp_path, text, expected):
    with pytest.raises(ConfigError, match=r"(?s).*") as caught:
        load(tmp_path, text)
    assert expected in str(caught.value)
    assert "trellis.toml" in str(caught.value)


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TRELLIS_STORAGE__URL", "s3://bucket/models")
    monkeypatch.setenv("TRELLIS_BUDGET__TOTAL_USD", "12.50")
    settings = load(tmp_path, '[storage]\nurl = "file://here"\n[run]\nin_flight = 3')
    assert settings.storage_url == "s3://bucket/models"
    assert settings.budget.total_usd == Decimal("12.50")
    assert settings.run.in_flight == 3


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TRELLIS_BUGDET__TOTAL_USD", "TRELLIS_BUDGET__TOTAL_USD"),
        ("TRELLIS_BUDGET_TOTAL_USD", "TRELLIS_BUDGET__TOTAL_USD"),
        ("TRELLIS_STORAGE_URL", "TRELLIS_STORAGE__URL"),
        ("TRELLIS_CATALOG", "TRELLIS_CATALOGS"),
        ("trellis_run_in_flight", "TRELLIS_RUN__IN_FLIGHT"),
    ],
)
def test_a_misspelt_variable_is_named_with_what_was_meant(tmp_path, monkeypatch, name, meant):
    monkeypatch.setenv(name, "5")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "")
    assert str(caught.value) == f"environment: {name} is no setting; did you mean {meant}?"


@pytest.mark.parametrize(
    "name", ["TRELLIS_RUN_ID", "TRELLIS_LOCAL_RANK", "TRELLIS_2_MODEL", "TRELLIS_UI_PORT"]
)
def test_a_variable_of_somebody_else_is_left_alone(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "5")
    load(tmp_path, "")


def test_request_fields_come_from_the_environment_as_json(tmp_path, monkeypatch):
    monkeypatch.setenv("TRELLIS_GENERATION__SETTINGS", '{"textureSize": 1024}')
    assert load(tmp_path, "").generation.settings == {"textureSize": 1024}
    monkeypatch.setenv("TRELLIS_GENERATION__SETTINGS__textureSize", "1024")
    with pytest.raises(ConfigError, match=r"as JSON.*SETTINGS='{.textureSize.: ...}'"):
        load(tmp_path, "")


def test_relative_paths_count_from_the_file_not_from_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    settings = load(tmp_path, '[storage]\nurl = "file://out"\n[[catalogs]]\nname = "a"\nsource = "c/a.csv"')
    assert settings.storage_url == (tmp_path / "out").as_uri()
    assert settings.catalog_source(settings.catalogs[0]) == str(tmp_path / "c" / "a.csv")


def test_a_ledger_password_never_shows_in_settings_or_errors(tmp_path):
    sentinel = "hunter2-sentinel"
    settings = load(tmp_path, f'[ledger]\nurl = "postgresql://me:{sentinel}@db/x"')
    assert sentinel not in repr(settings)
    assert sentinel in settings.ledger_url
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f'[ledger]\nurl = ["{sentinel}"]')
    assert sentinel not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "hooks.example.com", "http://hooks.example.com", "https://user:s3cret@hooks.example.com"]
)
def test_a_webhook_address_that_nobody_could_call_is_refused_by_its_key(tmp_path, url):
    with pytest.raises(
        ConfigError, match=r"trellis\.toml: webhooks\.public_url: must be like https"
    ) as caught:
        load(tmp_path, f'[webhooks]\npublic_url = "{url}"')
    assert "s3cret" not in str(caught.value)
    kept = load(tmp_path, '[webhooks]\npublic_url = "https://hooks.example.com/trellis/"')
    assert kept.webhooks.public_url == "https://hooks.example.com/trellis"


@pytest.mark.parametrize(
    "url", ["http://localhost:8790", "http://127.0.0.1:8790", "https://10.0.0.5", "https://[fd00::1]"]
)
def test_an_address_of_this_network_is_none_that_runware_can_call(tmp_path, url):
    bought = '[generation]\ngenerator = "runware"\n'
    with pytest.raises(ConfigError, match=r"webhooks\.public_url: .* cannot be reached by api\.runware\.ai"):
        generator_of(load(tmp_path, f'{bought}[webhooks]\npublic_url = "{url}"'))
    own = f'{bought}[runware]\nbase_url = "http://127.0.0.1:8765/v1"\n[webhooks]\npublic_url = "{url}"'
    assert generator_of(load(tmp_path, own)).webhooks_url == url
    assert generator_of(load(tmp_path, f'[webhooks]\npublic_url = "{url}"')).webhooks_url == url


def test_a_catalog_gets_its_name_from_its_path():
    assert catalog_name_for("/data/spring-2026.csv", set()) == "spring_2026"
    assert catalog_name_for("/data/Spring 2026/catalog.csv", set()) == "spring_2026"
    assert catalog_name_for("s3://bucket/photos/", {"photos"}) == "photos_2"
    assert catalog_name_for("/data/2026.csv", set()) == "catalog_2026"


def test_a_missing_file_that_was_asked_for_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_settings(tmp_path / "absent.toml")
