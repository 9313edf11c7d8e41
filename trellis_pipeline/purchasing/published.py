"""How long a generation takes, as far as anybody has published it: all there is before the first one."""

from __future__ import annotations

from trellis_pipeline.generation.request import TRELLIS_2

# Seconds of one generation where there is no history yet, by model and resolution (None: any). TRELLIS.2's
# README states the first three, for one H100; a provider's queue comes on top. The draft's is our own
# measurement on one core.
PUBLISHED_SECONDS: dict[tuple[str, int | None], float] = {
    (TRELLIS_2, 512): 3.0,
    (TRELLIS_2, 1024): 17.0,
    (TRELLIS_2, 1536): 60.0,
    ("silhouette-blockout", None): 1.7,
}
