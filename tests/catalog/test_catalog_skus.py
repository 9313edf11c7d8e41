"""A SKU must be safe wherever it is used as a name."""

from __future__ import annotations

import unicodedata

import pytest
from dagster import DynamicPartitionsDefinition, MultiPartitionsDefinition, StaticPartitionsDefinition
from hypothesis import given, settings
from hypothesis import strategies as st

from trellis_pipeline.catalog.sku import MAX_SKU_BYTES, printable, sku_fault, sku_from_path, twin_key

GOOD = [
    "CHAIR-7", "chair 7", "a", "7", "-x", "Stuhl-grün", "椅子-01", "كرسي", "v1.2", "=1+1",
    "@home", "a+b", "50%",     "console", "COM10", "nullable", "x" * MAX_SKU_BYTES, "()!'&$#~;^{}`",
]  # fmt: skip

BAD = {
    "../../etc/passwd": "path separator",
    "a/b": "path separator",
    "a\\b": "path separator",
    "..": "dot",
    "a..b": "'..'",
    "a...b": "'..'",
    ".hidden": "dot",
    "end.": "dot",
    " lead": "space",
    "trail ": "space",
    "new\nline": "U+000A",
    "nul\0": "U+0000",
    "tab\there": "U+0009",
    "esc\x1b[31m": "U+001B",
    "bell\x07": "U+0007",
    "c1\x85": "U+0085",
    "del\x7f": "U+007F",
    "txt\u202egnp.exe": "U+202E",
    "iso\u2067late": "U+2067",
    "zero\u200bwidth": "U+200B",
    "bom\ufeff": "U+FEFF",
    "nb\u00a0space": "U+00A0",
    "line\u2028sep": "U+2028",
    "half\ud800pair": "surrogate",
    "private\ue000": "private-use",
    "non\uffffchar": "not an assigned",
    "wrong\ufffdly": "decoded wrongly",
    "x" * (MAX_SKU_BYTES + 1): "129 bytes",
    "ü" * 65: "130 bytes",
    "con": "reserved",
    "CON": "reserved",
    "Nul.txt": "reserved",
    "aux .x": "reserved",
    "com1": "reserved",
    "LPT²": "reserved",
    "CONOUT$": "reserved",
    "a:b": "Windows",
    "a*": "Windows",
    "what?": "Windows",
    "=cmd|' /C calc'!A0": "Windows",
    'a"b': "Windows",
    "<b>": "Windows",
    "a,b": "Dagster",
    "a[1]": "Dagster",
    "": "empty",
}


@pytest.mark.parametrize("sku", GOOD)
def test_an_ordinary_sku_is_accepted(sku):
    assert sku_fault(sku) is None


@pytest.mark.parametrize(("sku", "reason"), BAD.items())
def test_a_sku_that_some_disk_or_tool_cannot_hold_is_refused_with_the_reason(sku, reason):
    fault = sku_fault(sku)
    assert fault is not None
    assert reason in fault
    fault.encode()  # the reason itself can be printed


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=[]), min_size=1, max_size=140))
def test_what_is_accepted_is_a_partition_key_and_a_file_name(sku):
    sku = unicodedata.normalize("NFC", sku)
    if sku_fault(sku) is not None:
        return
    StaticPartitionsDefinition([sku])
    MultiPartitionsDefinition(
        {"a": StaticPartitionsDefinition([sku]), "b": DynamicPartitionsDefinition(name="b")}
    )
    assert sku.isprintable()
    assert 1 <= len(sku.encode()) <= MAX_SKU_BYTES
    assert not set(sku) & set('/\\<>:"|?*')
    assert sku not in (".", "..")


@settings(deadline=None)
@given(st.from_regex(r"[ .]?[E-K0-9_\-]{1,4}(\.{1,3}|[ ,/])?[A-Za-z0-9.]{0,3}", fullmatch=True))
def test_the_shortcut_for_plain_skus_agrees_with_the_full_check(sku):
    # A character outside the shortcut's pattern sends an otherwise equal SKU through the full check.
    assert (sku_fault(sku) is None) == (sku_fault(f"ü{sku}ü") is None and sku == sku.strip(" ."))


@pytest.mark.parametrize(
    ("path", "sku"),
    [
        ("chair.png", "chair"),
        ("Red Chair.final.JPG", "Red Chair.final"),
        ("sofas/2024/blue.webp", "sofas-2024-blue"),
        ("v1.2/chair", "v1.2-chair"),
        ("a,b[1].png", "a-b-1-"),
        ("dots...and .png", "dots-and"),
        (unicodedata.normalize("NFD", "grün.png"), "grün"),
    ],
)
def test_an_image_without_a_sku_is_named_after_its_path(path, sku):
    assert sku_from_path(path) == sku


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=[]), max_size=60))
def test_a_sku_made_from_a_path_has_no_forbidden_characters(path):
    fault = sku_fault(sku_from_path(path))
    assert fault is None or "contains" not in fault


def test_twins_are_found_across_case_and_unicode_form():
    assert twin_key("Grün") == twin_key(unicodedata.normalize("NFD", "GRÜN"))
    assert twin_key("STRASSE") == twin_key("straße")
    assert twin_key("a") != twin_key("b")


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=[]), max_size=200))
def test_text_for_messages_can_always_be_printed(text):
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
