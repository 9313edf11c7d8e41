"""Carrying a plan out: files arrive in a folder of their own, are checked, and only then get their names.

So whatever stops a fetch, a file under its name is whole. Two fetches into one folder take turns; the second
finds the work of the first done.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trellis_pipeline.errors import StorageUnavailable, WeightsInvalid, WeightsMissing
from trellis_pipeline.trellis2.published import REPOSITORIES, PublishedFile
from trellis_pipeline.weights.hub import Hub
from trellis_pipeline.weights.look import Watch, look_at, nobody, sha256_of
from trellis_pipeline.weights.plan import STAGING, FetchPlan, Step
from trellis_pipeline.weights.transfer import PAUSES_SECONDS, open_client, transfer

if TYPE_CHECKING:
    import httpx

LOCK = ".fetch.lock"
_BLOCK_BYTES = 8 << 20


def check_access(plan: FetchPlan, hub: Hub) -> None:
    """Ask the hub about every file that the plan downloads, gated repositories first; download nothing.

    Raises WeightsMissing where the user wants no network, and what `Hub.locate` raises.
    """
    wanted = [(step.file, step.hub) for step in plan.steps if step.hub]
    if wanted and hub.offline:
        size = f"{plan.download_bytes / 1e9:.1f} GB"
        raise WeightsMissing(
            f"HF_HUB_OFFLINE is set, and {len(wanted)} files ({size}) are neither in {plan.weights} nor in "
            f"{hub.cache}; first {wanted[0][0].place}. Fetch them on a machine with a network, copy the "
            "folder here, and use --source FOLDER"
        )
    for file, repository in sorted(wanted, key=lambda pair: not REPOSITORIES[pair[0].repository].gated):
        hub.locate(repository, file)


def fetch(
    plan: FetchPlan,
    hub: Hub,
    watch: Watch = nobody,
    *,
    waiting: Callable[[], None] = lambda: None,
    pauses: Sequence[float] = PAUSES_SECONDS,
) -> None:
    """Bring every file of the plan to its place.

    waiting: is called once where another fetch has the folder. pauses: see `transfer`.

    Raises WeightsInvalid for bytes that are not the published ones (they are deleted), StorageUnavailable for
    a full disk or a folder that cannot be written, and what `Hub.locate` and `transfer` raise. Finished files
    stay, and so does the beginning of the file that was under way.
    """
    try:
        plan.weights.mkdir(parents=True, exist_ok=True)
        with open_client() as client, _folder_to_itself(plan.weights, waiting):
            for step in plan.steps:
                target = plan.weights / step.file.place
                if look_at(target, step.file, watch).state == "intact":
                    continue  # another fetch brought it since the plan was made
                part = _begun(plan.weights, step.file)
                if step.local is not None:
                    _copy(step.local, part, step.file, watch)
                else:
                    _download(step, part, hub, client, watch, pauses)
                target.parent.mkdir(parents=True, exist_ok=True)
                part.replace(target)
            _remove_empty(plan.weights / STAGING)
    except OSError as error:
        raise _about_the_disk(error, plan.weights) from error


def _begun(weights: Path, file: PublishedFile) -> Path:
    """Where a file lies until it is whole. Its hash is in the name: another source may finish it."""
    part = weights / STAGING / f"{file.place}.{file.sha256[:12]}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    return part


def _copy(source: Path, part: Path, file: PublishedFile, watch: Watch) -> None:
    """A link where both are on one disk, else a copy; in both cases only of the published bytes."""
    found = sha256_of(source, lambda done: watch("checking", file.place, done, file.file_bytes))
    if found != file.sha256:
        raise WeightsInvalid(
            f"{source} has SHA-256 {found[:12]}…, the published {file.place} has {file.sha256[:12]}…; "
            "it was not taken"
        )
    part.unlink(missing_ok=True)
    try:
        # Sixteen gigabytes need not be on a disk twice. A symlink would break when its target is tidied away.
        os.link(source.resolve(), part)
    except OSError:
        with source.open("rb") as reader, part.open("wb") as writer:
            while block := reader.read(_BLOCK_BYTES):
                writer.write(block)
                watch("copying", file.place, writer.tell(), file.file_bytes)


def _download(
    step: Step, part: Path, hub: Hub, client: httpx.Client, watch: Watch, pauses: Sequence[float]
) -> None:
    file, repository = step.file, step.hub
    assert repository is not None
    for again in (part.exists(), False):
        transfer(
            client,
            lambda: hub.locate(repository, file),
            part,
            file.file_bytes,
            lambda done: watch("fetching", file.place, done, file.file_bytes),
            pauses,
            lambda have: watch("waiting for the network to fetch", file.place, have, file.file_bytes),
        )
        found = sha256_of(part, lambda done: watch("checking", file.place, done, file.file_bytes))
        if found == file.sha256:
            return
        part.unlink()
        # A beginning from another day may be what was wrong; a file that came in one go will come so again.
        if not again:
            break
    raise WeightsInvalid(
        f"what {repository} sends for {file.path} has SHA-256 {found[:12]}…, the published file has "
        f"{file.sha256[:12]}…; it was deleted"
    )


@contextmanager
def _folder_to_itself(weights: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Keep other fetches out of the folder, on this machine."""
    with (weights / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            # Some cluster file systems have no locks. Two fetches there would spoil a beginning, which the
            # hash finds out.
            if error.errno not in {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP}:
                raise
        yield


def _remove_empty(folder: Path) -> None:
    """Folders only: a beginning of a file that this plan did not want is still worth something."""
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            Path(place).rmdir()


def _about_the_disk(error: OSError, weights: Path) -> StorageUnavailable:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageUnavailable(
            f"{weights}: the disk is full; finished files are kept, make room and run the same command again"
        )
    return StorageUnavailable(f"{error.filename or weights}: {error.strerror or error}")
