"""What tests of the Runware client share: a small GLB, a crop, a key that must never show, options."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import struct
from decimal import Decimal
from functools import cache

from PIL import Image

from trellis_pipeline.generation.generator import GeneratedModel, GeneratorIdentity, InputImage, no_progress
from trellis_pipeline.generation.request import GenerationRequest
from trellis_pipeline.generation.runware.generator import RunwareGenerator
from trellis_pipeline.generation.runware.options import ApiKey, RunwareOptions

SENTINEL = "s3ntinelKeyThatMustNeverShow0001"
UUID = "0b6f6f0e-2a51-4c3b-9f0e-5d1f8f3b7a11"
OTHER = "6d0cb7de-7d1c-4a65-9a33-0f6e4ad0c0de"
FILE = "112a24e5-7976-46b3-a22c-e658daaffdfe"


def small_glb(text: str = "a chair") -> bytes:
    document = json.dumps({"asset": {"version": "2.0", "generator": text}}).encode()
    document += b" " * (-len(document) % 4)
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(document), len(document), 0x4E4F534A) + document


@cache
def crop(colour: tuple[int, int, int] = (120, 80, 40)) -> InputImage:
    file = io.BytesIO()
    Image.new("RGBA", (64, 64), (*colour, 255)).save(file, "PNG")
    png = file.getvalue()
    return InputImage(png, hashlib.sha256(png).hexdigest())


class SeedGenerator:
    """For the service: a model that tells its seed, at once."""

    identity = GeneratorIdentity("draft", "seed", "1")
    paid = False
    builds_to_size = False
    at_once = None

    async def generate(self, request, image, progress=no_progress):
        return [GeneratedModel(small_glb(f"seed {request.seed}"), request.seed, Decimal(0), 0.0)]


def options(base_url: str, **more) -> RunwareOptions:
    """Short pauses, so that tests of waiting do not wait."""
    quick = {
        "api_key": ApiKey(SENTINEL),
        "base_url": base_url,
        "poll_first_seconds": 0.02,
        "poll_most_seconds": 0.1,
        "back_off_seconds": 0.01,
        "back_off_most_seconds": 0.05,
        "gather_seconds": 0.005,
        "settle_seconds": 0.05,
        "call_seconds": 10.0,
        "task_seconds": 20.0,
    }
    return RunwareOptions(**{**quick, **more})


def with_generator(base_url, use, **more):
    """Run `use(generator)` in an event loop of its own; gives what it returns, or the exception it raised."""

    async def go():
        async with RunwareGenerator(options(base_url, **more)) as generator:
            return await use(generator)

    return asyncio.run(go())


def collected(base_url, task_uuid=UUID, results=1, **more):
    request = GenerationRequest(numberResults=results)
    return with_generator(base_url, lambda g: g.collect(task_uuid, request), **more)


def bought(base_url, task_uuid=UUID, results=1, **more):
    """Submit and collect under one UUID, as the journal's caller does when nothing goes wrong."""
    request = GenerationRequest(numberResults=results)

    async def use(generator):
        await generator.submit(task_uuid, request, crop())
        return await generator.collect(task_uuid, request)

    return with_generator(base_url, use, **more)


def finished(url, task_uuid=UUID, file=FILE, **more):
    """The item of a finished task as the API's examples show it."""
    return {
        "taskType": "3dInference",
        "taskUUID": task_uuid,
        "status": "success",
        "seed": 7,
        "cost": 0.0271,
        "outputs": {"files": [{"uuid": file, "url": url}]},
        **more,
    }


def processing(task_uuid=UUID, **more):
    return {"taskType": "3dInference", "taskUUID": task_uuid, "status": "processing", **more}


def error(code, task_uuid=UUID, **more):
    about = {"taskUUID": task_uuid, "taskType": "3dInference"} if task_uuid else {}
    return {"code": code, "message": f"the provider says {code}", **about, **more}
