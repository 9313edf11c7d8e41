"""The quality record: everything known about a GLB, as plain data that outlives the file.

It is stored beside the model, shown in the UI, judged against profiles and printed by `inspect`, so it
holds facts and findings but no verdict: a verdict depends on the target. A fact that could not be
determined (the geometry is compressed, say) is None, never a comforting zero.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
Vec3 = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth knowing. code: stable, for machines. message: names the thing and the way out."""

    code: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True)
class TextureFacts:
    """One image of the file.

    slot: where materials use it: `baseColor`, `metallicRoughness`, `normal`, `occlusion`, `emissive` or an
    extension's name for it, joined by `+` when it serves several; `unused` when none does. width, height:
    pixels, 0 if the image's header cannot be read. bytes: encoded size. vram_bytes: width * height * 4 * 4/3,
    an uncompressed RGBA texture with its mipmaps.
    """

    slot: str
    width: int
    height: int
    mime: str
    bytes: int
    vram_bytes: int


@dataclass(frozen=True, slots=True)
class QualityRecord:
    """What is known about one GLB.

    triangles, vertices: as drawn, instances counted. meshes, primitives, materials: entries in the file;
    draw_calls: triangle primitives drawn. bbox_m: size along x, y, z in metres; bbox_min_m, bbox_max_m: its
    corners.

    The topology (None when the geometry could not be decoded) is that of the surface after vertices at
    exactly the same position are joined, since UV seams split them: watertight means that every edge
    belongs to exactly two faces; boundary edges to one, in boundary_loops connected rims; non-manifold
    edges to more than two; an orientation conflict is an edge whose two faces disagree about inside and
    outside. components: parts connected through shared vertices; largest_component_share: of all
    triangles. signed_volume_m3: negative when faces point inwards; meaningful where the surface is closed.

    valid_gltf: none of the specification's rules that are checked here is broken.
    silhouette_iou: overlap with the crop's outline in 0..1, None when no crop was given.
    """

    triangles: int
    vertices: int
    meshes: int
    primitives: int
    materials: int
    textures: tuple[TextureFacts, ...]
    max_texture_px: int
    file_bytes: int
    bbox_m: Vec3 | None
    watertight: bool | None
    boundary_edges: int | None
    non_manifold_edges: int | None
    orientation_conflicts: int | None
    degenerate_faces: int | None
    duplicate_faces: int | None
    components: int | None
    findings: tuple[Finding, ...]
    valid_gltf: bool
    bbox_min_m: Vec3 | None = None
    bbox_max_m: Vec3 | None = None
    boundary_loops: int | None = None
    largest_component_share: float | None = None
    welded_vertices: int | None = None
    euler_characteristic: int | None = None
    area_m2: float | None = None
    signed_volume_m3: float | None = None
    silhouette_iou: float | None = None
    draw_calls: int = 0
    nodes: int = 0
    texture_vram_bytes: int = 0
    generator: str = ""
    extensions_used: tuple[str, ...] = ()
    extensions_required: tuple[str, ...] = ()

    def to_json_dict(self) -> dict[str, Any]:
        """The record as JSON-able data: the keys are the field names, tuples become lists."""
        plain = asdict(self)
        return {key: _listed(value) for key, value in plain.items()}

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings of severity `error`."""
        return tuple(finding for finding in self.findings if finding.severity == "error")


def _listed(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_listed(item) for item in value]
    return value
