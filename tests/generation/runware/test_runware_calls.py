"""Single calls against a server that misbehaves byte by byte: how they end, and how often they are made."""

import asyncio
import gzip
import io
import tracemalloc
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runware_parts import OTHER, SENTINEL, UUID, crop, error, finished, options, small_glb, with_generator
from scripted_server import RESET, http, scripted_server

from trellis_pipeline.errors import (
    ConfigError,
    OutcomeUnknown,
    OutOfCredit,
    ProviderBusy,
    ProviderRefusesAccess,
    ProviderRejected,
    TrellisError,
)
from trellis_pipeline.generation.request import GenerationRequest
from trellis_pipeline.generation.runware.client import RunwareClient
from trellis_pipeline.generation.runware.limiter import Limiter, Pace
from trellis_pipeline.generation.runware.options import ApiKey, RunwareOptions
from trellis_pipeline.generation.wire import task_json

ACK = {"data": [{"taskType": "3dInference", "taskUUID": UUID}]}
PONG = {"data": [{"taskType": "ping", "pong": True}]}


def without_secrets(outcome):
    assert SENTINEL not in f"{outcome!r} {outcome} {outcome.__cause__!r}"
    return outcome


def submitted(answer, **more):
    """Submit one task to a server that answers so; the outcome, and the server."""
    with scripted_server(answer if callable(answer) else lambda _: answer) as server:

        async def use(generator):
            try:
                await generator.submit(UUID, GenerationRequest(), crop())
            except TrellisError as outcome:
                return without_secrets(outcome)
            return None

        return with_generator(server.base_url, use, **more), server


def pinged(answer, **more):
    with scripted_server(answer if callable(answer) else lambda _: answer) as server:

        async def go():
            async with RunwareClient(options(server.base_url, **more)) as client:
                try:
                    return await client.ping()
                except TrellisError as outcome:
                    return without_secrets(outcome)

        return asyncio.run(go()), server


def after(*answers):
    """These answers one after the other, the last one for ever."""
    return lambda asked: answers[min(asked.number, len(answers) - 1)]


# -- what is sent ----------------------------------------------------------------------------------------


def test_a_task_is_sent_in_an_array_with_the_key_in_the_header_and_the_cost_asked_for():
    outcome, server = submitted(http(ACK))
    assert outcome is None
    (asked,) = server.requests
    assert (asked.method, asked.path) == ("POST", "/v1")
    assert asked.headers["authorization"] == f"Bearer {SENTINEL}"
    assert asked.headers["content-type"] == "application/json"
    (task,) = asked.tasks
    assert (task["taskUUID"], task["includeCost"], task["deliveryMethod"]) == (UUID, True, "async")
    assert task["inputs"]["image"].startswith("data:image/png;base64,")


def test_options_travel_with_the_task():
    with scripted_server(lambda _: http(ACK)) as server:

        async def use(generator):
            await generator.submit(UUID, GenerationRequest(), crop(), "https://hooks.example.test/?token=0")

        with_generator(server.base_url, use, ttl_seconds=3600)
    (task,) = server.requests[0].tasks
    assert (task["ttl"], task["webhookURL"]) == (3600, "https://hooks.example.test/?token=0")


# -- answers that get lost -------------------------------------------------------------------------------

GOOD = http(ACK)
BOMB = io.BytesIO()
with gzip.GzipFile(fileobj=BOMB, mode="wb", mtime=0) as packed:
    for _ in range(200):
        packed.write(bytes(1_000_000))
LOST = {
    "the connection is reset before the answer": [RESET],
    "the connection is reset in the middle of the answer": [GOOD[:-10], RESET],
    "the connection is closed in the middle of the answer": GOOD[:-10],
    "the acknowledgement is cut off": http(b'{"data":[{"taskType":"3dInf'),
    "a proxy answers a page with status 200": http("<html><body>Welcome</body></html>"),
    "a proxy answers a page with status 502": http("<html>Bad Gateway</html>", 502),
    "the server fails after it took the task": http({"errors": [error("internalServerError", None)]}, 500),
    "the server is overloaded after it took the task": http({"errors": [error("serviceUnavailable")]}, 503),
    "the answer does not speak of the task": http({"data": []}),
    "the answer speaks of another task": http({"data": [{"taskType": "3dInference", "taskUUID": OTHER}]}),
    "the answer is a gzip bomb": http(BOMB.getvalue(), Content_Encoding="gzip"),
    "the answer is damaged gzip": http(b"\x1f\x8b\x08" + bytes(40), Content_Encoding="gzip"),
    "the answer comes in an unknown encoding": http(b"xx", Content_Encoding="br"),
}


@pytest.mark.parametrize("answer", LOST.values(), ids=LOST.keys())
def test_a_submit_whose_answer_is_lost_is_unknown_and_not_sent_again(answer):
    outcome, server = submitted(answer, max_reply_bytes=1_000_000)
    assert isinstance(outcome, OutcomeUnknown)
    assert outcome.billable
    assert UUID in str(outcome)
    assert len(server.requests) == 1


def test_a_slow_loris_ends_at_the_deadline_although_every_byte_comes_in_time():
    drip = [step for byte in GOOD for step in (bytes([byte]), 0.05)]
    outcome, server = submitted(lambda _: drip, call_seconds=0.4)
    assert isinstance(outcome, OutcomeUnknown)
    assert "0.4 s" in str(outcome)
    assert len(server.requests) == 1


def test_a_gzip_bomb_is_not_unpacked_into_memory():
    tracemalloc.start()
    try:
        outcome, _ = pinged(
            http(BOMB.getvalue(), Content_Encoding="gzip"), max_reply_bytes=1_000_000, attempts=1
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(outcome, ProviderBusy)
    assert peak < 20_000_000


def test_gzip_that_is_honest_is_read():
    assert isinstance(
        pinged(http(gzip.compress(b'{"data":[{"taskType":"ping","pong":true}]}'), Content_Encoding="gzip"))[
            0
        ],
        float,
    )


# -- calls that may be repeated --------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [{}, {"Retry_After": "0"}, {"Retry_After": "Thu, 01 Jan 2026 00:00:00 GMT"}])
def test_a_429_with_or_without_retry_after_is_tried_again_because_nothing_was_taken(wait):
    busy = http({"errors": [error("rateLimitExceeded", None)]}, 429, **wait)
    outcome, server = submitted(after(busy, busy, GOOD))
    assert outcome is None
    assert len(server.requests) == 3
    assert {asked.tasks[0]["taskUUID"] for asked in server.requests} == {UUID}


def test_retry_after_is_waited_for():
    busy = http({"errors": [error("rateLimitExceeded", None)]}, 429, Retry_After="1")
    loop_times = []

    def answer(asked):
        loop_times.append(asyncio.get_running_loop().time())
        return busy if asked.number == 0 else GOOD

    assert submitted(answer)[0] is None
    assert loop_times[1] - loop_times[0] >= 1.0


def test_a_retry_after_of_an_hour_is_not_waited_for():
    busy = http({"errors": [error("rateLimitExceeded", None)]}, 429, Retry_After="3600")
    outcome, server = submitted(busy)
    assert isinstance(outcome, ProviderBusy)
    assert len(server.requests) == 1


def test_a_429_for_ever_ends_as_busy_and_nothing_is_billable():
    outcome, server = submitted(http({"errors": [error("rateLimitExceeded")]}, 429), attempts=3)
    assert isinstance(outcome, ProviderBusy)
    assert not outcome.billable
    assert len(server.requests) == 3


def test_where_nobody_listens_the_task_was_certainly_not_taken():
    with scripted_server(lambda _: GOOD) as server:
        base_url = server.base_url

    async def use(generator):
        await generator.submit(UUID, GenerationRequest(), crop())

    with pytest.raises(ProviderBusy, match="no connection"):
        with_generator(base_url, use, attempts=2)


@pytest.mark.parametrize("answer", [LOST[name] for name in list(LOST)[:8]], ids=list(LOST)[:8])
def test_a_question_whose_answer_is_lost_is_simply_asked_again(answer):
    outcome, server = pinged(after(answer, answer, http(PONG)))
    assert isinstance(outcome, float)
    assert len(server.requests) == 3


# -- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (http({"errors": [error("insufficientCredits")]}, 402), OutOfCredit),
        (http({"errors": [error("insufficientCredits")]}, 400), OutOfCredit),
        (http({"data": [], "errors": [error("insufficientCredits", None)]}, 200), OutOfCredit),
        (http({"errors": [error("providerInsufficientCredits")]}, 200), OutOfCredit),
        (http("<html>Payment Required</html>", 402), OutOfCredit),
        (http({"errors": [error("invalidImage", parameter="inputs.image")]}, 400), ProviderRejected),
        (http({"errors": [error("unknownParameter", parameter=["a", "b"])]}, 200), ProviderRejected),
        (http({"error": error("unsupportedParameter")}, 400), ProviderRejected),
        (http({"errors": [error("neverSeenBefore")]}, 400), ProviderRejected),
        (http({"errors": [error("neverSeenBefore")]}, 200), OutcomeUnknown),
        (http("<html>Not Found</html>", 404), ProviderRefusesAccess),
        (http("", 307, Location="/v1"), ProviderRefusesAccess),
        (http("<html>Moved</html>", 302, Location="https://elsewhere.test/"), ProviderRefusesAccess),
        (http({"errors": [error("accountSuspended")]}, 400), ProviderRefusesAccess),
    ],
)
def test_a_refused_submit_is_named_for_what_it_is_after_one_call(answer, kind):
    outcome, server = submitted(answer)
    assert type(outcome) is kind
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [307, 404])
def test_an_address_without_the_api_says_how_base_url_ends(status):
    outcome, _ = submitted(http("<html></html>", status))
    assert "runware.base_url should end in /v1" in str(outcome)
    assert "API key" not in str(outcome)
    looked, _ = pinged(http("<html></html>", status), attempts=1)
    assert "runware.base_url should end in /v1" in str(looked)


def test_a_stray_page_of_a_proxy_hands_nothing_in_and_is_tried_again():
    def answer(asked):
        if asked.number == 1:
            return http("<html>Found</html>", 302)
        return http({"data": [{"taskType": "3dInference", "taskUUID": t["taskUUID"]} for t in asked.tasks]})

    with scripted_server(answer) as server:

        async def use(generator):
            await generator.submit(UUID, GenerationRequest(), crop())
            await generator.submit(OTHER, GenerationRequest(), crop())

        with_generator(server.base_url, use)
    assert [asked.tasks[0]["taskUUID"] for asked in server.requests] == [UUID, OTHER, OTHER]


def test_a_refusal_names_the_parameter_and_what_is_allowed():
    stated = error("unsupportedParameter", parameter="settings.resolution", allowedValues=[512, 1024, 1536])
    outcome, _ = submitted(http({"errors": [stated]}, 400))
    assert "settings.resolution" in str(outcome)
    assert "512, 1024, 1536" in str(outcome)


@pytest.mark.parametrize("status", [400, 200])
@pytest.mark.parametrize("data", [{}, {"data": []}])
def test_a_conflict_for_our_own_uuid_means_accepted(status, data):
    outcome, server = submitted(http({**data, "errors": [error("conflictTaskUUID")]}, status))
    assert outcome is None
    assert len(server.requests) == 1


def test_the_providers_words_never_carry_the_key_into_a_message():
    said = {"code": "invalidApiKey", "message": f"the key {SENTINEL} or Bearer {SENTINEL} is not known"}
    outcome, _ = submitted(http({"errors": [said]}, 401))
    assert isinstance(outcome, ProviderRefusesAccess)
    assert "invalidApiKey" in str(outcome)


# -- the key ---------------------------------------------------------------------------------------------


def submit_many(server, count, **more):
    async def use(generator):
        uuids = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(count)]
        return await asyncio.gather(
            *(generator.submit(one, GenerationRequest(), crop()) for one in uuids), return_exceptions=True
        )

    return with_generator(server.base_url, use, **more)


def echo(asked):
    return http({"data": [{"taskType": t["taskType"], "taskUUID": t["taskUUID"]} for t in asked.tasks]})


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_costs_exactly_one_call_however_many_want_to_buy(status):
    with scripted_server(lambda _: http({"errors": [error("invalidApiKey", None)]}, status)) as server:
        outcomes = submit_many(server, 50)
    assert {type(outcome) for outcome in outcomes} == {ProviderRefusesAccess}
    assert "RUNWARE_API_KEY" in str(outcomes[-1])
    assert len(server.requests) == 1


def test_a_key_that_is_revoked_on_the_way_stops_every_further_call():
    def answer(asked):
        return echo(asked) if asked.number < 3 else http({"errors": [error("invalidApiKey", None)]}, 401)

    with scripted_server(answer) as server:

        async def use(generator):
            outcomes = []
            for number in range(10):
                one = f"{number:08x}-0000-4000-8000-000000000000"
                try:
                    outcomes.append(await generator.submit(one, GenerationRequest(), crop()))
                except ProviderRefusesAccess as refused:
                    outcomes.append(refused)
            return outcomes

        outcomes = with_generator(server.base_url, use)
    assert outcomes[:3] == [None, None, None]
    assert all(isinstance(outcome, ProviderRefusesAccess) for outcome in outcomes[3:])
    assert len(server.requests) == 4


def test_a_server_that_is_busy_at_first_proves_nothing_about_the_key():
    def answer(asked):
        busy = http({"errors": [error("rateLimitExceeded", None)]}, 429, Retry_After="0")
        return busy if asked.number == 0 else http({"errors": [error("invalidApiKey", None)]}, 401)

    with scripted_server(answer) as server:
        outcomes = submit_many(server, 20)
    assert {type(outcome) for outcome in outcomes} == {ProviderRefusesAccess}
    assert len(server.requests) == 2


def test_once_the_key_is_accepted_calls_go_at_once():
    with scripted_server(lambda asked: [0.05, echo(asked)]) as server:
        assert set(submit_many(server, 20)) == {None}
    assert 2 <= server.most_at_once <= 9


@pytest.mark.parametrize("text", ["", "  ", "two words", "ключ", "line\nbreak"])
def test_what_cannot_be_a_key_is_refused_without_being_repeated(text):
    with pytest.raises(ConfigError, match="RUNWARE_API_KEY") as caught:
        ApiKey(text)
    assert not text.strip() or text not in str(caught.value)


def test_a_key_shows_in_no_repr_and_travels_in_no_pickle():
    import copy
    import pickle

    chosen = options("https://api.example.test/v1")
    assert SENTINEL not in repr(chosen) + str(chosen) + f"{chosen.api_key}"
    with pytest.raises(TypeError):
        pickle.dumps(chosen.api_key)
    with pytest.raises(TypeError):
        copy.deepcopy(chosen)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": "http://api.example.test/v1"},
        {"base_url": "api.runware.ai"},
        {"base_url": "https://user:pass@api.example.test/v1"},
        {"ttl_seconds": 59},
        {"attempts": 0},
        {"task_seconds": float("nan")},
        {"poll_factor": 0.5},
    ],
)
def test_options_that_make_no_sense_are_refused(changes):
    with pytest.raises(ConfigError):
        RunwareOptions(**{"api_key": ApiKey(SENTINEL), **changes})


# -- many at once ----------------------------------------------------------------------------------------


def test_polls_of_many_tasks_travel_in_few_requests():
    def answer(asked):
        return http(
            {"data": [finished(f"{server.origin}/m.glb", t["taskUUID"], t["taskUUID"]) for t in asked.tasks]}
            if asked.method == "POST"
            else small_glb()
        )

    with scripted_server(answer) as server:

        async def use(generator):
            uuids = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(40)]
            return await asyncio.gather(*(generator.collect(one, GenerationRequest()) for one in uuids))

        models = with_generator(server.base_url, use, polls_per_request=20)
    assert len({model.result_id for (model,) in models}) == 40
    posts = [asked for asked in server.requests if asked.method == "POST"]
    assert sum(len(asked.tasks) for asked in posts) == 40
    assert len(posts) == 2


def test_tasks_may_be_handed_in_several_at_a_time_and_each_gets_its_own_answer():
    def answer(asked):
        acks = [{"taskType": "3dInference", "taskUUID": t["taskUUID"]} for t in asked.tasks]
        return http({"data": acks[1:], "errors": [error("invalidImage", acks[0]["taskUUID"])]})

    with scripted_server(answer) as server:
        outcomes = submit_many(server, 5, tasks_per_request=5)
    assert [type(outcome) for outcome in outcomes] == [ProviderRejected, *[type(None)] * 4]
    assert len(server.requests) == 1


def turning_away(uuids, times):
    """An answer that acknowledges every task but these, each of which is turned away so many times."""
    left = Counter(dict.fromkeys(uuids, times))

    def answer(asked):
        busy = [t["taskUUID"] for t in asked.tasks if left[t["taskUUID"]] > 0]
        left.subtract(busy)
        taken = [t["taskUUID"] for t in asked.tasks if t["taskUUID"] not in busy]
        acks = [{"taskType": "3dInference", "taskUUID": one} for one in taken]
        return http({"data": acks, "errors": [error("rateLimitExceeded", one) for one in busy]})

    return answer


def test_one_task_of_several_that_is_turned_away_is_sent_again_under_its_uuid():
    uuids = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(5)]
    with scripted_server(turning_away({uuids[1], uuids[3]}, 3)) as server:
        outcomes = submit_many(server, 5, tasks_per_request=5)
    assert outcomes == [None] * 5
    sent = Counter(task["taskUUID"] for asked in server.requests for task in asked.tasks)
    assert sent == dict(zip(uuids, [1, 4, 1, 4, 1], strict=True))


def test_one_task_of_several_that_is_turned_away_for_ever_is_busy_and_not_asked_for_any_more():
    busy = "00000002-0000-4000-8000-000000000000"
    with scripted_server(turning_away({busy}, 1000)) as server:
        outcomes = submit_many(server, 3, tasks_per_request=3, attempts=3)
    assert [type(outcome) for outcome in outcomes] == [type(None), type(None), ProviderBusy]
    # Once in company, then by itself.
    assert sum(task["taskUUID"] == busy for asked in server.requests for task in asked.tasks) == 1 + 3


def test_a_provider_that_takes_one_task_a_request_gets_one_a_request():
    def answer(asked):
        return http({"errors": [error("arrayTooLarge", None)]}, 400) if len(asked.tasks) > 1 else echo(asked)

    with scripted_server(answer) as server:
        assert set(submit_many(server, 6, tasks_per_request=6)) == {None}
    assert [len(asked.tasks) for asked in server.requests] == [6, 1, 1, 1, 1, 1, 1]


def test_who_gives_up_waiting_takes_nobody_along():
    with scripted_server(echo) as server:

        async def use(generator):
            client = generator.client
            one, other = (
                asyncio.ensure_future(client.submit(task_json(GenerationRequest(), uuid, OTHER)))
                for uuid in (UUID, OTHER)
            )
            await asyncio.sleep(0)
            one.cancel()
            return await asyncio.gather(one, other, return_exceptions=True)

        first, second = with_generator(server.base_url, use, tasks_per_request=5, gather_seconds=0.05)
    assert isinstance(first, asyncio.CancelledError)
    assert second.items[0]["taskUUID"] == OTHER
    assert [t["taskUUID"] for t in server.requests[0].tasks] == [OTHER]


# -- pace ------------------------------------------------------------------------------------------------


def test_the_pace_begins_with_four_and_grows_by_one_a_round():
    pace = Pace(32)
    assert pace.allowed == 4
    for _ in range(5):
        pace.went_well(0.1, pace.epoch)
    assert pace.allowed == 5


def test_a_pace_that_is_not_used_does_not_grow():
    pace = Pace(32)
    for _ in range(100):
        pace.went_well(0.1, pace.epoch, was_full=False)
    assert pace.allowed == 4


def test_being_turned_away_halves_the_pace_once_for_all_calls_of_that_time():
    pace = Pace(32, limit=16)
    epoch = pace.epoch
    for _ in range(10):
        pace.turned_away(epoch)
    assert pace.allowed == 8


def test_answers_that_become_slow_halve_the_pace():
    pace = Pace(32, limit=16)
    for _ in range(50):
        pace.went_well(0.1, pace.epoch)
    for _ in range(4):
        pace.went_well(2.0, pace.epoch)
    assert pace.allowed < 16


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100)), max_size=300), st.integers(1, 64))
def test_the_pace_stays_between_one_and_its_maximum(calls, most):
    pace = Pace(most)
    for well, seconds in calls:
        if well:
            pace.went_well(seconds, pace.epoch)
        else:
            pace.turned_away(pace.epoch)
        assert 1 <= pace.allowed <= most


def test_a_place_is_never_lost_by_who_is_cancelled():
    async def go():
        limiter = Limiter(Pace(1))

        async def work(seconds):
            async with limiter.slot():
                await asyncio.sleep(seconds)

        tasks = [asyncio.ensure_future(work(0.01)) for _ in range(10)]
        for round_ in range(3):
            await asyncio.sleep(0.012)
            tasks[3 * round_ + 1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(1), limiter.slot():
            return limiter.most_under_way, limiter.under_way

    assert asyncio.run(go()) == (1, 1)


@pytest.mark.parametrize("turns", [0, 1], ids=["before", "after"])
def test_who_is_cancelled_as_a_place_becomes_free_is_cancelled_and_nothing_else(turns):
    """Before the place is given away, and after that but before its new holder knows."""

    async def go():
        limiter, go_on = Limiter(Pace(1)), asyncio.Event()

        async def work():
            async with limiter.slot():
                await go_on.wait()

        tasks = [asyncio.ensure_future(work()) for _ in range(3)]
        await asyncio.sleep(0)
        go_on.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True), limiter.under_way

    (first, second, third), under_way = asyncio.run(go())
    assert (first, third, under_way) == (None, None, 0)
    assert isinstance(second, asyncio.CancelledError)


# -- the account -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("balance", "amount"),
    [({"amount": 12.5, "freeBalance": 0, "currency": "USD"}, "12.5"), (12.5, "12.5"), (3, "3")],
)
def test_the_balance_is_read_as_an_object_and_as_a_bare_number(balance, amount):
    def answer(asked):
        return http({"data": [{**asked.tasks[0], "balance": balance}]})

    with scripted_server(answer) as server:
        found = with_generator(server.base_url, lambda g: g.client.balance())
    assert found.amount == Decimal(amount)


@pytest.mark.parametrize("balance", [None, "12.5", [], {"amount": "much"}, True, 10**400])
def test_a_balance_that_is_no_number_is_no_balance(balance):
    def answer(asked):
        return http({"data": [{**asked.tasks[0], "balance": balance}]})

    with scripted_server(answer) as server, pytest.raises(ProviderBusy, match="balance"):
        with_generator(server.base_url, lambda g: g.client.balance())


def test_a_dry_run_says_so_in_its_header():
    with scripted_server(lambda _: http({"data": [{"taskUUID": UUID, "cost": 0.0256}]})) as server:
        task = task_json(GenerationRequest(), UUID, OTHER)
        item = with_generator(server.base_url, lambda g: g.client.dry_run(task))
    assert server.requests[0].headers["x-runware-dry-run"] == "1"
    assert item["cost"] == Decimal("0.0256")
