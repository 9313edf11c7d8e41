"""A quality record for the eye: what `inspect` prints when nobody asked for JSON."""

from __future__ import annotations

from trellis_pipeline.quality.record import QualityRecord

_MARKS = {"error": "error  ", "warning": "warning", "info": "note   "}


def record_text(record: QualityRecord, *, title: str = "") -> str:
    """The record as several lines of plain text, no newline at the end. title: a heading, often the path."""
    lines = [title] if title else []
    lines += [
        _row("geometry", f"{record.triangles:,} triangles, {record.vertices:,} vertices"),
        _row(
            "structure",
            f"{_many(record.meshes, 'mesh', 'meshes')}, {_many(record.primitives, 'primitive')}, "
            f"{_many(record.draw_calls, 'draw call')}, {_many(record.materials, 'material')}",
        ),
        _row("size", _size(record)),
        _row("surface", _surface(record)),
        _row(
            "file",
            f"{_bytes(record.file_bytes)}, textures take {_bytes(record.texture_vram_bytes)} of GPU memory",
        ),
    ]
    for texture in record.textures:
        pixels = f"{texture.width} x {texture.height} px" if texture.width else "unreadable"
        lines.append(_row("texture", f"{texture.slot}: {pixels}, {texture.mime}, {_bytes(texture.bytes)}"))
    if record.silhouette_iou is not None:
        lines.append(_row("silhouette", f"overlaps the photo's outline by {record.silhouette_iou:.1%}"))
    if record.generator:
        lines.append(_row("made by", record.generator))
    lines.append(_row("glTF 2.0", "valid" if record.valid_gltf else "not valid"))
    lines += [f"  {_MARKS[finding.severity]}  {finding.message}" for finding in record.findings]
    if not record.findings:
        lines.append("  nothing to complain about")
    return "\n".join(_printable(line) for line in lines)


def _row(name: str, value: str) -> str:
    return f"{name:<11} {value}"


def _many(count: int, one: str, several: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _size(record: QualityRecord) -> str:
    if record.bbox_m is None:
        return "unknown"
    return " x ".join(_length(side) for side in record.bbox_m) + " (width x height x depth)"


def _length(metres: float) -> str:
    if 1 <= metres < 10_000 or metres == 0:
        return f"{metres:.2f} m"
    if 0.01 <= metres < 1:
        return f"{metres * 100:.1f} cm"
    if 1e-6 <= metres < 0.01:
        return f"{metres * 1000:.3g} mm"
    return f"{metres:.3g} m"


def _surface(record: QualityRecord) -> str:
    if record.watertight is None:
        return "not decoded"
    parts = _many(record.components or 0, "part")
    if record.watertight:
        return f"watertight, {parts}"
    return (
        f"open, {parts}, {_many(record.boundary_edges or 0, 'boundary edge')}, "
        f"{_many(record.non_manifold_edges or 0, 'non-manifold edge')}"
    )


def _bytes(count: int) -> str:
    if count < 10_000:
        return f"{count:,} bytes"
    return f"{count / 1e6:.2f} MB" if count >= 1_000_000 else f"{count / 1e3:.0f} kB"


def _printable(line: str) -> str:
    """Names inside a file are a stranger's text: control characters must not reach the terminal."""
    return "".join(character if character.isprintable() else "�" for character in line)
