"""Files that a user named, outside of any store: written whole or not at all.

Whether they can be written is asked before the work begins whose result they take. That work may be minutes
of a GPU, or money, and a misspelt folder should not be what it ends with.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.storage.disk_errors import naming


def check_writable(path: Path) -> None:
    """Raise ConfigError if `path` is no place for a file. Creates nothing."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: stands there and is no regular file; name a file to write")
    folder = next(one for one in path.absolute().parents if one.exists())
    if not folder.is_dir():
        raise ConfigError(f"{path}: {folder} is a file, not a folder; name another path")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{path}: {folder} may not be written to; name a path in a folder of yours")


def write_whole(path: Path, data: bytes) -> None:
    """Write the file, or leave what was there: never half of it. Makes missing folders.

    A link is followed, and what it points to is written. Raises StorageUnavailable.
    """
    with naming(path):
        replace_file(path.resolve(), data)


def replace_file(target: Path, data: bytes) -> None:
    """Like `write_whole`, for callers that have words of their own for an OSError. A link is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
