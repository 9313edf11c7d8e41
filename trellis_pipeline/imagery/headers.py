"""Format, size and bit depth of an image, read from its first bytes without decoding anything.

A library that opens a file may already allocate its whole canvas (WebP does), so the pixel limit has to be
checked before any decoder sees the data. Only the three formats on the allow-list are recognised.
Layouts: PNG (W3C, section 11.2.2), JPEG (ITU T.81, B.2.2), WebP (RFC 9649, section 2).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Start-of-frame markers; C4, C8 and CC lie between them but are tables.
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length

LOOKS_LIKE: tuple[tuple[bytes, str], ...] = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"%PDF", "PDF"),
    (b"SIMPLE  =", "FITS"),
    (b"8BPS", "a Photoshop document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"glTF", "a GLB model"),
    (b'{"', "JSON"),
    (b"\x00\x00\x00\x0cjP", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
)


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the first bytes say. width, height: pixels. bit_depth: bits per channel."""

    format: str
    width: int
    height: int
    bit_depth: int


def read_header(data: bytes) -> ImageHeader | None:
    """Header of a PNG, JPEG or WebP file; None if it is none of these or ends before its size is stated."""
    if data.startswith(PNG_MAGIC):
        return _png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    return None


def guess_kind(data: bytes) -> str:
    """A phrase for an error message: what the bytes look like; empty if nothing comes to mind."""
    for magic, name in LOOKS_LIKE:
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp":
        return "AVIF" if data[8:11] == b"avi" else "HEIC" if data[8:10] in (b"he", b"mi") else "a video"
    text = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<svg") or (
        text.startswith((b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in text
    ):
        return "SVG"
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    return ""


def _png(data: bytes) -> ImageHeader | None:
    if len(data) < 25 or data[12:16] != b"IHDR":
        return None
    width, height, depth = struct.unpack(">IIB", data[16:25])
    return ImageHeader("PNG", width, height, depth)


def _jpeg(data: bytes) -> ImageHeader | None:
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at += 1  # stray bytes between segments: decoders skip them too
            continue
        marker = data[at + 1]
        if marker == 0xFF or marker in JPEG_BARE or marker == 0:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in JPEG_FRAMES:
            if at + 9 > len(data):
                return None
            depth, height, width = struct.unpack(">BHH", data[at + 4 : at + 9])
            return ImageHeader("JPEG", width, height, depth)
        if marker in (0xD9, 0xDA):  # end of image or start of scan before any frame
            return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _webp(data: bytes) -> ImageHeader | None:
    chunk, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if chunk == b"VP8X":
        width = 1 + int.from_bytes(body[4:7], "little")
        height = 1 + int.from_bytes(body[7:10], "little")
    elif chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif chunk == b"VP8 ":
        width = int.from_bytes(body[6:8], "little") & 0x3FFF
        height = int.from_bytes(body[8:10], "little") & 0x3FFF
    else:
        return None
    return ImageHeader("WEBP", width, height, 8)
