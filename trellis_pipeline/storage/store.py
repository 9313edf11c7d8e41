"""The artifact store: immutable blobs named by their content, and readable paths that point at them.

A run can be killed at any instant and two runs may work on the same product. Content-addressed blobs make
both harmless: the same bytes always land under the same name, nothing is ever changed in place, and a
readable path (`demo/CHAIR-7/model.glb`) moves from one complete file to another in a single step. The same
protocol stands over a directory and over S3, so that moving to a bucket changes one URL.

A store holds two kinds of names:

    blobs/ab/cd/abcd….glb     what was made; written once, verified on every read
    anything/else.json        readable paths: records (`write`, `create`) and published blobs (`publish`)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from trellis_pipeline.errors import ConfigError, StorageError

BLOB_FOLDER = "blobs"
# A component longer than this cannot be a file name on common file systems; S3 allows 1,024 bytes for the
# whole key, of which the store's own prefix takes a part.
MAX_COMPONENT_BYTES = 255
MAX_PATH_BYTES = 800

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SUFFIX = re.compile(r"(\.[a-z0-9]{1,16}){0,3}")


@dataclass(frozen=True, slots=True)
class BlobRef:
    """The name of a blob. sha256: 64 lower-case hex digits. size: bytes. suffix: as `.glb`, or empty.

    Raises StorageError for anything that is not such a name: references are read back from records, and a
    damaged record must not become a path.
    """

    sha256: str
    size: int
    suffix: str = ""

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise StorageError(
                f"{self.sha256[:80]!r} is not a sha256 in hex; the record it came from is damaged"
            )
        if not _SUFFIX.fullmatch(self.suffix):
            raise StorageError(
                f"{self.suffix[:80]!r} is not a blob suffix; write it like '.glb' or '.json.gz'"
            )
        if self.size < 0:
            raise StorageError(f"a blob cannot have {self.size} bytes; the record it came from is damaged")

    @classmethod
    def of(cls, data: bytes, suffix: str = "") -> BlobRef:
        """The reference these bytes have in every store."""
        return cls(hashlib.sha256(data).hexdigest(), len(data), suffix)

    @property
    def key(self) -> str:
        """Where the blob stands below the store's root. Two levels keep folders small at a million blobs."""
        return f"{BLOB_FOLDER}/{self.sha256[:2]}/{self.sha256[2:4]}/{self.sha256}{self.suffix}"

    def matches(self, data: bytes) -> bool:
        """Whether these bytes are the blob."""
        return len(data) == self.size and hashlib.sha256(data).hexdigest() == self.sha256


class ArtifactStore(Protocol):
    """What every store promises. Safe to use from many threads; several processes may share one store.

    Nothing half-written is ever visible under any name. Every method may raise StorageUnavailable (disk full,
    no permission, no network) and StorageError for a path that is not safe; see `check_path`.
    """

    @property
    def url(self) -> str:
        """The URL that opens this store again, without credentials."""
        ...

    def put_blob(self, data: bytes, suffix: str) -> BlobRef:
        """Keep these bytes. Durable on return. Putting the same bytes again changes nothing."""
        ...

    def get_blob(self, ref: BlobRef) -> bytes:
        """The bytes, verified. Raises BlobMissing, or BlobCorrupt where they do not hash to their name."""
        ...

    def has_blob(self, ref: BlobRef) -> bool:
        """Whether a blob of that name and size is there. Its content is not read."""
        ...

    def publish(self, path: str, ref: BlobRef) -> str:
        """Let `path` show the blob from now on, in one step. Returns `location(path)`. Raises BlobMissing."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Replace the record at `path` in one step: readers see the old bytes or the new, never a mixture."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Write the record unless one is there. True if this call made it: among many, one did."""
        ...

    def read(self, path: str) -> bytes:
        """The record at `path`. Raises BlobMissing."""
        ...

    def exists(self, path: str) -> bool:
        """Whether something stands at `path`."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """Every readable path below the folder `prefix`, sorted; blobs are left out."""
        ...

    def delete(self, path: str) -> None:
        """Remove a readable path, if it is there. The blob behind it stays."""
        ...

    def location(self, path: str) -> str:
        """Where people find `path`: an absolute file path or an `s3://` URL."""
        ...


def check_path(path: str) -> str:
    """Return `path` if it is safe as a readable path on every store, else raise StorageError.

    Safe: relative, parts joined by single slashes, no `.` or `..`, no backslash or control character, every
    part at most 255 bytes of UTF-8, not inside the store's own folders (`blobs/`, names starting with
    `.incoming`).
    """
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise StorageError(f"path {path[:80]!r} is not valid Unicode text; rename the product") from None
    parts = path.split("/")
    if len(encoded) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_COMPONENT_BYTES for part in parts):
        raise StorageError(
            f"path {path[:80]!r}… is too long; allowed are "
            f"{MAX_COMPONENT_BYTES} bytes a part and {MAX_PATH_BYTES} in all"
        )
    if any(part in {"", ".", ".."} for part in parts):
        raise StorageError(f"path {path!r} is refused: it must be relative, without empty parts, '.' or '..'")
    if "\\" in path or any(ord(char) < 32 or ord(char) == 127 for char in path):
        raise StorageError(f"path {path!r} is refused: backslashes and control characters are not allowed")
    if parts[0].casefold() == BLOB_FOLDER or parts[0].startswith(".incoming"):
        raise StorageError(f"path {path!r} is refused: {parts[0]!r} belongs to the store itself")
    return path


def open_store(url: str, *, s3_client: Callable[[], Any] | None = None) -> ArtifactStore:
    """Open the store at `url`: `file:///absolute/folder` (created if missing) or `s3://bucket/prefix`.

    s3_client: gives a boto3 S3 client; called once, at the first request. Credentials and endpoint are the
    client's affair and never stand in the URL.

    Raises ConfigError for a URL that is neither, StorageUnavailable where the folder cannot be made.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        if parts.netloc not in {"", "localhost"} or not folder.is_absolute() or folder == Path("/"):
            raise ConfigError(
                "a file:// store needs an absolute folder with three slashes: file:///data/models"
            )
        from trellis_pipeline.storage.local import LocalStore

        return LocalStore(folder)
    if parts.scheme == "s3":
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ConfigError(
                "an s3:// store is s3://bucket/prefix; credentials and endpoint belong to the S3 resource"
            )
        if not parts.netloc:
            raise ConfigError("an s3:// store needs a bucket: s3://bucket/prefix")
        if s3_client is None:
            raise ConfigError(
                "an s3:// store needs a client; configure the S3 resource or use a file:/// folder"
            )
        from trellis_pipeline.storage.s3 import S3Store

        return S3Store(parts.netloc, unquote(parts.path).strip("/"), s3_client)
    # The URL itself is not repeated: it may be a database URL with a password, pasted into the wrong line.
    scheme = parts.scheme or "a plain path"
    raise ConfigError(
        f"a store URL starts with file:/// or s3://, not {scheme!r}; for a folder: file:///data/models"
    )
