"""What answers mean, before anything is sent: shapes, errors, costs, and a view that only grows."""

import itertools
import json
from datetime import UTC, datetime
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runware_parts import FILE, OTHER, SENTINEL, UUID, error, finished, processing

from trellis_pipeline.errors import OutOfCredit, ProviderBusy, ProviderRefusesAccess, ProviderRejected
from trellis_pipeline.generation.runware.failures import (
    Kind,
    about_request,
    clean_text,
    describe,
    kind_of,
    refusal,
)
from trellis_pipeline.generation.runware.polling import Durations, back_off, poll_pauses, retry_after_seconds
from trellis_pipeline.generation.runware.reply import ApiError, Reply, parse_reply
from trellis_pipeline.generation.runware.results import files_of
from trellis_pipeline.generation.runware.view import TaskView, merged

LEAST = Decimal("0.0001")
URL = "https://im.runware.ai/image/os/a01/ws/4/ii/x.glb"


def read(data, status=200):
    return parse_reply(status, json.dumps(data).encode())


def view_of(*answers, wanted=1):
    view = TaskView(UUID, wanted)
    for answer in answers:
        view = merged(view, answer if isinstance(answer, Reply) else read(answer), LEAST)
    return view


def only_file(item):
    (file,) = files_of(read({"data": [item]}).items[0], LEAST)
    return file


# -- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        {"outputs": {"files": [{"uuid": FILE, "url": URL}]}},
        {"modelUUID": FILE, "modelURL": URL},
        {
            "modelUUID": OTHER,
            "modelURL": "https://x.test",
            "outputs": {"files": [{"uuid": FILE, "url": URL}]},
        },
    ],
)
def test_a_result_is_read_from_both_documented_shapes_the_examples_first(shape):
    file = only_file({"taskType": "3dInference", "taskUUID": UUID, "seed": 7, "cost": 0.0271, **shape})
    assert (file.uuid, file.url, file.seed, file.cost_usd) == (FILE, URL, 7, Decimal("0.0271"))


@pytest.mark.parametrize("shape", [{"modelDataURI": "data:model/gltf-binary;base64,Z2xURg=="},
                                   {"modelBase64Data": "Z2xURg=="}])  # fmt: skip
def test_a_result_may_stand_in_the_answer_itself(shape):
    file = only_file({"taskType": "3dInference", "taskUUID": UUID, "modelUUID": FILE, **shape})
    assert (file.uuid, file.url, file.inline_bytes()) == (FILE, "", b"glTF")


def test_one_item_with_several_files_shares_its_cost_to_the_last_nano_dollar():
    files = [{"uuid": f"{n}", "url": f"{URL}?{n}"} for n in range(3)]
    item = read({"data": [finished(URL, outputs={"files": files}, cost=0.1)]}).items[0]
    costs = [file.cost_usd for file in files_of(item, LEAST)]
    assert sum(costs) == Decimal("0.1")
    assert max(costs) - min(costs) <= Decimal("0.000000002")


def test_a_link_stays_out_of_what_is_printed():
    assert "5ecret" not in repr(only_file(finished(f"{URL}?signature=5ecret")))


@pytest.mark.parametrize(
    ("cost", "believed", "text"),
    [
        ("0.0271", "0.0271", "0.0271"),
        ("0.060000000000000005", "0.06", "0.060000000000000005"),
        ("1", "1", "1"),
        ("1e-7", None, "1e-7"),
        ("0", None, "0"),
        ("-0.0271", None, "-0.0271"),
        ("NaN", None, "NaN"),
        ("Infinity", None, "Infinity"),
        ("1e999999999999999999999", None, "1e999999999999999999999"),
        ("1000", None, "1000"),
        ('"0.0271"', None, "'0.0271'"),
        ("null", None, ""),
        ("true", None, ""),
        ("[0.1]", None, ""),
    ],
)
def test_a_cost_is_believed_only_where_it_is_a_number_that_a_generation_may_cost(cost, believed, text):
    body = json.dumps({"data": [finished(URL, cost="COST")]}).replace('"COST"', cost)
    (file,) = files_of(parse_reply(200, body.encode()).items[0], LEAST)
    assert file.cost_usd == (None if believed is None else Decimal(believed))
    assert file.cost_text == text


def test_a_missing_cost_is_unknown_and_not_zero():
    item = finished(URL)
    del item["cost"]
    assert only_file(item).cost_usd is None


def test_a_server_of_ones_own_may_charge_nothing_but_not_next_to_nothing():
    for text, believed in (("0", Decimal(0)), ("0.0", Decimal(0)), ("0.00000001", None)):
        body = json.dumps({"data": [finished(URL, cost="COST")]}).replace('"COST"', text)
        (file,) = files_of(parse_reply(200, body.encode()).items[0], Decimal(0))
        assert file.cost_usd == believed


# -- envelopes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        {"errors": [error("inferenceError")]},
        {"data": [], "errors": [error("inferenceError")]},
        {"error": error("inferenceError")},
        {"error": {"code": "inferenceError", "message": "no"}, "taskUUID": UUID, "taskType": "3dInference"},
        {"data": [processing(status="error", error={"code": "inferenceError", "message": "no"})]},
        {"taskType": "3dInference", "taskUUID": UUID, "status": "error", "code": "inferenceError"},
    ],
)
def test_an_error_is_found_in_every_place_where_the_api_puts_it(data):
    (found,) = read(data).of(UUID).errors
    assert found.code == "inferenceError"
    assert view_of(data).done


def test_errors_in_a_200_and_data_in_a_400_are_both_read():
    assert view_of(read({"data": [], "errors": [error("inferenceError")]}, 200)).verdicts
    assert view_of(read({"data": [finished(URL)], "errors": [error("x", OTHER)]}, 400)).files


def test_parameter_may_be_a_list():
    (found,) = read({"errors": [error("incompatibleParameters", parameter=["ttl", "outputType"])]}).errors
    assert found.parameters == ("ttl", "outputType")
    assert "ttl, outputType" in describe(found)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html><h1>Bad Gateway</h1></html>", b'{"data":[{"taskTy', b"null", b"7", b'"ok"', b"[]",
     b"\xff\xfe", b"[" * 100_000, b"9" * 10_000, b'{"hello": 1}'],
)  # fmt: skip
def test_an_answer_that_is_none_says_nothing(body):
    assert not parse_reply(200, body).readable
    assert about_request(parse_reply(200, body))[0] is Kind.SERVER


NAMES = (
    "data", "errors", "error", "taskUUID", "taskType", "outputs", "files", "url", "uuid", "status", "cost",
    "seed", "progress", "code", "message", "parameter", "modelURL",
)  # fmt: skip
odd_numbers = st.sampled_from([10**400, -(10**400), 10**25, 2**63, 1e308, 5e-324])
odd_answers = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | odd_numbers,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES), inner | st.just(UUID) | st.just("3dInference"))
    ),
    max_leaves=20,
)


@given(odd_answers)
def test_no_answer_however_odd_breaks_the_reader(data):
    reply = read(data)
    view_of(reply)
    about_request(reply)
    for found in reply.errors:
        describe(found)


odd_values = odd_numbers | odd_answers | st.text(st.characters(categories=["Cs", "Cc", "Lu"]))


@given(
    st.fixed_dictionaries(
        {"taskUUID": st.just(UUID)},
        optional=dict.fromkeys(("status", "cost", "seed", "progress", "modelURL", "modelUUID"), odd_values)
        | {
            "outputs": st.fixed_dictionaries(
                {"files": st.lists(st.fixed_dictionaries({"url": odd_values, "uuid": odd_values}))}
            )
        },
    )
)
def test_no_value_of_a_result_however_odd_breaks_the_view_or_its_bill(item):
    view = view_of({"data": [item, item]})
    assert 0 <= (view.progress or 0) <= 1
    for file in view.files.values():
        assert file.seed is None or 0 <= file.seed < 2**63
        assert file.cost_usd is None or 0 <= file.cost_usd <= 100
        json.dumps(file.billed).encode("ascii")


# -- errors ----------------------------------------------------------------------------------------


CODES = {
    Kind.ACCESS: """
        invalidApiKey missingApiKey unauthorized accountSuspended tokenExpired insufficientPermissions
    """,
    Kind.CREDIT: """
        insufficientCredits providerInsufficientCredits thirdPartyInsufficientCredits quotaExceeded
        paymentRequired
    """,
    Kind.BUSY: """
        rateLimitExceeded inferenceRateLimitExceeded providerRateLimitExceeded serviceOverloaded
    """,
    Kind.REJECTED: """
        inferenceRateLimitRequestTooLarge contentPolicyViolation providerContentPolicyViolation
        invalidProviderContent imageBlocked unsupportedParameter unknownParameter missingParameter
        invalidImage valueTooLarge modelNotFound mediaNotFound unknownModel arrayTooSmall
        duplicateParameter
    """,
    Kind.FAILED: """
        providerError providerInternalError inferenceError timeoutProvider providerGatewayTimeout
        taskFailed downloadFailed noAvailableServer modelUnavailable taskCancelled
    """,
    Kind.SERVER: """
        internalServerError serviceUnavailable defaultError
    """,
    Kind.NOT_FOUND: """
        taskNotFound taskFailedOrNotFound
    """,
    Kind.EXPIRED: """
        taskExpired mediaExpired
    """,
    Kind.CONFLICT: """
        duplicateTaskUUID taskUUIDAlreadyExists
        conflictTaskUUID taskAlreadyExists taskAlreadyProcessing taskInUse
    """,
    Kind.UNKNOWN: """
        somethingNobodyHasSeen taskDoesNotExist
    """,
}


@pytest.mark.parametrize(
    ("code", "kind"), [(code, kind) for kind, codes in CODES.items() for code in codes.split()]
)
def test_each_code_is_sorted_by_what_may_be_done_about_it(code, kind):
    assert kind_of(ApiError(code, "")) is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Kind.ACCESS), (403, Kind.ACCESS), (402, Kind.CREDIT), (429, Kind.BUSY), (408, Kind.SERVER),
     (500, Kind.SERVER), (504, Kind.SERVER), (400, Kind.REJECTED), (418, Kind.REJECTED), (200, Kind.UNKNOWN)],
)  # fmt: skip
def test_an_unknown_code_is_sorted_by_its_status(status, kind):
    assert kind_of(ApiError("somethingNobodyHasSeen", "", status=status)) is kind


@pytest.mark.parametrize("status", [400, 402, 403, 200])
def test_no_credit_is_no_credit_whatever_status_it_comes_with(status):
    kind, words = about_request(read({"errors": [error("insufficientCredits", "")]}, status))
    assert isinstance(refusal(kind, words), OutOfCredit)


def test_what_is_certainly_not_carried_out_is_named_by_its_kind():
    assert isinstance(refusal(Kind.ACCESS, ""), ProviderRefusesAccess)
    assert isinstance(refusal(Kind.BUSY, ""), ProviderBusy)
    assert isinstance(refusal(Kind.REJECTED, ""), ProviderRejected)


@pytest.mark.parametrize(
    "text",
    [
        f"key {SENTINEL} is wrong",
        "cannot fetch https://bucket.s3.amazonaws.com/a.png?signature=5ecret.",
        "not a picture: data:image/png;base64,5ecret5ecret5ecret",
        "Authorization: Bearer 5ecret",
        "token 5ecret5ecret5ecret5ecret5ecret unknown",
    ],
)
def test_the_providers_words_are_shown_without_what_may_be_a_secret(text):
    shown = clean_text(text, (SENTINEL,))
    assert SENTINEL not in shown
    assert "5ecret" not in shown


def test_a_task_is_still_named_in_the_providers_words():
    assert UUID in clean_text(f"task {UUID} failed\x1b[31m")
    assert "\x1b" not in clean_text("\x1b[31m")
    assert len(clean_text("word " * 1000)) < 400


# -- views -----------------------------------------------------------------------------------------


def test_an_empty_answer_may_mean_not_visible_yet():
    assert not view_of({"data": []}).seen
    assert not view_of({"data": []}).done
    assert not view_of({"errors": [error("taskNotFound")]}).seen


@pytest.mark.parametrize("word", ["processing", "pending", "queued", "some new word"])
def test_every_status_that_is_not_final_means_wait(word):
    view = view_of({"data": [processing(status=word, progress=35)]})
    assert (view.seen, view.pending, view.done, view.progress) == (True, True, False, 0.35)


@pytest.mark.parametrize("progress", [None, "35", -5, 1e9, float("nan"), [1], 10**400, -(10**400)])
def test_progress_is_a_share_whatever_is_stated(progress):
    assert 0 <= (view_of({"data": [processing(progress=progress)]}).progress or 0) <= 1


def test_polls_are_cumulative_and_no_result_counts_twice():
    first, second = finished(URL, file="a"), finished(URL, file="b")
    view = view_of({"data": [first, processing()]}, {"data": [first, first, processing()]}, wanted=2)
    assert (list(view.files), view.done) == (["a"], False)
    view = merged(view, read({"data": [second, first]}), LEAST)
    assert (list(view.files), view.done) == (["a", "b"], True)


def test_other_peoples_tasks_are_left_aside():
    view = view_of({"data": [finished(URL, OTHER)], "errors": [error("inferenceError", OTHER)]})
    assert not view.seen


def test_a_uuid_is_the_same_in_capitals():
    assert view_of({"data": [finished(URL, UUID.upper())]}).done


def test_a_newer_link_replaces_the_older_and_the_cost_stays():
    later = finished(f"{URL}?new")
    del later["cost"]
    file = view_of({"data": [finished(URL)]}, {"data": [later]}).files[FILE]
    assert (file.url, file.cost_usd) == (f"{URL}?new", Decimal("0.0271"))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_an_error_with_a_status_of_the_server_is_no_verdict(status):
    assert not view_of(read({"errors": [error("providerError")]}, status)).verdicts


def test_a_refused_poll_is_no_verdict():
    assert not view_of(read({"errors": [error("invalidTaskUUID", taskType="getResponse")]}, 400)).verdicts
    assert not view_of(read({"errors": [error("invalidApiKey")]}, 401)).verdicts


BUSY_WORDS = ["rateLimitExceeded", "serviceOverloaded", "internalServerError", "serviceUnavailable"]


@pytest.mark.parametrize("code", BUSY_WORDS)
@pytest.mark.parametrize("named", [{"taskType": "getResponse"}, {"taskType": ""}])
def test_a_busy_server_that_names_the_task_may_mean_the_poll_until_it_says_so_again(code, named):
    busy = read({"errors": [error(code, **named)]})
    assert not view_of(*[busy] * 2).done
    assert not view_of(busy, busy, {"data": [processing()]}, busy, busy).done
    if not named["taskType"]:  # a poll that says of itself that it was turned away stays that, ever so often
        assert view_of(*[busy] * 3).done


@pytest.mark.parametrize("code", BUSY_WORDS)
def test_a_busy_server_that_speaks_of_the_model_itself_is_believed_at_once(code):
    assert view_of({"errors": [error(code)]}).done


@pytest.mark.parametrize("code", ["webhookTimeout", "uploadFailed", "requestTimeout", "timeout"])
def test_a_delivery_that_failed_ends_the_task_only_when_no_model_is_shown_thrice(code):
    failed = read({"errors": [error(code)]})
    assert not view_of(failed, failed).done
    assert view_of(failed, failed, {"data": [finished(URL)]}).files
    assert view_of(*[failed] * 3).done


def test_polls_that_were_turned_away_do_not_count_as_the_silence_after_which_a_task_is_over():
    """Two of four results are still being made, and one failed."""
    told = {"data": [finished(URL, file="a"), processing()], "errors": [error("inferenceError")]}
    refused = read({"errors": [error("rateLimitExceeded", taskType="getResponse")]})
    assert not view_of(told, *[refused] * 5, wanted=4).done


def test_one_failed_result_of_four_does_not_end_the_others():
    fourth = error("inferenceError", resultIndex=3)
    files = [finished(URL, file=name) for name in "abc"]
    view = view_of({"data": [*files[:1], processing(), processing()], "errors": [fourth]}, wanted=4)
    assert not view.done
    # doubled errors are still one failure, and one answer without pending results may be out of order
    view = merged(view, read({"data": files, "errors": [fourth, fourth]}), LEAST)
    assert not view.done
    view = merged(view, read({"data": files, "errors": [fourth]}), LEAST)
    assert view.done
    assert list(view.files) == ["a", "b", "c"]


orders = st.permutations(range(6)).map(list)


@given(orders, orders, st.integers(0, 5))
def test_answers_in_any_order_end_with_the_same_files(first, second, repeated):
    items = [finished(URL, file=name) for name in "abcd"] + [finished(URL, OTHER, "z"), processing()]
    picked = [[items[n] for n in first[: repeated + 1]], [items[n] for n in second], items[:4]]
    view = view_of(*({"data": data} for data in picked), wanted=4)
    assert sorted(view.files) == ["a", "b", "c", "d"]
    assert view.done


# -- waiting ---------------------------------------------------------------------------------------


def test_polls_begin_after_a_second_and_slow_down_to_ten():
    pauses = list(itertools.islice(poll_pauses(), 9))
    assert pauses[:4] == [1.0, 1.5, 2.25, 3.375]
    assert pauses[-2:] == [10.0, 10.0]


@given(st.integers(1, 10_000))
def test_back_off_is_never_longer_than_its_limit(attempt):
    assert 0 <= back_off(attempt, 0.5, 30.0) <= 30.0


@given(st.integers(1, 20), st.floats(0, 300))
def test_a_server_that_says_how_long_is_waited_for_at_least_that_long(attempt, asked):
    assert asked <= back_off(attempt, 0.5, 30.0, asked) <= asked + 1


def test_retry_after_is_read_as_seconds_and_as_a_date():
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after_seconds("7") == 7
    assert retry_after_seconds("Thu, 01 Jan 2026 12:00:30 GMT", now) == 30
    assert retry_after_seconds("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0
    far_zone = "Thu, 01 Jan 2026 12:00:30 +99999999999999"
    for nonsense in (None, "soon", "-3", "1e9", "", "99999999999", far_zone):
        assert retry_after_seconds(nonsense, now) is None


def test_a_task_whose_kind_is_known_is_first_looked_at_shortly_before_it_is_due():
    pauses = list(itertools.islice(poll_pauses(expected=(38.0, 40.0)), 6))
    assert pauses == [38.0, 1.0, 1.0, 1.0, 1.0, 1.5]
    assert list(itertools.islice(poll_pauses(expected=(1.6, 1.7)), 3)) == pytest.approx([1.6, 0.05, 0.05])


@given(st.floats(0.5, 120.0), st.integers(0, 10_000))
def test_what_tasks_take_is_learned_within_a_few_tasks(real_seconds, seed):
    random, durations = Random(seed), Durations()
    late, looked = [], []
    for _ in range(40):
        takes = real_seconds * random.uniform(0.98, 1.02)
        before, waited, looks = None, 0.0, 0
        for pause in poll_pauses(expected=durations.expected("any")):
            waited, looks = waited + pause, looks + 1
            if waited >= takes:
                break
            before = waited
        durations.add("any", before, waited)
        late.append(waited / takes)
        looked.append(looks)
    assert sum(late[20:]) / 20 <= 1.05 + 0.1 / real_seconds
    assert sum(looked[20:]) / 20 <= 8


def test_two_tasks_are_not_yet_a_habit():
    durations = Durations()
    durations.add("any", 4.0, 5.0)
    durations.add("any", 4.0, 5.0)
    durations.add("other", None, 9.0)
    assert durations.expected("any") is None
    durations.add("any", 4.5, 5.0)
    assert durations.expected("any") == (4.0, 5.0)
