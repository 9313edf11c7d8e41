"""Product photos in, shop-ready GLB models out, each with its lineage, quality record and exact cost.

The library below this package knows no Dagster (`definitions` and `automation` aside), so every part can
be used from a script or a notebook. The Dagster assets stand in `assets/`, their resources in `resources/`.
"""

__version__ = "0.1.0"
