"""The webhook sensor: purchases that nobody is waiting for any more are taken up again.

A run that buys something waits for it, and notices a callback by itself. This sensor is for the others: the
run was killed, the task went on, and now the provider says that the model is there, or says nothing, because
the callback was lost too. Both lead to a run for exactly those products; it finds the open purchase in the
journal and collects it, and buys nothing anew.

A callback is followed at once. Without one a purchase is taken up when it is older than a limit, and if that
does not end it, again at twice, four times, eight times its age: a product that fails whatever one does must
not start a run every few minutes for ever. The cursor remembers what was asked for each open purchase.
"""

# Dagster inspects annotations at run time, so they are not deferred in this module.
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from resources.ledger import LedgerResource
from trellis_pipeline.automation.chunks import line_job_name, run_requests
from trellis_pipeline.errors import TrellisError
from trellis_pipeline.purchasing.webhooks import OpenPurchase, open_purchases


def build_webhook_sensor(
    catalog: str,
    products_per_run: int,
    *,
    enabled: bool = False,
    every_seconds: int = 30,
    left_after_seconds: float = 600.0,
) -> dg.SensorDefinition:
    """Resumes purchases with news, and those that were left alone for longer than `left_after_seconds`."""

    @dg.sensor(
        name=f"{catalog}_webhook_sensor",
        job_name=line_job_name(catalog),
        minimum_interval_seconds=every_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if enabled else dg.DefaultSensorStatus.STOPPED,
        description="Collects purchases that are finished, or were left behind by a run that ended early.",
    )
    def webhook_sensor(
        context: dg.SensorEvaluationContext, ledger: dg.ResourceParam[LedgerResource]
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            with ledger.open() as books, books.reading() as connection:
                open_now = open_purchases(connection, catalog)
        except TrellisError as error:
            return dg.SkipReason(f"the journal cannot be read: {error}")
        seen = _decode(context.cursor)
        asked = to_ask(open_now, seen, datetime.now(UTC), timedelta(seconds=left_after_seconds))
        # What is over is forgotten; what is only in somebody's hands is not, or every death would ask anew.
        cursor = _encode({i.task_uuid: seen[i.task_uuid] for i in open_now if i.task_uuid in seen} | asked)
        if not asked:
            return dg.SensorResult(
                skip_reason=f"{len(open_now)} purchases are open, none waits for anybody", cursor=cursor
            )
        wanted = [intent for intent in open_now if intent.task_uuid in asked]
        attempts = {sku: n for sku, n in _latest_attempts(wanted).items() if n > 1}
        requests = run_requests(
            catalog,
            list(dict.fromkeys(intent.sku for intent in wanted)),
            products_per_run,
            f"{catalog}:webhooks:{hashlib.sha256(_encode(asked).encode()).hexdigest()[:24]}",
            attempts=attempts,
        )
        return dg.SensorResult(run_requests=list(requests), cursor=cursor)

    return webhook_sensor


def to_ask(
    open_now: Sequence[OpenPurchase], seen: Mapping[str, str], now: datetime, left_after: timedelta
) -> dict[str, str]:
    """What to ask a run for, by task UUID, with the mark that stands for this very reason.

    seen: the marks asked for before. An intent is chosen if nobody is working on it, and there is news or it
    is old enough, and its mark is not the one seen.
    """
    asked: dict[str, str] = {}
    for intent in open_now:
        age = (now - intent.made_at) / left_after
        # 0 from the limit on, 1 from twice the limit on, 2 from four times on; -1 before.
        step = math.floor(math.log2(age)) if age >= 1 else -1
        news = intent.called_back_at.isoformat() if intent.called_back_at else ""
        mark = f"{news}/{step}"
        if intent.is_left_alone(now) and (news or step >= 0) and seen.get(intent.task_uuid) != mark:
            asked[intent.task_uuid] = mark
    return asked


def _latest_attempts(intents: Sequence[OpenPurchase]) -> dict[str, int]:
    """The highest attempt of each product. The first one goes unsaid: a run keeps what it finds."""
    latest: dict[str, int] = {}
    for intent in intents:
        latest[intent.sku] = max(intent.attempt, latest.get(intent.sku, 1))
    return latest


def _encode(marks: Mapping[str, str]) -> str:
    return json.dumps(dict(sorted(marks.items())), separators=(",", ":"))


def _decode(cursor: str | None) -> dict[str, str]:
    """The marks in a cursor. One that was edited by hand counts as none: asking twice does no harm."""
    try:
        marks = json.loads(cursor or "{}")
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in marks.items()} if isinstance(marks, dict) else {}
