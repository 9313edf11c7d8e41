"""SKUs as keys: one name that is safe as a partition key, a file name and part of a URL.

A SKU becomes a Dagster partition key, a folder on any disk, an object key in a bucket and a word on a command
line. What one of them cannot hold would fail late, after money was spent, or worse: `../..` would leave the
output folder, and `Chair` and `chair` would overwrite each other on a disk that ignores case. So a SKU is
checked once, here, before it is anything else.

Sources of the rules: Dagster 1.13 refuses `...` and the control characters in partition keys and `| , [ ]` in
keys of two-axis partitions (dagster/_core/definitions/partitions/utils); Windows file names
(learn.microsoft.com, "Naming Files, Paths, and Namespaces"); Unicode bidirectional controls (UAX #9).
"""

from __future__ import annotations

import re
import unicodedata

MAX_SKU_BYTES = 128

_FORBIDDEN = {
    **dict.fromkeys("/\\", "a path separator"),
    **dict.fromkeys('<>:"|?*', "not allowed in file names on Windows"),
    **dict.fromkeys(",[]", "not allowed in Dagster partition keys"),
}
_RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"
}
_INVISIBLE = {
    "Cc": "a control character",
    "Cf": "an invisible formatting character (it can hide or reverse what is shown)",
    "Cs": "half of a surrogate pair, which is not text",
    "Cn": "not an assigned character",
    "Co": "a private-use character",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}
# The common case in one look: nothing in this pattern needs any of the checks below, reserved names aside.
_PLAIN = re.compile(
    r"[A-Za-z0-9_\-](?:[A-Za-z0-9_\-]|\.(?!\.)){0,126}[A-Za-z0-9_\-]|[A-Za-z0-9_\-]", re.ASCII
)


def printable(text: str, limit: int = 80) -> str:
    """`text` for a message: unprintable characters as escapes, cut to `limit` characters."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)


def twin_key(sku: str) -> str:
    """What two SKUs share if a disk that ignores case or Unicode form could not tell them apart."""
    if sku.isascii():
        return sku.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", sku).casefold())


def sku_fault(sku: str) -> str | None:
    """Why `sku` (in NFC) cannot be a key, as the end of the sentence "SKU … "; None if it can."""
    if _PLAIN.fullmatch(sku) and len(sku) <= MAX_SKU_BYTES:
        return _reserved_fault(sku)
    if not sku:
        return "is empty"
    for character in sku:
        fault = _character_fault(character)
        if fault is not None:
            return fault
    size = len(sku.encode())
    if size > MAX_SKU_BYTES:
        return f"is {size} bytes long, over the limit of {MAX_SKU_BYTES}"
    return _shape_fault(sku) or _reserved_fault(sku)


def sku_from_path(relative_path: str) -> str:
    """A SKU for an image nobody gave one: its path below the catalog folder, without the extension.

    relative_path: with `/` between folders. Folders are joined with `-`, and characters that no key can
    hold become `-`. The result may still be refused by `sku_fault` (empty, reserved, too long).
    """
    stem, dot, extension = relative_path.rpartition(".")
    if not dot or "/" in extension:
        stem = relative_path
    name = unicodedata.normalize("NFC", stem)
    name = "".join("-" if _character_fault(c) else c for c in name)
    return re.sub(r"\.{2,}", "-", name).strip(" .")


def _character_fault(character: str) -> str | None:
    why = _FORBIDDEN.get(character)
    if why is not None:
        return f"contains '{character}', {why}"
    if " " <= character <= "~":
        return None
    category = unicodedata.category(character)
    code = f"U+{ord(character):04X}"
    if category in _INVISIBLE:
        return f"contains {code}, {_INVISIBLE[category]}"
    if category == "Zs":
        return f"contains {code}, a space that is not the ordinary one"
    if character == "\ufffd":
        return f"contains {code}, which stands for text that was decoded wrongly before it came here"
    return None


def _shape_fault(sku: str) -> str | None:
    if sku != sku.strip(" "):
        return "starts or ends with a space"
    if sku != sku.strip("."):
        return "starts or ends with a dot"
    if ".." in sku:
        return "contains '..', which means the parent folder in paths and a range in Dagster"
    return None


def _reserved_fault(sku: str) -> str | None:
    stem = sku.split(".", 1)[0].rstrip(" ")
    if len(stem) <= 7 and stem.lower() in _RESERVED:
        return f"is a reserved device name on Windows ({stem.upper()})"
    return None
