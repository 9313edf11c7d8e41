"""A server in front of the real service that breaks one promise of the API: what a doctor has to find out."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator

import httpx
from scripted_server import Asked, ScriptedServer, http, scripted_server

Tasks = list[dict]


@contextlib.contextmanager
def forwarding(
    origin: str, change: Callable[[Asked, dict[str, str], Tasks], dict[str, str]]
) -> Iterator[ScriptedServer]:
    """Forwards everything to `origin`.

    change: may alter headers and tasks on the way there; gives texts to be replaced on the way back.
    """
    with httpx.Client(trust_env=False) as client:

        def answer(asked: Asked) -> bytes:
            kept = ("authorization", "content-type", "host", "x-runware-dry-run")
            headers = {name: value for name, value in asked.headers.items() if name in kept}
            if asked.method == "GET":
                got = client.get(origin + asked.path, headers=headers)
                return http(got.content, got.status_code, Content_Type="model/gltf-binary")
            tasks = asked.tasks
            back = change(asked, headers, tasks)
            got = client.post(origin + asked.path, content=json.dumps(tasks), headers=headers)
            text = got.text
            for one, other in back.items():
                text = text.replace(one, other)
            return http(text, got.status_code, Content_Type="application/json")

        with scripted_server(answer) as server:
            yield server


def ignores_dry_runs(_asked: Asked, headers: dict[str, str], _tasks: Tasks) -> dict[str, str]:
    """The header means nothing to this server."""
    headers.pop("x-runware-dry-run", None)
    return {}


class MakesTwice:
    """Forgets which UUIDs it had, and makes and bills them again."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, _asked: Asked, headers: dict[str, str], tasks: Tasks) -> dict[str, str]:
        back = {}
        for task in tasks:
            if task["taskType"] != "3dInference" or "x-runware-dry-run" in headers:
                continue
            if task["taskUUID"] in self.seen:
                fresh = str(uuid.uuid4())
                back[fresh] = task["taskUUID"]
                task["taskUUID"] = fresh
            self.seen.add(task["taskUUID"])
        return back
