"""Tasks from submit to model: against the real service with faults on request, and against scripts."""

import asyncio
import time
from decimal import Decimal

import pytest
from runware_parts import (
    FILE,
    OTHER,
    SENTINEL,
    UUID,
    SeedGenerator,
    bought,
    collected,
    crop,
    error,
    finished,
    processing,
    small_glb,
    with_generator,
)
from scripted_server import RESET, http, scripted_server

from trellis_pipeline.errors import (
    OutcomeUnknown,
    OutOfCredit,
    ProviderBusy,
    ProviderRefusesAccess,
    ProviderRejected,
    ResultLost,
    TaskFailed,
    TrellisError,
)
from trellis_pipeline.generation.generator import Generator, RemoteGenerator
from trellis_pipeline.generation.request import GenerationRequest
from trellis_pipeline.generation.runware import waiting
from trellis_pipeline.generation.runware.generator import RunwareGenerator, identity_at
from trellis_pipeline.generation.runware.options import ApiKey
from trellis_pipeline.generation.runware.seller import RUNWARE_URL
from trellis_pipeline.generation.runware.uploads import Uploads
from trellis_pipeline.generation.task_uuid import task_uuid
from trellis_pipeline.purchasing.bill import bill_for
from trellis_pipeline.service.faults import Fault, FaultPlan
from trellis_pipeline.service.testing import running_service

LIST_PRICE = Decimal("0.0256")


@pytest.fixture
def service(tmp_path):
    """Start the real service with these faults; it knows the sentinel key only."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(*faults, **more):
            plan = FaultPlan.of(*faults) if faults else None
            return stack.enter_context(
                running_service(SeedGenerator(), folder=tmp_path, faults=plan, api_keys=[SENTINEL], **more)
            )

        yield start


def without_secrets(outcome):
    assert SENTINEL not in f"{outcome!r} {outcome} {outcome.__cause__!r}"
    return outcome


def scripted(handle, use=collected, **more):
    """Run `use` against a server that answers posts with `handle(asked, link)` and every file with a GLB."""

    def answer(asked):
        if asked.method == "GET":
            return http(small_glb())
        return handle(asked, f"{server.origin}/m.glb")

    with scripted_server(answer) as server:
        try:
            return use(server.base_url, **more), server
        except TrellisError as outcome:
            return without_secrets(outcome), server


def test_the_runware_generator_is_a_remote_generator():
    def takes(generator: RemoteGenerator) -> Generator:
        return generator

    assert takes(RunwareGenerator.__new__(RunwareGenerator)).paid
    assert str(identity_at(RUNWARE_URL)) == "runware/microsoft:trellis-2@4b/1"


# -- against the service ---------------------------------------------------------------------------------


def test_a_model_is_bought_with_its_seed_its_cost_and_its_name(service):
    provider = service()

    async def use(generator):
        shares = []
        request = GenerationRequest(seed=2**63 - 1)
        return await generator.generate(request, crop(), shares.append), shares

    (model,), shares = with_generator(provider.base_url, use)
    (billed,) = provider.billing()
    assert model.glb == small_glb(f"seed {2**63 - 1}")
    assert (model.seed, model.cost_usd, model.raw_cost_text) == (2**63 - 1, LIST_PRICE, "0.0256")
    assert (model.result_id, model.provenance["task_uuid"]) == (billed.result_uuid, billed.task_uuid)
    assert model.provenance["seed_stated"] is True
    assert shares[-1] == 1.0


def test_four_results_come_once_each_with_their_own_seed_and_cost(service):
    provider = service("duplicate_items", "out_of_order", "foreign_items")
    models = bought(provider.base_url, results=4)
    assert sorted(model.seed for model in models) == [42, 43, 44, 45]
    assert sum(model.cost_usd for model in models) == sum(result.cost for result in provider.billing())
    assert len({model.result_id for model in models}) == 4


def test_a_task_may_be_collected_again_by_another_process(service):
    provider = service()
    (first,) = bought(provider.base_url)
    (again,) = collected(provider.base_url)
    assert again.glb == first.glb
    assert len(provider.billing()) == 1


def test_sync_delivery_needs_no_poll(service):
    provider = service()
    (model,) = bought(provider.base_url, delivery="sync")
    assert model.cost_usd == LIST_PRICE
    assert provider.requests()["getResponse"] == 0


def test_a_sync_task_that_takes_too_long_is_polled(service):
    provider = service(seconds=1.0)

    async def use(generator):
        return await generator.generate(GenerationRequest(), crop())

    models = with_generator(provider.base_url, use, delivery="sync", sync_seconds=0.3)
    assert len(models) == len(provider.billing()) == 1


def test_a_crop_is_uploaded_once_and_named_afterwards(service):
    provider = service()

    async def use(generator):
        requests = [GenerationRequest(seed=seed) for seed in range(5)]
        return await asyncio.gather(*(generator.generate(request, crop()) for request in requests))

    models = with_generator(provider.base_url, use, image_input="upload")
    assert len(models) == 5
    assert provider.requests()["mediaStorage"] == 1
    assert provider.requests()["3dInference"] == 5


def test_of_two_that_want_one_upload_and_are_stopped_together_none_goes_on():
    async def go():
        begun = []

        async def send(_png):
            begun.append(True)
            await asyncio.sleep(60)

        uploads = Uploads(send)
        both = [asyncio.ensure_future(uploads.uuid_of(b"png", "its hash")) for _ in range(2)]
        await asyncio.sleep(0)
        for one in both:
            one.cancel()
        async with asyncio.timeout(30):
            return await asyncio.gather(*both, return_exceptions=True), len(begun)

    results, uploads = asyncio.run(go())
    assert [type(one) for one in results] == [asyncio.CancelledError] * 2
    assert uploads == 1


def test_of_two_that_want_one_upload_the_second_makes_it_when_the_first_is_stopped():
    async def go():
        begun = []

        async def send(_png):
            begun.append(True)
            await asyncio.sleep(0.01)
            return OTHER

        uploads = Uploads(send)
        first, second = (asyncio.ensure_future(uploads.uuid_of(b"png", "its hash")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        return await asyncio.gather(first, second, return_exceptions=True), len(begun)

    (first, second), uploads = asyncio.run(go())
    assert isinstance(first, asyncio.CancelledError)
    assert (second, uploads) == (OTHER, 2)


def test_an_upload_that_is_gone_is_replaced_by_the_picture_itself(service):
    provider = service()

    async def use(generator):
        generator.client._uploads._known[crop().sha256] = asyncio.Future()
        generator.client._uploads._known[crop().sha256].set_result(OTHER)
        return await generator.generate(GenerationRequest(), crop())

    assert len(with_generator(provider.base_url, use, image_input="upload")) == 1
    assert len(provider.billing()) == 1


@pytest.mark.parametrize(
    "name", ["ack_lost", "reset", "truncated_json", "html_200", "html_error", "server_error"]
)
def test_an_acknowledgement_lost_after_acceptance_buys_once(service, name):
    provider = service(Fault(name, on="submit", accepted=True))

    async def use(generator):
        return await generator.generate(GenerationRequest(), crop())

    assert len(with_generator(provider.base_url, use)) == 1
    assert provider.struck[name] == 1
    assert len(provider.billing()) == len(provider.accepted()) == 1


def test_a_task_that_only_the_archive_shows_yet_is_not_handed_in_again(service):
    provider = service("ack_lost", Fault("hidden", seconds=0.3))

    async def use(generator):
        return await generator.generate(GenerationRequest(), crop())

    assert len(with_generator(provider.base_url, use)) == 1
    assert provider.requests()["3dInference"] == 1
    assert len(provider.billing()) == 1


def test_a_task_that_nobody_shows_yet_is_handed_in_again_under_the_same_uuid():
    submitted = []

    def handle(asked, link):
        if asked.task_type != "3dInference":
            return http({"data": [finished(link, submitted[0])] if len(submitted) > 1 else []})
        submitted.append(asked.tasks[0]["taskUUID"])
        return (
            [RESET]
            if len(submitted) == 1
            else http({"errors": [error("conflictTaskUUID", submitted[0])]}, 400)
        )

    def use(base_url):
        return with_generator(base_url, lambda g: g.generate(GenerationRequest(), crop()))

    (_,), _ = scripted(handle, use)
    assert len(submitted) == 2
    assert len(set(submitted)) == 1


@pytest.mark.parametrize(
    "name",
    [
        "rate_limited", "server_error", "html_error", "html_200", "reset", "truncated_json", "gzip_bomb",
        "hidden", "stuck", "turned_away", "duplicate_items", "out_of_order", "foreign_items", "legacy_shape",
        "inline_model", "examples_shape", "dead_link", "truncated_file", "file_reset", "glb_bomb",
    ],
)  # fmt: skip
def test_a_bad_day_of_the_provider_costs_time_and_no_second_model(service, name):
    provider = service(Fault(name, on="poll", seconds=0.2), seconds=0.05)
    models = bought(provider.base_url, max_reply_bytes=1_000_000)
    assert [model.glb for model in models] == [small_glb("seed 42")]
    assert provider.struck[name] >= 1
    assert len(provider.billing()) == 1


def test_two_customers_of_one_server_buy_the_same_request_each_with_their_own_key(tmp_path):
    with running_service(SeedGenerator(), folder=tmp_path, api_keys=[SENTINEL, "another-key"]) as provider:
        for key in (SENTINEL, "another-key"):
            (model,) = bought(provider.base_url, api_key=ApiKey(key))
            assert model.cost_usd == LIST_PRICE
        assert [billed.task_uuid for billed in provider.billing()] == [UUID, UUID]
        assert len({billed.account for billed in provider.billing()}) == 2


def test_a_uuid_that_is_in_use_and_shown_to_nobody_is_said_to_be_another_keys(monkeypatch):
    monkeypatch.setattr(waiting, "IN_USE_SECONDS", 0.2)

    def handle(asked, _link):
        if asked.task_type == "3dInference":
            return http({"data": [], "errors": [error("conflictTaskUUID")]}, status=400)
        if asked.task_type == "getTaskDetails":
            return http({"data": [], "errors": [error("taskNotFound")]}, status=404)
        return http({"data": []})

    outcome, _ = scripted(handle, bought)
    assert isinstance(outcome, OutcomeUnknown)
    assert "another key may have bought the same request" in str(outcome)
    assert "costs open --finish" in str(outcome)


def test_a_uuid_that_is_in_use_by_a_task_of_our_own_is_waited_for_however_late_it_shows(monkeypatch):
    monkeypatch.setattr(waiting, "IN_USE_SECONDS", 0.1)
    polls = []

    def handle(asked, link):
        conflict = error("conflictTaskUUID")
        if asked.task_type == "3dInference":
            return http({"data": [], "errors": [conflict]}, status=400)
        if asked.task_type == "getTaskDetails":  # the last answer was the refusal of the second submit
            archived = {"taskType": "getTaskDetails", "taskUUID": UUID, "response": {"errors": [conflict]}}
            return http({"data": [archived]})
        polls.append(asked)
        return http({"data": [finished(link)] if len(polls) > 12 else []})

    (model,), _ = scripted(handle, bought)
    assert model.glb == small_glb()


@pytest.mark.parametrize("value", ["missing", "text", "negative", "nan", "tiny"])
def test_an_odd_cost_is_unknown_and_the_model_is_kept(service, value):
    provider = service(Fault("odd_cost", times=0, value=value))
    (model,) = bought(provider.base_url)
    assert model.cost_usd is None
    assert model.glb == small_glb("seed 42")


@pytest.mark.parametrize("value", ["", "400", "data"])
def test_a_failed_task_is_a_verdict_in_every_form(service, value):
    provider = service(Fault("task_fails", times=0, value=value))
    with pytest.raises(TaskFailed, match="new task"):
        bought(provider.base_url)
    assert provider.billing() == []


def test_one_of_four_failing_leaves_three_and_a_note(service):
    provider = service(Fault("one_result_fails", value="2"))
    models = bought(provider.base_url, results=4)
    assert sorted(model.seed for model in models) == [42, 43, 45]
    assert models[0].provenance["results_failed"] == 1
    assert models[0].provenance["failures"]
    assert len(provider.billing()) == 3


def test_a_task_that_stays_in_processing_is_unknown_at_the_deadline(service):
    provider = service(Fault("stuck", times=0))
    with pytest.raises(OutcomeUnknown, match="still processing"):
        bought(provider.base_url, task_seconds=0.5)
    assert len(provider.billing()) == 1


@pytest.mark.parametrize("status", ["402", "400"])
def test_no_credit_in_the_middle_of_a_backfill_stops_buying_and_keeps_what_is_bought(service, status):
    provider = service(Fault("out_of_credit", times=0, after=3, value=status))

    async def use(generator):
        uuids = [task_uuid("a" * 64, number) for number in range(8)]
        outcomes = []
        for one in uuids:
            try:
                await generator.submit(one, GenerationRequest(), crop())
                outcomes += await generator.collect(one, GenerationRequest())
            except OutOfCredit as stop:
                outcomes.append(stop)
        return outcomes

    outcomes = with_generator(provider.base_url, use)
    assert [isinstance(outcome, OutOfCredit) for outcome in outcomes] == [False] * 3 + [True] * 5
    assert len(provider.billing()) == 3


def test_a_wrong_key_is_one_call_to_the_real_service_too(service):

    provider = service()

    async def use(generator):
        return await asyncio.gather(
            *(generator.generate(GenerationRequest(seed=n), crop()) for n in range(20)),
            return_exceptions=True,
        )

    outcomes = with_generator(provider.base_url, use, api_key=ApiKey("another-key-than-the-sentinel"))
    assert {type(outcome) for outcome in outcomes} == {ProviderRefusesAccess}
    assert provider.accepted() == []


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_many_products_on_a_day_when_everything_happens_are_each_bought_once(service, tmp_path, seed):
    plan = FaultPlan.random(seed, rate=0.2, seconds=0.1)
    with running_service(
        SeedGenerator(), folder=tmp_path / "s", faults=plan, api_keys=[SENTINEL]
    ) as provider:

        async def buy(generator, number):
            uuid, request = task_uuid("a" * 64, number), GenerationRequest(seed=number)
            while True:
                try:
                    await generator.submit(uuid, request, crop())
                    break
                except OutcomeUnknown:
                    if await generator.knows(uuid):
                        break
            return await generator.collect(uuid, request)

        async def use(generator):
            return await asyncio.gather(*(buy(generator, number) for number in range(30)))

        # Every poll asks for many tasks at once, so the faults of all of them strike it.
        models = with_generator(provider.base_url, use, attempts=50)
        assert [model.glb for (model,) in models] == [small_glb(f"seed {number}") for number in range(30)]
        assert sum(provider.struck.values()) > 20
        assert len(provider.billing()) == 30


# -- against scripts -------------------------------------------------------------------------------------


def test_a_task_that_nobody_knows_is_unknown_at_the_deadline_and_not_failed():
    outcome, server = scripted(lambda asked, _: http({"data": []}), task_seconds=0.5)
    assert isinstance(outcome, OutcomeUnknown)
    assert "does not speak of it" in str(outcome)
    assert server.count("getTaskDetails") >= 1


@pytest.mark.parametrize(
    "refusal",
    [
        http({"errors": [error("invalidTaskUUID", None)]}, 400),
        http({"errors": [error("unsupportedParameter", taskType="getResponse")]}, 400),
        http({"errors": [error("rateLimitExceeded")]}, 429, Retry_After="0"),
        http({"errors": [error("providerError")]}, 503),
        http("<html>Not Found</html>", 404),
        [RESET],
    ],
)
def test_a_poll_that_fails_says_nothing_about_the_task(refusal):
    def handle(asked, link):
        return refusal if asked.number < 3 else http({"data": [finished(link)]})

    (model,), server = scripted(handle)
    assert model.result_id == FILE
    assert server.count("getResponse") == 4


BUSY_FOR_NOBODY_KNOWS_WHOM = http({"errors": [error("rateLimitExceeded", taskType="")]})


def test_a_poll_turned_away_in_the_name_of_its_task_does_not_end_the_task():
    def handle(asked, link):
        said = {2: processing(), 5: finished(link)}.get(asked.number)
        return http({"data": [said]}) if said else BUSY_FOR_NOBODY_KNOWS_WHOM

    (model,), server = scripted(handle)
    assert model.result_id == FILE
    assert server.count("getResponse") == 6


def test_a_task_that_was_turned_away_after_it_was_taken_has_failed_when_the_provider_insists():
    outcome, server = scripted(lambda *_: BUSY_FOR_NOBODY_KNOWS_WHOM)
    assert isinstance(outcome, TaskFailed)
    assert server.count("getResponse") == 3


@pytest.mark.parametrize("insists", [False, True])
def test_whether_a_task_is_known_is_not_read_off_a_poll_that_was_turned_away(insists):
    def handle(asked, _):
        return BUSY_FOR_NOBODY_KNOWS_WHOM if insists or asked.number < 2 else http({"data": []})

    known, _ = scripted(handle, lambda base_url: with_generator(base_url, lambda g: g.knows(UUID)))
    assert known is insists


def test_a_poll_that_is_refused_for_the_key_stops_everything():
    outcome, server = scripted(lambda *_: http({"errors": [error("invalidApiKey")]}, 401))
    assert isinstance(outcome, ProviderRefusesAccess)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("inferenceError", TaskFailed),
        ("timeoutProvider", TaskFailed),
        ("neverSeenBefore", TaskFailed),
        ("insufficientCredits", TaskFailed),
        ("contentPolicyViolation", ProviderRejected),
        ("invalidImage", ProviderRejected),
        ("taskExpired", ResultLost),
    ],
)
def test_an_error_addressed_to_the_task_is_its_verdict(code, kind):
    outcome, server = scripted(lambda *_: http({"data": [], "errors": [error(code)]}))
    assert type(outcome) is kind
    assert code in str(outcome)
    assert len(server.requests) == 1


def test_a_task_that_failed_in_the_answer_to_its_submit_needs_no_poll():
    outcome, server = scripted(lambda *_: http({"errors": [error("inferenceError")]}), bought)
    assert isinstance(outcome, TaskFailed)
    assert len(server.requests) == 1


def known(answers):
    """Whether a provider that answers so, by task type, knows our task."""
    result, server = scripted(
        lambda asked, _: answers[asked.task_type],
        lambda base_url: with_generator(base_url, lambda g: g.knows(UUID), attempts=2),
    )
    return result, server


def details(response):
    return http(
        {"data": [{"taskType": "getTaskDetails", "taskUUID": UUID, "request": [], "response": response}]}
    )


NOTHING = http({"data": []})


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"getResponse": http({"data": [processing()]})}, True),
        ({"getResponse": http({"data": [finished("https://im.runware.ai/m.glb")]})}, True),
        ({"getResponse": http({"errors": [error("inferenceError")]})}, True),
        ({"getResponse": NOTHING, "getTaskDetails": NOTHING}, False),
        (
            {"getResponse": NOTHING, "getTaskDetails": http({"errors": [error("taskNotFound", None)]}, 404)},
            False,
        ),
        ({"getResponse": http({"errors": [error("taskNotFound")]}), "getTaskDetails": NOTHING}, False),
        ({"getResponse": NOTHING, "getTaskDetails": details({"data": [finished("https://x.test")]})}, True),
        ({"getResponse": NOTHING, "getTaskDetails": details({"errors": [error("inferenceError")]})}, True),
        # The archive keeps the last answer: after a repeated submit that is the refusal of the repetition.
        ({"getResponse": NOTHING, "getTaskDetails": details({"errors": [error("conflictTaskUUID")]})}, True),
        (
            {"getResponse": NOTHING, "getTaskDetails": details({"errors": [error("insufficientCredits")]})},
            False,
        ),
        ({"getResponse": NOTHING, "getTaskDetails": details("nonsense")}, False),
    ],
)
def test_whether_the_provider_has_a_task_is_asked_first_here_then_in_the_archive(answers, expected):
    assert known(answers)[0] is expected


@pytest.mark.parametrize("answer", [http("<html></html>"), [RESET], http("", 503)])
def test_where_it_cannot_be_asked_the_outcome_stays_unknown(answer):
    outcome, server = known({"getResponse": answer})
    assert isinstance(outcome, OutcomeUnknown)
    assert len(server.requests) == 2


def test_a_result_that_only_the_archive_has_is_collected_from_there():
    def handle(asked, link):
        return NOTHING if asked.task_type == "getResponse" else details({"data": [finished(link)]})

    (model,), _ = scripted(handle)
    assert model.result_id == FILE


def test_a_call_of_the_webhook_makes_the_next_poll_come_at_once():
    def handle(asked, link):
        return http({"data": [processing() if asked.number == 0 else finished(link)]})

    calls = []

    def hurry():
        calls.append(1)
        return True

    def use(base_url):
        request = GenerationRequest()
        return with_generator(
            base_url,
            lambda g: g.collect(UUID, request, hurry=hurry),
            poll_first_seconds=30,
            poll_most_seconds=30,
        )

    (_,), server = scripted(handle, use)
    assert calls == [1]
    assert server.count("getResponse") == 2


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_an_hour_changes_neither_polls_nor_deadline(monkeypatch, jump):
    real = time.time

    def handle(asked, link):
        if asked.number == 1:
            monkeypatch.setattr(time, "time", lambda: real() + jump)
        return http({"data": [processing() if asked.number < 4 else finished(link)]})

    (model,), server = scripted(handle, task_seconds=5.0)
    assert model.result_id == FILE
    assert server.count("getResponse") == 5
    assert 0 <= model.seconds < 60


def test_a_seed_that_is_not_stated_is_the_one_that_was_asked_for_and_says_so():
    def handle(asked, link):
        item = finished(link)
        del item["seed"]
        return http({"data": [item]})

    (model,), _ = scripted(handle)
    assert (model.seed, model.provenance["seed_stated"]) == (42, False)


def test_of_two_files_one_of_which_is_gone_the_other_is_kept_and_the_loss_is_noted():
    def handle(asked):
        if asked.method == "GET":
            return http(small_glb()) if asked.path == "/a.glb" else http("gone", 404)
        items = [finished(f"{server.origin}/{name}.glb", file=name) for name in "ab"]
        return http({"data": items if asked.task_type == "getResponse" else []})

    with scripted_server(handle) as server:
        (model,) = collected(server.base_url, results=2)
    assert model.result_id == "a"
    assert model.provenance["results_lost"] == [
        {"result_uuid": "b", "cost_usd": "0.0271", "cost_text": "0.0271"}
    ]


def booked(items, results):
    """The bill where the provider answers with these items: one list of file names with a cost for each."""

    def handle(asked):
        if asked.method == "GET":
            return http("gone", 404) if asked.path.startswith("/gone") else http(small_glb())
        stated = [
            {
                **finished(""),
                "cost": cost,
                "outputs": {"files": [{"uuid": n, "url": f"{server.origin}/{n}.glb"} for n in names]},
            }
            for names, cost in items
        ]
        return http({"data": stated if asked.task_type == "getResponse" else []})

    with scripted_server(handle) as server:
        models = collected(server.base_url, results=results)
    return len(models), bill_for(models, Decimal("0.256"), results)


@pytest.mark.parametrize(
    ("items", "results", "kept", "amount", "raw"),
    [
        ([("ab", 0.03)], 1, 1, "0.03", "0.03"),
        ([("a", 0.03), ("b", 0.02)], 1, 1, "0.05", "0.03 + 0.02"),
        ([(name, 0.03) for name in "abcde"], 4, 4, "0.15", " + ".join(["0.03"] * 5)),
        ([("abc", 0.03)], 2, 2, "0.03", "0.03"),
        ([(["gone", "b"], 0.03)], 2, 1, "0.03", "0.03"),
        ([(["a", "gone"], 0.03)], 2, 1, "0.03", "0.03"),
    ],
)
def test_all_that_was_made_is_booked_also_what_nobody_asked_for(items, results, kept, amount, raw):
    count, bill = booked(items, results)
    assert (count, bill.amount, bill.raw_cost_text) == (kept, Decimal(amount), raw)
    assert bill.source == "provider_cost"


def test_a_surplus_file_or_a_lost_one_whose_price_cannot_be_believed_is_estimated():
    for files in ("b", ["gone"]):
        _, bill = booked([("a", 0.03), (files, 5000)], 1 if files == "b" else 2)
        assert (bill.amount, bill.source) == (Decimal("0.03") + Decimal("0.128"), "estimate")


def test_progress_only_grows_and_ends_with_one():
    def handle(asked, link):
        steps = [processing(), processing(progress=50), processing(progress=20), processing(), finished(link)]
        return http({"data": [steps[min(asked.number, 4)]]})

    shares = []
    scripted(
        handle, lambda url: with_generator(url, lambda g: g.collect(UUID, GenerationRequest(), shares.append))
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_busy_for_ever_is_busy_and_not_billable(service):
    provider = service(Fault("rate_limited", times=0, on="submit"))
    with pytest.raises(ProviderBusy) as caught:
        bought(provider.base_url, attempts=3)
    assert not caught.value.billable
    assert provider.accepted() == []
