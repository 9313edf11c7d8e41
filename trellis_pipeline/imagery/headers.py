"""What a photo's first bytes say: one of the three formats on the allow-list, or what they look like instead.

Nothing is decoded. `mesh.image_header` reads the sizes; here stands what only photos need.
"""

from __future__ import annotations

from trellis_pipeline.mesh.image_header import ImageHeader, read_image_header, sniff_mime

_FORMATS = frozenset({"image/png", "image/jpeg", "image/webp"})

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


def read_header(data: bytes) -> ImageHeader | None:
    """Header of a PNG, JPEG or WebP file; None if it is none of these or states no size above 0."""
    header = read_image_header(lambda offset, length: data[offset : offset + length], len(data))
    return header if header is not None and header.mime in _FORMATS else None


def begins_like(data: bytes) -> str:
    """The format on the allow-list that the data begins like, for example `JPEG`; empty if none."""
    mime = sniff_mime(data[:16])
    return mime.removeprefix("image/").upper() if mime in _FORMATS else ""


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
