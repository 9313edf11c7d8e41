"""The rules for single objects of a glTF document: one function a kind, reporting each breach.

A function gets the container, one object, its name for messages, and `report(code, message, severity)`.
What is not of the right type at all raises ModelFileError, which `validity` turns into a finding.
"""

from __future__ import annotations

from collections.abc import Callable

from trellis_pipeline.mesh.glb_accessors import (
    COMPONENT_SIZES,
    COMPRESSED_VIEWS,
    TYPE_WIDTHS,
    accessor_format,
    data_uri_bytes,
)
from trellis_pipeline.mesh.glb_container import GlbContainer
from trellis_pipeline.mesh.glb_fields import (
    Json,
    child,
    entry,
    integer,
    members,
    numbers,
    optional_integer,
)
from trellis_pipeline.mesh.image_header import read_image_header
from trellis_pipeline.quality.header import texture_infos

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


def check_buffer(container: GlbContainer, buffer: Json, where: str, report: Report) -> None:
    """Its length, its data inside the file (§3.6.1)."""
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


def check_view(container: GlbContainer, view: Json, where: str, report: Report) -> None:
    """Inside its buffer, stride and target allowed (§3.6.1)."""
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


def check_accessor(container: GlbContainer, accessor: Json, where: str, report: Report) -> None:
    """Type, alignment, and all elements inside its bufferView (§3.6.2)."""
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


def check_image(container: GlbContainer, image: Json, where: str, report: Report) -> None:
    """One source, inside the file, of the type it declares (§3.8.2)."""
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


def check_texture(container: GlbContainer, texture: Json, where: str, report: Report) -> None:
    """Refers to an image and a sampler that exist (§3.8.1)."""
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


def check_material(container: GlbContainer, material: Json, where: str, report: Report) -> None:
    """Textures that exist, factors in range (§3.9)."""
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


def check_mesh(container: GlbContainer, mesh: Json, where: str, report: Report) -> None:
    """Each primitive: mode, material, attributes and indices (§3.7.2)."""
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


def check_node(container: GlbContainer, node: Json, where: str, report: Report) -> None:
    """References, and a transform stated one way (§3.5)."""
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


def check_scene(container: GlbContainer, scene: Json, where: str, report: Report) -> None:
    """Refers to nodes that exist, each once (§3.5.1)."""
    roots = members(scene, "nodes", where)
    for item in roots:
        entry(container.document, "nodes", item, f"{where}.nodes")
    if len(set(roots)) != len(roots):
        report("scene_nodes", f"{where} lists a node twice")
