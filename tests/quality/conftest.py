"""Models for the quality tests: real files from another writer, and ways to spoil them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

Document = dict[str, Any]


def unpacked(data: bytes) -> tuple[Document, bytearray]:
    (length,) = struct.unpack("<I", data[12:16])
    return json.loads(data[20 : 20 + length]), bytearray(data[28 + length :])


def packed(document: Document, binary: bytes | bytearray) -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
    chunks += struct.pack("<II", len(binary), 0x004E4942) + bytes(binary)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


@pytest.fixture(scope="session")
def edit() -> Callable[[bytes, Callable[[Document, bytearray], Any]], bytes]:
    """edit(glb, change): the GLB after `change(document, binary)` altered its parts in place."""

    def apply(data: bytes, change: Callable[[Document, bytearray], Any]) -> bytes:
        document, binary = unpacked(data)
        change(document, binary)
        return packed(document, binary)

    return apply


@pytest.fixture(scope="session")
def plain_glb() -> bytes:
    """A closed sphere with normals and without a material, written by trimesh."""
    sphere = trimesh.creation.icosphere(2)
    return bytes(sphere.export(file_type="glb", include_normals=True))


@pytest.fixture(scope="session")
def textured_glb() -> bytes:
    """A closed box whose vertices are split along UV seams, with two textures, written by trimesh."""
    box = trimesh.creation.box(extents=(0.4, 0.6, 0.2))
    corners = box.vertices[box.faces.reshape(-1)]
    faces = np.arange(len(corners)).reshape(-1, 3)
    uv = np.random.default_rng(0).random((len(corners), 2))
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.new("RGB", (64, 32), (180, 90, 20)),
        metallicRoughnessTexture=Image.new("RGB", (16, 16), (0, 200, 10)),
    )
    visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    mesh = trimesh.Trimesh(corners, faces, visual=visual, process=False)
    return bytes(trimesh.Scene(mesh).export(file_type="glb", include_normals=True))
