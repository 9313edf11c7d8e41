"""Waiting for a task, and finding out whether there is one.

A poll that fails says nothing about the task: it is being worked on, and will be billed, whether or not we
hear of it. So nothing but an error that is addressed to the task ends the waiting early, and a task of which
nothing is heard until the deadline is unknown, not failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from trellis_pipeline.errors import OutcomeUnknown, ProviderRejected
from trellis_pipeline.generation.generator import Progress
from trellis_pipeline.generation.request import GenerationRequest
from trellis_pipeline.generation.runware.client import RunwareClient
from trellis_pipeline.generation.runware.failures import Kind, kind_of
from trellis_pipeline.generation.runware.options import RunwareOptions
from trellis_pipeline.generation.runware.polling import Durations, poll_pauses
from trellis_pipeline.generation.runware.reply import Reply
from trellis_pipeline.generation.runware.transport import AnswerLost, NotSent
from trellis_pipeline.generation.runware.view import BELIEVED_AFTER, TaskView, merged

LOOK_SECONDS = 1.0
"""How often a waiting task asks whether the provider has called back."""

UNSEEN_POLLS = 5
"""After so many polls that do not know the task, the archive is asked; the task may have ended long ago."""

IN_USE_SECONDS = 60.0
"""So long a task that was refused as one already there may stay unseen. Ours is seen within seconds."""


class Waiting:
    """Asks about tasks. Learns from each how long the next will take."""

    def __init__(self, client: RunwareClient, options: RunwareOptions) -> None:
        self._client = client
        self._options = options
        self._durations = Durations()

    async def knows(self, task_uuid: str) -> bool:
        """Whether the provider has, or had, this task. False may also mean: not visible yet.

        Raises OutcomeUnknown where it cannot be asked, and the errors about the account.
        """
        view, usual = TaskView(task_uuid), self._options.attempts
        most = max(usual, BELIEVED_AFTER)  # a failure in doubtful words has to be told so often
        for attempt in range(1, most + 1):
            try:
                reply = await self._client.get_response(task_uuid)
                view = merged(view, reply, self._options.least_cost)
                if view.doubts and not view.seen:
                    raise NotSent("the provider is too busy to say", reply.retry_after)
                return view.seen or await self._in_archive(task_uuid)
            except (NotSent, AnswerLost) as error:
                if attempt >= (most if view.doubts else usual):
                    raise OutcomeUnknown(f"task {task_uuid} cannot be asked about ({error})") from None
                await self._client.transport.pause(attempt, error)
            except ProviderRejected as error:
                raise OutcomeUnknown(f"task {task_uuid} cannot be asked about: {error}") from None
        raise AssertionError("unreachable")

    async def until_done(
        self,
        task_uuid: str,
        request: GenerationRequest,
        progress: Progress,
        hurry: Callable[[], bool],
        *,
        began: float | None = None,
        answer: Reply | None = None,
        in_use: bool = False,
    ) -> TaskView:
        """Poll until the task is done.

        began: `time.monotonic()` when it was handed in, None where another process did that. answer: what
        its submit was answered, where that says anything. in_use: it was answered that the UUID is in use.
        hurry, progress: see `RunwareGenerator.collect`.
        Raises OutcomeUnknown at the deadline, or sooner where the UUID in use seems to be somebody else's,
        and the errors about the account.
        """
        options, wanted = self._options, request.numberResults
        clock = asyncio.get_running_loop().time
        deadline = clock() + options.task_seconds
        foreign_after = clock() + min(IN_USE_SECONDS, options.task_seconds)
        fresh, unfinished_after = began is not None, None
        pauses = poll_pauses(
            options.poll_first_seconds,
            options.poll_factor,
            options.poll_most_seconds,
            self._durations.expected(request.preset) if fresh else None,
        )
        view = TaskView(task_uuid, wanted)
        if answer is not None:
            view = merged(view, answer, options.least_cost)
        polls, why = 0, "it is still processing"
        if fresh and not view.done:  # what was handed in a moment ago is not done
            await _sleep(min(next(pauses), options.task_seconds), hurry)
        while not view.done:
            pause = next(pauses)
            try:
                view = merged(view, await self._client.get_response(task_uuid), options.least_cost)
                polls += 1
                if not view.seen and polls % UNSEEN_POLLS == 0:
                    view = merged(view, await self._archive(task_uuid), options.least_cost)
                why = _standing(view)
            except (NotSent, AnswerLost) as error:
                # A poll that fails says nothing about the task, which is being worked on and will be billed.
                why = f"the last poll failed ({error})"
                pause = max(pause, error.retry_after or 0.0)
            except ProviderRejected as error:
                why = f"the last poll was refused ({error})"
            age = 0.0 if began is None else time.monotonic() - began
            if view.done:
                if fresh and not view.verdicts:
                    self._durations.add(request.preset, unfinished_after, age)
                break
            unfinished_after = age
            if view.progress is not None:
                progress(min(view.progress, 0.99))
            if in_use and not view.seen and clock() >= foreign_after:
                in_use = False
                if not await self.knows(task_uuid):
                    raise OutcomeUnknown(_foreign(task_uuid))
            left = deadline - clock()
            if left <= 0:
                raise OutcomeUnknown(
                    f"task {task_uuid} is not done after {options.task_seconds:g} s, {why}; "
                    f"{len(view.files)} of {wanted} files are there; run again to ask for it"
                )
            await _sleep(min(pause, left), hurry)
        return view

    async def _archive(self, task_uuid: str) -> Reply:
        """What the archive has, without refusals, which may be those of a repeated submit."""
        archived = await self._client.get_task_details(task_uuid)
        told = tuple(error for error in archived.errors if kind_of(error) is Kind.FAILED)
        return Reply(archived.status, archived.items, told)

    async def _in_archive(self, task_uuid: str) -> bool:
        archived = await self._client.get_task_details(task_uuid)
        kinds = {kind_of(error) for error in archived.errors}
        return bool(archived.items) or bool(kinds & {Kind.FAILED, Kind.CONFLICT, Kind.EXPIRED})


def _standing(view: TaskView) -> str:
    if view.doubts:
        return "the last poll was turned away"
    return "it is still processing" if view.seen else "the provider does not speak of it"


def _foreign(task_uuid: str) -> str:
    return (
        f"task {task_uuid} was not taken because its taskUUID is in use, yet neither getResponse nor "
        "getTaskDetails shows such a task to this API key: another key may have bought the same request. "
        "Run with that key to fetch its models; or wait an hour, let `trellis-pipeline costs open --finish` "
        "set the money free, and run again, which buys under another UUID"
    )


async def _sleep(seconds: float, hurry: Callable[[], bool]) -> None:
    """Sleep, or less where `hurry` says so meanwhile."""
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    while (left := end - clock()) > 0:
        await asyncio.sleep(min(left, LOOK_SECONDS))
        if hurry():
            return
