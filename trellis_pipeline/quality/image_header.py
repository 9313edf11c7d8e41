"""Width and height of an encoded image from its first bytes.

A model's textures make up most of its bytes, and decoding three 4096 px images takes longer than all other
checks together. Their dimensions stand in the first few dozen bytes (JPEG: behind its metadata), which is
all that is read here. The pixels stay untouched, so an image made to explode when decoded does no harm.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from trellis_pipeline.mesh.glb_container import ReadBytes
from trellis_pipeline.mesh.glb_read import sniff_mime

_HEAD_BYTES = 64
_MAX_JPEG_SEGMENTS = 512
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # ITU-T T.81, table B.1
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD8)) | {0x01}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """mime: recognised from the content. width, height: pixels, at least 1."""

    mime: str
    width: int
    height: int


def read_image_header(read: ReadBytes, length: int) -> ImageHeader | None:
    """The header of the image of `length` bytes that `read(offset, length)` gives access to.

    PNG, JPEG, WebP and KTX2. None if it is none of these, is cut short, or claims a dimension of 0.
    """
    head = bytes(read(0, min(length, _HEAD_BYTES)))
    mime = sniff_mime(head)
    size: tuple[int, int] | None = None
    if mime == "image/png" and len(head) >= 24 and head[12:16] == b"IHDR":
        size = struct.unpack(">II", head[16:24])
    elif mime == "image/jpeg":
        size = _jpeg_size(read, length)
    elif mime == "image/webp":
        size = _webp_size(head)
    elif mime == "image/ktx2" and len(head) >= 28:
        size = struct.unpack("<II", head[20:28])
    if mime is None or size is None or min(size) < 1:
        return None
    return ImageHeader(mime, *size)


def _jpeg_size(read: ReadBytes, length: int) -> tuple[int, int] | None:
    offset = 2
    for _ in range(_MAX_JPEG_SEGMENTS):
        if offset + 10 > length:
            return None
        piece = bytes(read(offset, 10))
        if piece[0] != 0xFF:
            return None
        marker = piece[1]
        if marker == 0xFF:  # padding
            offset += 1
        elif marker in _WITHOUT_LENGTH:
            offset += 2
        elif marker in _START_OF_FRAME:
            height, width = struct.unpack(">HH", piece[5:9])
            return width, height
        elif marker in {0xD9, 0xDA}:  # the end, or pixel data before any frame header
            return None
        else:
            offset += 2 + max(int.from_bytes(piece[2:4], "big"), 2)
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """RFC 9649: VP8X holds 24-bit sizes less one, VP8L 14-bit ones packed, VP8 a key frame's 14 bits each."""
    if len(head) < 30:
        return None
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L" and head[20] == 0x2F:
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None
