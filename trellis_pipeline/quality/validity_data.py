"""Do the accessors hold what they declare? Min and max, finite numbers, unit normals, indices in range.

Viewers place the camera and cull by a position accessor's min and max without looking at the vertices, so a
wrong one makes a model vanish. Reading all data costs some milliseconds per megabyte, which is why it is a
tier of its own, run only on files whose structure is sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.mesh.glb_accessors import AccessorReader
from trellis_pipeline.mesh.glb_container import GlbContainer
from trellis_pipeline.mesh.glb_fields import Json, child, entry, integer, members, numbers
from trellis_pipeline.quality.record import Finding

# Overlapping accessors could make a small file ask for endless reading.
MAX_COMPONENTS = 500_000_000
MAX_FINDINGS = 50

# How far from 1 the Khronos validator lets a normal's length be.
_UNIT_TOLERANCE = 0.00674


def check_data(container: GlbContainer) -> tuple[Finding, ...]:
    """Findings on the values that drawn primitives refer to, of a file whose structure has no errors.

    Compressed geometry is passed over: it is not decoded here.
    """
    document = container.document
    reader = AccessorReader(document, container.binary)
    findings: list[Finding] = []
    budget = MAX_COMPONENTS
    seen: set[tuple[int, str, int]] = set()
    for index, usage, vertices, where in _uses(document):
        if (index, usage, vertices) in seen:
            continue
        seen.add((index, usage, vertices))
        if len(findings) >= MAX_FINDINGS:
            break
        try:
            values = reader.raw(index, where)
            budget -= values.size
            if budget < 0:
                findings.append(
                    Finding(
                        "data_unchecked", "info", "the accessors overlap so much that not all were checked"
                    )
                )
                break
            accessor = entry(document, "accessors", index, where)
            with np.errstate(over="ignore", invalid="ignore"):
                findings += _check(accessor, values, usage, vertices, where)
        except ModelFileError as error:
            if "compress" not in str(error):
                findings.append(Finding("gltf.accessor_unreadable", "error", str(error)))
    return tuple(findings)


def _uses(document: Json) -> Iterator[tuple[int, str, int, str]]:
    """(accessor, usage, vertex count, where) for each accessor that a primitive of any mesh refers to."""
    for mesh_index, mesh in enumerate(members(document, "meshes", "document")):
        for index, primitive in enumerate(members(mesh, "primitives", f"meshes[{mesh_index}]")):
            where = f"meshes[{mesh_index}].primitives[{index}]"
            attributes = child(primitive, "attributes", where) or {}
            if "POSITION" not in attributes:
                continue
            position = entry(document, "accessors", attributes["POSITION"], where)
            vertices = integer(position, "count", where)
            for name, target in attributes.items():
                yield target, name, vertices, f"{where}.{name[:40]}"
            if primitive.get("indices") is not None:
                yield primitive["indices"], "indices", vertices, f"{where}.indices"


def _check(
    accessor: Json, values: npt.NDArray[Any], usage: str, vertices: int, where: str
) -> Iterator[Finding]:
    # Column by column: numpy is twenty times as fast along a column as across rows of three.
    columns = [values[:, column] for column in range(values.shape[1])]
    low = np.array([column.min() for column in columns])
    high = np.array([column.max() for column in columns])
    if usage == "indices":
        if int(high[0]) >= vertices:
            yield Finding(
                "gltf.index_out_of_range",
                "error",
                f"{where} points at vertex {int(high[0])} of {vertices}; the exporter wrote wrong indices",
            )
    elif values.dtype.kind == "f" and not (np.isfinite(low).all() and np.isfinite(high).all()):
        yield Finding("gltf.not_finite", "error", f"{where} holds a value that is NaN or infinite")
        return
    width = values.shape[1]
    stated = (numbers(accessor, "min", width, where), numbers(accessor, "max", width, where))
    for key, claim, actual in (("min", stated[0], low), ("max", stated[1], high)):
        # The claim is decimal text of a 32-bit float, so it is compared as one.
        kind = np.float32 if values.dtype.kind == "f" else np.float64
        if claim is not None and not np.array_equal(np.array(claim).astype(kind), actual.astype(kind)):
            yield Finding(
                "gltf.bounds_untrue",
                "error",
                f"{where}.{key} says {_short(claim)}; the data says {_short(actual.tolist())}",
            )
    if usage == "NORMAL" and values.dtype == np.float32:
        squared = np.einsum("ij,ij->i", values, values)
        fits = (squared >= (1 - _UNIT_TOLERANCE) ** 2) & (squared <= (1 + _UNIT_TOLERANCE) ** 2)
        off = len(values) - int(np.count_nonzero(fits))
        if off:
            yield Finding(
                "gltf.normal_length",
                "error",
                f"{where}: {off:,} of {len(values):,} normals are not of length 1",
            )


def _short(values: list[Any]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"
