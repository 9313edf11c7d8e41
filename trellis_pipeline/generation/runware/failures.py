"""What an error of the API means: by its code, and by the HTTP status only where the code is unknown.

The provider has hundreds of codes, names them unstably, and sends one and the same with several statuses (no
credit comes as 400 and as 402). So codes are sorted into a few kinds by word, and what an error means depends
on what was asked: the same `providerError` turns a submit away and is the verdict of a poll.

Messages are the provider's and may repeat what was sent. They are shown without URLs, inline data and
anything that looks like a token.
"""

from __future__ import annotations

import re
from enum import Enum

from trellis_pipeline.errors import (
    OutOfCredit,
    ProviderBusy,
    ProviderRefusesAccess,
    ProviderRejected,
    TrellisError,
)
from trellis_pipeline.generation.runware.reply import ApiError, Reply
from trellis_pipeline.generation.wire import INFERENCE


class Kind(Enum):
    """What may be done about an error."""

    ACCESS = "the key is not accepted"
    CREDIT = "the account is empty"
    BUSY = "turned away for now"
    REJECTED = "will never succeed as it is"
    CONFLICT = "this taskUUID is in use"
    NOT_FOUND = "no such task"
    EXPIRED = "was there, and is gone"
    FAILED = "accepted, and went wrong"
    SERVER = "the server is not well"
    UNKNOWN = "a code that we do not know"
    ADDRESS = "the API is not there"


_WORDS: tuple[tuple[Kind, str], ...] = (
    # The first that matches counts; `provider...` names a supplier of Runware, whose key is not ours.
    (Kind.CONFLICT, r"(conflict|duplicate).*uuid|uuid.*(conflict|duplicate)"),
    (Kind.CONFLICT, r"(task|uuid)(?!.*not).*(already|exists|inuse)"),
    (Kind.CREDIT, r"credits?|quota|balance|paymentrequired|environmentpaused"),
    (Kind.BUSY, r"ratelimit(?!.*toolarge)|toomanyrequests|overloaded|concurrencylimit"),
    (Kind.EXPIRED, r"^(task|media|result|file)expired$"),
    (Kind.FAILED, r"^taskcancell?ed$|^provider(?!content)|^taskfailed$|inferenceerror|processingfailed"),
    (Kind.REJECTED, r"contentpolicy|sensitivecontent|unsafecontent|nsfw|blocked$|moderation|providercontent"),
    (
        Kind.ACCESS,
        r"apikey|^unauthori[sz]ed|^forbidden|permission|^auth|authentication$|credentials$|^token"
        r"|(account|organi[sz]ation|workspace)(suspended|disabled)",
    ),
    (Kind.NOT_FOUND, r"^task.*notfound$"),
    (Kind.FAILED, r"timeout|downloadfailed|uploadfailed|noavailableserver|couldnotbemoved"),
    (Kind.FAILED, r"^model(unavailable|disabled|notready)$"),
    (Kind.SERVER, r"internalserver|serviceunavailable|serverunavailable|standarderror|unknownerror"),
    (Kind.SERVER, r"undefinederror|defaulterror|unrecognizedresponse|^errorretrieving"),
    (
        Kind.REJECTED,
        r"^(invalid|missing|unsupported|unknown|incompatible|duplicate|max|value|array|conflict|mismatch)"
        r"|toolarge|toosmall|validation|notfound$|expired$|ownership|mismatch$",
    ),
)
_RULES = tuple((kind, re.compile(pattern)) for kind, pattern in _WORDS)

# A request that took too long, a call or an upload that did not get through: the model may exist.
_BESIDE_THE_WORK = re.compile(r"^(request)?timeout$|webhook|upload|mediastorage", re.IGNORECASE)


def kind_of(error: ApiError) -> Kind:
    """What an error means by its code, or by the status it came with where the code tells nothing."""
    code = error.code.lower()
    for kind, rule in _RULES:
        if code and rule.search(code):
            return kind
    return kind_of_status(error.status)


def kind_of_status(status: int) -> Kind:
    """What an HTTP status means by itself. UNKNOWN below 400, where it means nothing."""
    if status in (401, 403):
        return Kind.ACCESS
    if status == 402:
        return Kind.CREDIT
    if status in (425, 429):
        return Kind.BUSY
    if status == 408 or status >= 500:
        return Kind.SERVER
    return Kind.REJECTED if status >= 400 else Kind.UNKNOWN


def is_verdict(error: ApiError) -> bool:
    """Whether an error that is addressed to a task says how it ended.

    Not where the poll itself was turned away, or where the task is merely not to be found: that may also mean
    that it is not visible yet.
    """
    kind = kind_of(error)
    if error.task_type == "getResponse" or kind in (Kind.ACCESS, Kind.NOT_FOUND, Kind.CONFLICT):
        return False
    return error.status < 500 and error.status not in (401, 403, 408, 425, 429)


def is_doubtful(error: ApiError) -> bool:
    """Whether a verdict may be none. Taken for the task's end, it would have the model bought twice.

    A poll carries the task's UUID, so a busy or unwell server that turns the poll away may name it too. And
    what failed may be the delivery of a model that was made.
    """
    if _BESIDE_THE_WORK.search(error.code):
        return True
    return error.task_type != INFERENCE and kind_of(error) in (Kind.BUSY, Kind.SERVER)


def about_request(reply: Reply, *, alone: bool = False) -> tuple[Kind, str] | None:
    """What an answer says about the request as a whole, with words for a message; None if it went through.

    Errors that are addressed to a task are that task's affair, except where the key is meant, and where the
    status says that the server is busy or unwell: then nothing in the answer is a verdict.
    alone: the request hands in a single task, so what turns the task away turns the request away. That its
    UUID is known already, or that it was worked on and failed, is still the task's affair.
    """
    unwell = kind_of_status(reply.status) in (Kind.BUSY, Kind.SERVER)
    for error in reply.errors:
        kind = kind_of(error)
        own = alone and not reply.items and kind not in (Kind.CONFLICT, Kind.FAILED, Kind.UNKNOWN)
        if not error.task_uuid or own or kind is Kind.ACCESS:
            return kind, describe(error)
        if unwell:
            return kind_of_status(reply.status), describe(error)
    if reply.errors or (reply.readable and reply.status < 400):
        return None
    if not reply.readable and (300 <= reply.status < 400 or reply.status == 404):
        moved = "" if reply.status == 404 else ", a redirect, which is not followed"
        return Kind.ADDRESS, f"HTTP {reply.status}{moved}; runware.base_url should end in /v1"
    if not reply.readable and reply.status < 400:
        return Kind.SERVER, f"HTTP {reply.status} with something that is not the API's JSON"
    return kind_of_status(reply.status), f"HTTP {reply.status}"


def refusal(kind: Kind, words: str) -> TrellisError:
    """The exception for a request that was certainly not carried out."""
    if kind is Kind.ACCESS:
        return ProviderRefusesAccess(
            f"Runware does not accept the API key ({words}); "
            "check RUNWARE_API_KEY, and that the key is enabled"
        )
    if kind is Kind.ADDRESS:
        return ProviderRefusesAccess(f"nobody at this address speaks Runware's API ({words})")
    if kind is Kind.CREDIT:
        return OutOfCredit(
            f"the Runware account has no credit left ({words}); "
            "top it up and run again, what is finished is kept"
        )
    if kind in (Kind.BUSY, Kind.SERVER, Kind.FAILED):
        return ProviderBusy(f"Runware turned the request away ({words}); run again later")
    return ProviderRejected(f"Runware rejects the request ({words}); change the request, not the timing")


def describe(error: ApiError, secrets: tuple[str, ...] = ()) -> str:
    """An error for a message: code, parameters, allowed values, and the provider's words, cleaned."""
    parts = [clean_text(error.code or f"HTTP {error.status}", secrets)]
    if error.parameters:
        parts.append("parameter " + clean_text(", ".join(error.parameters), secrets))
    if error.message:
        parts.append(clean_text(error.message, secrets))
    if error.allowed:
        parts.append("allowed are " + clean_text(", ".join(error.allowed), secrets))
    return ": ".join(parts)


_ADDRESS = re.compile(r"(?:\b[a-z][a-z0-9+.-]{1,15}://|\bdata:|\bbearer\s+)\S*", re.IGNORECASE)
_LONG = re.compile(r"[A-Za-z0-9+/_=.%~-]{24,}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def clean_text(text: str, secrets: tuple[str, ...] = (), most: int = 300) -> str:
    """Somebody else's text without secrets, control characters and length. UUIDs stay."""
    for secret in secrets:
        text = text.replace(secret, "…")
    text = _ADDRESS.sub("…", text)
    text = _LONG.sub(lambda found: found[0] if _UUID.fullmatch(found[0].strip(".")) else "…", text)
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= most else text[:most] + "…"
