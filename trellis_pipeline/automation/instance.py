"""The Dagster instance of this machine: DAGSTER_HOME where set, else a folder beside the project.

`trellis-pipeline run` and the web server must see the same one, or the UI would not show what was made.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import dagster as dg

from trellis_pipeline.config import Settings
from trellis_pipeline.errors import StorageUnavailable

PROCESS_TAG = "trellis/process"

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
    """The persistent instance; use it as a context manager."""
    return dg.DagsterInstance.from_config(str(prepare_home(settings)))
