"""A small table of published files and their bytes, shaped like the real one."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from trellis_pipeline.trellis2.published import (
    ENCODER_REPOSITORY,
    MAIN_REPOSITORY,
    MATTE_REPOSITORY,
    STRUCTURE_REPOSITORY,
    PublishedFile,
)

FLOW = f"{MAIN_REPOSITORY}/ckpts/flow.safetensors"
LARGE = f"{MAIN_REPOSITORY}/ckpts/large_1024.safetensors"
ENCODER = f"{ENCODER_REPOSITORY}/model.safetensors"
MATTE = f"{MATTE_REPOSITORY}/onnx/model.onnx"


def bytes_of(place: str, size: int) -> bytes:
    return random.Random(place).randbytes(size)


CONTENT = {
    f"{MAIN_REPOSITORY}/pipeline.json": b'{"args": {}}',
    f"{MAIN_REPOSITORY}/ckpts/flow.json": b"{}",
    FLOW: bytes_of(FLOW, 3_000_000),
    LARGE: bytes_of(LARGE, 150_000),
    f"{STRUCTURE_REPOSITORY}/ckpts/decoder.json": b"[]",
    f"{STRUCTURE_REPOSITORY}/ckpts/decoder.safetensors": bytes_of("decoder", 200_000),
    f"{ENCODER_REPOSITORY}/config.json": b'{"hidden_size": 24}',
    ENCODER: bytes_of(ENCODER, 300_000),
    MATTE: bytes_of(MATTE, 120_000),
}


def published_file(place: str) -> PublishedFile:
    owner, name, path = place.split("/", 2)
    content = CONTENT[place]
    resolutions = {LARGE: ("1024", "1536"), MATTE: ()}.get(place, ("512", "1024", "1536"))
    return PublishedFile(
        f"{owner}/{name}", path, len(content), hashlib.sha256(content).hexdigest(), resolutions
    )


TABLE = tuple(published_file(place) for place in CONTENT)
WANTED = tuple(file for file in TABLE if file.place != MATTE)


def write(folder: Path, place: str, content: bytes | None = None) -> Path:
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT[place] if content is None else content)
    return path


def places(weights: Path) -> set[str]:
    """What lies below the weights folder, but for the lock."""
    return {
        str(path.relative_to(weights))
        for path in weights.rglob("*")
        if path.is_file() and path.name != ".fetch.lock"
    }
