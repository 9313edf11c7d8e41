"""A folder or a bucket prefix of photos as a catalog: every image is a product, its name is the SKU."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from trellis_pipeline.catalog.rows import RawRow
from trellis_pipeline.catalog.sku import sku_from_path
from trellis_pipeline.errors import CatalogError

IMAGE_EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".webp"))


def folder_rows(folder: Path) -> list[RawRow]:
    """The images below `folder` (absolute), in order of their relative paths, all with row number 0.

    Hidden files and folders are passed over, links to folders are not followed (they can form rings), and
    other kinds of files are ignored. The images themselves are not opened. Raises CatalogError if a folder
    cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise CatalogError(f"{error.filename} cannot be listed: {error.strerror}") from error

    found: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        below = parent[len(str(folder)) :].replace(os.sep, "/").strip("/")
        found += [f"{below}/{name}" if below else name for name in files if _is_image(name)]
    return [(0, {"sku": sku_from_path(path), "image": str(folder / path)}) for path in sorted(found)]


def bucket_rows(prefix: str, list_bucket: Callable[[str], Iterable[str]]) -> Iterator[RawRow]:
    """The images below an `s3://bucket/prefix`, in order of their keys, all with row number 0.

    list_bucket: gives the URL of every object whose URL starts with the prefix it is called with. What does
    not start with it, as a service may answer more, is ignored.
    """
    base = prefix.rstrip("/") + "/"
    for url in sorted({url for url in list_bucket(base) if url.startswith(base)}):
        path = url[len(base) :]
        if not any(_is_hidden(part) for part in path.split("/")) and _is_image(path):
            yield 0, {"sku": sku_from_path(path), "image": url}


def check_bucket_url(url: str) -> None:
    """Raises CatalogError if an `s3://` URL has no bucket or carries a query, as copied console links do."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise CatalogError(f"{url!r} is not a URL: {error}; write s3://bucket/prefix") from error
    if not parts.netloc or parts.query or parts.fragment:
        raise CatalogError(f"{url!r} does not name a bucket and a prefix; write s3://bucket/prefix")


def _is_image(name: str) -> bool:
    return not _is_hidden(name) and posixpath.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))
