"""What lies in the weights folder, file by file, compared with what is published.

A file counts as there when its SHA-256 is the published one, not when its name is: a download that broke off,
a disk that lost a block and the weights of another network all have the right name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from trellis_pipeline.trellis2.published import ENCODER_REPOSITORY, RESOLUTIONS, PublishedFile, Resolution

Watch = Callable[[str, str, int, int], None]
"""Called with (what is being done, the file's place, bytes done, bytes in all). Raising ends the work."""

State = Literal["intact", "other", "missing", "damaged"]
"""other: not the published file, and meant to be another one."""

_BLOCK_BYTES = 8 << 20


def nobody(doing: str, place: str, done: int, of: int) -> None:
    """A watch for those who do not look."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One file and how it is. path: where it was looked for. reason: what is wrong with what is there."""

    file: PublishedFile
    path: Path
    state: State
    reason: str = ""

    @property
    def is_faulty(self) -> bool:
        """Whether something has to be done about it."""
        return self.state in {"missing", "damaged"}


def look_at(path: Path, file: PublishedFile, watch: Watch = nobody) -> Finding:
    """Compare one file with what is published under its name. Reads all of it, unless its size is wrong."""
    try:
        found_bytes = path.stat().st_size
        if found_bytes != file.file_bytes:
            reason = f"has {found_bytes:,} bytes instead of {file.file_bytes:,}"
            return Finding(file, path, "damaged", f"{reason}{pointer_note(path)}")
        found = sha256_of(path, lambda done: watch("checking", file.place, done, file.file_bytes))
    except FileNotFoundError:
        return Finding(file, path, "missing")
    except OSError as error:
        return Finding(file, path, "damaged", f"cannot be read: {error.strerror}")
    if found != file.sha256:
        return Finding(file, path, "damaged", f"has SHA-256 {found[:12]}… instead of {file.sha256[:12]}…")
    return Finding(file, path, "intact")


def look_through(
    weights: Path, files: Iterable[PublishedFile], watch: Watch = nobody, *, encoder: Path | None = None
) -> tuple[Finding, ...]:
    """Compare files below the weights folder, in their order.

    encoder: the folder of an image encoder that is used instead; its files may be others than the published.
    """
    return tuple(
        _look_at_chosen(encoder / file.path, file, watch)
        if encoder is not None and file.repository == ENCODER_REPOSITORY
        else look_at(weights / file.place, file, watch)
        for file in files
    )


def _look_at_chosen(path: Path, file: PublishedFile, watch: Watch) -> Finding:
    found = look_at(path, file, watch)
    return replace(found, state="other") if found.state == "damaged" else found


def complete_resolutions(findings: Iterable[Finding]) -> tuple[Resolution, ...]:
    """The resolutions for which every file among `findings` is intact."""
    faulty = {resolution for found in findings if found.is_faulty for resolution in found.file.resolutions}
    return tuple(resolution for resolution in RESOLUTIONS if resolution not in faulty)


def sha256_of(path: Path, done: Callable[[int], None]) -> str:
    """SHA-256 of a file, lower-case hex. done: is told how many bytes have been read."""
    digest, read = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            read += len(block)
            done(read)
    return digest.hexdigest()


def pointer_note(path: Path) -> str:
    """For a file that a clone without Git LFS left in place of the real one: what it is. Else empty."""
    try:
        with path.open("rb") as stream:
            start = stream.read(40)
    except OSError:
        return ""
    is_pointer = start.startswith(b"version https://git-lfs")
    return ": a Git LFS pointer, run `git lfs pull` in its folder" if is_pointer else ""
