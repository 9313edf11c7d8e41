"""Format, size and bit depth of an encoded image from its first bytes, without decoding anything.

Two ask for it. A photo's size is checked before any decoder sees it, because a library that opens a file may
already allocate its whole canvas (WebP does). A model's textures make up most of its bytes, and decoding
three 4096 px images takes longer than all other checks together. Both find what they need in the first few
dozen bytes (JPEG: behind its metadata); the pixels stay untouched, so an image made to explode does no harm.

Layouts: PNG (W3C, section 11.2.2), JPEG (ITU-T T.81, B.1 and B.2.2), WebP (RFC 9649, section 2), KTX 2.0
(section 3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from trellis_pipeline.mesh.glb_container import ReadBytes

_HEAD_BYTES = 64
# 50 MB of metadata in segments of 64 KB are fewer. Bytes between segments count a window at a time.
_MAX_JPEG_STEPS = 1024
_WINDOW_BYTES = 4096
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those three are tables
_WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """mime: recognised from the content. width, height: pixels, at least 1.

    bit_depth: bits per channel, 0 where it is not stated in a single number (KTX2).
    """

    mime: str
    width: int
    height: int
    bit_depth: int

    @property
    def format(self) -> str:
        """The format's short name, for example `JPEG`."""
        return self.mime.removeprefix("image/").upper()


def sniff_mime(head: bytes) -> str | None:
    """The MIME type that an image's first 16 bytes show, None if they are not PNG, JPEG, WebP or KTX2."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head.startswith(b"\xabKTX 20\xbb\r\n\x1a\n"):
        return "image/ktx2"
    return None


def read_image_header(read: ReadBytes, length: int) -> ImageHeader | None:
    """The header of the image of `length` bytes that `read(offset, length)` gives access to.

    PNG, JPEG, WebP and KTX2. None if it is none of these, is cut short, or claims a dimension of 0.
    """
    head = bytes(read(0, min(length, _HEAD_BYTES)))
    mime = sniff_mime(head)
    found: tuple[int, int, int] | None = None  # width, height, bit depth
    if mime == "image/png" and len(head) >= 25 and head[12:16] == b"IHDR":
        found = struct.unpack(">IIB", head[16:25])
    elif mime == "image/jpeg":
        found = _jpeg(read, length)
    elif mime == "image/webp":
        found = _webp(head)
    elif mime == "image/ktx2" and len(head) >= 28:
        found = (*struct.unpack("<II", head[20:28]), 0)
    if mime is None or found is None or min(found[:2]) < 1:
        return None
    return ImageHeader(mime, *found)


def _jpeg(read: ReadBytes, length: int) -> tuple[int, int, int] | None:
    offset = 2
    for _ in range(_MAX_JPEG_STEPS):
        if offset + 9 > length:
            return None
        piece = bytes(read(offset, 9))
        marker = piece[1]
        if piece[0] != 0xFF:  # stray bytes between segments, which decoders skip too
            window = bytes(read(offset, min(_WINDOW_BYTES, length - offset)))
            found = window.find(b"\xff")
            offset += found if found >= 0 else len(window)
        elif marker == 0xFF:  # padding
            offset += 1
        elif marker in _WITHOUT_LENGTH:
            offset += 2
        elif marker in _START_OF_FRAME:
            depth, height, width = struct.unpack(">BHH", piece[4:9])
            return width, height, depth
        elif marker in {0xD9, 0xDA}:  # the end, or pixel data before any frame header
            return None
        else:
            offset += 2 + max(int.from_bytes(piece[2:4], "big"), 2)
    return None


def _webp(head: bytes) -> tuple[int, int, int] | None:
    """VP8X holds 24-bit sizes less one, VP8L 14-bit ones packed, VP8 a key frame's 14 bits each."""
    if len(head) < 30:
        return None
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little"), 8
    if kind == b"VP8L" and head[20] == 0x2F:
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF), 8
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF, 8
    return None
