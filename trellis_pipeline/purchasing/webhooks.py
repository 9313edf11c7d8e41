"""Webhook tokens and what a callback may do: wake somebody, nothing else.

The provider signs nothing. All that tells its call from anybody's is a token in the URL that we gave it, so
every task gets its own: 128 random bits, of which the journal keeps only the sha256. A call with the right
token sets `called_back_at`. Whoever is waiting then asks the provider by task UUID, over our own connection
and with our own key; what the call itself says about files and prices is never believed.

A token is used up by the first news. A task of several results calls once for each, but whoever was woken
keeps asking until the last result is there, so a second call has nothing to add, and a replayed one has
nothing to do. Calls that only report progress leave the token alone. When the task is over the token is dead.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import Connection, literal, select, update

from trellis_pipeline.config_purchasing import public_address
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.schema import intents, spend_events
from trellis_pipeline.errors import ConfigError

TOKEN_BYTES = 16
CALLBACK_PATH = "/runware"

# news: whoever waits should look now. known: the right token, but nothing new. unknown: anybody's guess.
Callback = Literal["news", "known", "unknown"]

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MAX_TOKEN = 200
# Compared with where there is no row or no token, so that a wrong task takes as long as a wrong token. No
# token has this hash: it is the hash of random bytes that nobody kept.
_NOBODY = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
# What an unfinished task is called, today and in older versions of the API.
_UNFINISHED = frozenset({"processing", "pending", "queued", "scheduled", "waiting"})


@dataclass(frozen=True, slots=True)
class CallbackToken:
    """A token and what is kept of it. secret: goes into the callback's URL and nowhere else.

    sha256: for `intents.token_sha256`, in the intent's own transaction.
    """

    public_url: str
    secret: str = field(repr=False)
    sha256: str

    def url(self, task_uuid: str) -> str:
        """The `webhookURL` of one task. It holds the secret: never log it, never keep it."""
        return f"{self.public_url}{CALLBACK_PATH}/{task_uuid}?token={self.secret}"


@dataclass(frozen=True, slots=True)
class OpenPurchase:
    """A purchase that is not over yet. attempt: which seed it was for, counted from 1.

    owner is empty, or lease_until is past, where nobody is working on it.
    """

    task_uuid: str
    sku: str
    attempt: int
    owner: str
    lease_until: datetime
    made_at: datetime
    called_back_at: datetime | None

    def is_left_alone(self, now: datetime) -> bool:
        """Nobody is working on it."""
        return not self.owner or self.lease_until <= now


def new_token(public_url: str) -> CallbackToken:
    """A token for one task. public_url: where the endpoint is reached from outside; see `check_public_url`.

    Only whoever begins a purchase has its token. Whoever takes the purchase over and hands the task in again
    does so without an address, and polls.
    """
    secret = secrets.token_urlsafe(TOKEN_BYTES)
    return CallbackToken(check_public_url(public_url), secret, _sha256(secret))


def check_public_url(public_url: str) -> str:
    """The URL without its last slash; see `config_purchasing.public_address`. Raises ConfigError."""
    try:
        return public_address(public_url)
    except ValueError as error:
        raise ConfigError(f"webhooks.public_url {error}") from None


def note_callback(ledger: Ledger, task_uuid: str, token: str, *, news: bool = True) -> Callback:
    """Take note of one call. news: whether it claims more than progress; without news nothing is written.

    Safe for any strings, any number of times, and from many processes at once: of all calls for one task
    exactly one is `news`. Writes only for the right token, so that forged calls never take the lock that
    spending needs.

    Raises StorageUnavailable where the database cannot be used; the provider should then try again.
    """
    now = datetime.now(UTC)
    task_uuid = task_uuid.lower()
    if not _UUID.fullmatch(task_uuid):
        return "unknown"
    given = _sha256(token[:_MAX_TOKEN])
    with ledger.reading() as connection:
        row = connection.execute(
            select(intents.c.state, intents.c.token_sha256, intents.c.token_used_at).where(
                intents.c.task_uuid == task_uuid
            )
        ).one_or_none()
    kept = (row.token_sha256 if row is not None else "") or _NOBODY
    if not hmac.compare_digest(kept, given) or row is None:
        return "unknown"
    if not news or row.state != "open" or row.token_used_at is not None:
        return "known"
    with ledger.writing() as connection:
        first = connection.execute(
            update(intents)
            .where(
                intents.c.task_uuid == task_uuid,
                intents.c.token_sha256 == kept,
                intents.c.token_used_at.is_(None),
                intents.c.state == "open",
            )
            .values(token_used_at=now, called_back_at=now)
        ).rowcount
    return "news" if first else "known"


def claims_news(body: object, task_uuid: str) -> bool | None:
    """Whether a call's body (parsed JSON) claims more than progress for this task; None if it is no callback.

    One task object, `{"data": [...]}` and `{"errors": [...]}` are all seen. Items about other tasks are
    passed over; one that names no task is taken to be about this one.
    """
    if not isinstance(body, Mapping):
        return None
    items: list[object] = []
    for name in ("data", "errors", "error"):
        part = body.get(name)
        items += part if isinstance(part, Sequence) and not isinstance(part, str) else [part] if part else []
    if not any(name in body for name in ("data", "errors")):
        items = [body]
    mine = [item for item in items if isinstance(item, Mapping) and _is_about(item, task_uuid)]
    return any(str(item.get("status", "")).lower() not in _UNFINISHED for item in mine)


def open_purchases(connection: Connection, catalog: str) -> tuple[OpenPurchase, ...]:
    """All purchases of a catalog that are not over, the oldest first."""
    query = (
        select(
            intents.c.task_uuid,
            intents.c.sku,
            spend_events.c.attempt,
            intents.c.owner,
            intents.c.lease_until,
            intents.c.made_at,
            intents.c.called_back_at,
        )
        .outerjoin(
            spend_events,
            # Literal, because the partial index answers only queries in which the planner sees the kind.
            (spend_events.c.reservation_id == intents.c.task_uuid)
            & (spend_events.c.kind == literal("reserve", literal_execute=True)),
        )
        .where(intents.c.state == "open", intents.c.catalog == catalog)
        .order_by(intents.c.made_at, intents.c.task_uuid)
    )
    return tuple(
        OpenPurchase(**{**row, "attempt": row["attempt"] or 1})
        for row in connection.execute(query).mappings()
    )


def _is_about(item: Mapping[str, object], task_uuid: str) -> bool:
    named = item.get("taskUUID")
    return not isinstance(named, str) or named.lower() == task_uuid.lower()


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
