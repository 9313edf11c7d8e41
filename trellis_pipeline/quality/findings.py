"""From facts to findings: what a person who ships models would want to be told about this one.

Findings are about any target; limits of a particular one belong to its profile. Each says what is wrong and
what to do, because whoever reads it may never have opened a 3D program.
"""

from __future__ import annotations

from collections.abc import Iterator

from trellis_pipeline.mesh.glb_fields import members
from trellis_pipeline.quality.header import HeaderFacts
from trellis_pipeline.quality.record import Finding
from trellis_pipeline.quality.topology import Topology

# Google Merchant refuses textures above 2K; the Khronos auditor's recommended schema allows 5 materials
# and products of 0.01 to 100 m; Khronos 3D Commerce 1.0 aims below 20 draw calls on phones.
MERCHANT_TEXTURE_PX = 2048
RECOMMENDED_MATERIALS = 5
RECOMMENDED_DRAW_CALLS = 20
SMALLEST_M, LARGEST_M = 0.01, 100.0


def header_findings(facts: HeaderFacts) -> Iterator[Finding]:
    """Findings that the header alone gives: contents, textures, scale."""
    if facts.triangles == 0:
        yield Finding(
            "scene_empty", "error", "the default scene draws no triangles: viewers will show nothing"
        )
    if facts.draw_calls > RECOMMENDED_DRAW_CALLS:
        yield Finding(
            "draw_calls",
            "warning",
            f"{facts.draw_calls} draw calls; phones stay smooth up to {RECOMMENDED_DRAW_CALLS}: join some",
        )
    if facts.materials > RECOMMENDED_MATERIALS:
        yield Finding(
            "materials",
            "warning",
            f"{facts.materials} materials; {RECOMMENDED_MATERIALS} are recommended: bake them into one",
        )
    if facts.without_normals:
        yield Finding(
            "normals_missing",
            "warning",
            f"primitives without normals: {facts.without_normals}; viewers will shade them in flat facets",
        )
    used = [texture for texture in facts.textures if texture.slot != "unused"]
    if used and facts.without_uvs:
        yield Finding(
            "uvs_missing",
            "warning",
            f"primitives without texture coordinates: {facts.without_uvs}; textures cannot show on them",
        )
    yield from _texture_findings(facts)
    yield from _scale_findings(facts)
    if "EXT_mesh_gpu_instancing" in facts.extensions_used:
        yield Finding(
            "instancing", "info", "EXT_mesh_gpu_instancing is not expanded: its copies are counted once"
        )
    if members(facts.document, "animations", "document"):
        yield Finding("animated", "info", "the file has animations; only its rest pose is looked at")


def topology_findings(topology: Topology) -> Iterator[Finding]:
    """Findings on the decoded surface."""
    t = topology
    if t.non_finite_vertices:
        yield Finding(
            "positions_not_finite",
            "error",
            f"{_many(t.non_finite_vertices, 'vertex', 'vertices')} with a coordinate that is NaN or infinite",
        )
    if t.inverted:
        yield Finding(
            "winding_inverted",
            "error",
            "the faces point inwards (negative volume): the model shows its inside; reverse every triangle",
        )
    if t.boundary_edges:
        yield Finding(
            "open_surface",
            "warning",
            f"{_many(t.boundary_edges, 'boundary edge')} in {_many(t.boundary_loops, 'rim')}: "
            "the surface has holes",
        )
    if t.non_manifold_edges:
        yield Finding(
            "non_manifold",
            "warning",
            f"{_many(t.non_manifold_edges, 'edge')} with more than two faces: sheets meet or overlap there",
        )
    if t.orientation_conflicts:
        yield Finding(
            "orientation_conflicts",
            "warning",
            f"{_many(t.orientation_conflicts, 'edge')} between faces that disagree which side is out: "
            "patches will look black or missing in single-sided viewers",
        )
    if t.degenerate_faces:
        yield Finding(
            "degenerate_faces", "warning", f"{_many(t.degenerate_faces, 'face')} without area: drop them"
        )
    if t.duplicate_faces:
        yield Finding(
            "duplicate_faces",
            "warning",
            f"{_many(t.duplicate_faces, 'face')} that repeat another and flicker: drop them",
        )
    if t.floaters:
        yield Finding(
            "floaters",
            "warning",
            f"{t.floaters:,} of {t.components:,} parts with under 1 % of the triangles each: "
            "loose crumbs beside the product?",
        )
    if t.unused_vertices:
        yield Finding(
            "unused_vertices",
            "info",
            f"{_many(t.unused_vertices, 'vertex', 'vertices')} of no face, which only take space",
        )


def _many(count: int, one: str, several: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _texture_findings(facts: HeaderFacts) -> Iterator[Finding]:
    for texture in facts.textures:
        size = max(texture.width, texture.height)
        label = f"{texture.slot} texture {texture.width} x {texture.height} px"
        if texture.slot == "unused":
            yield Finding(
                "texture_unused",
                "warning",
                f"an image of {texture.bytes:,} bytes is used by no material: drop it",
            )
        elif size > MERCHANT_TEXTURE_PX:
            yield Finding(
                "texture_large",
                "warning",
                f"{label} exceeds the {MERCHANT_TEXTURE_PX} px of Google Merchant: make a smaller variant",
            )
        if any(side & (side - 1) for side in (texture.width, texture.height)):
            yield Finding(
                "texture_not_power_of_two",
                "info",
                f"{label} is not a power of two: older viewers resize it",
            )


def _scale_findings(facts: HeaderFacts) -> Iterator[Finding]:
    if facts.bbox_min_m is None or facts.bbox_max_m is None:
        return
    largest = max(high - low for low, high in zip(facts.bbox_min_m, facts.bbox_max_m, strict=True))
    if largest > LARGEST_M:
        yield Finding(
            "scale_large",
            "warning",
            f"the model is {largest:,.6g} m across: glTF is in metres, was it made in millimetres?",
        )
    elif 0 < largest < SMALLEST_M:
        yield Finding(
            "scale_small",
            "warning",
            f"the model is {largest * 1000:.3g} mm across: glTF is in metres, was it scaled down twice?",
        )
