"""The GLB container: twelve bytes of header, a chunk of JSON, a chunk of numbers (specification §4.4).

Taking it apart needs its headers and its JSON only, so a listing of thousands of models never reads their
geometry. Lengths are checked against the file before anything is sliced by them.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from trellis_pipeline.errors import ModelFileError

MAX_JSON_BYTES = 16 * 2**20

_MAGIC = b"glTF"
_JSON_CHUNK = 0x4E4F534A
_BIN_CHUNK = 0x004E4942

ReadBytes = Callable[[int, int], bytes | memoryview]


@dataclass(frozen=True, slots=True)
class GlbHead:
    """A GLB's JSON, and where its binary chunk lies: byte offset in the file and length (0, 0 if none)."""

    document: dict[str, Any]
    file_bytes: int
    binary_offset: int
    binary_bytes: int


@dataclass(frozen=True, slots=True)
class GlbContainer:
    """A GLB taken apart: its JSON, its binary chunk (a view, no copy; empty if none), its size.

    binary_offset: where in the file the binary chunk's data begins.
    """

    document: dict[str, Any]
    binary: memoryview
    file_bytes: int
    binary_offset: int = 0


def parse_head(read: ReadBytes, file_bytes: int) -> GlbHead:
    """Take the container apart through `read(offset, length)`, touching only its headers and its JSON.

    Raises ModelFileError for a bad magic or version, for lengths that contradict the file, and for JSON that
    is over MAX_JSON_BYTES, nested too deep or not an object.
    """
    if file_bytes < 20:
        raise ModelFileError(f"not a GLB: {file_bytes} bytes are less than its header")
    magic, version, length, json_bytes, json_type = struct.unpack("<4sIIII", read(0, 20))
    if magic != _MAGIC:
        hint = "; a text glTF must be packed into a GLB first" if magic.lstrip()[:1] == b"{" else ""
        raise ModelFileError(f"not a GLB: it begins with {magic!r} instead of b'glTF'{hint}")
    if version != 2:
        raise ModelFileError(f"GLB version {version} is not supported, only version 2")
    if length != file_bytes:
        verb = "truncated" if length > file_bytes else "followed by other data"
        raise ModelFileError(f"the GLB says it has {length} bytes, the file has {file_bytes}: it is {verb}")
    if json_type != _JSON_CHUNK:
        raise ModelFileError("the GLB's first chunk is not its JSON")
    if 20 + json_bytes > file_bytes:
        raise ModelFileError(f"the JSON chunk claims {json_bytes} bytes of a file of {file_bytes}")
    if json_bytes > MAX_JSON_BYTES:
        raise ModelFileError(f"the JSON chunk has {json_bytes} bytes; at most {MAX_JSON_BYTES} are read")
    document = _parse_json(bytes(read(20, json_bytes)))
    offset = 20 + json_bytes
    if offset == file_bytes:
        return GlbHead(document, file_bytes, 0, 0)
    if offset + 8 > file_bytes:
        raise ModelFileError("the GLB ends inside the header of its second chunk")
    chunk_bytes, chunk_type = struct.unpack("<II", read(offset, 8))
    if offset + 8 + chunk_bytes > file_bytes:
        raise ModelFileError(
            f"the binary chunk claims {chunk_bytes} bytes; {file_bytes - offset - 8} are left in the file"
        )
    if chunk_type != _BIN_CHUNK:  # unknown chunks are to be ignored, and BIN can only be the second
        return GlbHead(document, file_bytes, 0, 0)
    return GlbHead(document, file_bytes, offset + 8, chunk_bytes)


def parse_glb(data: bytes | memoryview | mmap.mmap) -> GlbContainer:
    """Take a GLB apart without reading its geometry.

    Raises ModelFileError as `parse_head` does. The result refers to `data` and keeps it alive.
    """
    view = memoryview(data).cast("B")
    head = parse_head(lambda offset, length: view[offset : offset + length], len(view))
    start = head.binary_offset
    return GlbContainer(head.document, view[start : start + head.binary_bytes], head.file_bytes, start)


def _parse_json(data: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        document = json.loads(data.decode("utf-8"), parse_constant=refuse)
    except RecursionError:
        raise ModelFileError("the GLB's JSON is nested too deep") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ModelFileError(f"the GLB's JSON cannot be parsed: {error}") from None
    if not isinstance(document, dict):
        raise ModelFileError("the GLB's JSON must be an object")
    return document
