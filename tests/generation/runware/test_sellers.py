"""Which server sold a model is part of who made it: the name in the books, the prices, the way back to it."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from runware_parts import SENTINEL

from trellis_pipeline.costs.price_book import load_price_book
from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.runware.generator import identity_at
from trellis_pipeline.generation.runware.options import LEAST_PRICE, ApiKey, RunwareOptions
from trellis_pipeline.generation.runware.seller import RUNWARE_URL, options_for, seller_of

SPELLINGS = [
    RUNWARE_URL,
    "https://api.runware.ai/v1/",
    "https://API.runware.ai/v1",
    "https://api.runware.ai:443/v1",
    "https://api.runware.ai./v1",
    "https://api.runware.ai",
]


@pytest.mark.parametrize("url", SPELLINGS)
def test_runware_is_runware_however_its_address_is_spelt(url):
    assert seller_of(url) == "runware"
    assert RunwareOptions(api_key=ApiKey(SENTINEL), base_url=url).least_cost == LEAST_PRICE


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://127.0.0.1:8765/v1", "runware@127.0.0.1:8765"),
        ("http://localhost/v1/", "runware@localhost:80"),
        ("http://[::1]:8765/v1", "runware@[::1]:8765"),
        ("https://Models.Example.com/v1", "runware@models.example.com:443"),
        ("https://api.runware.ai:8443/v1", "runware@api.runware.ai:8443"),
        ("https://api.runware.ai.example.com/v1", "runware@api.runware.ai.example.com:443"),
    ],
)
def test_a_server_with_the_same_api_has_a_name_of_its_own(url, name):
    assert identity_at(url).name == name
    assert RunwareOptions(api_key=ApiKey(SENTINEL), base_url=url).least_cost == 0
    assert seller_of(options_for(name).rpartition(" ")[2]) == name  # what a message says leads back to it


def test_a_server_with_the_same_api_borrows_runwares_list_price():
    today = datetime.now(UTC).date()
    book = load_price_book()
    quote = book.find("runware@127.0.0.1:8765", "microsoft:trellis-2@4b", 1024, today)
    assert quote.price.usd == Decimal("0.0256")
    with pytest.raises(ConfigError, match="never taken as 0"):
        book.find("local@127.0.0.1:8765", "microsoft:trellis-2@4b", 1024, today)


@pytest.mark.parametrize("name", ["draft", "local", "runware"])
def test_other_generators_are_named_as_they_are(name):
    assert options_for(name).startswith(f"--generator {name}")


@pytest.mark.parametrize("slashes", ["/", "///", ""])
def test_a_slash_at_the_end_of_base_url_means_nothing(slashes):
    chosen = RunwareOptions(api_key=ApiKey(SENTINEL), base_url=f"http://127.0.0.1:8765/v1{slashes}")
    assert chosen.base_url == "http://127.0.0.1:8765/v1"
