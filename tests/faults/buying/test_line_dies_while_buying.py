"""The whole line is killed while it buys, where money and files could part; the key stays secret."""

import json
import re
from collections import Counter
from decimal import Decimal

import pytest
from buying_line import buying_plan, start
from buying_scenarios import secrets_in
from line_process import SAFETY_SECONDS, assert_consistent, assert_nobody_stays, assert_whole, statuses
from runware_parts import SENTINEL
from service_process import service_process
from small_catalogs import write_catalog

from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import totals
from trellis_pipeline.service.faults import Fault, FaultPlan
from trellis_pipeline.service.testing import accepted_of, billing_of

SKUS = ("A", "B", "C")
BAD_DAY = FaultPlan.of(
    Fault("ack_lost"),
    Fault("server_error", on="poll"),
    Fault("dead_link", per_task=True),
    Fault("truncated_file"),
    Fault("html_200", on="poll"),
    Fault("webhook_forged", times=0),
).to_json()

MOMENTS = [
    pytest.param("after:submit:.:2", id="after ack", marks=pytest.mark.slow),
    pytest.param("after:create:generations/:2", id="after store", marks=pytest.mark.slow),
    pytest.param("before:settle:.:2", id="before settle", marks=pytest.mark.slow),
    pytest.param("after:settle:.:1", id="before materialization", marks=pytest.mark.slow),
    pytest.param("after:begin:.:3", id="after intent", marks=pytest.mark.slow),
    pytest.param("before:collect:.:1", id="during poll", marks=pytest.mark.slow),
]


def ended(process, status):
    out, err = process.communicate(timeout=SAFETY_SECONDS)
    assert process.returncode == status, err[-3000:]
    assert_nobody_stays(process.pid)
    assert SENTINEL not in out + err
    return out


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_line_killed_while_it_buys_pays_once_and_the_next_run_finishes(tmp_path, moment):
    catalog, home = write_catalog(tmp_path / "shop", SKUS), tmp_path / "home"
    with service_process(tmp_path / "service", "--faults", BAD_DAY, "--seconds", "0.2") as service:
        ended(start(buying_plan(home, catalog, service.base_url, moment)), -9)
        assert_whole(home / "output")
        summary = json.loads(ended(start(buying_plan(home, catalog, service.base_url)), 0))
        assert set(statuses(summary)) == set(SKUS)
        assert set(statuses(summary).values()) <= {"generated", "cached"}
        before = accepted_of(service.folder)
        again = json.loads(ended(start(buying_plan(home, catalog, service.base_url)), 0))
        assert set(statuses(again).values()) == {"cached"}
        assert accepted_of(service.folder) == before
    bills = billing_of(service.folder)
    assert Counter(before) == Counter(bill.task_uuid for bill in bills)
    assert len(set(before)) == len(before) == len(SKUS)
    with Ledger.open(f"sqlite:///{home / '.trellis' / 'ledger.sqlite'}") as ledger:
        assert ledger.verify() == ()
        assert ledger.open_reservations() == ()
        assert totals(ledger).settled_usd == sum((bill.cost for bill in bills), Decimal(0))
    for sku in SKUS:
        assert_consistent(home / "output", sku)
        certificate = json.loads((home / "output/shop/products" / sku / "birth_certificate.json").read_text())
        assert Decimal(certificate["cost_usd"]) == Decimal("0.0256")
    assert secrets_in(tmp_path, SENTINEL) == []


@pytest.mark.slow
def test_on_a_bad_day_no_secret_of_a_purchase_is_in_any_file_event_or_terminal(tmp_path):
    """The key, the tokens of the webhooks and the signatures of the links, as they really were."""
    catalog, home = write_catalog(tmp_path / "shop", SKUS), tmp_path / "home"
    rejected = Fault("file_gone", after=1, times=0)
    faults = FaultPlan.of(*FaultPlan.from_json(BAD_DAY).faults, "redirect_to_metadata", rejected)
    with service_process(tmp_path / "service", "--faults", faults.to_json()) as service:
        # Nobody listens at the address for webhooks, so each call is tried, fails, and is tried again.
        webhooks = {"public_url": "http://127.0.0.1:9"}
        process = start(buying_plan(home, catalog, service.base_url, webhooks=webhooks))
        out, err = process.communicate(timeout=SAFETY_SECONDS)
        assert process.returncode == 0, err[-3000:]
        assert "failed" in statuses(json.loads(out)).values()
    told = b"".join(path.read_bytes() for path in service.folder.glob("*") if path.is_file())
    tokens = set(re.findall(rb"token=([\w-]{20,})", told))
    assert len(tokens) >= len(SKUS)
    for secret in (SENTINEL, "signature=", "token=", *(token.decode() for token in tokens)):
        assert secret not in out + err
        assert secrets_in(home, secret) == []
