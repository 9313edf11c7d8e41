"""Is this a valid glTF 2.0 file? The rules whose breach makes viewers, shops and converters refuse a model.

Khronos' validator is the reference and needs Node; a line that checks thousands of models cannot start it for
each. Here its rules on structure, references, bounds, alignment and types are checked in Python, and those on
the data itself in `validity_data`. Animations, skins and cameras, which products do not have, are only looked
through for undeclared extensions.

Every breach is a finding with a code beginning with `gltf.`; errors make a file invalid, warnings do not.
Sections (§) are those of https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.mesh.glb_accessors import (
    COMPONENT_SIZES,
    COMPRESSED_VIEWS,
    TYPE_WIDTHS,
    accessor_format,
    data_uri_bytes,
)
from trellis_pipeline.mesh.glb_fields import (
    Json,
    child,
    entry,
    integer,
    members,
    numbers,
    optional_integer,
)
from trellis_pipeline.mesh.glb_read import GlbContainer
from trellis_pipeline.quality.header import texture_infos
from trellis_pipeline.quality.image_header import read_image_header
from trellis_pipeline.quality.record import Finding, Severity

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

# Component types and widths that each vertex attribute allows (§3.7.2.1).
_FLOAT, _NORMALIZED = {5126}, {5126, 5121, 5123}
_ATTRIBUTES: dict[str, tuple[set[int], set[str]]] = {
    "POSITION": (_FLOAT, {"VEC3"}),
    "NORMAL": (_FLOAT, {"VEC3"}),
    "TANGENT": (_FLOAT, {"VEC4"}),
    "TEXCOORD": (_NORMALIZED, {"VEC2"}),
    "COLOR": (_NORMALIZED, {"VEC3", "VEC4"}),
    "JOINTS": ({5121, 5123}, {"VEC4"}),
    "WEIGHTS": (_NORMALIZED, {"VEC4"}),
}
_QUANTIZED = {5120, 5121, 5122, 5123, 5126}

Report = Callable[..., None]


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
        ("buffers", _check_buffer),
        ("bufferViews", _check_view),
        ("accessors", _check_accessor),
        ("images", _check_image),
        ("textures", _check_texture),
        ("materials", _check_material),
        ("meshes", _check_mesh),
        ("nodes", _check_node),
        ("scenes", _check_scene),
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


def _check_buffer(container: GlbContainer, buffer: Json, where: str, report: Report) -> None:
    length = integer(buffer, "byteLength", where)
    uri = buffer.get("uri")
    if length < 1:
        report("buffer_length", f"{where}.byteLength must be at least 1")
    if uri is not None:
        held = len(data_uri_bytes(uri, where)[0])
        if held < length:
            report("buffer_length", f"{where} claims {length} bytes, its data: URI holds {held}")
    elif where != "buffers[0]":
        report("buffer_missing", f"{where} has no data: only buffers[0] is stored in a GLB")
    elif length > len(container.binary):
        report(
            "buffer_length", f"{where} claims {length} bytes; the binary chunk has {len(container.binary)}"
        )
    elif len(container.binary) - length > 3:
        spare = len(container.binary) - length
        report("buffer_unused", f"{spare} bytes of the binary chunk belong to no buffer", "warning")


def _check_view(container: GlbContainer, view: Json, where: str, report: Report) -> None:
    owner = entry(container.document, "buffers", view.get("buffer"), f"{where}.buffer")
    offset, length = integer(view, "byteOffset", where, default=0), integer(view, "byteLength", where)
    if length < 1:
        report("view_length", f"{where}.byteLength must be at least 1")
    if offset + length > integer(owner, "byteLength", f"{where}.buffer"):
        report("view_out_of_bounds", f"{where} ends at byte {offset + length}, past the end of its buffer")
    stride = optional_integer(view, "byteStride", where)
    if stride is not None and (not 4 <= stride <= 252 or stride % 4):
        report("view_stride", f"{where}.byteStride is {stride}; it must be a multiple of 4 in 4..252")
    target = optional_integer(view, "target", where)
    if target not in {None, 34962, 34963}:
        report("view_target", f"{where}.target {target} is not one of glTF's", "warning")


def _check_accessor(container: GlbContainer, accessor: Json, where: str, report: Report) -> None:
    kind = accessor.get("type")
    if isinstance(kind, str) and kind in {"MAT2", "MAT3", "MAT4"}:
        return  # used by skins only
    component, width = accessor_format(accessor, where)
    size = COMPONENT_SIZES[component]
    count = integer(accessor, "count", where)
    offset = integer(accessor, "byteOffset", where, default=0)
    if count < 1:
        report("accessor_count", f"{where}.count must be at least 1")
    if accessor.get("normalized") is True and component in {5125, 5126}:
        report("accessor_normalized", f"{where} is normalized, which floats and 32-bit integers cannot be")
    for key in ("min", "max"):
        numbers(accessor, key, width, where)
    if accessor.get("bufferView") is None:
        return
    view = entry(container.document, "bufferViews", accessor["bufferView"], f"{where}.bufferView")
    start = integer(view, "byteOffset", f"{where}.bufferView", default=0)
    stride = integer(view, "byteStride", f"{where}.bufferView", default=0) or width * size
    if offset % size or (start + offset) % size or stride % size:
        report("accessor_alignment", f"{where} is not aligned to its components' {size} bytes")
    if stride < width * size:
        report("accessor_stride", f"{where} has elements of {width * size} bytes in a stride of {stride}")
    end = offset + (count - 1) * stride + width * size
    if end > integer(view, "byteLength", f"{where}.bufferView"):
        report("accessor_out_of_bounds", f"{where} ends at byte {end} of its bufferView, past its end")


def _check_image(container: GlbContainer, image: Json, where: str, report: Report) -> None:
    declared = image.get("mimeType")
    if image.get("bufferView") is not None:
        if "uri" in image:
            report("image_source", f"{where} has both a uri and a bufferView")
        view = entry(container.document, "bufferViews", image["bufferView"], f"{where}.bufferView")
        if declared is None:
            report("image_mime", f"{where} lies in a bufferView and must declare its mimeType")
        start, length = integer(view, "byteOffset", where, default=0), integer(view, "byteLength", where)
        if view.get("buffer") != 0 or start + length > len(container.binary):
            return  # reported with the bufferView
        data: bytes | memoryview = container.binary[start : start + length]
    elif "uri" in image:
        data, uri_mime = data_uri_bytes(image["uri"], where)
        declared = declared or uri_mime
    else:
        report("image_source", f"{where} has neither a uri nor a bufferView")
        return
    header = read_image_header(lambda offset, length: data[offset : offset + length], len(data))
    if header is None:
        report("image_unreadable", f"{where} is not a readable PNG, JPEG, WebP or KTX2 image")
    elif declared and declared != header.mime:
        report("image_mime", f"{where} declares {str(declared)[:40]} and holds {header.mime}")


def _check_texture(container: GlbContainer, texture: Json, where: str, report: Report) -> None:
    source = texture.get("source")
    if source is not None:
        image = entry(container.document, "images", source, f"{where}.source")
        if image.get("mimeType") in ("image/webp", "image/ktx2", "image/avif"):
            report("texture_source", f"{where} points at a {image['mimeType']} image without its extension")
    for name, extension in (child(texture, "extensions", where) or {}).items():
        if isinstance(extension, dict) and "source" in extension:
            entry(container.document, "images", extension["source"], f"{where}.{name[:40]}.source")
    if texture.get("sampler") is not None:
        entry(container.document, "samplers", texture["sampler"], f"{where}.sampler")


def _check_material(container: GlbContainer, material: Json, where: str, report: Report) -> None:
    for name, info in texture_infos(material):
        entry(container.document, "textures", info["index"], f"{where}.{name}.index")
        integer(info, "texCoord", f"{where}.{name}", default=0)
    mode = material.get("alphaMode", "OPAQUE")
    if mode not in ("OPAQUE", "MASK", "BLEND"):
        report("material_alpha", f"{where}.alphaMode must be OPAQUE, MASK or BLEND", "warning")
    pbr = child(material, "pbrMetallicRoughness", where) or {}
    factors = [
        *(numbers(pbr, "baseColorFactor", 4, where) or ()),
        *(numbers(material, "emissiveFactor", 3, where) or ()),
        *(value for key in ("metallicFactor", "roughnessFactor") if (value := pbr.get(key)) is not None),
    ]
    for value in factors:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            report("material_factor", f"{where} has a factor outside of 0..1")
            break


def _check_mesh(container: GlbContainer, mesh: Json, where: str, report: Report) -> None:
    document = container.document
    primitives = members(mesh, "primitives", where)
    if not primitives:
        report("mesh_empty", f"{where} has no primitives")
    quantized = "KHR_mesh_quantization" in members(document, "extensionsUsed", "document")
    for index, primitive in enumerate(primitives):
        if not isinstance(primitive, dict):
            report("malformed", f"{where}.primitives[{index}] must be an object")
            continue
        name = f"{where}.primitives[{index}]"
        if integer(primitive, "mode", name, default=4) > 6:
            report("primitive_mode", f"{name}.mode must be in 0..6")
        if primitive.get("material") is not None:
            entry(document, "materials", primitive["material"], f"{name}.material")
        attributes = child(primitive, "attributes", name) or {}
        if "POSITION" not in attributes:
            report("primitive_position", f"{name} has no POSITION, so nothing is drawn", "warning")
        counts = set()
        for attribute, target in attributes.items():
            accessor = entry(document, "accessors", target, f"{name}.{attribute[:40]}")
            counts.add(integer(accessor, "count", f"{name}.{attribute[:40]}"))
            _check_attribute(
                document, accessor, attribute, f"{name}.{attribute[:40]}", report, quantized=quantized
            )
        if len(counts) > 1:
            report("attribute_counts", f"{name} has attributes of different lengths")
        if primitive.get("indices") is not None:
            _check_indices(document, primitive["indices"], f"{name}.indices", report)


def _check_attribute(
    document: Json, accessor: Json, attribute: str, where: str, report: Report, *, quantized: bool
) -> None:
    components, kinds = _ATTRIBUTES.get(attribute.partition("_")[0], (_QUANTIZED, set(TYPE_WIDTHS)))
    if quantized and attribute.partition("_")[0] in {"POSITION", "NORMAL", "TANGENT", "TEXCOORD"}:
        components = _QUANTIZED  # KHR_mesh_quantization
    component, width = accessor_format(accessor, where)
    if component not in components or accessor["type"] not in kinds:
        report(
            "attribute_format", f"{where} is of a component type or type that {attribute[:40]} cannot have"
        )
    if attribute == "POSITION" and ("min" not in accessor or "max" not in accessor):
        report("position_bounds", f"{where} must state min and max")
    view_index = accessor.get("bufferView")
    if view_index is None:
        return
    view = entry(document, "bufferViews", view_index, f"{where}.bufferView")
    if any(name in (child(view, "extensions", where) or {}) for name in COMPRESSED_VIEWS):
        return
    stride = integer(view, "byteStride", where, default=0) or width * COMPONENT_SIZES[component]
    if integer(accessor, "byteOffset", where, default=0) % 4 or stride % 4:
        report("attribute_alignment", f"{where} does not start each vertex on a multiple of 4 bytes")
    if view.get("target") == 34963:
        report("view_target", f"{where} lies in a bufferView meant for indices")


def _check_indices(document: Json, index: object, where: str, report: Report) -> None:
    accessor = entry(document, "accessors", index, where)
    component, width = accessor_format(accessor, where)
    if width != 1 or component not in {5121, 5123, 5125}:
        report("indices_format", f"{where} must be scalars of 8, 16 or 32 unsigned bits")
    if accessor.get("normalized") is True:
        report("indices_format", f"{where} must not be normalized")
    if accessor.get("bufferView") is not None:
        view = entry(document, "bufferViews", accessor["bufferView"], f"{where}.bufferView")
        if view.get("target") == 34962 or view.get("byteStride") is not None:
            report("view_target", f"{where} lies in a bufferView meant for vertex attributes")


def _check_node(container: GlbContainer, node: Json, where: str, report: Report) -> None:
    document = container.document
    for key, collection in (("mesh", "meshes"), ("camera", "cameras"), ("skin", "skins")):
        if node.get(key) is not None:
            entry(document, collection, node[key], f"{where}.{key}")
    for item in members(node, "children", where):
        entry(document, "nodes", item, f"{where}.children")
    matrix = numbers(node, "matrix", 16, where)
    if matrix is not None and any(key in node for key in ("translation", "rotation", "scale")):
        report("node_transform", f"{where} has both a matrix and a translation, rotation or scale")
    numbers(node, "translation", 3, where)
    numbers(node, "scale", 3, where)
    rotation = numbers(node, "rotation", 4, where)
    if rotation is not None and not abs(sum(value * value for value in rotation) - 1) < 1e-3:
        report("node_transform", f"{where}.rotation is not a unit quaternion")


def _check_scene(container: GlbContainer, scene: Json, where: str, report: Report) -> None:
    roots = members(scene, "nodes", where)
    for item in roots:
        entry(container.document, "nodes", item, f"{where}.nodes")
    if len(set(roots)) != len(roots):
        report("scene_nodes", f"{where} lists a node twice")


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
