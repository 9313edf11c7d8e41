"""A plan and a state of things in words: what would be fetched under which licence, and what is there.

Licences and gates are said before the first byte is fetched: nobody should find out about either afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trellis_pipeline.trellis2.published import REPOSITORIES
from trellis_pipeline.weights.look import Finding, complete_resolutions
from trellis_pipeline.weights.plan import FetchPlan, Step


def plan_text(plan: FetchPlan) -> str:
    """What a fetch would do: for each repository its licence, what is missing, how much, from where."""
    lines = [f"weights in {plan.weights}"]
    for name in _repositories(found.file.repository for found in plan.findings):
        repository = REPOSITORIES[name]
        steps = [step for step in plan.steps if step.file.repository == name]
        there = sum(found.file.repository == name for found in plan.findings) - len(steps)
        lines.append(f"{name}: {repository.what}")
        lines.append(f"  licence: {repository.licence}, {repository.licence_page}")
        if repository.gated and any(step.hub is not None and step.hub.name == name for step in steps):
            lines.append(f"  gated: its owner lets people in one by one, {repository.page}")
        if there:
            lines.append(f"  there: {_files(there)}")
        lines.extend(f"  to fetch: {text}" for text in _by_origin(steps))
    if plan.download_bytes:
        lines.append(f"to download: {size_text(plan.download_bytes)}")
    return "\n".join(lines)


def check_text(weights: Path, findings: Sequence[Finding]) -> str:
    """What is there, what is not and what is damaged, and what can be made with it."""
    lines = [f"weights in {weights}"]
    for name in _repositories(found.file.repository for found in findings):
        here = [found for found in findings if found.file.repository == name]
        intact = sum(not found.is_faulty for found in here)
        lines.append(f"{name}: {intact} of {_files(len(here))}")
        if all(found.state == "missing" for found in here):
            lines.append("  missing: all of it")
        else:
            lines.extend(_state_line(found) for found in here if found.state != "intact")
    resolutions = complete_resolutions(findings)
    lines.append(f"complete for: {', '.join(resolutions) or 'nothing'}")
    return "\n".join(lines)


def check_document(weights: Path, findings: Sequence[Finding]) -> dict[str, Any]:
    """The same as plain JSON-able data."""
    return {
        "weights": str(weights),
        "ok": not any(found.is_faulty for found in findings),
        "complete_for": list(complete_resolutions(findings)),
        "files": [
            {
                "file": found.file.place,
                "path": str(found.path),
                "state": found.state,
                "reason": found.reason,
                "bytes": found.file.file_bytes,
                "sha256": found.file.sha256,
            }
            for found in findings
        ],
    }


def _state_line(found: Finding) -> str:
    return f"  {found.state}: {found.file.path} {found.reason}".rstrip()


def size_text(size_bytes: int) -> str:
    """Decimal units, as disks and the hub count."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} bytes"


def _by_origin(steps: Sequence[Step]) -> Iterator[str]:
    for origin in dict.fromkeys(_origin(step) for step in steps):
        these = [step.file.file_bytes for step in steps if _origin(step) == origin]
        yield f"{_files(len(these))}, {size_text(sum(these))}, from {origin}"


def _origin(step: Step) -> str:
    if step.hub is not None:
        return f"the hub, {step.hub}"
    assert step.local is not None
    # The folder of the repository, not the one of each file in it.
    depth = step.file.path.count("/")
    return f"this machine, {step.local.parents[depth]}"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _repositories(names: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
