"""The Dagster instance of this machine: DAGSTER_HOME where set, else a folder beside the project.

`trellis-pipeline run` and the web server must see the same one, or the UI would not show what was made.
"""

from __future__ import annotations

import fcntl
import json
import re
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from trellis_pipeline.config import Settings
from trellis_pipeline.errors import StorageUnavailable
from trellis_pipeline.purchasing.processes import is_gone
from trellis_pipeline.storage.whole_file import replace_file

PROCESS_TAG = "trellis/process"

_UNFINISHED = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)
_LOCK = ".opening.lock"
# A home's own copy of dagster.yaml names its folder, so that it needs no environment to be opened.
_FROM_ENVIRONMENT = "base_dir:\n      env: DAGSTER_HOME"
_OWN_FOLDER = re.compile(r"(class: CachedSqliteEventLog\n  config:\n    )(base_dir: \".*\")")
_MINIMAL = f"""\
telemetry:
  enabled: false

event_log_storage:
  module: trellis_pipeline.automation.event_log
  class: CachedSqliteEventLog
  config:
    {_FROM_ENVIRONMENT}
"""


def _configure(home: Path, project: Path) -> None:
    """Give the home a dagster.yaml if it has none: the project's, or a minimal one."""
    config = home / "dagster.yaml"
    here = f"base_dir: {json.dumps(str(home))}"
    if not config.exists():
        text = project.read_text() if project.is_file() else _MINIMAL
        replace_file(config.resolve(), text.replace(_FROM_ENVIRONMENT, here).encode())
    elif _moved(before := config.read_text(), here):
        replace_file(config.resolve(), _OWN_FOLDER.sub(lambda match: match[1] + here, before).encode())


def _moved(text: str, here: str) -> bool:
    """Whether a home's copy names another folder: the project was moved, its history with it."""
    found = _OWN_FOLDER.search(text)
    return found is not None and found[2] != here


def end_orphans(instance: dg.DagsterInstance) -> None:
    """Mark runs as failed whose process on this machine is gone, killed before it could say so."""
    for run in instance.get_runs(dg.RunsFilter(statuses=list(_UNFINISHED))):
        if is_gone(run.tags.get(PROCESS_TAG, "")):
            instance.report_run_failed(run, "the process that executed this run was killed")


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The persistent instance; use it as a context manager. Raises StorageUnavailable where it cannot open.

    One process at a time: Dagster makes and migrates its SQLite files when it opens them, and two that find
    a new home at once leave a database that neither can open again.
    """
    home = settings.dagster_home
    try:
        home.mkdir(parents=True, exist_ok=True)
        with (home / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _configure(home, settings.root / "dagster.yaml")
            return dg.DagsterInstance.from_config(str(home))
    except (OSError, SQLAlchemyError) as error:
        raise home_unavailable(home, error) from None


def home_unavailable(home: Path, error: OSError | SQLAlchemyError) -> StorageUnavailable:
    """Dagster's own files fail (full disk, read-only), in our words."""
    reason = str(getattr(error, "orig", None) or getattr(error, "strerror", None) or type(error).__name__)
    way_out = (
        "another run holds its database: try again when that is done, or use Postgres (docs/how-to/deploy.md)"
        if "locked" in reason
        else "free some space, make it writable, or set `home` in trellis.toml or DAGSTER_HOME elsewhere"
    )
    return StorageUnavailable(f"{home}: Dagster cannot keep its records there ({reason}); {way_out}")
