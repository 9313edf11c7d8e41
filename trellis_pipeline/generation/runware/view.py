"""What is known of one task, from everything that was ever said about it.

Polls are cumulative, may repeat items, shuffle them, and mix in other tasks. So nothing is counted twice: a
file is known by its UUID, and a view only ever grows. Pure; the waiting is `waiting`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from trellis_pipeline.generation.runware.failures import is_doubtful, is_verdict
from trellis_pipeline.generation.runware.reply import ApiError, Item, Reply
from trellis_pipeline.generation.runware.results import ResultFile, files_of

BELIEVED_AFTER = 3
"""So many answers in a row have to end a task with words that may not have been meant for its work."""


@dataclass(frozen=True, slots=True)
class TaskView:
    """files: by UUID, in the order in which they were first seen. verdicts: errors that end a result.

    seen: the provider has spoken of this task. pending: the last answer that told anything of it showed
    unfinished results. quiet: how many such answers in a row showed nothing unfinished and nothing new.
    doubts: how many answers in a row ended it in words that may not have been meant for its work. progress: 0
    to 1, None if never stated.
    """

    task_uuid: str
    wanted: int = 1
    files: Mapping[str, ResultFile] = field(default_factory=dict)
    verdicts: tuple[ApiError, ...] = ()
    seen: bool = False
    pending: bool = False
    quiet: int = 0
    doubts: int = 0
    progress: float | None = None

    @property
    def done(self) -> bool:
        """Whether nothing more will come.

        Failed results cannot be counted, as errors repeat and name no file. So where some of several results
        failed, the task is over once two answers in a row show nothing unfinished and nothing new.
        """
        if len(self.files) >= self.wanted:
            return True
        if not self.verdicts or self.pending:
            return False
        return self.wanted == 1 or self.quiet >= 2

    @property
    def ordered(self) -> tuple[ResultFile, ...]:
        """The files, at most as many as were wanted."""
        return tuple(self.files.values())[: self.wanted]

    @property
    def surplus(self) -> tuple[ResultFile, ...]:
        """Files beyond those that were wanted. Nobody asked for them, and they are billed all the same."""
        return tuple(self.files.values())[self.wanted :]


def merged(view: TaskView, reply: Reply, least_cost: Decimal) -> TaskView:
    """The view after one more answer. What the answer says of other tasks is left aside."""
    mine = reply.of(view.task_uuid)
    files = dict(view.files)
    pending = False
    shares: list[float] = []
    for item in mine.items:
        found = files_of(item, least_cost)
        if not found:
            pending = True
            shares.append(_share(item))
        for file in found:
            known = files.get(file.uuid)
            # The newest link counts, the first cost stays: an answer may name it once only.
            fresh = known is not None and known.cost_usd is not None and file.cost_usd is None
            files[file.uuid] = (
                replace(file, cost_usd=known.cost_usd, cost_text=known.cost_text)
                if known is not None and fresh
                else file
            )
    ends = [error for error in mine.errors if is_verdict(error)]
    certain = [error for error in ends if not is_doubtful(error)]
    doubts = view.doubts + 1 if len(certain) < len(ends) else 0
    if doubts < BELIEVED_AFTER:
        ends = certain
    verdicts = tuple(dict.fromkeys((*view.verdicts, *ends)))
    news = len(files) > len(view.files) or len(verdicts) > len(view.verdicts)
    spoken = bool(mine.items) or bool(ends)
    quiet = view.quiet
    if spoken:
        quiet = 0 if pending else (1 if news else view.quiet + 1)
    return replace(
        view,
        files=files,
        verdicts=verdicts,
        seen=view.seen or spoken,
        pending=pending if spoken else view.pending,
        quiet=quiet,
        doubts=doubts,
        progress=_progress(view, len(files), shares),
    )


def _share(item: Item) -> float:
    """The share that is stated, 0 where it is no number. JSON has integers that no float can hold."""
    value = item.get("progress")
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return 0.0
    number = Decimal(value)
    return float(min(max(number, Decimal(0)), Decimal(100))) / 100 if number.is_finite() else 0.0


def _progress(view: TaskView, finished: int, shares: list[float]) -> float | None:
    now = min(1.0, (finished + sum(shares)) / view.wanted)
    if now == 0.0 and view.progress is None:
        return None
    return max(now, view.progress or 0.0)
