"""Contact sheets: the right picture in the right place, whole and at one size."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from trellis_pipeline.errors import MeshError
from trellis_pipeline.review.contact_sheet import SheetRow, contact_sheet


def solid(color: tuple[int, int, int], height: int = 40, width: int = 40) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def encoded(array: np.ndarray, kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind)
    return out.getvalue()


def test_pictures_stand_in_rows_and_columns_in_the_order_given() -> None:
    red, green, blue = solid((255, 0, 0)), solid((0, 255, 0)), solid((0, 0, 255))
    sheet = opened(contact_sheet([SheetRow("a", (red, green)), SheetRow("b", (blue, None))], cell_px=40))
    assert tuple(sheet[28, 28]) == (255, 0, 0)
    assert tuple(sheet[28, 28 + 48]) == (0, 255, 0)
    rows = np.where((sheet == (0, 0, 255)).all(axis=2).any(axis=1))[0]
    assert rows.min() > 48
    assert len(rows) == 40


def test_pictures_are_scaled_down_whole_and_centred() -> None:
    wide = solid((10, 20, 30), height=100, width=400)
    sheet = opened(contact_sheet([SheetRow("wide", (wide,))], cell_px=80))
    inked = (sheet == (10, 20, 30)).all(axis=2)
    rows, columns = np.where(inked.any(axis=1))[0], np.where(inked.any(axis=0))[0]
    assert (len(rows), len(columns)) == (20, 80)
    assert rows.min() == 8 + 30


def test_encoded_and_transparent_pictures_are_taken_as_they_are() -> None:
    clear = np.zeros((40, 40, 4), np.uint8)
    clear[:, :20] = (200, 0, 0, 255)
    sheet = opened(
        contact_sheet([SheetRow("a", (encoded(clear, "PNG"), encoded(solid((9, 9, 9)), "WEBP")))], cell_px=40)
    )
    assert tuple(sheet[28, 15]) == (200, 0, 0)
    assert tuple(sheet[28, 40]) == (246, 246, 244)
    assert abs(int(sheet[28, 76, 0]) - 9) < 4


def test_the_same_rows_give_the_same_bytes() -> None:
    rows = [SheetRow("Stuhl “Öko” 椅子", (solid((1, 2, 3)),))]
    assert contact_sheet(rows, cell_px=64, columns=("photo",)) == contact_sheet(
        rows, cell_px=64, columns=("photo",)
    )


@pytest.mark.parametrize(
    ("rows", "cell_px", "reason"),
    [
        ([], 64, "at least one row"),
        ([SheetRow("a", ())], 64, "at least one row"),
        ([SheetRow("a", (solid((0, 0, 0)),))], 8, "too small"),
        ([SheetRow("a", (b"not a picture",))], 64, "cannot be decoded"),
        ([SheetRow("a", (np.zeros((4, 4), np.uint8),))], 64, "must be"),
        ([SheetRow("a", (None,))] * 2000, 1024, "split the rows"),
    ],
)
def test_what_cannot_be_a_sheet_is_refused_with_the_way_out(
    rows: list[SheetRow], cell_px: int, reason: str
) -> None:
    with pytest.raises(MeshError, match=reason):
        contact_sheet(rows, cell_px=cell_px)
