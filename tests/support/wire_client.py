"""A client of the wire API that says exactly what it is told to and is careful about nothing. For tests."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx

from trellis_pipeline.service.messages import STATUS
from trellis_pipeline.service.testing import RunningService

SAFETY_SECONDS = 120
KEY = "a-key-that-tests-use"


def new_uuid() -> str:
    return str(uuid.uuid4())


def wait_until(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Poll; the limit is for tests that hang, not a promise."""
    end = time.monotonic() + SAFETY_SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.02)
    return found


def listed_codes(answer: httpx.Response) -> list[str]:
    """The codes of an answer's errors. One that nobody listed is one that no documentation explains."""
    try:
        codes = [error["code"] for error in answer.json().get("errors", [])]
    except ValueError:  # no JSON: a fault of the plan
        return []
    assert set(codes) <= set(STATUS), f"not in service.messages.STATUS: {codes}"
    return codes


class Client:
    """Posts what it is given and reads what comes; knows nothing of being careful."""

    def __init__(self, service: RunningService, picture: str, key: str = KEY) -> None:
        self.service = service
        self.picture = picture
        self.http = httpx.Client(
            headers={"Authorization": f"Bearer {key}"}, timeout=SAFETY_SECONDS, trust_env=False
        )

    def task(self, **fields: Any) -> dict[str, Any]:
        return {
            "taskType": "3dInference",
            "taskUUID": new_uuid(),
            "model": "microsoft:trellis-2@4b",
            "includeCost": True,
            "inputs": {"image": self.picture},
            **fields,
        }

    def post(self, *tasks: Any, **headers: str) -> httpx.Response:
        answer = self.http.post(self.service.base_url, json=list(tasks), headers=headers)
        listed_codes(answer)  # whatever the test is about
        return answer

    def submit(self, **fields: Any) -> str:
        task = self.task(**fields)
        answer = self.post(task)
        assert answer.status_code == 200, answer.text
        return str(task["taskUUID"])

    def poll(self, *task_uuids: str) -> dict[str, Any]:
        answer = self.post(*({"taskType": "getResponse", "taskUUID": one} for one in task_uuids))
        return dict(answer.json())

    def result(self, task_uuid: str) -> dict[str, Any]:
        """The envelope once nothing of it is processing any more."""

        def ended() -> dict[str, Any] | None:
            said = self.poll(task_uuid)
            shown = said["data"] + said.get("errors", [])
            return said if shown and all(one.get("status") != "processing" for one in shown) else None

        return dict(wait_until(ended, f"the end of task {task_uuid}"))

    def file_url(self, task_uuid: str) -> str:
        return str(self.result(task_uuid)["data"][0]["outputs"]["files"][0]["url"])
