"""What a run would trip over, found before it runs: settings, folders, ledger, money, key, catalogs.

Nothing is made and nothing is bought. Each check stands by itself, because whoever calls for a doctor has
something broken already, and the others are to be told all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from trellis_pipeline.automation.check import Check, Found, Status, folder_checks, guarded
from trellis_pipeline.automation.doctor_local import local_checks
from trellis_pipeline.automation.doctor_money import api_key_checks, ledger_checks
from trellis_pipeline.catalog.rows import row_name
from trellis_pipeline.config import Settings
from trellis_pipeline.config_products import CatalogSettings
from trellis_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resources.catalog import CatalogResource
    from resources.generator import GeneratorResource
    from resources.store import ArtifactStoreResource

DAEMON_SECONDS = 300
"""A daemon that has not been heard of for so long is not running."""

_CHECK_PATH = "doctor/write_check.txt"


def examine(load: Callable[[], Settings]) -> tuple[Check, ...]:
    """Look at everything that a run needs. load: reads the settings; may raise ConfigError."""
    try:
        settings = load()
        made = _resources(settings)
    except ConfigError as error:
        return (Check("settings", "problem", str(error), "correct it; the other checks need the settings"),)
    checks: list[tuple[str, Callable[[], Found]]] = [
        ("settings", lambda: _settings(settings)),
        ("home", lambda: folder_checks("home", settings.home_dir, "set `home` in trellis.toml")),
        ("storage", lambda: _storage(settings, made["store"])),
        ("ledger", lambda: ledger_checks(settings)),
        ("api key", lambda: api_key_checks(settings)),
        ("local", lambda: local_checks(settings)),
        ("catalogs", lambda: _catalogs(settings, made["catalogs"], made["generator"])),
        ("matte", lambda: _matte(settings.imagery.matte, settings.local.weights.expanduser())),
        ("dagster", lambda: _dagster(settings)),
    ]
    return tuple(check for name, look in checks for check in guarded(name, look))


def checks_document(checks: tuple[Check, ...]) -> dict[str, Any]:
    """The checks as plain JSON-able data."""
    counts = {status: sum(c.status == status for c in checks) for status in ("ok", "warning", "problem")}
    return {
        "healthy": counts["problem"] == 0,
        "counts": counts,
        "checks": [asdict(check) for check in checks],
    }


def _resources(settings: Settings) -> Mapping[str, Any]:
    from trellis_pipeline.definitions import build_definitions

    return dict(build_definitions(settings).resources or {})


def _settings(settings: Settings) -> Found:
    catalogs = len(settings.catalogs)
    yield Check(
        "settings",
        "ok",
        f"read from {settings.root}: generator {settings.generation.generator}, {catalogs} catalogs",
    )


def _storage(settings: Settings, store: ArtifactStoreResource) -> Found:
    url = settings.storage_url
    if url.startswith("file://"):
        yield from folder_checks(
            "storage", Path(unquote(urlsplit(url).path)), "set [storage] url in trellis.toml"
        )
        return
    shelf = store.open()
    began = time.perf_counter()
    text = datetime.now(UTC).isoformat().encode()
    shelf.write(_CHECK_PATH, text)
    same = shelf.read(_CHECK_PATH) == text
    shelf.delete(_CHECK_PATH)
    seconds = time.perf_counter() - began
    if same:
        yield Check("storage", "ok", f"{shelf.url}: written, read and deleted in {seconds:.2f} s")
    else:
        yield Check("storage", "problem", f"{shelf.url}: gives back other bytes than were written")


def _catalogs(settings: Settings, catalogs: CatalogResource, generator: GeneratorResource) -> Found:
    if not settings.catalogs:
        yield Check("catalogs", "ok", "none is configured; `run --catalog PATH` takes any")
    generator.request()
    for catalog in settings.catalogs:
        look = partial(_catalog, settings, catalog, catalogs, generator)
        yield from guarded(f"catalog {catalog.name}", look)


def _catalog(
    settings: Settings, catalog: CatalogSettings, catalogs: CatalogResource, generator: GeneratorResource
) -> Found:
    name = f"catalog {catalog.name}"
    generator.request(catalog.generation)
    loaded = catalogs.load(settings.catalog_source(catalog))
    text = f"{len(loaded.products):,} products"
    if loaded.problems:
        first = loaded.problems[0]
        yield Check(
            name, "warning", f"{text}, {len(loaded.problems):,} bad rows",
            f"the first is {row_name(first.row, first.sku)}: {first.reason}",
        )  # fmt: skip
    elif not loaded.products:
        yield Check(name, "warning", "no product in it", "add rows, or correct its `source`")
    else:
        yield Check(name, "ok", text)


def _matte(method: str, weights_folder: Path) -> Found:
    import hashlib

    from trellis_pipeline.imagery.matte import u2netp
    from trellis_pipeline.imagery.matte.choose import METHODS
    from trellis_pipeline.imagery.matte.rembg_models import PREFIX

    if method.startswith(PREFIX):
        import importlib.metadata

        try:
            version = importlib.metadata.version("rembg")
            yield Check("matte", "ok", f"{method}: rembg {version} is installed")
        except importlib.metadata.PackageNotFoundError:
            yield Check("matte", "problem", f"{method}: rembg is not installed", 'pip install "rembg[cpu]"')
    elif method not in METHODS:
        yield Check(
            "matte", "problem", f"imagery.matte = {method!r} is not known", f"one of {', '.join(METHODS)}"
        )
    elif method in ("alpha", "classical"):
        yield Check("matte", "ok", f"{method}: needs nothing more")
    elif method == "birefnet":
        yield _birefnet(weights_folder)
    elif not u2netp.is_installed():
        status: Status = "warning" if method == "auto" else "problem"
        effect = (
            "the classical matte alone is used, shadows may remain" if method == "auto" else "cannot work"
        )
        yield Check(
            "matte", status, f"{method}: u2netp is not installed; {effect}",
            u2netp.INSTALL,
        )  # fmt: skip
    else:
        weights = u2netp.weights_path()
        assert weights is not None
        known = hashlib.md5(weights.read_bytes(), usedforsecurity=False).hexdigest() == u2netp.MD5
        if known:
            yield Check("matte", "ok", f"{method}: u2netp is installed")
        else:
            yield Check(
                "matte", "problem", f"{weights} is not the known u2netp file",
                f"reinstall {u2netp.RELEASE}",
            )  # fmt: skip


def _birefnet(weights_folder: Path) -> Check:
    """By its size: reading a gigabyte is for `weights check --matte`."""
    from trellis_pipeline.imagery.matte.birefnet import network_path
    from trellis_pipeline.trellis2.published import MATTE_FILES

    network, way_out = network_path(weights_folder), "trellis-pipeline weights fetch --matte"
    if not network.is_file():
        return Check("matte", "problem", f"birefnet: {network} does not exist", way_out)
    if network.stat().st_size != MATTE_FILES[0].file_bytes:
        return Check("matte", "problem", f"birefnet: {network} has the wrong size", way_out)
    return Check("matte", "ok", f"birefnet: {network} is there")


def _dagster(settings: Settings) -> Found:
    from trellis_pipeline.automation.instance import open_instance

    automation = settings.automation
    on = [name for name, part in automation if getattr(part, "enabled", False)]
    switched = f"switched on: {', '.join(on)}" if on else "no schedule or sensor is switched on"
    if not (settings.dagster_home / "dagster.yaml").exists():
        yield Check("dagster", "ok", f"{settings.dagster_home}: is made by the first run; {switched}")
        return
    with open_instance(settings) as instance:
        beats = instance.get_daemon_heartbeats()
        alive = [beat for beat in beats.values() if time.time() - beat.timestamp < DAEMON_SECONDS]
    if on and not alive:
        yield Check(
            "dagster", "warning", f"{settings.dagster_home}: {switched}, and no daemon is running",
            "start one: dagster dev, or dagster-daemon run",
        )  # fmt: skip
        return
    daemon = "the daemon is running" if alive else "no daemon is running, and none is needed"
    yield Check("dagster", "ok", f"{settings.dagster_home}: {switched}; {daemon}")
