"""`doctor --live` against the real service: what it finds out, what it spends, and what never shows."""

import asyncio
import json
import re
import subprocess
import sys
import threading
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from forwarding import MakesTwice, forwarding, ignores_dry_runs
from small_catalogs import InstantGenerator, WaitingGenerator, settings_for
from typer.testing import CliRunner

from trellis_pipeline.automation.doctor_live import NOT_ASKED, examine_live
from trellis_pipeline.cli import app
from trellis_pipeline.config import load_settings
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import totals
from trellis_pipeline.errors import ConfigError
from trellis_pipeline.service.testing import running_service
from trellis_pipeline.storage.store import open_store

KEY = "s3ntinelKeyThatMustNeverShow0001"
CREDIT = Decimal("5")
PRICE = Decimal("0.0256")
STEPS = [
    "account", "unknown task", "unknown parameter", "tasks in one request", "dry run", "generation",
    "the model", "after the end", "the same UUID again", "account against ledger",
]  # fmt: skip


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("RUNWARE_API_KEY", KEY)


@pytest.fixture
def service(tmp_path):
    with running_service(InstantGenerator(), folder=tmp_path / "service", credit_usd=CREDIT) as service:
        yield service


def visit(tmp_path, base_url, spend="0.15", **sections):
    """A live check with everything in `tmp_path`: its document, and the findings by step."""
    settings = settings_for(
        tmp_path,
        generation={"generator": "runware"},
        runware={"base_url": base_url},
        budget={"run_usd": Decimal(spend)} if spend else {},
        **sections,
    )
    with Ledger.open(settings.ledger_url) as ledger:
        store = open_store(settings.storage_url)
        document = asyncio.run(examine_live(settings, ledger, store, settle_seconds=0.05))
        assert ledger.verify() == ()
        assert ledger.open_reservations(timedelta(0)) == ()
    return document, {finding["step"]: finding for finding in document["findings"]}


def test_every_question_is_answered_for_the_price_of_one_model(tmp_path, service):
    document, found = visit(tmp_path, service.base_url)
    assert list(found) == STEPS
    assert {finding["status"] for finding in found.values()} == {"found"}, document
    assert [bill.cost for bill in service.billing()] == [PRICE]
    assert Decimal(document["spent_usd"]) == PRICE
    assert document["not_asked"] == list(NOT_ASKED)

    facts = {step: finding["facts"] for step, finding in found.items()}
    assert Decimal(facts["account"]["balance"]) == CREDIT
    assert facts["unknown task"]["getResponse"]["http_status"] == 200
    assert facts["unknown task"]["getTaskDetails"]["errors"][0]["code"] == "taskNotFound"
    assert facts["unknown parameter"]["names_it"] is True
    assert facts["dry run"]["executed"] is False
    assert facts["dry run"]["price"] == "0.0256"
    assert facts["tasks in one request"]["most_answered"] == 100
    course = facts["generation"]
    assert course["ack"]["shape"] == {"data": [{"taskType": "text '3dInference'", "taskUUID": "uuid"}]}
    assert course["result"]["files_in"] == ["outputs.files", "modelURL"]
    assert course["result"]["cost"] == {"type": "number", "usd": "0.0256"}
    assert course["result"]["link"]["allowed"] is True
    assert course["result"]["link"]["query_parameters"] == ["expires", "signature"]
    assert 600_000 < course["result"]["link"]["lifetime_seconds"] <= 7 * 24 * 3600
    assert facts["the model"]["triangles"] == 12
    assert facts["the model"]["alpha_modes"] == ["OPAQUE"]
    assert facts["the same UUID again"]["conflict"] is True
    assert Decimal(facts["the same UUID again"]["balance_moved"]) == 0
    assert facts["account against ledger"]["fell"] == "0.0256"


def test_the_document_is_kept_in_the_store_and_a_second_one_of_the_day_beside_it(tmp_path, service):
    first, _ = visit(tmp_path, service.base_url)
    second, _ = visit(tmp_path, service.base_url)
    kept = sorted((tmp_path / "output" / "doctor").glob("*.json"))
    assert len(kept) == 2
    for document in (first, second):
        saved = json.loads(Path(document["saved_at"]).read_text())
        del document["saved_at"]
        assert saved == json.loads(json.dumps(document))
    assert len(service.billing()) == 2  # each visit buys one, on purpose


def test_no_key_and_no_link_is_in_what_it_writes_down(tmp_path, service):
    document, found = visit(tmp_path, service.base_url)
    text = json.dumps(document)
    assert KEY not in text
    assert "signature=" not in text
    hashes = set(re.findall(r"[0-9a-f]{64}", text))
    assert hashes == {found["the model"]["facts"]["sha256"]}


def test_a_wrong_key_is_said_once_and_nothing_else_is_tried(tmp_path):
    with running_service(InstantGenerator(), folder=tmp_path / "s", api_keys=["another-key"]) as service:
        document, found = visit(tmp_path, service.base_url)
        assert found["account"]["status"] == "failed"
        assert "RUNWARE_API_KEY" in found["account"]["says"][0]
        assert {finding["status"] for step, finding in found.items() if step != "account"} == {"skipped"}
        assert service.accepted() == []
    assert Decimal(document["spent_usd"]) == 0


def test_an_empty_account_stops_the_purchase_and_not_the_other_questions(tmp_path):
    folder = tmp_path / "s"
    with running_service(InstantGenerator(), folder=folder, credit_usd=Decimal("0.01")) as service:
        document, found = visit(tmp_path, service.base_url)
    assert found["generation"]["status"] == "failed"
    assert "credit" in found["generation"]["says"][0]
    assert found["unknown task"]["status"] == found["account against ledger"]["status"] == "found"
    assert found["the same UUID again"]["status"] == "skipped"
    assert Decimal(document["spent_usd"]) == 0


def test_what_may_be_spent_is_a_wall(tmp_path, service):
    _, found = visit(tmp_path, service.base_url, spend="0.03")
    assert found["generation"]["status"] == "failed"
    assert "budget of run" in found["generation"]["says"][0]
    assert found["dry run"]["status"] == "failed"
    assert service.accepted() == []


def test_without_an_amount_nothing_is_asked(tmp_path, service):
    with pytest.raises(ConfigError, match="--spend"):
        visit(tmp_path, service.base_url, spend="")


def test_a_server_that_carries_out_dry_runs_is_found_out_and_paid(tmp_path, service):
    with forwarding(service.origin, ignores_dry_runs) as server:
        document, found = visit(tmp_path, server.base_url)
    assert found["dry run"]["facts"]["executed"] is True
    assert found["tasks in one request"]["facts"]["most_answered"] == 100  # and not one of them was made
    assert len(service.billing()) == 2
    # The second bill is not known, so what was set aside for it is booked.
    assert Decimal(document["spent_usd"]) == PRICE + PRICE * Decimal("2.5")


def test_a_server_that_makes_one_uuid_twice_is_found_out_and_paid(tmp_path, service):
    with forwarding(service.origin, MakesTwice()) as server:
        document, found = visit(tmp_path, server.base_url)
    replay = found["the same UUID again"]
    assert replay["facts"]["accepted"] is True
    assert replay["facts"]["conflict"] is False
    assert any("billed again" in words for words in replay["says"])
    assert len(service.billing()) == 2
    assert Decimal(document["spent_usd"]) == 2 * PRICE
    assert found["account against ledger"]["facts"]["fell"] == "0.0512"


def test_a_used_uuid_that_is_taken_again_and_not_billed_yet_counts_as_bought(tmp_path):
    with (
        running_service(WaitingGenerator(free=1), folder=tmp_path / "service") as service,
        forwarding(service.origin, MakesTwice()) as server,
    ):
        document, found = visit(tmp_path, server.base_url)
    replay = found["the same UUID again"]
    assert (replay["facts"]["accepted"], Decimal(replay["facts"]["balance_moved"])) == (True, 0)
    assert any("booked as bought" in words for words in replay["says"])
    assert Decimal(document["spent_usd"]) == PRICE + PRICE * Decimal("2.5")


def test_a_visit_that_is_stopped_after_its_purchase_began_goes_on_with_it(tmp_path):
    sections = {"generation": {"generator": "runware"}, "budget": {"run_usd": Decimal("0.15")}}

    async def stopped(settings, ledger, service):
        going = asyncio.create_task(
            examine_live(settings, ledger, open_store(settings.storage_url), settle_seconds=0.05)
        )
        while not service.accepted():
            await asyncio.sleep(0.02)
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going

    generator = WaitingGenerator()
    with running_service(generator, folder=tmp_path / "service") as service:
        settings = settings_for(tmp_path, runware={"base_url": service.base_url}, **sections)
        with Ledger.open(settings.ledger_url) as ledger:
            asyncio.run(stopped(settings, ledger, service))
            assert len(ledger.open_reservations(timedelta(0))) == 1
        generator.go_on.set()
        _, found = visit(tmp_path, service.base_url)
        assert found["generation"]["status"] == "found"
        assert len(service.accepted()) == len(service.billing()) == 1


def test_a_question_of_a_killed_doctor_is_listed_and_booked_as_bought(tmp_path, service, monkeypatch):
    asked, go_on = threading.Event(), threading.Event()

    def hold_the_dry_run(_asked, headers, tasks):
        if "x-runware-dry-run" in headers and "inputs" in tasks[0]:  # the others are for nothing
            asked.set()
            go_on.wait(120)
        return {}

    monkeypatch.chdir(tmp_path)
    (tmp_path / "trellis.toml").write_text("[run]\nworkers = 1\n")
    code = "from trellis_pipeline.cli import main; main()"
    with forwarding(service.origin, hold_the_dry_run) as server:
        command = [sys.executable, "-c", code, "doctor", "--live", "--base-url", server.base_url]
        doctor = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert asked.wait(120)
            alive = CliRunner().invoke(app, ["costs", "open", "--finish", "--json"])
        finally:
            doctor.kill()
            doctor.wait()
            go_on.set()

    (question,) = json.loads(alive.stdout)["questions"]
    assert (question["what"], question["is_left"], question["end"]) == ("dry run", False, None)
    page = CliRunner().invoke(app, ["costs", "open"])
    assert page.exit_code == 0, page.output
    for words in ("dry run", "process that is gone", "--finish books"):
        assert words in " ".join(page.stdout.split())
    finished = CliRunner().invoke(app, ["costs", "open", "--finish", "--json"])
    assert finished.exit_code == 0, finished.output
    (question,) = json.loads(finished.stdout)["questions"]
    assert (question["is_left"], question["end"]) == (True, "booked as bought")
    with Ledger.open(load_settings().ledger_url) as ledger:
        assert ledger.open_reservations() == ()
        assert ledger.verify() == ()
        assert totals(ledger).settled_usd == Decimal(question["set_aside_usd"])
    assert "no purchase is open" in CliRunner().invoke(app, ["costs", "open", "--finish"]).stdout


@pytest.mark.slow
def test_the_command_prints_what_it_found_and_says_it_as_json(tmp_path, service, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trellis.toml").write_text("[run]\nworkers = 1\n")
    arguments = ["doctor", "--live", "--base-url", service.base_url]
    page = CliRunner().invoke(app, arguments)
    assert page.exit_code == 0, page.output
    for text in (*STEPS, "it is a conflict", "$0.0256 booked", "not asked"):
        assert text in page.stdout
    document = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert document["healthy"] is True
    assert [finding["step"] for finding in document["live"]["findings"]] == STEPS
    everything = page.output + json.dumps(document)
    assert KEY not in everything
    assert "signature=" not in everything


def test_a_live_check_that_cannot_be_paid_is_not_begun(tmp_path, service, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trellis.toml").write_text("[run]\nworkers = 1\n")
    monkeypatch.delenv("RUNWARE_API_KEY")
    done = CliRunner().invoke(app, ["doctor", "--live", "--base-url", service.base_url])
    assert done.exit_code == 1
    assert "RUNWARE_API_KEY is not set" in done.stdout
    assert "--live was not begun; first solve: api key" in done.stderr
    assert service.requests() == {}


def test_a_generator_without_a_provider_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["doctor", "--live", "--generator", "draft"])
    assert done.exit_code == 2
    assert "has none" in done.stderr
