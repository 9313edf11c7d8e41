"""The topology tier: is this surface closed, consistent and in one piece?

UV seams and hard edges split vertices, so the triangles of a perfectly closed model share few of them in
the file. Vertices at exactly the same position are therefore joined first, over all primitives together,
in world space. Then every edge must belong to two faces that agree which side is out.

Everything is linear in the mesh: joining by a hash of the coordinates, edges and faces by sorting the few
that share their lowest vertex, parts by union-find. The kernels run on one core, so that a worker per core
can do it for a worker's own model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.glb_read import Primitive
from trellis_pipeline.quality.record import Vec3

# Parts smaller than this share of the triangles, beside a larger one, are called floaters.
FLOATER_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Topology:
    """Facts about a surface after its vertices were joined by exact position.

    triangles, vertices: as given. welded_vertices: distinct positions that a triangle uses.
    unused_vertices: vertices as given that no triangle uses. non_finite_vertices: with a NaN or infinite
    coordinate. edges: distinct. boundary_edges: with one face, forming boundary_loops connected rims.
    non_manifold_edges: with more than two. orientation_conflicts: edges whose two faces run along them in
    the same direction. degenerate_faces: with a repeated vertex or no area. duplicate_faces: beyond the first
    with the same three vertices. components: parts connected through vertices; floaters: those with less
    than FLOATER_SHARE of the triangles; largest_component_share: of all triangles, 0..1.
    euler_characteristic: V - E + F. signed_volume_m3, area_m2: of the finite triangles.
    bbox_min_m, bbox_max_m: of the used finite vertices, None if there are none.
    """

    triangles: int
    vertices: int
    welded_vertices: int
    unused_vertices: int
    non_finite_vertices: int
    edges: int
    boundary_edges: int
    boundary_loops: int
    non_manifold_edges: int
    orientation_conflicts: int
    degenerate_faces: int
    duplicate_faces: int
    components: int
    floaters: int
    largest_component_share: float
    euler_characteristic: int
    area_m2: float
    signed_volume_m3: float
    bbox_min_m: Vec3 | None
    bbox_max_m: Vec3 | None

    @property
    def watertight(self) -> bool:
        """Every edge belongs to exactly two faces, and there are some."""
        return self.edges > 0 and self.boundary_edges == 0 and self.non_manifold_edges == 0

    @property
    def inverted(self) -> bool:
        """Faces point inwards: the surface is consistent, at most 1 % open, and its volume is negative."""
        nearly_closed = self.edges > 0 and self.boundary_edges <= 0.01 * self.edges
        consistent = self.orientation_conflicts <= 0.01 * self.edges
        return nearly_closed and consistent and self.signed_volume_m3 < 0


def measure_primitives(primitives: Sequence[Primitive]) -> Topology:
    """The topology of all primitives as one surface."""
    if len(primitives) == 1:
        return measure(primitives[0].positions, primitives[0].triangles)
    if not primitives:
        return measure(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    offsets = np.cumsum([0, *(len(primitive.positions) for primitive in primitives[:-1])])
    triangles = [
        primitive.triangles + np.int32(at) for primitive, at in zip(primitives, offsets, strict=True)
    ]
    return measure(
        np.concatenate([primitive.positions for primitive in primitives]), np.concatenate(triangles)
    )


def measure(positions: npt.NDArray[np.float32], triangles: npt.NDArray[np.int32]) -> Topology:
    """The topology of one surface.

    positions: (V, 3) float32, metres, V below 2^30; NaN and infinities allowed. triangles: (T, 3) int32, each
    index in 0..V-1 (the caller has checked it). Deterministic, single-threaded, about 100 ns per triangle.
    """
    from trellis_pipeline.quality import topology_kernels as kernels

    points = np.require(positions, np.float32, ["C", "A"]).view()
    corners = np.require(triangles, np.int32, ["C", "A"]).view()
    # One compiled version serves views of a file, which are read-only, and arrays made here.
    points.flags.writeable = corners.flags.writeable = False
    ids = np.empty(len(points), np.int32)
    distinct = int(kernels.weld(points.view(np.uint32), ids))
    box = np.empty(6)
    unused, wild = kernels.extents(points, corners, box)
    finite = bool(np.isfinite(box).all())
    centre = (box[:3] + box[3:]) / 2 if finite else np.zeros(3)
    starts = np.zeros(distinct + 1, np.int32)
    area, volume, degenerate, kept = kernels.survey(points, corners, ids, centre, starts)
    listed = np.empty(3 * kept, np.int64)
    kernels.gather(corners, ids, starts, listed)
    faces = np.zeros(distinct, np.int32)
    welded, edges, boundary, loops, crowded, conflicts, duplicates = kernels.compare(starts, listed, faces)
    sizes = faces[faces > 0]
    largest = int(sizes.max()) if sizes.size else 0
    return Topology(
        triangles=len(corners),
        vertices=len(points),
        welded_vertices=int(welded),
        unused_vertices=int(unused),
        non_finite_vertices=int(wild),
        edges=int(edges),
        boundary_edges=int(boundary),
        boundary_loops=int(loops),
        non_manifold_edges=int(crowded),
        orientation_conflicts=int(conflicts),
        degenerate_faces=int(degenerate),
        duplicate_faces=int(duplicates),
        components=len(sizes),
        floaters=int(np.count_nonzero((sizes < FLOATER_SHARE * kept) & (sizes < largest))),
        largest_component_share=largest / kept if kept else 0.0,
        euler_characteristic=int(welded) - int(edges) + int(kept),
        area_m2=float(area),
        signed_volume_m3=float(volume),
        bbox_min_m=(float(box[0]), float(box[1]), float(box[2])) if finite else None,
        bbox_max_m=(float(box[3]), float(box[4]), float(box[5])) if finite else None,
    )
