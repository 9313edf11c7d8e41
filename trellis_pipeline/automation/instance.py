"""The Dagster instance of this machine: DAGSTER_HOME where set, else a folder beside the project.

`trellis-pipeline run` and the web server must see the same one, or the UI would not show what was made.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from trellis_pipeline.config import Settings
from trellis_pipeline.errors import StorageUnavailable

PROCESS_TAG = "trellis/process"

_LOCK = ".opening.lock"
_MINIMAL = "telemetry:\n  enabled: false\n"


def prepare_home(settings: Settings) -> Path:
    """Create the home with a dagster.yaml if it has none: the project's, or a minimal one.

    Raises StorageUnavailable naming the folder when it cannot be written.
    """
    home = settings.dagster_home
    try:
        home.mkdir(parents=True, exist_ok=True)
        config = home / "dagster.yaml"
        if not config.exists():
            project = settings.root / "dagster.yaml"
            if project.is_file():
                shutil.copyfile(project, config)
            else:
                config.write_text(_MINIMAL)
    except OSError as error:
        raise StorageUnavailable(
            f"{home}: cannot be written ({error.strerror}); set `home` in trellis.toml or DAGSTER_HOME"
        ) from None
    return home


def this_process() -> str:
    """The value of PROCESS_TAG for runs that this process executes itself."""
    return f"{socket.gethostname()}:{os.getpid()}"


def end_orphans(instance: dg.DagsterInstance) -> None:
    """Mark runs as failed whose process on this machine is gone, killed before it could say so."""
    host = socket.gethostname()
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        where, _, pid = run.tags.get(PROCESS_TAG, "").rpartition(":")
        if where == host and not _is_alive(int(pid)):
            instance.report_run_failed(run, "the process that executed this run was killed")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The persistent instance; use it as a context manager. Raises StorageUnavailable if it cannot be opened.

    One process at a time: Dagster makes and migrates its SQLite files when it opens them, and two that find
    a new home at once leave a database that neither can open again.
    """
    home = prepare_home(settings)
    try:
        with (home / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return dg.DagsterInstance.from_config(str(home))
    except (OSError, SQLAlchemyError) as error:
        raise home_unavailable(home, error) from None


def home_unavailable(home: Path, error: OSError | SQLAlchemyError) -> StorageUnavailable:
    """Dagster's own files fail (full disk, read-only), in our words."""
    reason = str(getattr(error, "orig", None) or getattr(error, "strerror", None) or type(error).__name__)
    return StorageUnavailable(
        f"{home}: Dagster cannot keep its records there ({reason}); free some space, make it writable, or "
        "set `home` in trellis.toml or DAGSTER_HOME to another folder"
    )
