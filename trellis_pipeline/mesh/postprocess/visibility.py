"""What can be seen from outside, and from which side.

A decoded surface knows neither. Rays that leave a face and never meet the surface again reach the outside:
from a patch that no ray leaves, nothing will ever be seen, and the side that more rays leave from is the
front. Samples are placed by a fixed seed, so the answer for a mesh is always the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.clean import drop_unused_vertices
from trellis_pipeline.mesh.postprocess.patch_sizes import areas, signed_volumes
from trellis_pipeline.mesh.postprocess.sides import pair_half_edges, patches
from trellis_pipeline.mesh.postprocess.surface_tree import MAX_DEPTH, SurfaceTree, surface_tree
from trellis_pipeline.mesh.postprocess.threads import in_parallel
from trellis_pipeline.mesh.types import Float32, Int32, Mesh
from trellis_pipeline.mesh.vectors import Vector, cross, dot, inner

FACES_PER_PATCH = 256
RAYS_PER_FACE = 16
HIDDEN_SHARE = 0.005  # of a patch's rays; fewer escape only through pinholes
LIFT = 1e-5  # of the size of the mesh: how far from its face a ray begins


@dataclass(frozen=True, slots=True)
class Outlook:
    """Shares of rays (P,) float64 that reach the outside from a patch's front and back."""

    front: npt.NDArray[np.float64]
    back: npt.NDArray[np.float64]


def face_outwards(mesh: Mesh, *, drop_hidden: bool, threads: int = 1) -> Mesh:
    """Turn every patch so that its front looks outside; with `drop_hidden` remove those that cannot be seen.

    mesh: manifold, wound alike (repair.make_manifold). A closed patch is turned by the sign of its volume,
    an open one by which side sees more of the outside. The patch with the largest area is never removed.
    """
    mates = pair_half_edges(mesh, wound_alike=True)
    label = patches(mates)
    count = int(label.max()) + 1
    is_open = np.bincount(label, weights=(mates.reshape(-1, 3) < 0).any(axis=1), minlength=count) > 0
    turned = signed_volumes(mesh, label) < 0
    hidden = np.zeros(count, bool)
    if (drop_hidden and count > 1) or is_open.any():
        seen = outlook(mesh, label, threads=threads)
        differs = np.abs(seen.front - seen.back) > 0.02 * (seen.front + seen.back)
        turned = np.where(is_open & differs, seen.back > seen.front, turned)
        if drop_hidden:
            hidden = np.maximum(seen.front, seen.back) < HIDDEN_SHARE
            hidden[areas(mesh, label).argmax()] = False
    triangles = np.where(turned[label][:, None], mesh.triangles[:, [0, 2, 1]], mesh.triangles)
    turned_mesh = Mesh(mesh.vertices, np.ascontiguousarray(triangles[~hidden[label]]))
    return drop_unused_vertices(turned_mesh) if hidden.any() else turned_mesh


def outlook(mesh: Mesh, label: Int32, *, threads: int = 1) -> Outlook:
    """How much of the outside each patch sees from either side. label: (T,) int32 patch of each face."""
    rng = np.random.default_rng(0)
    tree = surface_tree(mesh)
    count = int(label.max()) + 1
    shuffled = rng.permutation(len(label))
    by_patch = shuffled[np.argsort(label[shuffled], kind="stable")]
    rank = np.arange(len(label)) - np.searchsorted(label[by_patch], np.arange(count))[label[by_patch]]
    faces = by_patch[rank < FACES_PER_PATCH].astype(np.int32)
    corners = mesh.vertices[mesh.triangles[faces]].astype(np.float64)
    weights = rng.dirichlet((1, 1, 1), len(faces))
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-300)
    # A cosine-weighted direction is the normal plus a point on the unit sphere.
    ball = rng.normal(size=(len(faces), RAYS_PER_FACE, 3))
    ball /= np.linalg.norm(ball, axis=2, keepdims=True)
    shares = []
    for side in (1.0, -1.0):
        lift = side * LIFT * float(np.ptp(mesh.vertices, axis=0).max())
        origin = np.einsum("nk,nkx->nx", weights, corners) + lift * normal
        direction = side * normal[:, None] + 0.999 * ball
        escaped = np.empty((len(faces), RAYS_PER_FACE), np.bool_)
        in_parallel(
            lambda start, stop, o=origin, d=direction, e=escaped: _escape(  # type: ignore[misc]
                tree, o[start:stop], d[start:stop], e[start:stop]
            ),
            len(faces),
            threads,
        )
        hits = np.bincount(label[faces], weights=escaped.mean(axis=1), minlength=count)
        shares.append(hits / np.maximum(np.bincount(label[faces], minlength=count), 1))
    return Outlook(shares[0], shares[1])


def openness(mesh: Mesh, normals: Float32, rays: int, *, threads: int = 1) -> Float32:
    """(V,) float32 in 0..1: how much of the light from all around reaches each vertex, 1 where nothing is
    in its way. This is glTF's occlusion, with the surface itself as the only thing that shades.

    normals: (V, 3) unit. rays: for each vertex, cosine-weighted; 32 give steps of 3 %.
    """
    rng = np.random.default_rng(0)
    tree = surface_tree(mesh)
    ball = rng.normal(size=(rays, 3))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    # Every vertex looks along the same rays: neighbours differ by what they see, not by chance.
    lift = 100 * LIFT * float(np.ptp(mesh.vertices, axis=0).max())
    result = np.empty(len(normals), np.float32)

    def look(start: int, stop: int) -> None:
        out = normals[start:stop].astype(np.float64)
        origin = mesh.vertices[start:stop] + lift * out
        escaped = np.empty((stop - start, rays), np.bool_)
        _escape(tree, origin, out[:, None] + 0.999 * ball, escaped)
        result[start:stop] = escaped.mean(axis=1)

    in_parallel(look, len(normals), threads)
    return result


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _escape(
    tree: SurfaceTree,
    origins: npt.NDArray[np.float64],
    directions: npt.NDArray[np.float64],
    escaped: npt.NDArray[np.bool_],
) -> None:
    nodes = np.empty(MAX_DEPTH, np.int64)
    for n in range(len(origins)):
        origin = (origins[n, 0], origins[n, 1], origins[n, 2])
        for m in range(directions.shape[1]):
            way = (directions[n, m, 0], directions[n, m, 1], directions[n, m, 2])
            escaped[n, m] = not _hits(tree, origin, way, nodes)


@inner
def _hits(tree: SurfaceTree, origin: Vector, way: Vector, nodes: npt.NDArray[np.int64]) -> bool:
    """Whether a ray meets any triangle."""
    leaves, count = len(tree.boxes) // 2, len(tree.order)
    inverse = (1.0 / way[0], 1.0 / way[1], 1.0 / way[2])
    nodes[0], top = 1, 1
    while top > 0:
        top -= 1
        node = nodes[top]
        if not _enters(tree.boxes, node, origin, inverse):
            continue
        if node < leaves:
            nodes[top] = 2 * node
            nodes[top + 1] = 2 * node + 1
            top += 2
            continue
        leaf = node - leaves
        for n in range(leaf * count // leaves, (leaf + 1) * count // leaves):
            if _meets(tree.corners, n, origin, way):
                return True
    return False


@inner
def _enters(boxes: Float32, node: int, origin: Vector, inverse: Vector) -> bool:
    """Whether a ray goes through a box (slab test); zero directions give infinities, which compare right."""
    enter, leave = 0.0, np.inf
    for k in range(3):
        one, two = (boxes[node, k] - origin[k]) * inverse[k], (boxes[node, 3 + k] - origin[k]) * inverse[k]
        enter, leave = max(enter, min(one, two)), min(leave, max(one, two))
    return bool(enter <= leave)


@inner
def _meets(corners: Float32, n: int, origin: Vector, way: Vector) -> bool:
    """Möller & Trumbore 1997, either side."""
    ax, ay, az = float(corners[n, 0]), float(corners[n, 1]), float(corners[n, 2])
    ab = (corners[n, 3] - ax, corners[n, 4] - ay, corners[n, 5] - az)
    ac = (corners[n, 6] - ax, corners[n, 7] - ay, corners[n, 8] - az)
    p = cross(way, ac)
    determinant = dot(ab, p)
    if determinant == 0.0:
        return False
    s = (origin[0] - ax, origin[1] - ay, origin[2] - az)
    u = dot(s, p) / determinant
    if u < 0.0 or u > 1.0:
        return False
    q = cross(s, ab)
    v = dot(way, q) / determinant
    return bool(v >= 0.0 and u + v <= 1.0 and dot(ac, q) / determinant > 0.0)
