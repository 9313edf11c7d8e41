"""What a file system refuses, in words that say what to do about it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from trellis_pipeline.errors import StorageUnavailable

_WAY_OUT = {
    errno.ENOSPC: "the disk is full; free some space or choose another output",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another output",
    errno.EFBIG: "the file is larger than this file system or process may write; raise the limit (ulimit -f)",
    errno.EROFS: "the file system is read-only; mount it writable or choose another output",
    errno.EACCES: "permission denied; give this user write access or choose another output",
    errno.EPERM: "the operation is not permitted; give this user write access or choose another output",
    errno.ENOTDIR: "a file stands where a folder is needed; move it away or choose another output",
    errno.EEXIST: "a file stands where a folder is needed; move it away or choose another output",
    errno.EISDIR: "a folder stands where a file is needed; move it away or choose another path",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n) or lower the concurrency",
}


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Turn an OSError into StorageUnavailable that names the path and the way out."""
    try:
        yield
    except OSError as error:
        reason = _WAY_OUT.get(error.errno or 0, error.strerror or "the file system refused")
        raise StorageUnavailable(f"{path}: {reason}") from error
