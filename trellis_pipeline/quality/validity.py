"""Is this a valid glTF 2.0 file? The rules whose breach makes viewers, shops and converters refuse a model.

Khronos' validator is the reference and needs Node; a line that checks thousands of models cannot start it for
each. Here its rules on structure, references, bounds, alignment and types are checked in Python (those on
single objects stand in `validity_rules`), and those on the data itself in `validity_data`. Animations, skins
and cameras, which products do not have, are only looked through for undeclared extensions.

Every breach is a finding with a code beginning with `gltf.`; errors make a file invalid, warnings do not.
Sections (§) are those of https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.mesh.glb_container import GlbContainer
from trellis_pipeline.mesh.glb_fields import Json, child, entry, members
from trellis_pipeline.quality.record import Finding, Severity
from trellis_pipeline.quality.validity_rules import (
    Report,
    check_accessor,
    check_buffer,
    check_image,
    check_material,
    check_mesh,
    check_node,
    check_scene,
    check_texture,
    check_view,
)

# Extensions that common viewers read. A file that requires any other opens nowhere.
READABLE_EXTENSIONS = frozenset(
    {
        "EXT_mesh_gpu_instancing",
        "EXT_meshopt_compression",
        "EXT_texture_webp",
        "KHR_draco_mesh_compression",
        "KHR_lights_punctual",
        "KHR_materials_anisotropy",
        "KHR_materials_clearcoat",
        "KHR_materials_dispersion",
        "KHR_materials_emissive_strength",
        "KHR_materials_ior",
        "KHR_materials_iridescence",
        "KHR_materials_sheen",
        "KHR_materials_specular",
        "KHR_materials_transmission",
        "KHR_materials_unlit",
        "KHR_materials_variants",
        "KHR_materials_volume",
        "KHR_mesh_quantization",
        "KHR_meshopt_compression",
        "KHR_texture_basisu",
        "KHR_texture_transform",
        "KHR_xmp_json_ld",
    }
)
MAX_FINDINGS = 100


def check_structure(container: GlbContainer) -> tuple[Finding, ...]:
    """Findings on everything but the values that accessors hold. At most MAX_FINDINGS. Never raises."""
    findings: list[Finding] = []

    def report(code: str, message: str, severity: Severity = "error") -> None:
        if len(findings) < MAX_FINDINGS:
            findings.append(Finding(f"gltf.{code}", severity, message))

    document = container.document
    if container.binary_offset % 4:
        report("chunk_alignment", "the binary chunk does not begin on a multiple of 4 bytes")
    _guarded(report, lambda: _check_asset(document, report))
    _guarded(report, lambda: _check_extensions(document, report))
    for collection, check in (
        ("buffers", check_buffer),
        ("bufferViews", check_view),
        ("accessors", check_accessor),
        ("images", check_image),
        ("textures", check_texture),
        ("materials", check_material),
        ("meshes", check_mesh),
        ("nodes", check_node),
        ("scenes", check_scene),
    ):
        for index, item in _items(document, collection, report):
            if len(findings) >= MAX_FINDINGS:
                return tuple(findings)
            _guarded(report, _bound(check, container, item, f"{collection}[{index}]", report))
    _guarded(report, lambda: _check_hierarchy(document, report))
    return tuple(findings)


def _bound(check: Any, container: GlbContainer, item: Json, where: str, report: Report) -> Callable[[], None]:
    return lambda: check(container, item, where, report)


def _guarded(report: Report, check: Callable[[], None]) -> None:
    try:
        check()
    except ModelFileError as error:
        report("malformed", str(error))


def _items(document: Json, collection: str, report: Report) -> Iterator[tuple[int, Json]]:
    items = document.get(collection)
    if items is None:
        return
    if not isinstance(items, list) or not items:
        report("malformed", f"{collection} must be an array with something in it, or be left out")
        return
    for index, item in enumerate(items):
        if isinstance(item, dict):
            yield index, item
        else:
            report("malformed", f"{collection}[{index}] must be an object")


def _check_asset(document: Json, report: Report) -> None:
    asset = child(document, "asset", "document")
    version = asset.get("version") if asset else None
    if not isinstance(version, str) or not re.fullmatch(r"[0-9]+\.[0-9]+", version):
        report("asset_version", "asset.version is missing; it must be the string 2.0")
    elif not version.startswith("2."):
        report("asset_version", f"asset.version is {version[:20]}; only glTF 2 is known")


def _check_extensions(document: Json, report: Report) -> None:
    used = {name for name in members(document, "extensionsUsed", "document") if isinstance(name, str)}
    required = {name for name in members(document, "extensionsRequired", "document") if isinstance(name, str)}
    for name in sorted(required - used):
        report("extension_undeclared", f"{name[:80]} is required but not listed in extensionsUsed")
    for name in sorted(required - READABLE_EXTENSIONS):
        report("extension_unknown", f"the file requires {name[:80]}, which common viewers do not read")
    found: set[str] = set()
    waiting: list[Any] = [document]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            inner = item.get("extensions")
            if isinstance(inner, dict):
                found.update(inner)
            waiting.extend(value for key, value in item.items() if key != "extras")
        elif isinstance(item, list):
            waiting.extend(value for value in item if isinstance(value, dict | list))
    for name in sorted(found - used):
        report("extension_undeclared", f"{name[:80]} is used but not listed in extensionsUsed")


def _check_hierarchy(document: Json, report: Report) -> None:
    """Each node has one parent at most and no node is its own ancestor (§3.5.2)."""
    nodes = members(document, "nodes", "document")
    parent: dict[int, int] = {}
    for index, node in enumerate(nodes):
        for item in node.get("children") or () if isinstance(node, dict) else ():
            if not isinstance(item, int):
                return  # reported with the node
            if item in parent:
                report("node_hierarchy", f"nodes[{item}] is the child of two nodes")
                return
            parent[item] = index
    settled: set[int] = set()
    for index in range(len(nodes)):
        path: set[int] = set()
        at: int | None = index
        while at is not None and at not in settled:
            if at in path:
                report("node_hierarchy", f"nodes[{at}] is its own ancestor")
                return
            path.add(at)
            at = parent.get(at)
        settled |= path
    scene = document.get("scene")
    if scene is not None:
        entry(document, "scenes", scene, "document.scene")
    for index, item in enumerate(members(document, "scenes", "document")):
        if isinstance(item, dict) and any(
            root in parent for root in members(item, "nodes", f"scenes[{index}]")
        ):
            report("scene_nodes", f"scenes[{index}] lists a node that is another node's child")
