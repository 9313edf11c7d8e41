"""Other libraries that simplify a mesh, for the benchmarks that put ours beside them. All are optional.

    pip install meshoptimizer==0.2.30a0 fast-simplification==0.2.0

Both are MIT. meshoptimizer's bindings come as source: pip needs a C++ compiler for them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np

from trellis_pipeline.mesh.types import Mesh

Simplify = Callable[[Mesh, int], Mesh]


def meshoptimized(mesh: Mesh, budget: int) -> Mesh:
    import meshoptimizer

    indices = np.ascontiguousarray(mesh.triangles, dtype=np.uint32).reshape(-1)
    kept = np.zeros_like(indices)
    count = meshoptimizer.simplify(
        kept, indices, mesh.vertices, target_index_count=3 * budget, target_error=1e30
    )
    return Mesh(mesh.vertices, kept[:count].reshape(-1, 3).astype(np.int32))


def fast_simplified(mesh: Mesh, budget: int) -> Mesh:
    import fast_simplification

    points, faces = fast_simplification.simplify(mesh.vertices, mesh.triangles, target_count=budget, agg=7.0)
    return Mesh(np.asarray(points, np.float32), np.asarray(faces, np.int32))


def installed() -> dict[str, Simplify | None]:
    """Each peer by its name; None for one that is not installed."""
    peers: dict[str, Simplify] = {"meshoptimizer": meshoptimized, "fast-simplification": fast_simplified}
    return {
        name: peer if importlib.util.find_spec(name.replace("-", "_")) else None
        for name, peer in peers.items()
    }
