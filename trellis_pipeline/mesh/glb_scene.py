"""The scene of a glTF document: which meshes are drawn, where, and how large they claim to be.

Nodes form a tree by rule only; a file may draw a circle, or share children until a kilobyte of JSON names
more nodes than there are atoms. The walk below visits each node once or refuses (specification §3.5).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.mesh.glb_fields import Json, child, entry, integer, members, numbers, optional_integer

MAX_NODES = 100_000
MAX_DEPTH = 256

POINTS_AND_LINES = (0, 1, 2, 3)
TRIANGLES, TRIANGLE_STRIP, TRIANGLE_FAN = 4, 5, 6

Matrix = npt.NDArray[np.float64]

IDENTITY: Matrix = np.eye(4)


def scene_meshes(document: Json) -> list[tuple[int, Matrix]]:
    """(mesh index, 4x4 float64 world matrix) of every node that draws a mesh in the default scene.

    Without a default the first scene is taken; without scenes, every node that is nobody's child. Raises
    ModelFileError if a node is reached twice (a cycle or a shared child: the specification demands a tree),
    lies deeper than MAX_DEPTH, or if there are more than MAX_NODES.
    """
    nodes = members(document, "nodes", "document")
    if len(nodes) > MAX_NODES:
        raise ModelFileError(f"the file has {len(nodes)} nodes; at most {MAX_NODES} are read")
    found: list[tuple[int, Matrix]] = []
    seen: set[int] = set()
    waiting: list[tuple[Any, Matrix, int]] = [(root, IDENTITY, 0) for root in _roots(document, nodes)]
    waiting.reverse()
    while waiting:
        index, parent, depth = waiting.pop()
        node = entry(document, "nodes", index, "a scene or a node")
        if index in seen:
            raise ModelFileError(f"nodes[{index}] is reached twice; nodes must form a tree")
        if depth > MAX_DEPTH:
            raise ModelFileError(f"nodes[{index}] lies more than {MAX_DEPTH} levels deep")
        seen.add(index)
        local = _local_matrix(node, f"nodes[{index}]")
        world = parent if local is None else _product(parent, local)
        mesh = optional_integer(node, "mesh", f"nodes[{index}]")
        if mesh is not None:
            found.append((mesh, world))
        children = members(node, "children", f"nodes[{index}]")
        waiting.extend((inner, world, depth + 1) for inner in reversed(children))
        if len(waiting) > 2 * MAX_NODES:
            raise ModelFileError("the nodes' children refer to the same nodes over and over")
    return found


def primitive_counts(document: Json, primitive: Json, where: str) -> tuple[int, int]:
    """(vertices, triangles) of one primitive as its accessors declare them; (0, 0) for points and lines."""
    mode = integer(primitive, "mode", where, default=TRIANGLES)
    if mode in POINTS_AND_LINES:
        return 0, 0
    if mode > TRIANGLE_FAN:
        raise ModelFileError(f"{where}.mode {mode} is not a primitive mode of glTF")
    attributes = child(primitive, "attributes", where) or {}
    if "POSITION" not in attributes:
        return 0, 0
    position = entry(document, "accessors", attributes["POSITION"], f"{where}.POSITION")
    vertices = integer(position, "count", f"{where}.POSITION")
    corners = vertices
    if primitive.get("indices") is not None:
        accessor = entry(document, "accessors", primitive["indices"], f"{where}.indices")
        corners = integer(accessor, "count", f"{where}.indices")
    return vertices, corners // 3 if mode == TRIANGLES else max(corners - 2, 0)


def _roots(document: Json, nodes: list[Any]) -> list[Any]:
    scenes = members(document, "scenes", "document")
    if scenes:
        chosen = integer(document, "scene", "document", default=0)
        scene = entry(document, "scenes", chosen, "document.scene")
        return members(scene, "nodes", f"scenes[{chosen}]")
    children: set[Any] = set()
    for index, node in enumerate(nodes):
        if isinstance(node, dict):
            inner = members(node, "children", f"nodes[{index}]")
            children.update(item for item in inner if isinstance(item, int))
    return [index for index in range(len(nodes)) if index not in children]


def _local_matrix(node: Json, where: str) -> Matrix | None:
    """A node's own transform, None for the identity (specification §3.5.3)."""
    flat = numbers(node, "matrix", 16, where)
    if flat is not None:
        return np.array(flat).reshape(4, 4).T  # stored column by column
    translation = numbers(node, "translation", 3, where)
    rotation = numbers(node, "rotation", 4, where)
    scale = numbers(node, "scale", 3, where)
    if translation is None and rotation is None and scale is None:
        return None
    matrix = np.eye(4)
    if rotation is not None:
        x, y, z, w = rotation
        matrix[:3, :3] = (
            (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
        )
    if scale is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            matrix[:3, :3] *= np.array(scale)
    if translation is not None:
        matrix[:3, 3] = translation
    return matrix


def _product(parent: Matrix, local: Matrix) -> Matrix:
    if parent is IDENTITY:
        return local
    with np.errstate(over="ignore", invalid="ignore"):
        product: Matrix = parent @ local
    return product
