"""The service's folder: one file of SQLite, files beside it, a lock and a secret.

Everything that a restart must find again lies here. A commit waits for the disk, and a file is renamed to its
name only when it is whole, so after a power cut each is either there or not.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Connection, Engine, update
from sqlalchemy.exc import SQLAlchemyError

from trellis_pipeline.costs.database import connect, parse_url
from trellis_pipeline.errors import ConfigError, StorageUnavailable
from trellis_pipeline.service.tables import tasks
from trellis_pipeline.service.upgrade import make_tables

_PART = ".part"


class Disk:
    """A service's folder, held by one process at a time. secret: signs links to files."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError where another service holds the folder, or a later version made it;
        StorageUnavailable for a bad one.
        """
        self.folder = folder
        try:
            # Tasks hold tokens and signed URLs, so the folder is for its owner only.
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in ("files", "media"):
                (folder / name).mkdir(exist_ok=True)
            with ExitStack() as undo:
                self._lock = undo.enter_context(_hold(folder / "lock"))
                self.secret = _secret(folder / "secret")
                for name in ("files", "media"):
                    for left in (folder / name).glob(f"*.????????{_PART}"):  # by a process that was killed
                        left.unlink()
                self._engine = open_database(folder)
                undo.callback(self._engine.dispose)
                with self.begin() as connection:
                    make_tables(connection)
                undo.pop_all()
        except OSError as error:
            raise StorageUnavailable(
                f"the service's folder {folder} cannot be used: {error.strerror}"
            ) from error

    def close(self) -> None:
        """Give the folder back."""
        self._engine.dispose()
        self._lock.close()

    def check(self) -> None:
        """Raises StorageUnavailable where the database cannot be written."""
        with self.begin() as connection:
            connection.execute(update(tasks).where(tasks.c.seq == -1).values(account=""))

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that writes, and has the lock from its start. Raises StorageUnavailable."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _unavailable(self.folder, error) from None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads. Raises StorageUnavailable."""
        try:
            with self._engine.connect().execution_options(read_only=True) as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _unavailable(self.folder, error) from None

    def write(self, path: Path, data: bytes) -> None:
        """Write a file so that after a power cut it is either whole or not there."""
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_PART}")
        try:
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                # On a full disk, what is left would take the room of the next attempt.
                with suppress(OSError):
                    temporary.unlink()
            if hasattr(os, "O_DIRECTORY"):
                handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
        except OSError as error:
            raise StorageUnavailable(f"{path} cannot be written: {error.strerror}") from error


def open_database(folder: Path) -> Engine:
    """Another connection to a service's database, for looking at it from outside."""
    return connect(parse_url(f"sqlite:///{(folder / 'service.sqlite').absolute()}"))


def _unavailable(folder: Path, error: SQLAlchemyError) -> StorageUnavailable:
    reason = str(getattr(error, "orig", None) or type(error).__name__).partition("\n")[0][:200]
    return StorageUnavailable(f"the service's database in {folder} cannot be used: {reason}")


def _hold(path: Path) -> BinaryIO:
    """Hold the folder for as long as the file is open; the system lets go of it when the process dies."""
    file = path.open("ab")
    try:
        import fcntl
    except ImportError:  # Windows has no such lock; there, two services in one folder are the user's affair
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(
            f"another service is using {path.parent}; stop it, or give this one a folder of its own"
        ) from None
    return file


def _secret(path: Path) -> bytes:
    """The key that signs links to files, made once for each folder, which is held by now."""
    if not path.exists():
        temporary = path.with_suffix(".part")
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    return path.read_bytes()
