"""A closed skin around any surface, however torn: remeshing in a narrow band.

A decoded surface has no sides. Its distance function has: the set of points at a small distance eps from it
is closed and has an inside. Cells of a grid near that set are found from coarse to fine, every cell that it
passes through gets one vertex, every grid edge it crosses one quad. Walls thus get two sides, and what was
closed before gets a second skin inside, which `drop_inner_shells` takes away.

The method and its constants are those of TRELLIS.2's remesher (simple dual contouring, Ju et al. 2002,
without normals), so that its results can be compared vertex by vertex.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.clean import drop_unused_vertices
from trellis_pipeline.mesh.postprocess.closest import closest_points, distances
from trellis_pipeline.mesh.postprocess.lattice import CellTable, cell_table, empty_table, find, insert
from trellis_pipeline.mesh.postprocess.surface_tree import SurfaceTree
from trellis_pipeline.mesh.types import Float32, Int32, Mesh

COARSEST = 32  # cells along an axis where the search begins
NEAR = 0.87  # cells; a little more than half the diagonal of one
BLOCK = 1 << 22  # cells whose distances are asked for at a time
MAX_CELLS = 1 << 27  # eight corners each in int32 are 4 GiB

Float64 = npt.NDArray[np.float64]

# Corner n of a cell is offset by its bits: 1 is x, 2 is y, 4 is z. For the edge along x, y, z that ends in
# corner 7: the corner where it begins, and the four cells around it in a circle, as offsets.
_EDGE_START = np.array([6, 5, 3])
_AROUND_EDGE = np.array(
    [
        [[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0]],
        [[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1]],
        [[0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]],
    ]
)


def remesh_narrow_band(
    tree: SurfaceTree,
    *,
    center: tuple[float, float, float],
    scale: float,
    resolution: int,
    band_cells: float = 1.0,
    threads: int = 1,
) -> Mesh:
    """The surface at a distance of band_cells · scale / resolution from the one in `tree`.

    The grid has `resolution` cells along each edge of a cube of `scale` around `center`; halving the
    resolution must lead to 32 or less (all multiples of a power of two that is large enough do). Wound so
    that normals point away from the original surface. Every edge has an even number of faces; more than two
    where skins touch within a cell.

    Raises MeshError for a grid that cannot be halved or is not positive, for more than 134 million cells
    and where the distance is nowhere reached in the cube.
    """
    coarse = resolution
    while coarse > COARSEST and coarse % 2 == 0:
        coarse //= 2
    if not 1 <= coarse <= COARSEST or not scale > 0 or not band_cells > 0:
        raise MeshError(
            f"cannot remesh on a grid of {resolution} cells over {scale} with a band of {band_cells} cells; "
            "the resolution must be a number up to 32 times a power of two, the rest positive"
        )
    origin = np.asarray(center, dtype=np.float64) - scale / 2
    eps = band_cells * scale / resolution
    cells = np.argwhere(np.ones((coarse, coarse, coarse), bool)).astype(np.int32)
    size = coarse
    while size < resolution and len(cells):
        blocks = [cells[start : start + BLOCK] for start in range(0, len(cells), BLOCK)]
        cells = np.concatenate([_near(tree, block, origin, scale / size, eps, threads) for block in blocks])
        if 8 * len(cells) > MAX_CELLS:
            raise MeshError(f"{len(cells)} cells at {size}³ are too many to remesh; use a lower resolution")
        cells = _children(cells)
        size *= 2
    if len(cells) == 0:
        raise MeshError("nothing to remesh: the surface lies outside the grid")
    # The finest cells are not sifted by their middles: those that the skin does not pass have no crossed
    # edge, so they make no face, and their corners cost less than their middles would.
    table = cell_table(cells)
    corner_ids, corners = _corners(cells)
    beyond = _beyond(tree, corners, origin, scale / resolution, eps, threads)
    dual = np.empty((len(cells), 3))
    _dual_vertices(cells, corner_ids, beyond, dual)
    triangles = _dual_faces(cells, corner_ids, beyond, table, _AROUND_EDGE, _EDGE_START)
    if len(triangles) == 0:
        raise MeshError("nothing to remesh: the surface lies outside the grid")
    vertices = (dual * (scale / resolution) + origin).astype(np.float32)
    return drop_unused_vertices(Mesh(vertices, triangles))


def project_back(mesh: Mesh, tree: SurfaceTree, share: float, *, threads: int = 1) -> Mesh:
    """Move every vertex by `share` (0..1) of its way to the closest point of the original surface."""
    if share == 0:
        return mesh
    target = closest_points(tree, mesh.vertices, threads=threads).points
    return Mesh(mesh.vertices - np.float32(share) * (mesh.vertices - target), mesh.triangles)


def project_without_folds(mesh: Mesh, tree: SurfaceTree, share: float, *, threads: int = 1) -> Mesh:
    """`project_back`, but no face may turn over.

    The vertices of a face that would end up more than 78 degrees from where it faced, or with hardly any
    area, go a shorter way: half, a quarter, and so on, in the end none.
    """
    target = closest_points(tree, mesh.vertices, threads=threads).points
    before = _face_normals(mesh.vertices, mesh.triangles)
    length = np.linalg.norm(before, axis=1)
    way = np.full(len(mesh.vertices), share, np.float32)
    for step in range(8):
        moved = mesh.vertices + way[:, None] * (target - mesh.vertices)
        after = _face_normals(moved, mesh.triangles)
        now = np.linalg.norm(after, axis=1)
        folded = np.einsum("ij,ij->i", before, after) < 0.2 * length * now
        folded |= now < 1e-3 * length
        if not folded.any():
            return Mesh(moved, mesh.triangles)
        corners = np.unique(mesh.triangles[folded])
        way[corners] *= 0.5 if step < 5 else 0.0
    # What still folds does so because of a neighbour that moved: leave those where they were for certain.
    for _ in range(100):
        way[np.unique(mesh.triangles[folded])] = 0
        moved = mesh.vertices + way[:, None] * (target - mesh.vertices)
        after = _face_normals(moved, mesh.triangles)
        folded = np.einsum("ij,ij->i", before, after) <= 0
        folded &= way[mesh.triangles].any(axis=1)
        if not folded.any():
            break
    return Mesh(moved, mesh.triangles)


def _near(tree: SurfaceTree, cells: Int32, origin: Float64, edge: float, eps: float, threads: int) -> Int32:
    """Those of `cells`, whose edges are `edge` long, that the surface at a distance of eps may pass."""
    middles = ((cells + 0.5) * edge + origin).astype(np.float32)
    away = distances(tree, middles, within=1.001 * (eps + NEAR * edge), threads=threads)
    return np.asarray(cells[np.abs(away - eps) < NEAR * edge])


def _beyond(
    tree: SurfaceTree, corners: Int32, origin: Float64, edge: float, eps: float, threads: int
) -> Float64:
    """(K,) how far corners of the grid are beyond the skin, negative within; infinity where no edge of theirs
    can reach the skin.
    """
    result = np.empty(len(corners))
    for start in range(0, len(corners), BLOCK):
        places = (corners[start : start + BLOCK] * edge + origin).astype(np.float32)
        # Distance grows by at most an edge along an edge, and both ends of a crossed one must be known.
        away = distances(tree, places, within=eps + 1.01 * edge, threads=threads)
        result[start : start + BLOCK] = away
    result -= eps
    return result


def _face_normals(vertices: Float32, triangles: Int32) -> Float64:
    a, b, c = (vertices[triangles[:, k]].astype(np.float64) for k in range(3))
    return np.cross(b - a, c - a)


def _children(cells: Int32) -> Int32:
    """The eight halves of each cell, side by side, so that neighbours in space stay neighbours in memory."""
    offsets = np.argwhere(np.ones((2, 2, 2), bool)).astype(np.int32)
    return (2 * cells[:, None] + offsets).reshape(-1, 3)


def _corners(cells: Int32) -> tuple[Int32, Int32]:
    """Corner numbers (N, 8) of each cell and the corners (K, 3) themselves, in order of first use."""
    ids = np.empty((len(cells), 8), np.int32)
    # A cell of a thin layer has about two corners of its own; the table grows if that was too little.
    capacity = 2 * len(cells) + 1024
    while True:
        corners = np.empty((capacity, 3), np.int32)
        count = _number_corners(cells, empty_table(capacity), ids, corners)
        if count >= 0:
            return ids, corners[:count]
        capacity *= 2


@numba.njit(cache=True, nogil=True)
def _number_corners(cells: Int32, table: CellTable, ids: Int32, corners: Int32) -> int:
    """Fill `ids` and `corners`; how many there are, or -1 if the room is too small."""
    count = 0
    for n in range(len(cells)):
        for corner in range(8):
            x = cells[n, 0] + (corner & 1)
            y = cells[n, 1] + ((corner >> 1) & 1)
            z = cells[n, 2] + (corner >> 2)
            row = insert(table, x, y, z, count)
            if row == count:
                if count + 8 > len(corners):
                    return -1
                corners[count, 0] = x
                corners[count, 1] = y
                corners[count, 2] = z
                count += 1
            ids[n, corner] = row
    return count


@numba.njit(cache=True, nogil=True)
def _dual_vertices(cells: Int32, corner_ids: Int32, beyond: Float64, dual: Float64) -> None:
    """The mean of where the surface crosses the twelve edges, or the cell's middle if it does not."""
    for n in range(len(cells)):
        x, y, z, count = 0.0, 0.0, 0.0, 0
        for start in range(8):
            for axis in range(3):
                if start & (1 << axis):
                    continue
                end = start | (1 << axis)
                f0, f1 = beyond[corner_ids[n, start]], beyond[corner_ids[n, end]]
                if (f0 < 0) != (f1 < 0):
                    along = f0 / (f0 - f1)
                    x += (start & 1) + (along if axis == 0 else 0.0)
                    y += ((start >> 1) & 1) + (along if axis == 1 else 0.0)
                    z += (start >> 2) + (along if axis == 2 else 0.0)
                    count += 1
        if count == 0:
            x, y, z, count = 0.5, 0.5, 0.5, 1
        dual[n, 0] = cells[n, 0] + x / count
        dual[n, 1] = cells[n, 1] + y / count
        dual[n, 2] = cells[n, 2] + z / count


@numba.njit(cache=True, nogil=True)
def _dual_faces(
    cells: Int32,
    corner_ids: Int32,
    beyond: Float64,
    table: CellTable,
    around: npt.NDArray[np.int64],
    edge_start: npt.NDArray[np.int64],
) -> Int32:
    """Two triangles for each crossed edge whose four cells are all there."""
    crossed = 0
    for n in range(len(cells)):
        for axis in range(3):
            f0, f1 = beyond[corner_ids[n, edge_start[axis]]], beyond[corner_ids[n, 7]]
            crossed += (f0 < 0) != (f1 < 0)
    triangles = np.empty((2 * crossed, 3), np.int32)
    quad = np.empty(4, np.int64)
    count = 0
    for n in range(len(cells)):
        for axis in range(3):
            f0, f1 = beyond[corner_ids[n, edge_start[axis]]], beyond[corner_ids[n, 7]]
            if (f0 < 0) == (f1 < 0):
                continue
            for k in range(4):
                step = around[axis, k]
                quad[k] = find(table, cells[n, 0] + step[0], cells[n, 1] + step[1], cells[n, 2] + step[2])
            if quad.min() < 0:
                continue
            # The circle of cells runs clockwise seen from the end of the axis.
            second, fourth = (3, 1) if f0 < 0 else (1, 3)
            triangles[count] = (quad[0], quad[second], quad[2])
            triangles[count + 1] = (quad[0], quad[2], quad[fourth])
            count += 2
    return triangles[:count]
