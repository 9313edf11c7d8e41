"""One check of the doctor, and how a check that breaks becomes a finding."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trellis_pipeline.errors import TrellisError

Status = Literal["ok", "warning", "problem"]

LOW_SPACE_BYTES = 2_000_000_000
NO_SPACE_BYTES = 100_000_000
"""A model with its pictures takes a few megabytes; Dagster's and the ledger's files some more."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. way_out: what to do about it, empty where there is nothing to do."""

    name: str
    status: Status
    message: str
    way_out: str = ""


Found = Iterator[Check]


def guarded(name: str, look: Callable[[], Found]) -> Found:
    """The checks of `look`; what it raises is one more of them, with the status `problem`."""
    try:
        yield from look()
    except TrellisError as error:
        yield Check(name, "problem", str(error))
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding, and may quote a secret
        yield Check(name, "problem", f"this check broke ({type(error).__name__})", "please report it")


def folder_checks(name: str, folder: Path, way_out: str) -> Found:
    """Whether files can be made in a folder, or where it would be made. Leaves nothing behind."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(there).free
    except OSError as error:
        yield Check(name, "problem", f"{there}: cannot be written ({error.strerror})", way_out)
        return
    status: Status = "ok" if free >= LOW_SPACE_BYTES else "warning"
    status = status if free >= NO_SPACE_BYTES else "problem"
    state = "writable" if there == folder else "is made by the first run"
    room = f"{free / 1e9:,.1f} GB free"
    yield Check(
        name, status, f"{folder}: {state}, {room}", "" if status == "ok" else "make room on this disk"
    )
