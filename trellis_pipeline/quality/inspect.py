"""The quality record of any GLB: header, geometry, rules and outline in one call.

Each tier checks the one before. The header says how many triangles there are; the decoded geometry shows
whether that is true. A file whose container cannot be read raises; whatever else is wrong, a record comes
back with findings, so that a gate can refuse the model and a person can read why.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.mesh.glb_container import parse_glb
from trellis_pipeline.mesh.glb_read import Primitive, read_primitives
from trellis_pipeline.quality.findings import header_findings, topology_findings
from trellis_pipeline.quality.header import HeaderFacts, container_facts
from trellis_pipeline.quality.record import Finding, QualityRecord, Severity
from trellis_pipeline.quality.topology import Topology, measure_primitives
from trellis_pipeline.quality.validity import check_structure
from trellis_pipeline.quality.validity_data import check_data

MAX_FILE_BYTES = 2 * 2**30
MAX_OF_A_KIND = 10

_RANK: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}


def inspect_glb(data: bytes | Path, *, crop_alpha: npt.NDArray[np.uint8] | None = None) -> QualityRecord:
    """The quality record of a GLB in memory or on disk.

    crop_alpha: (H, W) uint8, the alpha of the crop it was made from; with it the silhouette is compared.
    Findings are sorted, errors first. Deterministic: the same bytes give the same record.

    Raises ModelFileError if the file cannot be opened, has more than MAX_FILE_BYTES, or is no GLB: a
    container or JSON that cannot be parsed, or whose scene refers to what is not there. Geometry that cannot
    be decoded (out of bounds, compressed) is a finding, with every topology field None.
    """
    content = _load(data) if isinstance(data, Path) else data
    if len(content) > MAX_FILE_BYTES:
        raise ModelFileError(f"the file has {len(content):,} bytes; at most {MAX_FILE_BYTES:,} are inspected")
    container = parse_glb(content)
    header = container_facts(container)
    findings = list(header_findings(header))
    rules = check_structure(container)
    if not any(finding.severity == "error" for finding in rules):
        rules += check_data(container)
    findings += rules
    topology, silhouette = None, None
    try:
        primitives = read_primitives(container)
    except ModelFileError as error:
        findings.append(_undecoded(error))
    else:
        topology = measure_primitives(primitives)
        findings += topology_findings(topology)
        findings += _contradictions(header, topology)
        if crop_alpha is not None:
            silhouette = _silhouette(primitives, crop_alpha)
    findings = sorted(_thinned(findings), key=lambda finding: _RANK[finding.severity])
    valid = not any(finding.severity == "error" for finding in rules)
    return _record(header, topology, tuple(findings), valid_gltf=valid, silhouette_iou=silhouette)


def _load(path: Path) -> bytes:
    try:
        if not path.is_file():  # opening a pipe would wait for its other end
            raise ModelFileError(f"{path} cannot be read: there is no such file")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ModelFileError(f"{path} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are inspected")
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from error


def _undecoded(error: ModelFileError) -> Finding:
    compressed = "compressed with" in str(error)
    return Finding(
        "geometry_compressed" if compressed else "geometry_unreadable",
        "warning" if compressed else "error",
        f"the geometry was not decoded: {error}",
    )


def _contradictions(header: HeaderFacts, topology: Topology) -> list[Finding]:
    """Where the decoded geometry gives the header the lie."""
    found: list[Finding] = []
    pairs = (
        ("triangles", header.triangles, topology.triangles),
        ("vertices", header.vertices, topology.vertices),
    )
    for name, claimed, actual in pairs:
        if claimed != actual:
            found.append(
                Finding(
                    "count_untrue", "error", f"the header declares {claimed:,} {name}; {actual:,} are there"
                )
            )
    return found


def _thinned(findings: list[Finding]) -> list[Finding]:
    """At most MAX_OF_A_KIND findings with the same code, the last of them saying how many more there are."""
    counts = Counter(finding.code for finding in findings)
    kept: list[Finding] = []
    seen: Counter[str] = Counter()
    for finding in findings:
        seen[finding.code] += 1
        more = counts[finding.code] - MAX_OF_A_KIND
        if seen[finding.code] < MAX_OF_A_KIND or (seen[finding.code] == MAX_OF_A_KIND and more == 0):
            kept.append(finding)
        elif seen[finding.code] == MAX_OF_A_KIND:
            kept.append(replace(finding, message=f"{finding.message} (and {more:,} more like it)"))
    return kept


def _silhouette(primitives: tuple[Primitive, ...], crop_alpha: npt.NDArray[np.uint8]) -> float:
    from trellis_pipeline.quality.fidelity import silhouette_iou

    if not primitives:
        return 0.0
    offsets = np.cumsum([0, *(len(primitive.positions) for primitive in primitives[:-1])])
    positions = np.concatenate([primitive.positions for primitive in primitives])
    pairs = zip(primitives, offsets, strict=True)
    return silhouette_iou(
        positions, np.concatenate([item.triangles + np.int32(at) for item, at in pairs]), crop_alpha
    )


def _record(
    header: HeaderFacts,
    topology: Topology | None,
    findings: tuple[Finding, ...],
    *,
    valid_gltf: bool,
    silhouette_iou: float | None,
) -> QualityRecord:
    low = topology.bbox_min_m if topology else header.bbox_min_m
    high = topology.bbox_max_m if topology else header.bbox_max_m
    size = None
    if low is not None and high is not None:
        size = (high[0] - low[0], high[1] - low[1], high[2] - low[2])
    return QualityRecord(
        triangles=topology.triangles if topology else header.triangles,
        vertices=topology.vertices if topology else header.vertices,
        meshes=header.meshes,
        primitives=header.primitives,
        materials=header.materials,
        textures=header.textures,
        max_texture_px=max((max(item.width, item.height) for item in header.textures), default=0),
        file_bytes=header.file_bytes,
        bbox_m=size,
        watertight=topology.watertight if topology else None,
        boundary_edges=topology.boundary_edges if topology else None,
        non_manifold_edges=topology.non_manifold_edges if topology else None,
        orientation_conflicts=topology.orientation_conflicts if topology else None,
        degenerate_faces=topology.degenerate_faces if topology else None,
        duplicate_faces=topology.duplicate_faces if topology else None,
        components=topology.components if topology else None,
        findings=findings,
        valid_gltf=valid_gltf,
        bbox_min_m=low,
        bbox_max_m=high,
        boundary_loops=topology.boundary_loops if topology else None,
        largest_component_share=topology.largest_component_share if topology else None,
        welded_vertices=topology.welded_vertices if topology else None,
        euler_characteristic=topology.euler_characteristic if topology else None,
        area_m2=topology.area_m2 if topology else None,
        signed_volume_m3=topology.signed_volume_m3 if topology else None,
        silhouette_iou=silhouette_iou,
        draw_calls=header.draw_calls,
        nodes=header.nodes,
        texture_vram_bytes=sum(item.vram_bytes for item in header.textures),
        generator=header.generator,
        extensions_used=header.extensions_used,
        extensions_required=header.extensions_required,
    )
