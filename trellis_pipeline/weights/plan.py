"""What a fetch would do, worked out before anything is asked of the network.

Whoever is about to download sixteen gigabytes wants to know first how many, from whom, under what licence,
and whether the disk has room. So the plan is a value that can be printed, refused or carried out.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trellis_pipeline.errors import StorageUnavailable, WeightsInvalid
from trellis_pipeline.trellis2.published import PublishedFile
from trellis_pipeline.weights.look import Finding, Watch, look_through, nobody, pointer_note
from trellis_pipeline.weights.sources import HubRepository, Sources

STAGING = ".fetch"
"""Folder, below the weights folder, of what is not finished."""

# What a disk should have left when everything is fetched; a full disk hurts more than this program.
SPARE_BYTES = 256 << 20

FindInCache = Callable[[HubRepository, str], Path | None]


@dataclass(frozen=True, slots=True)
class Step:
    """One file to bring: `local`, a path on this machine, or `hub`, a repository. Exactly one is set."""

    file: PublishedFile
    local: Path | None = None
    hub: HubRepository | None = None


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """findings: how every wanted file is now. steps: what to bring, in that order."""

    weights: Path
    findings: tuple[Finding, ...]
    steps: tuple[Step, ...]

    @property
    def download_bytes(self) -> int:
        """Bytes that come over the network, those of a broken download included that are here already."""
        return sum(step.file.file_bytes for step in self.steps if step.hub)

    @property
    def local_bytes(self) -> int:
        """Bytes that are on this machine already, elsewhere."""
        return sum(step.file.file_bytes for step in self.steps if step.local)


def plan_fetch(
    weights: Path,
    files: tuple[PublishedFile, ...],
    sources: Sources,
    in_cache: FindInCache,
    watch: Watch = nobody,
) -> FetchPlan:
    """Look at what is there, and find a source for what is not. Asks nothing of the network.

    in_cache: finds a file in the hub's own cache on this machine.

    Raises ConfigError for a folder without the wanted files, WeightsInvalid for one with another file under
    a wanted name.
    """
    sources.require_model_in(files)
    findings = look_through(weights, files, watch)
    steps = [_step(found, sources, in_cache) for found in findings if found.state != "intact"]
    # Small ones first: descriptions, and what a gate may keep from us, come before the gigabytes.
    return FetchPlan(weights, findings, tuple(sorted(steps, key=lambda step: step.file.file_bytes)))


def _step(found: Finding, sources: Sources, in_cache: FindInCache) -> Step:
    file = found.file
    local = sources.in_folders(file)
    # Whoever names the weights folder itself does not want its damaged files once more.
    if local is not None and not (found.path.exists() and local.samefile(found.path)):
        found_bytes = local.stat().st_size
        if found_bytes != file.file_bytes:
            raise WeightsInvalid(
                f"{local} has {found_bytes:,} bytes; the published {file.place} has "
                f"{file.file_bytes:,}{pointer_note(local)}"
            )
        return Step(file, local=local)
    hub = sources.on_hub(file)
    cached = in_cache(hub, file.path)
    if cached is not None and cached.stat().st_size == file.file_bytes:
        return Step(file, local=cached)
    return Step(file, hub=hub)


def check_room(plan: FetchPlan) -> None:
    """Raise StorageUnavailable where the disk has no room for what the plan brings."""
    there = existing_parent(plan.weights)
    staged = sum(path.stat().st_size for path in (plan.weights / STAGING).rglob("*") if path.is_file())
    copied = sum(
        step.file.file_bytes
        for step in plan.steps
        if step.local and step.local.stat().st_dev != there.stat().st_dev
    )
    needed = max(0, plan.download_bytes - staged) + copied
    free = shutil.disk_usage(there).free
    if plan.steps and needed + SPARE_BYTES > free:
        raise StorageUnavailable(
            f"{plan.weights}: {needed / 1e9:.1f} GB are to be written, and {free / 1e9:.1f} GB are free; "
            "make room, choose another folder with --weights, or take one resolution with --only-mode 512"
        )


def existing_parent(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    absolute = path.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())
