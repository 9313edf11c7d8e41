"""From a known shape's voxels back to a model of that shape: form, colour, closedness, atlas."""

import io

import numpy as np
import pytest
import voxel_shapes as shapes
from PIL import Image

from trellis_pipeline.errors import MeshError
from trellis_pipeline.mesh.atlas import rasterize_atlas
from trellis_pipeline.mesh.clean import is_closed_manifold, weld
from trellis_pipeline.mesh.glb_write import write_glb
from trellis_pipeline.mesh.postprocess import pipeline
from trellis_pipeline.mesh.postprocess.closest import distances
from trellis_pipeline.mesh.postprocess.options import Postprocessed, PostprocessOptions
from trellis_pipeline.mesh.postprocess.pipeline import postprocess, within_budget
from trellis_pipeline.mesh.postprocess.surface_tree import surface_tree
from trellis_pipeline.mesh.postprocess.voxels import VoxelAttributes
from trellis_pipeline.mesh.types import EncodedImage, Mesh, TexturedMesh

RESOLUTION = 64
SHAPES = {"sphere": shapes.sphere, "torus": shapes.torus, "box": shapes.box}
IN_PLACE = {"max_triangles": 4000, "texture_px": 512, "on_floor": False, "image_format": "png"}


def decoder_space(rows: np.ndarray) -> np.ndarray:
    """Back from glTF's y up."""
    return np.stack([rows[:, 0], -rows[:, 2], rows[:, 1]], axis=1).astype(np.float64)


def pixels(image: EncodedImage) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.data)))


def bilinear(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """What a viewer shows at uv, 0..1."""
    height, width = image.shape[:2]
    x, y = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    total = np.zeros((len(uv), image.shape[2]))
    for dx in (0, 1):
        for dy in (0, 1):
            weight = np.abs(1 - dx - (x - left)) * np.abs(1 - dy - (y - top))
            column, row = np.clip(left + dx, 0, width - 1), np.clip(top + dy, 0, height - 1)
            total += weight[:, None] * image[row, column]
    return total / 255


def on_surface(mesh: TexturedMesh, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random points, in the decoder's space, and their uvs; equally dense everywhere."""
    rng = np.random.default_rng(0)
    corner = decoder_space(mesh.positions)[mesh.triangles]
    area = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1)
    face = rng.choice(len(area), count, p=area / area.sum())
    weights = rng.dirichlet((1, 1, 1), count)
    return (
        np.einsum("nk,nkx->nx", weights, corner[face]),
        np.einsum("nk,nkx->nx", weights, mesh.uvs.astype(float)[mesh.triangles[face]]),
    )


def outwards(distance, points: np.ndarray) -> np.ndarray:
    """The direction in which the distance grows."""
    step = 1e-4 * np.eye(3)
    return np.stack([distance(points + s) - distance(points - s) for s in step], axis=1)


@pytest.fixture(scope="module", params=[f"{name}, {how}" for name in SHAPES for how in ("plain", "remeshed")])
def made(request) -> tuple[str, Postprocessed]:
    name, how = request.param.split(", ")
    given = shapes.voxelise(SHAPES[name], RESOLUTION)
    options = PostprocessOptions(**IN_PLACE, remesh=how == "remeshed")
    return name, postprocess(given.surface, given.voxels, options)


def test_the_form_is_kept_to_half_a_voxel(made):
    name, result = made
    points, _ = on_surface(result.mesh, 20_000)
    to_shape = np.abs(SHAPES[name](points))
    model = surface_tree(Mesh(decoder_space(result.mesh.positions).astype(np.float32), result.mesh.triangles))
    true = shapes.voxelise(SHAPES[name], 96).surface.vertices
    to_model = distances(model, true)
    chamfer = (to_shape.mean() + to_model.mean()) / 2
    assert chamfer <= 0.2 / RESOLUTION
    assert max(to_shape.max(), to_model.max()) <= 0.6 / RESOLUTION


def test_the_model_is_one_closed_skin_within_the_budget_and_no_face_looks_inwards(made):
    name, result = made
    mesh = result.mesh
    assert len(mesh.triangles) == result.report.triangles <= IN_PLACE["max_triangles"]
    joined = weld(Mesh(mesh.positions, mesh.triangles))
    assert is_closed_manifold(joined.triangles)
    assert result.report.closed
    assert not mesh.material.double_sided
    corner = decoder_space(mesh.positions)[mesh.triangles]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    looks = np.einsum("ij,ij->i", normal, outwards(SHAPES[name], corner.mean(axis=1)))
    assert looks.min() > 0
    vertex_looks = np.einsum(
        "ij,ij->i", decoder_space(mesh.normals), outwards(SHAPES[name], decoder_space(mesh.positions))
    )
    assert vertex_looks.min() > 0


def test_colours_metal_and_roughness_are_where_they_were(made):
    _, result = made
    points, uv = on_surface(result.mesh, 20_000)
    expected = shapes.material(points)
    base = bilinear(pixels(result.mesh.material.base_color), uv)
    assert base.shape[1] == 3
    assert np.abs(base - expected[:, :3]).mean() < 0.01
    assert np.abs(base - expected[:, :3]).max() < 0.08
    surface = bilinear(pixels(result.mesh.material.metallic_roughness), uv)
    assert surface[:, 0].min() > 0.999  # red is occlusion: none
    assert np.abs(surface[:, 1] - expected[:, 4]).max() < 0.05
    clear = np.abs(points[:, 0]) > 2 / RESOLUTION
    assert np.abs(surface[:, 2] - expected[:, 3])[clear].max() < 0.02


def test_both_sides_of_a_seam_have_the_same_colour(made):
    _, result = made
    mesh = result.mesh
    _, place = np.unique(mesh.positions, axis=0, return_inverse=True)
    order = np.argsort(place, kind="stable")
    twins = place[order[1:]] == place[order[:-1]]
    assert twins.any()
    image = pixels(mesh.material.base_color)
    one, other = bilinear(image, mesh.uvs[order[1:][twins]]), bilinear(image, mesh.uvs[order[:-1][twins]])
    assert np.abs(one - other).max() < 4 / 255


def test_no_two_faces_share_a_texel_and_the_gutter_is_filled(made):
    _, result = made
    raster = rasterize_atlas(result.mesh.uvs, result.mesh.triangles, 512)
    assert raster.overlap_texels == result.report.overlap_texels == 0
    image = pixels(result.mesh.material.base_color)
    assert (image.astype(int).sum(axis=2) > 60).all()  # nothing of the black background is left


def test_the_model_is_written_the_same_each_time_and_whatever_the_threads(made):
    _, result = made
    given = shapes.voxelise(shapes.torus, 32)
    files = [
        write_glb(postprocess(given.surface, given.voxels, PostprocessOptions(**IN_PLACE, threads=n)).mesh)
        for n in (1, 1, 2)
    ]
    assert files[0] == files[1] == files[2]
    assert write_glb(result.mesh)[:4] == b"glTF"


def test_walls_inside_are_not_paid_for_unless_asked_for_or_visible():
    given = shapes.voxelise(shapes.ball_in_a_shell, RESOLUTION)

    def least_radius(voxels=given.voxels, **options) -> float:
        chosen = PostprocessOptions(**(IN_PLACE | options))
        mesh = postprocess(given.surface, voxels, chosen).mesh
        return float(np.linalg.norm(mesh.positions, axis=1).min())

    assert least_radius(remesh=False) > 0.38
    assert least_radius(remesh=True) > 0.38
    assert least_radius(remesh=False, drop_inner=False) < 0.2
    assert least_radius(original_remesh=True) < 0.2
    glass = given.voxels.values.copy()
    glass[:, 5] = 0.3
    see_through = VoxelAttributes(given.voxels.coords, glass, given.voxels.voxel_size)
    assert least_radius(see_through, remesh=False) < 0.2


def test_the_original_way_leaves_a_double_wall_one_voxel_outside():
    given = shapes.voxelise(shapes.sphere, RESOLUTION)
    mesh = postprocess(given.surface, given.voxels, PostprocessOptions(**IN_PLACE, original_remesh=True)).mesh
    radius = np.linalg.norm(mesh.positions, axis=1) * RESOLUTION
    assert radius.max() == pytest.approx(0.4 * RESOLUTION + 1, abs=0.2)
    assert radius.min() == pytest.approx(0.4 * RESOLUTION - 1, abs=0.3)


def glassy(part: float, alpha: float):
    """The material with `alpha` where z is above the value that leaves `part` of a sphere's surface."""

    def paint(points):
        values = shapes.material(points)
        values[..., 5] = np.where(points[..., 2] > 0.4 * (1 - 2 * part), alpha, 1.0)
        return values

    return paint


@pytest.mark.parametrize(
    ("part", "alpha", "mode"),
    [
        (0.0, 1.0, "OPAQUE"),
        (0.5, 0.95, "OPAQUE"),
        (0.003, 0.0, "OPAQUE"),
        (0.4, 0.0, "MASK"),
        (0.4, 0.4, "BLEND"),
    ],
)
def test_glass_blends_cut_outs_are_masked_and_noise_stays_opaque(part, alpha, mode):
    given = shapes.voxelise(shapes.sphere, 48, paint=glassy(part, alpha))
    result = postprocess(given.surface, given.voxels, PostprocessOptions(**(IN_PLACE | {"texture_px": 256})))
    material = result.mesh.material
    assert material.alpha_mode == result.report.alpha_mode == mode
    image = pixels(material.base_color)
    assert image.shape[2] == (3 if mode == "OPAQUE" else 4)
    assert material.double_sided == (mode == "MASK")
    if mode != "OPAQUE":
        points, uv = on_surface(result.mesh, 5000)
        apart = np.abs(points[:, 2] - 0.4 * (1 - 2 * part)) > 2 / 48
        expected = glassy(part, alpha)(points)[:, 5]
        assert np.abs(bilinear(image, uv)[:, 3] - expected)[apart].max() < 0.05
    jpeg = postprocess(
        given.surface, given.voxels, PostprocessOptions(max_triangles=1000, texture_px=128)
    ).mesh.material.base_color
    assert jpeg.mime == ("image/jpeg" if mode == "OPAQUE" else "image/png")


@pytest.fixture(scope="module")
def pierced_box() -> shapes.Voxelised:
    """A small box at 1536 with a round hole of radius 5 voxels in the middle of every side."""

    def holes(points):
        square = np.sort((points * 1536) ** 2, axis=1)
        return square[:, 0] + square[:, 1] < 25

    def paint(points):
        values = np.full((*points.shape[:-1], 6), 0.7)
        values[..., 3], values[..., 5] = 0.0, 1.0
        return values

    return shapes.voxelise(lambda points: shapes.box(points, (0.01,) * 3), 1536, paint=paint, holes=holes)


@pytest.mark.parametrize("remesh", [False, True])
def test_a_closed_hole_is_made_of_what_is_around_it(pierced_box, remesh):
    options = PostprocessOptions(**(IN_PLACE | {"texture_px": 256}), remesh=remesh)
    result = postprocess(pierced_box.surface, pierced_box.voxels, options)
    assert result.report.closed
    assert result.report.alpha_mode == "OPAQUE"
    assert np.abs(pixels(result.mesh.material.base_color) / 255 - 0.7).max() < 0.01
    surface = pixels(result.mesh.material.metallic_roughness)
    assert np.abs(surface / 255 - [1.0, 0.7, 0.0]).max() < 0.01


def test_a_closed_hole_that_is_too_wide_for_its_voxels_takes_the_colour_beside_it():
    given = shapes.voxelise(shapes.box, 96, holes=lambda p: np.hypot(p[:, 0], p[:, 2]) < 0.2)
    grey = np.full_like(given.voxels.values, 0.7)
    grey[:, 5] = 1
    voxels = VoxelAttributes(given.voxels.coords, grey, given.voxels.voxel_size)
    options = PostprocessOptions(**(IN_PLACE | {"texture_px": 256}), remesh=False, max_hole_perimeter=9.0)
    result = postprocess(given.surface, voxels, options)
    assert result.report.closed
    assert result.report.alpha_mode == "OPAQUE"
    assert np.abs(pixels(result.mesh.material.base_color) / 255 - 0.7).max() < 0.01


def test_an_open_surface_is_drawn_from_both_sides_and_a_remeshed_one_is_closed():
    given = shapes.voxelise(shapes.sphere, 48, holes=lambda p: p[:, 2] > 0.1)
    sheet = postprocess(given.surface, given.voxels, PostprocessOptions(**IN_PLACE, remesh=False))
    assert not sheet.report.closed
    assert sheet.mesh.material.double_sided
    body = postprocess(given.surface, given.voxels, PostprocessOptions(**IN_PLACE, remesh=True))
    assert body.report.closed
    assert not body.mesh.material.double_sided


def test_size_and_place_are_those_of_the_product():
    given = shapes.voxelise(shapes.box, 48)  # 0.74 wide, 0.42 deep, 0.58 high in the decoder's space
    options = PostprocessOptions(max_triangles=2000, texture_px=256, height_m=1.16)
    positions = postprocess(given.surface, given.voxels, options).mesh.positions
    assert np.ptp(positions, axis=0) == pytest.approx([1.48, 1.16, 0.84], rel=0.02)
    assert positions[:, 1].min() == pytest.approx(0, abs=1e-6)
    assert positions[:, 0].min() + positions[:, 0].max() == pytest.approx(0, abs=1e-6)


def test_detail_lost_to_simplification_is_kept_in_the_normal_map():
    def rippled(points):
        return shapes.sphere(points, 0.4) + 0.006 * np.sin(40 * points[..., 2])

    given = shapes.voxelise(rippled, 96)
    options = PostprocessOptions(
        **(IN_PLACE | {"max_triangles": 500, "texture_px": 1024}), remesh=False, normal_map=True
    )
    mesh = postprocess(given.surface, given.voxels, options).mesh
    points, uv = on_surface(mesh, 4000)
    tangent_space = bilinear(pixels(mesh.material.normal), uv) * 2 - 1
    # The frame a viewer without tangents builds: red along growing u, green along falling v.
    corner = decoder_space(mesh.positions)[mesh.triangles]
    tree = surface_tree(Mesh(decoder_space(mesh.positions).astype(np.float32), mesh.triangles))
    from trellis_pipeline.mesh.postprocess.closest import closest_points

    found = closest_points(tree, points.astype(np.float32))
    face = found.triangle
    edge = corner[face][:, 1:] - corner[face][:, :1]
    step = mesh.uvs.astype(float)[mesh.triangles[face]]
    step = step[:, 1:] - step[:, :1]
    along = np.linalg.solve(step, edge)  # rows: change of position per u and per v
    smooth = np.einsum("nk,nkx->nx", found.barycentrics, decoder_space(mesh.normals)[mesh.triangles[face]])
    smooth /= np.linalg.norm(smooth, axis=1, keepdims=True)
    right = along[:, 0] - np.einsum("ij,ij->i", along[:, 0], smooth)[:, None] * smooth
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    up = np.cross(smooth, right)
    up *= np.sign(np.einsum("ij,ij->i", up, -along[:, 1]))[:, None]
    mapped = tangent_space[:, :1] * right + tangent_space[:, 1:2] * up + tangent_space[:, 2:] * smooth
    mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
    true = outwards(rippled, points)
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    error_with = np.degrees(np.arccos(np.clip(np.einsum("ij,ij->i", mapped, true), -1, 1)))
    error_without = np.degrees(np.arccos(np.clip(np.einsum("ij,ij->i", smooth, true), -1, 1)))
    assert np.median(error_with) < 0.5 * np.median(error_without)


def test_light_does_not_reach_the_inside_of_a_ring_as_it_reaches_the_outside():
    given = shapes.voxelise(shapes.torus, 64)
    options = PostprocessOptions(**IN_PLACE, occlusion_rays=64)
    mesh = postprocess(given.surface, given.voxels, options).mesh
    assert mesh.material.occlusion_in_red
    points, uv = on_surface(mesh, 5000)
    light = bilinear(pixels(mesh.material.metallic_roughness), uv)[:, 0]
    radius = np.hypot(points[:, 0], points[:, 1])
    assert light[radius > 0.42].min() > 0.95  # the outer side is convex
    assert 0.2 < light[radius < 0.19].mean() < 0.8


def test_an_unwrap_that_is_late_is_replaced_by_the_plain_layout():
    given = shapes.voxelise(shapes.torus, 64)
    options = PostprocessOptions(**IN_PLACE, unwrap_timeout_seconds=0.0)
    result = postprocess(given.surface, given.voxels, options)
    assert result.report.unwrap == "box"
    assert result.report.overlap_texels == 0


def test_each_step_is_announced_and_work_can_be_stopped_between_steps():
    given = shapes.voxelise(shapes.sphere, 32)
    heard: list[str] = []

    class StopHere(Exception):
        pass

    def stop_before_unwrap(name: str) -> None:
        heard.append(name)
        if name == "unwrap":
            raise StopHere

    with pytest.raises(StopHere):
        postprocess(given.surface, given.voxels, PostprocessOptions(**IN_PLACE), progress=stop_before_unwrap)
    assert heard == ["repair", "index", "remesh", "simplify", "unwrap"]


def test_many_small_parts_are_brought_under_a_budget_that_leaves_no_room_for_each():
    ring = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    tetra = np.array([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]]) * 0.01
    points = np.concatenate([tetra + np.array([np.cos(a), np.sin(a), 0]) for a in ring]).astype(np.float32)
    faces = np.array([[0, 1, 3], [0, 2, 1], [0, 3, 2], [1, 2, 3]])
    triangles = np.concatenate([faces + 4 * n for n in range(60)]).astype(np.int32)
    few = within_budget(Mesh(points, triangles), 100)
    assert 4 <= len(few.triangles) <= 100


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda g: (Mesh(g.surface.vertices, g.surface.triangles[:0]), g.voxels), "empty shape"),
        (lambda g: (Mesh(g.surface.vertices * np.float32("nan"), g.surface.triangles), g.voxels), "NaN"),
        (
            lambda g: (g.surface, VoxelAttributes(g.voxels.coords[:0], g.voxels.values[:0], 0.1)),
            "no voxels",
        ),
        (
            lambda g: (g.surface, VoxelAttributes(g.voxels.coords, g.voxels.values * np.float32("nan"), 0.1)),
            "texture decoder failed",
        ),
    ],
)
def test_decoders_that_failed_are_named(damage, message):
    with pytest.raises(MeshError, match=message):
        postprocess(*damage(shapes.voxelise(shapes.sphere, 16)))


@pytest.mark.parametrize(
    "wrong", [{"max_triangles": 3}, {"texture_px": 0}, {"remesh_project": 1.5}, {"threads": 0}]
)
def test_options_that_cannot_work_are_refused_before_the_work(wrong):
    with pytest.raises(MeshError):
        PostprocessOptions(**wrong)


def test_the_remesh_grid_can_always_be_halved():
    for cells in range(1, 3000, 7):
        grid = pipeline._halvable(cells)
        while grid > 32:
            assert grid % 2 == 0
            grid //= 2
        assert cells <= pipeline._halvable(cells) < cells * 1.07 + 1
