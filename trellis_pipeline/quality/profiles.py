"""Profiles: what a target accepts, and whether a model passes there.

A record holds facts; the same model may be right for one shop and too heavy for another. A profile states
limits, `judge` holds a record against them check by check, and `verdict` sums up. Check names are stable:
they are the asset checks that users see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trellis_pipeline.quality.record import QualityRecord

Verdict = Literal["pass", "warn", "fail"]
CheckSeverity = Literal["error", "warning"]

CHECK_NAMES = ("polycount", "texture_size", "file_size", "watertight", "valid_gltf", "silhouette")


@dataclass(frozen=True, slots=True)
class Profile:
    """Limits of a target; each is inclusive.

    max_texture_px: longest side of any texture. max_file_bytes: of the GLB. require_watertight: an open or
    non-manifold surface fails instead of warning. require_valid: breaking a rule of the glTF specification
    fails instead of warning. min_silhouette_iou: 0..1, or None to leave the outline unjudged; falling short
    fails if require_silhouette, else warns.
    """

    name: str
    max_triangles: int
    max_texture_px: int
    max_file_bytes: int
    require_watertight: bool = False
    require_valid: bool = True
    min_silhouette_iou: float | None = 0.8
    require_silhouette: bool = False


# Khronos 3D Commerce 1.0, mobile catalogue: 150k triangles and 2K; Google Merchant: 2K and 15 MB.
WEB = Profile("web", max_triangles=150_000, max_texture_px=2048, max_file_bytes=15_000_000)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check of one model. severity: what a failure means. value, limit: None where there is none."""

    name: str
    passed: bool
    severity: CheckSeverity
    value: float | bool | None
    limit: float | bool | None
    message: str


def judge(record: QualityRecord, profile: Profile) -> tuple[CheckResult, ...]:
    """The checks of `CHECK_NAMES` that apply, in that order.

    `silhouette` is left out when the record has no silhouette or the profile no minimum.
    """
    results = [
        _at_most("polycount", record.triangles, profile.max_triangles, profile, "triangles"),
        _at_most("texture_size", record.max_texture_px, profile.max_texture_px, profile, "px textures"),
        _at_most("file_size", record.file_bytes, profile.max_file_bytes, profile, "bytes"),
        _watertight(record, profile),
        _valid(record, profile),
    ]
    if record.silhouette_iou is not None and profile.min_silhouette_iou is not None:
        enough = record.silhouette_iou >= profile.min_silhouette_iou
        results.append(
            CheckResult(
                "silhouette",
                enough,
                "error" if profile.require_silhouette else "warning",
                record.silhouette_iou,
                profile.min_silhouette_iou,
                f"the outline overlaps the photo's by {record.silhouette_iou:.0%}"
                + ("" if enough else f"; {profile.name} asks for {profile.min_silhouette_iou:.0%}"),
            )
        )
    return tuple(results)


def verdict(checks: Sequence[CheckResult]) -> Verdict:
    """`fail` if a check of severity error failed, `warn` if only others did, else `pass`."""
    failed = {check.severity for check in checks if not check.passed}
    return "fail" if "error" in failed else "warn" if failed else "pass"


def _at_most(name: str, value: int, limit: int, profile: Profile, unit: str) -> CheckResult:
    if name == "polycount" and value == 0:
        return CheckResult(name, False, "error", 0, limit, "the model draws no triangles at all")
    passed = value <= limit
    message = f"{value:,} {unit}, within {profile.name}'s {limit:,}"
    if not passed:
        message = f"{value:,} {unit} exceed {profile.name}'s limit of {limit:,}"
    return CheckResult(name, passed, "error", value, limit, message)


def _watertight(record: QualityRecord, profile: Profile) -> CheckResult:
    if record.watertight is None:
        message = "the geometry could not be decoded, see the findings"
    elif record.watertight:
        message = "closed: every edge belongs to two faces"
    else:
        message = (
            f"not closed: {record.boundary_edges:,} boundary edges in {record.boundary_loops or 0:,} rims, "
            f"{record.non_manifold_edges:,} non-manifold edges"
        )
    severity: CheckSeverity = "error" if profile.require_watertight else "warning"
    return CheckResult("watertight", bool(record.watertight), severity, record.watertight, True, message)


def _valid(record: QualityRecord, profile: Profile) -> CheckResult:
    message = "follows the glTF 2.0 rules that are checked"
    if not record.valid_gltf:
        broken = [finding.message for finding in record.errors if finding.code.startswith("gltf.")]
        message = f"breaks glTF 2.0: {broken[0] if broken else 'see the findings'}"
        if len(broken) > 1:
            message += f" (and {len(broken) - 1} more)"
    severity: CheckSeverity = "error" if profile.require_valid else "warning"
    return CheckResult("valid_gltf", record.valid_gltf, severity, record.valid_gltf, True, message)
