"""The Dagster instance of this machine: DAGSTER_HOME where set, else a folder beside the project.

`trellis-pipeline run` and the web server must see the same one, or the UI would not show what was made.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg

from trellis_pipeline.config import Settings
from trellis_pipeline.errors import StorageUnavailable

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


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """The persistent instance; use it as a context manager."""
    return dg.DagsterInstance.from_config(str(prepare_home(settings)))
