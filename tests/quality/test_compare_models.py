"""Two models of one request: what counts as the same, as good as the same, and as another model."""

import io

import numpy as np
import pytest
from PIL import Image

from trellis_pipeline.errors import ModelFileError
from trellis_pipeline.mesh.glb_write import write_glb
from trellis_pipeline.mesh.types import EncodedImage, Material, TexturedMesh
from trellis_pipeline.quality.compare import LEAST_OUTLINE, MOST_COLOUR, MOST_TRIANGLES, compare_models


def ball(
    rings: int = 40, *, radius: float = 0.5, colour=(200, 90, 40), px: int = 32, shift: float = 0.0, noise=0.0
) -> bytes:
    """A textured ball of 2 x rings x rings triangles, more or less."""
    v, u = np.meshgrid(np.linspace(0, 1, rings + 1), np.linspace(0, 1, rings + 1), indexing="ij")
    polar, round_ = v.ravel() * np.pi, u.ravel() * 2 * np.pi
    normals = np.stack(
        [np.sin(polar) * np.sin(round_), np.cos(polar), np.sin(polar) * np.cos(round_)], axis=1
    ).astype(np.float32)
    at = np.arange(rings * (rings + 1)).reshape(rings, rings + 1)[:, :-1].ravel()
    below = at + rings + 1
    quads = [np.stack([at, below, at + 1], 1), np.stack([at + 1, below, below + 1], 1)]
    triangles = np.concatenate(quads).astype(np.int32)
    points = normals * radius + np.array([shift, 0, 0])
    points = points + np.random.default_rng(1).normal(0, noise, points.shape) if noise else points
    png = io.BytesIO()
    Image.new("RGB", (px, px), colour).save(png, "PNG")
    material = Material(base_color=EncodedImage(png.getvalue(), "image/png", px, px))
    uvs = np.stack([u.ravel(), v.ravel()], 1).astype(np.float32)
    return write_glb(TexturedMesh(points.astype(np.float32), normals, uvs, triangles, material))


def over(comparison):
    return [one.name for one in comparison.measures if not one.within]


def test_identical_bytes_are_the_same_without_being_opened():
    assert compare_models(b"not even a GLB", b"not even a GLB").verdict == "same"


def test_what_a_gpu_does_in_another_order_is_equivalent():
    found = compare_models(ball(), ball(noise=0.0005))
    assert found.verdict == "equivalent"
    assert [one.name for one in found.measures] == [
        "triangles", "vertices", "size", "outline", "textures", "colour"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (ball(rings=41), "triangles"),
        (ball(radius=0.53), "size"),
        (ball(shift=0.05), "outline"),
        (ball(px=64), "textures"),
        (ball(colour=(40, 90, 200)), "colour"),
    ],
    ids=["finer", "larger", "moved", "other texture", "other colour"],
)
def test_what_somebody_would_notice_is_a_difference_that_is_named(other, differs):
    found = compare_models(ball(), other)
    assert found.verdict == "different"
    assert differs in over(found)


def test_the_limits_are_where_the_page_says():
    assert (MOST_TRIANGLES, LEAST_OUTLINE, MOST_COLOUR) == (0.02, 0.98, 0.04)
    page = compare_models(ball(), ball(radius=0.53)).document()
    assert {one["name"]: one["limit"] for one in page["measures"]} == {
        "triangles": 0.02, "vertices": 0.10, "size": 0.01, "outline": pytest.approx(0.02), "textures": 0.0,
        "colour": 0.04,
    }  # fmt: skip
    assert page["identical_bytes"] is False


def test_comparing_is_symmetric_enough_that_the_order_does_not_decide():
    one, other = ball(), ball(radius=0.53)
    assert compare_models(one, other).verdict == compare_models(other, one).verdict == "different"


def test_a_file_that_is_no_model_is_refused_by_name():
    with pytest.raises(ModelFileError):
        compare_models(ball(), b"glTF, nearly")
