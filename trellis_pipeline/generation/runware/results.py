"""The finished files in an answer's items: where each is, which seed made it, and what it cost.

Two shapes are documented, `outputs.files[]` in the examples and `modelURL` with `modelUUID` in the table;
data in the answer itself is a third. All are read, and the examples' shape first, because it is what is sent.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from trellis_pipeline.costs.money import NANO, usd_text
from trellis_pipeline.generation.runware.reply import Item, WireNumber, text_of

MOST_COST = Decimal(100)
"""A generation costs cents. An answer that asks for more than this many dollars is mistaken."""


@dataclass(frozen=True, slots=True)
class ResultFile:
    """One finished file. uuid: the provider's name for it, the same in every poll.

    url: where it is, "" where `inline` holds its bytes as base64. Both are secrets and stay out of repr.
    cost_usd: None where none was named that can be believed; cost_text is the number to the letter.
    seed: None where the answer names none.
    """

    uuid: str
    url: str = field(default="", repr=False)
    inline: str = field(default="", repr=False)
    seed: int | None = None
    cost_usd: Decimal | None = None
    cost_text: str = ""

    @property
    def billed(self) -> dict[str, str]:
        """What the bill has to know of a file that is not kept: see `GeneratedModel.provenance`."""
        usd = "" if self.cost_usd is None else usd_text(self.cost_usd.normalize())
        return {"result_uuid": self.uuid, "cost_usd": usd, "cost_text": self.cost_text}

    def inline_bytes(self) -> bytes:
        """Decode `inline`. Raises ValueError where the base64 is damaged."""
        try:
            return base64.b64decode(self.inline, validate=True)
        except binascii.Error as error:
            raise ValueError("damaged base64") from error


def files_of(item: Item, least_cost: Decimal) -> tuple[ResultFile, ...]:
    """Every file of one item. Empty for an acknowledgement and for a result that is still being made.

    least_cost: see `believable_cost`. Where one item holds several files its cost is shared among them, to
    the nano-dollar, the rest of the division on the first.
    """
    found = list(_listed(item)) or list(_named(item))
    if not found:
        return ()
    cost, text = believable_cost(item.get("cost"), least_cost)
    shares = _shares(cost, len(found))
    seed = item.get("seed")
    good_seed = seed if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**63 else None
    return tuple(
        ResultFile(
            uuid=uuid or _name_for(url, inline),
            url=url,
            inline=inline,
            seed=good_seed,
            cost_usd=share,
            cost_text=text if number == 0 else "",
        )
        for number, ((uuid, url, inline), share) in enumerate(zip(found, shares, strict=True))
    )


def believable_cost(value: Any, least: Decimal) -> tuple[Decimal | None, str]:
    """The cost that an answer names, with the number to the letter.

    None where it is missing, no JSON number, not finite, negative, below `least` or above MOST_COST; a
    fraction of a hundredth of a cent is a mistake even where nothing at all is a price. What is not believed
    is still kept as text.
    """
    if isinstance(value, bool) or value is None:
        return None, ""
    if isinstance(value, str):
        return None, repr(value[:40])
    if not isinstance(value, int | Decimal):
        return None, ""
    text = value.text if isinstance(value, WireNumber) else str(value)[:40]
    cost = Decimal(value)
    if not cost.is_finite() or not 0 <= cost <= MOST_COST:
        return None, text
    if cost < least or 0 < cost < Decimal("0.0001"):
        return None, text
    return cost.quantize(NANO), text


def _listed(item: Item) -> Iterable[tuple[str, str, str]]:
    outputs = item.get("outputs")
    files = outputs.get("files") if isinstance(outputs, dict) else None
    for file in files if isinstance(files, list) else ():
        if isinstance(file, dict):
            url, inline = text_of(file, "url"), _base64(text_of(file, "dataURI"), text_of(file, "base64Data"))
            if url or inline:
                yield text_of(file, "uuid"), url, inline


def _named(item: Item) -> Iterable[tuple[str, str, str]]:
    url = text_of(item, "modelURL")
    inline = "" if url else _base64(text_of(item, "modelDataURI"), text_of(item, "modelBase64Data"))
    if url or inline:
        yield text_of(item, "modelUUID"), url, inline


def _base64(data_uri: str, plain: str) -> str:
    head, comma, data = data_uri.partition(",")
    return data if comma and head.lower().endswith(";base64") else plain


def _name_for(url: str, inline: str) -> str:
    """A name for a file that came without: from its path, because signatures differ from poll to poll."""
    known = url.partition("?")[0] or inline
    return hashlib.sha256(known.encode("utf-8", "replace")).hexdigest()[:32]


def _shares(cost: Decimal | None, count: int) -> list[Decimal | None]:
    if cost is None:
        return [None] * count
    share = (cost / count).quantize(NANO, rounding=ROUND_FLOOR)
    return [cost - share * (count - 1), *([share] * (count - 1))]
