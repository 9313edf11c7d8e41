"""Accessors: numbers in a binary buffer, read without trusting what the file says about them.

glTF reaches every vertex through accessor -> bufferView -> buffer, each with offsets and counts of its own
(specification §3.6). One lie in that chain would read memory that is not the file's, or allocate what the
file does not hold, so each link is checked before an array is made. What fits is returned as a view of the
file's own bytes wherever its layout allows, because copying is most of the cost of reading a mesh.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.mesh.glb_fields import Json, child, entry, integer, optional_integer

COMPONENT_DTYPES: dict[int, str] = {
    5120: "<i1",
    5121: "<u1",
    5122: "<i2",
    5123: "<u2",
    5125: "<u4",
    5126: "<f4",
}
COMPONENT_SIZES: dict[int, int] = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
TYPE_WIDTHS: dict[str, int] = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}

COMPRESSED_VIEWS = ("EXT_meshopt_compression", "KHR_meshopt_compression")
MAX_DATA_URI_BYTES = 64 * 2**20
# An accessor without a bufferView is all zeros, so its size is a bare claim that no bytes back.
MAX_UNBACKED_COUNT = 1_000_000

NORMALIZED_SCALE = {5120: 127.0, 5121: 255.0, 5122: 32767.0, 5123: 65535.0}


class AccessorReader:
    """Reads the accessors of one document.

    document: the parsed JSON. binary: the GLB's BIN chunk, empty if it has none. Decoded `data:` buffers are
    kept for the reader's life, so a hostile file cannot have one decoded again for every view.
    """

    def __init__(self, document: Json, binary: memoryview) -> None:
        self._document = document
        self._binary = binary
        self._buffers: dict[int, memoryview] = {}

    def view_bytes(self, index: object, where: str) -> tuple[memoryview, int]:
        """The bytes of a bufferView and its byteStride (0 when tightly packed)."""
        view = entry(self._document, "bufferViews", index, where)
        name = f"bufferViews[{index}]"
        extensions = child(view, "extensions", name) or {}
        for extension in COMPRESSED_VIEWS:
            if extension in extensions:
                raise ModelFileError(
                    f"{name} is compressed with {extension}, which is not decoded here; "
                    "write an uncompressed copy first, for example with `gltf-transform copy IN.glb OUT.glb`"
                )
        buffer_index = integer(view, "buffer", name)
        buffer = self._buffer(buffer_index, f"{name}.buffer")
        offset = integer(view, "byteOffset", name, default=0)
        length = integer(view, "byteLength", name)
        stride = integer(view, "byteStride", name, default=0)
        if offset + length > len(buffer):
            raise ModelFileError(
                f"{name} covers bytes {offset} to {offset + length} of buffers[{buffer_index}], "
                f"which has {len(buffer)}"
            )
        if stride > 252:  # specification: 4..252
            raise ModelFileError(f"{name}.byteStride is {stride}; the largest allowed is 252")
        return buffer[offset : offset + length], stride

    def raw(self, index: object, where: str) -> npt.NDArray[Any]:
        """The accessor's values as stored: (count, width) in the component's own dtype, not yet normalized.

        The array may be a read-only view of the file. Raises ModelFileError if any byte of it would lie
        outside its bufferView, or if a sparse index points past its end.
        """
        accessor = entry(self._document, "accessors", index, where)
        name = f"accessors[{index}]"
        component, width = accessor_format(accessor, name)
        count = integer(accessor, "count", name)
        dtype = np.dtype(COMPONENT_DTYPES[component])
        view = optional_integer(accessor, "bufferView", name)
        offset = integer(accessor, "byteOffset", name, default=0)
        if view is None:
            if count > MAX_UNBACKED_COUNT:
                raise ModelFileError(f"{name} claims {count} elements without a bufferView to hold them")
            values: npt.NDArray[Any] = np.zeros((count, width), dtype)
        else:
            values = self._window(view, offset, count=count, width=width, dtype=dtype, name=name)
        sparse = child(accessor, "sparse", name)
        return values if sparse is None else self._patched(values, sparse, dtype, name)

    def floats(self, index: object, where: str, *, width: int) -> npt.NDArray[np.float32]:
        """The accessor as (count, width) float32, C-contiguous; normalized integers become -1..1 or 0..1."""
        accessor = entry(self._document, "accessors", index, where)
        values = self.raw(index, where)
        if values.shape[1] != width:
            raise ModelFileError(f"accessors[{index}] ({where}) must have {width} components per element")
        component = integer(accessor, "componentType", f"accessors[{index}]")
        result = np.ascontiguousarray(values, dtype=np.float32)
        if accessor.get("normalized") is True and component in NORMALIZED_SCALE:
            # Specification §3.6.2.2: c / 127 and so on, with the one extra negative value clamped to -1.
            result = np.maximum(result / np.float32(NORMALIZED_SCALE[component]), np.float32(-1.0))
        return np.require(result, requirements=["C", "A"])

    def indices(self, index: object, where: str, *, vertex_count: int) -> npt.NDArray[np.int32]:
        """The accessor as (count,) int32 vertex indices, each below `vertex_count` (itself below 2^31)."""
        values = self.raw(index, where)
        if values.shape[1] != 1 or values.dtype.kind != "u":
            raise ModelFileError(f"accessors[{index}] ({where}) must hold unsigned scalar indices")
        flat = values.reshape(-1)
        if flat.size and int(flat.max()) >= vertex_count:
            raise ModelFileError(
                f"accessors[{index}] ({where}) points at vertex {int(flat.max())}; there are {vertex_count}"
            )
        if flat.dtype.itemsize == 4 and flat.flags.c_contiguous and flat.flags.aligned:
            return flat.view(np.int32)
        return flat.astype(np.int32)

    def _window(
        self, view: int, offset: int, *, count: int, width: int, dtype: np.dtype[Any], name: str
    ) -> npt.NDArray[Any]:
        data, stride = self.view_bytes(view, f"{name}.bufferView")
        size = width * dtype.itemsize
        step = stride or size
        if step < size:
            raise ModelFileError(f"{name} has elements of {size} bytes in a byteStride of {step}")
        if count == 0:
            return np.zeros((0, width), dtype)
        end = offset + (count - 1) * step + size
        if end > len(data):
            raise ModelFileError(
                f"{name} needs {end} bytes of bufferViews[{view}], which has {len(data)}: "
                "the file is truncated or its counts are wrong"
            )
        return np.ndarray(
            shape=(count, width), dtype=dtype, buffer=data, offset=offset, strides=(step, dtype.itemsize)
        )

    def _patched(
        self, base: npt.NDArray[Any], sparse: Json, dtype: np.dtype[Any], name: str
    ) -> npt.NDArray[Any]:
        count = integer(sparse, "count", f"{name}.sparse")
        where = child(sparse, "indices", f"{name}.sparse") or {}
        what = child(sparse, "values", f"{name}.sparse") or {}
        component = integer(where, "componentType", f"{name}.sparse.indices")
        if component not in {5121, 5123, 5125}:
            raise ModelFileError(f"{name}.sparse.indices must be unsigned integers, not {component}")
        positions = self._window(
            integer(where, "bufferView", f"{name}.sparse.indices"),
            integer(where, "byteOffset", f"{name}.sparse.indices", default=0),
            count=count,
            width=1,
            dtype=np.dtype(COMPONENT_DTYPES[component]),
            name=f"{name}.sparse.indices",
        ).reshape(-1)
        values = self._window(
            integer(what, "bufferView", f"{name}.sparse.values"),
            integer(what, "byteOffset", f"{name}.sparse.values", default=0),
            count=count,
            width=base.shape[1],
            dtype=dtype,
            name=f"{name}.sparse.values",
        )
        if positions.size and int(positions.max()) >= len(base):
            raise ModelFileError(f"{name}.sparse replaces element {int(positions.max())} of {len(base)}")
        result = base.copy()
        result[positions] = values
        return result

    def _buffer(self, index: int, where: str) -> memoryview:
        if index not in self._buffers:
            buffer = entry(self._document, "buffers", index, where)
            uri = buffer.get("uri")
            if uri is not None:
                self._buffers[index] = memoryview(data_uri_bytes(uri, f"buffers[{index}]")[0])
            elif index == 0:
                length = integer(buffer, "byteLength", "buffers[0]")
                if length > len(self._binary):
                    raise ModelFileError(
                        f"buffers[0] claims {length} bytes; the file's binary chunk has {len(self._binary)}"
                    )
                self._buffers[0] = self._binary[:length]
            else:
                raise ModelFileError(f"buffers[{index}] has no data: only buffers[0] is stored in a GLB")
        return self._buffers[index]


def accessor_format(accessor: Json, name: str) -> tuple[int, int]:
    """The component type (5120..5126) and the number of components of a vector or scalar accessor."""
    component = integer(accessor, "componentType", name)
    if component not in COMPONENT_DTYPES:
        raise ModelFileError(f"{name}.componentType {component} is not one of glTF's")
    kind = accessor.get("type")
    if not isinstance(kind, str) or kind not in TYPE_WIDTHS:
        raise ModelFileError(f"{name}.type must be one of {', '.join(TYPE_WIDTHS)} for vertex data")
    return component, TYPE_WIDTHS[kind]


def data_uri_bytes(uri: object, where: str) -> tuple[bytes, str]:
    """The bytes and MIME type of a base64 `data:` URI. Every other kind of URI is refused.

    A model that names files or hosts could make its reader fetch them, so such references raise
    ModelFileError, as does a URI of more than MAX_DATA_URI_BYTES.
    """
    if not isinstance(uri, str):
        raise ModelFileError(f"{where}.uri must be a string")
    if not uri.startswith("data:"):
        raise ModelFileError(
            f"{where} refers to {uri[:80]!r}; outside files are never followed, embed it in the GLB"
        )
    head, comma, payload = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ModelFileError(f"{where}.uri is a data: URI that is not base64")
    if len(payload) > MAX_DATA_URI_BYTES * 4 // 3 + 4:
        raise ModelFileError(
            f"{where}.uri holds more than {MAX_DATA_URI_BYTES // 2**20} MiB; use a bufferView"
        )
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ModelFileError(f"{where}.uri is not valid base64: {error}") from None
    return data, head[len("data:") :].split(";", 1)[0].lower()
