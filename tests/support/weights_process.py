"""`trellis-pipeline weights` in a process of its own, with a small table of published files.

python weights_process.py TABLE.json fetch --yes ...
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO

from trellis_pipeline.trellis2 import published


def write_table(files: Sequence[published.PublishedFile], path: Path) -> Path:
    path.write_text(json.dumps([asdict(file) for file in files]))
    return path


def start(
    table: Path,
    *arguments: object,
    folder: Path,
    endpoint: str,
    stdin: int = subprocess.DEVNULL,
    stderr: int | IO[str] = subprocess.PIPE,
    **environment: str,
) -> subprocess.Popen[str]:
    """Begin a command. Nothing of the hub's settings of whoever runs the tests reaches it."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    return subprocess.Popen(
        [sys.executable, __file__, str(table), *map(str, arguments)],
        env={
            **clean,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(folder / "hf-home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **environment,
        },
        cwd=folder,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def main() -> None:
    rows = json.loads(Path(sys.argv[1]).read_text())
    published.FILES = tuple(
        published.PublishedFile(**{**row, "resolutions": tuple(row["resolutions"])}) for row in rows
    )
    from trellis_pipeline.cli_weights import weights_app

    weights_app(sys.argv[2:])


if __name__ == "__main__":
    main()
