"""Faults in what a poll is told: items hidden, doubled, shuffled, of strangers, with odd costs or shapes."""

from __future__ import annotations

import base64
import random
import re
import uuid
from typing import Any

from trellis_pipeline.generation.wire import INFERENCE
from trellis_pipeline.service.faults import FaultEngine

Json = dict[str, Any]

ODD_COSTS: dict[str, Any] = {
    "text": "0.0256",
    "negative": -0.0256,
    "nan": float("nan"),
    "tiny": 1e-7,
}


def rewrite(envelope: Json, engine: FaultEngine, status: int) -> int:
    """Change an answer to getResponse in place; gives its status."""
    names = engine.names
    items: list[Json] = list(envelope.get("data") or [])
    errors: list[Json] = list(envelope.get("errors") or [])
    if "hidden" in names:
        items = [item for item in items if not engine.lasts("hidden", _uuid(item))]
        errors = [item for item in errors if not engine.lasts("hidden", _uuid(item))]
    if "stuck" in names:
        items = [_stuck(item, engine) for item in items]
    if "task_fails" in names:
        items, errors, status = _verdicts(items, errors, engine, status)
    uuids = sorted({_uuid(item) for item in items + errors})
    for asked in uuids:
        turned_away = engine.strike("turned_away", [asked])
        if turned_away:
            items = [item for item in items if _uuid(item) != asked]
            errors = [item for item in errors if _uuid(item) != asked]
            code = turned_away.value or "rateLimitExceeded"
            errors.append({"code": code, "message": "too many requests, ask again later", "taskUUID": asked})
    for item in items:
        if item.get("status") == "success":
            _dress(item, engine)
    uuids = uuids or [""]
    if engine.strike("duplicate_items", uuids):
        items = [copy for item in items for copy in (item, dict(item))]
        errors = errors * 2
    if engine.strike("out_of_order", uuids):
        items.reverse()
    if engine.strike("foreign_items", uuids):
        items.insert(0, _stranger())
        errors.append(
            {
                "code": "inferenceError",
                "message": "somebody else's task failed",
                "taskType": INFERENCE,
                "taskUUID": str(uuid.uuid4()),
            }
        )
    envelope["data"] = items
    envelope.pop("errors", None)
    if errors:
        envelope["errors"] = errors
    return status


def _uuid(item: Json) -> str:
    return str(item.get("taskUUID", ""))


def _stuck(item: Json, engine: FaultEngine) -> Json:
    if item.get("status") != "success" or not engine.lasts("stuck", _uuid(item)):
        return item
    kept: Json = {name: item[name] for name in ("taskType", "taskUUID", "resultIndex") if name in item}
    return {**kept, "status": "processing", "progress": 99}


def _verdicts(
    items: list[Json], errors: list[Json], engine: FaultEngine, status: int
) -> tuple[list[Json], list[Json], int]:
    """A failure in the form that the plan asks for."""
    kept: list[Json] = []
    for entry in errors:
        fault = engine.lasts("task_fails", _uuid(entry))
        if fault and fault.value == "data":
            said = {"code": entry["code"], "message": entry["message"]}
            items.append({"taskType": INFERENCE, "taskUUID": _uuid(entry), "status": "error", "error": said})
            continue
        if fault and fault.value == "400":
            status = 400
        kept.append(entry)
    return items, kept, status


def _dress(item: Json, engine: FaultEngine) -> None:
    """Change one finished item."""
    uuids = [_uuid(item)]
    odd = engine.lasts("odd_cost", uuids[0])
    if odd:
        item.pop("cost", None)
        if odd.value in ODD_COSTS:
            item["cost"] = ODD_COSTS[odd.value]
    file = item["outputs"]["files"][0]
    if engine.strike("dead_link", uuids):
        file["url"] = item["modelURL"] = re.sub(r"expires=\d+", "expires=1", file["url"])
    if engine.lasts("examples_shape", uuids[0]):
        del item["modelUUID"], item["modelURL"]
        return
    if engine.lasts("legacy_shape", uuids[0]):
        del item["outputs"]
        return
    inline = engine.lasts("inline_model", uuids[0])
    if inline and engine.read_file is not None:
        text = base64.b64encode(engine.read_file(file["uuid"])).decode("ascii")
        del item["outputs"], item["modelURL"]
        if inline.value == "data_uri":
            item["modelDataURI"] = f"data:model/gltf-binary;base64,{text}"
        else:
            item["modelBase64Data"] = text


def _stranger() -> Json:
    file = str(uuid.uuid4())
    return {
        "taskType": INFERENCE,
        "taskUUID": str(uuid.uuid4()),
        "status": "success",
        "seed": random.getrandbits(31),
        "cost": 9.99,
        "outputs": {"files": [{"uuid": file, "url": f"https://attacker.invalid/{file}.glb"}]},
    }
