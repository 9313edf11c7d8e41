"""The price book: what a generation lists at, from which day, and where that number is from.

List prices are not costs. The provider bills by processing time and its own examples range from 0.8 to 2.1
times the one price it lists, so the book only says how much to set aside before there is history, and prices
GPU seconds for generators that run on the user's own machine. A missing price is an error: a budget that
counts unknown work as free is no budget.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from importlib.resources import files
from typing import Any, Literal

from trellis_pipeline.costs.money import parse_usd
from trellis_pipeline.errors import ConfigError, LedgerError

Unit = Literal["generation", "gpu_second"]


@dataclass(frozen=True, slots=True)
class Price:
    """One entry. usd: per `unit`. resolution: None where the price holds for any. source: who says so.

    generator: its name; the price of `runware` holds for `runware@host:port` too, unless that has its own.
    """

    generator: str
    model: str
    unit: Unit
    usd: Decimal
    effective_from: date
    source: str
    resolution: int | None = None


@dataclass(frozen=True, slots=True)
class Quote:
    """A price found. exact: listed for this very resolution; else borrowed from the listed one."""

    price: Price
    exact: bool


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Dated prices. version names the book in every spend event."""

    version: str
    prices: tuple[Price, ...]

    def find(self, generator: str, model: str, resolution: int | None, on: date) -> Quote:
        """The price in force on a day (UTC).

        A resolution that is not listed borrows the price of the listed one, marked `exact=False`: how cost
        grows with resolution is unknown. The cold-start factor of `estimates` covers it: the provider's
        examples at 1536 cost 0.77 to 1.77 times the price listed for 1024, the factor is 2.5.

        A server with the API of another generator (`runware@host:port`) borrows that one's prices where it
        has none of its own. What it really charges is learned under its own name.

        Raises ConfigError where nothing is listed for this generator and model.
        """
        in_force = [p for p in self.prices if p.model in {model, "*"} and p.effective_from <= on]
        known = [price for price in in_force if price.generator == generator]
        known = known or [price for price in in_force if price.generator == generator.partition("@")[0]]
        if not known:
            raise ConfigError(
                f"no price for generator {generator!r}, model {model!r} on {on}: add one to the price book, "
                "or for a generator on your own GPU give its price per second. It is never taken as 0"
            )
        exact = [price for price in known if price.resolution in {resolution, None}]
        return Quote(max(exact or known, key=lambda price: price.effective_from), exact=bool(exact))

    def with_gpu_second(self, generator: str, usd: Decimal) -> PriceBook:
        """This book with the user's own price of one GPU second for every model of `generator`."""
        own = Price(generator, "*", "gpu_second", usd, date.min, "set by the user")
        kept = tuple(price for price in self.prices if price.generator != generator)
        return replace(self, version=f"{self.version}+{generator}={usd.normalize():f}/s", prices=(*kept, own))


def load_price_book(text: str | None = None) -> PriceBook:
    """The book in this TOML text, or the one that comes with the package.

    Raises ConfigError naming the entry that is wrong. The version gets a digest of the text behind it, so
    that an edited book is never mistaken for the original.
    """
    if text is None:
        text = (files("trellis_pipeline.costs") / "prices.toml").read_text(encoding="utf-8")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the price book is not valid TOML: {error}") from error
    entries = content.get("price")
    if not isinstance(entries, list) or not entries:
        raise ConfigError("the price book has no [[price]] entries")
    prices = tuple(_price(number, entry) for number, entry in enumerate(entries, start=1))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return PriceBook(f"{content.get('version', 'unversioned')}/{digest}", prices)


def _price(number: int, entry: Any) -> Price:
    fields = dict(entry) if isinstance(entry, dict) else {}
    where = f"price book, entry {number}"
    unknown = fields.keys() - {"generator", "model", "unit", "usd", "effective_from", "source", "resolution"}
    if unknown:
        raise ConfigError(f"{where}: unknown key {min(unknown)!r}")
    for key, kind in [
        ("generator", str),
        ("model", str),
        ("usd", str),
        ("source", str),
        ("effective_from", date),
    ]:
        if not isinstance(fields.get(key), kind):
            raise ConfigError(f"{where}: {key} must be given as {'text' if kind is str else 'a date'}")
    if fields.get("unit") not in {"generation", "gpu_second"}:
        raise ConfigError(f"{where}: unit must be 'generation' or 'gpu_second'")
    if not isinstance(fields.get("resolution", 0), int):
        raise ConfigError(f"{where}: resolution must be a whole number of pixels")
    try:
        return Price(**(fields | {"usd": parse_usd(fields["usd"])}))
    except LedgerError as error:
        raise ConfigError(f"{where}: usd {error}") from error
