"""From "this triangle is seen here" to a colour: metallic-roughness shading of whole pixels.

Visibility is known at 4 × 4 samples a pixel; shading is far more expensive, so it runs once per triangle and
pixel and is weighted by the samples it covers. Edges are as smooth as 16-fold supersampling makes them at the
price of little more than one shaded sample a pixel; textures are filtered for the pixel's own footprint.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.camera import Float64
from trellis_pipeline.mesh.lighting import Light, arriving
from trellis_pipeline.mesh.raster import edges
from trellis_pipeline.mesh.studio import neutral, radiance
from trellis_pipeline.mesh.texels import TextureSet, sample
from trellis_pipeline.mesh.types import Float32, Int32
from trellis_pipeline.mesh.vectors import (
    ZERO,
    Vector,
    at_corner,
    combined,
    cross,
    dot,
    facing,
    inner,
    unit,
    weighted,
)

Int64 = npt.NDArray[np.int64]

# Columns of a material's row of numbers.
BASE_COLOR, METALLIC, ROUGHNESS, ALPHA_MODE, ALPHA_CUTOFF = 0, 4, 5, 6, 7
NORMAL_SCALE, OCCLUSION, EMISSIVE, UNLIT, MATERIAL_COLUMNS = 8, 9, 10, 13, 14
OPAQUE, MASK, BLEND = 0, 1, 2
# Columns of a material's row of textures; -1 where it has none.
BASE_TEXTURE, METALLIC_TEXTURE, NORMAL_TEXTURE, OCCLUSION_TEXTURE, EMISSIVE_TEXTURE = 0, 1, 2, 3, 4

_MAX_SURFACES = 4
"""Most triangles shaded in one pixel; in denser meshes they stand for the rest."""
_FOOTPRINT = 0.8
"""Width of the texture filter in pixels. A little below 1 keeps print crisp; smooth edges hide the rest."""


class Geometry(NamedTuple):
    """What is drawn. points: (V, 4) homogeneous sample coordinates; the other arrays as in `scene.Scene`."""

    points: Float64
    faces: Int32
    face_material: Int32
    positions: Float32
    normals: Float32
    uvs: Float32
    colors: Float32


class Paint(NamedTuple):
    """Its materials. numbers: (M, 14) and slots: (M, 5), with the columns named above."""

    numbers: Float64
    slots: Int64
    textures: TextureSet


@numba.njit(cache=True, nogil=True, error_model="numpy")
def shade(
    seen: Int32, samples: int, geometry: Geometry, paint: Paint, light: Light, eye: Float64, picture: Float32
) -> None:  # fmt: skip
    """Shade every pixel and write premultiplied display-linear RGB and coverage to `picture` (H, W, 4).

    seen: (H · samples, W · samples) triangle at each sample. eye: (4,) position and 1, or direction and 0.
    """
    face_of = np.zeros(_MAX_SURFACES, np.int64)
    # Number of samples, sums of their x and y, and the samples of it and of smooth neighbours together.
    extent = np.zeros((_MAX_SURFACES, 4))
    color = np.zeros(4)
    scratch = np.zeros((7, 6))
    per_pixel = samples * samples
    # Coprime to a power of two, so the samples are visited scattered over the pixel.
    stride = 7 if per_pixel > 7 else 1
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            surfaces = covered = 0
            taken = 0.0
            for s in range(per_pixel):
                index = s * stride % per_pixel
                y, x = row * samples + index // samples, column * samples + index % samples
                face = seen[y, x]
                if face < 0:
                    continue
                covered += 1
                n = 0
                while n < surfaces and face_of[n] != face:
                    n += 1
                if n == surfaces:
                    n = _smooth_neighbour(geometry, face_of, surfaces, face)
                    if n >= 0:
                        taken += 1.0
                        extent[n, 3] += 1.0
                        continue
                    n = surfaces
                    if surfaces == _MAX_SURFACES:
                        continue
                    surfaces += 1
                    face_of[n] = face
                    extent[n] = 0.0
                taken += 1.0
                extent[n, 0] += 1.0
                extent[n, 1] += x + 0.5
                extent[n, 2] += y + 0.5
                extent[n, 3] += 1.0
            for n in range(surfaces):
                count = extent[n, 0]
                x_mean, y_mean = extent[n, 1] / count, extent[n, 2] / count
                _surface(
                    face_of[n], x_mean, y_mean, float(samples), geometry, paint, light, eye, scratch, color
                )
                share = covered / per_pixel * extent[n, 3] / taken
                for channel in range(4):
                    picture[row, column, channel] += color[channel] * share


@inner
def _smooth_neighbour(geometry: Geometry, face_of: Int64, surfaces: int, face: int) -> int:
    """The surface that goes on smoothly into `face`, -1 if there is none.

    Where two triangles use the same vertex they have its normal and its place in the texture in common; at a
    crease or a texture seam a GLB must split it. So within a pixel one of the two can stand for both.
    """
    for n in range(surfaces):
        for i in range(3):
            vertex = geometry.faces[face, i]
            if at_corner(geometry.normals, vertex) == ZERO:
                continue  # without normals every triangle is a facet of its own
            for j in range(3):
                if geometry.faces[face_of[n], j] == vertex:
                    return n
    return -1


@inner
def _surface(
    face: int, x: float, y: float, pixel: float,
    geometry: Geometry, paint: Paint, light: Light, eye: Float64, scratch: Float64, out: Float64,
) -> None:  # fmt: skip
    """Colour of one triangle at the sample position (x, y): premultiplied RGB and alpha to `out`.

    scratch: (7, 6), overwritten; an allocation for each pixel would cost a fifth of the time.
    """
    out[:] = 0.0
    corners = (geometry.faces[face, 0], geometry.faces[face, 1], geometry.faces[face, 2])
    a0, b0, c0, a1, b1, c1, a2, b2, c2, _ = edges(geometry.points, corners[0], corners[1], corners[2])
    e0, e1, e2 = a0 * x + b0 * y + c0, a1 * x + b1 * y + c1, a2 * x + b2 * y + c2
    total = e0 + e1 + e2
    if not total > 0.0:
        return
    share = (e0 / total, e1 / total, e2 / total)
    # The derivative by x of a barycentric coordinate f = e / Σe is (a - f · Σa) / Σe, by y likewise with b.
    step = _FOOTPRINT * pixel / total
    right = combined(step, (a0, a1, a2), -step * (a0 + a1 + a2), share)
    down = combined(step, (b0, b1, b2), -step * (b0 + b1 + b2), share)

    m = geometry.face_material[face]
    texel = scratch[:5]
    texel[:] = 1.0
    for slot in range(5):
        t = paint.slots[m, slot]
        if t >= 0:
            _sampled(paint.textures, t, geometry.uvs, corners, share, right, down, scratch[6], texel[slot])
    base = scratch[5]
    for channel in range(4):
        tint = 0.0
        for n in range(3):
            tint += share[n] * geometry.colors[corners[n], channel]
        base[channel] = tint * paint.numbers[m, BASE_COLOR + channel] * texel[BASE_TEXTURE, channel]
    mode = paint.numbers[m, ALPHA_MODE]
    alpha = 1.0
    if mode == BLEND:
        alpha = min(max(base[3], 0.0), 1.0)
    elif mode == MASK and base[3] < paint.numbers[m, ALPHA_CUTOFF]:
        return
    out[3] = alpha
    if paint.numbers[m, UNLIT] > 0.0:
        for channel in range(3):
            out[channel] = base[channel] * alpha
        return

    point = weighted(geometry.positions, corners, share)
    to_eye = unit(combined(1.0, (eye[0], eye[1], eye[2]), -eye[3], point))
    geometric, normal = _normals(geometry, paint, m, corners, share, to_eye, texel[NORMAL_TEXTURE])
    slope = max(dot(normal, to_eye), 1e-3)
    mirror = combined(2.0 * slope, normal, -1.0, to_eye)
    matt, unblocked = arriving(light, point, geometric, normal, mirror)
    occlusion = 1.0 + paint.numbers[m, OCCLUSION] * (texel[OCCLUSION_TEXTURE, 0] - 1.0)
    roughness = min(max(paint.numbers[m, ROUGHNESS] * texel[METALLIC_TEXTURE, 1], 0.04), 1.0)
    metallic = paint.numbers[m, METALLIC] * texel[METALLIC_TEXTURE, 2]
    # Even the darkest corner gets some light that bounced twice.
    matt = (0.06 + 0.94 * matt) * occlusion
    gloss = (0.15 + 0.85 * unblocked) * occlusion * light.exposure
    gloss *= radiance(
        light.boxes,
        light.turn[0] * mirror[0] - light.turn[1] * mirror[2],
        mirror[1],
        light.turn[1] * mirror[0] + light.turn[0] * mirror[2],
        0.02 + 0.75 * roughness * roughness,
    )
    scale, bias = _split_sum(roughness, slope)
    body = (1.0 - metallic) * (1.0 - 0.04 * scale - bias) * matt * alpha
    shine = 0.0
    for channel in range(3):
        reflected = ((0.04 + (base[channel] - 0.04) * metallic) * scale + bias) * gloss
        shine += reflected / 3.0
        glow = paint.numbers[m, EMISSIVE + channel] * texel[EMISSIVE_TEXTURE, channel]
        out[channel] = base[channel] * body + reflected + glow
    out[0], out[1], out[2] = neutral(out[0], out[1], out[2])
    # Clear glass still reflects, and the reflection covers what is behind it.
    out[3] = max(alpha, min(1.0, shine))


@inner
def _sampled(
    textures: TextureSet, t: int, uvs: Float32, corners: tuple[int, int, int],
    share: Vector, right: Vector, down: Vector, uv: Float64, out: Float64,
) -> None:  # fmt: skip
    """Texture `t` at a point of a triangle; right, down: change of `share` per pixel; uv: scratch."""
    uv[:] = 0.0
    for n in range(3):
        for axis in range(2):
            value = uvs[corners[n], axis]
            uv[axis] += share[n] * value
            uv[2 + axis] += right[n] * value
            uv[4 + axis] += down[n] * value
    sample(textures, t, uv, out)


@inner
def _normals(
    geometry: Geometry, paint: Paint, m: int, corners: tuple[int, int, int],
    share: Vector, to_eye: Vector, texel: Float64,
) -> tuple[Vector, Vector]:  # fmt: skip
    """The triangle's own normal and the one to shade with, both turned to the eye so both sides are lit."""
    i, j, k = corners
    origin = at_corner(geometry.positions, i)
    first = combined(1.0, at_corner(geometry.positions, j), -1.0, origin)
    second = combined(1.0, at_corner(geometry.positions, k), -1.0, origin)
    geometric = facing(unit(cross(first, second)), to_eye)
    normal = facing(unit(weighted(geometry.normals, corners, share)), geometric)
    if normal == ZERO:
        normal = geometric
    if paint.slots[m, NORMAL_TEXTURE] < 0:
        return geometric, normal
    du1, dv1 = geometry.uvs[j, 0] - geometry.uvs[i, 0], geometry.uvs[j, 1] - geometry.uvs[i, 1]
    du2, dv2 = geometry.uvs[k, 0] - geometry.uvs[i, 0], geometry.uvs[k, 1] - geometry.uvs[i, 1]
    area = du1 * dv2 - du2 * dv1
    if area == 0.0:
        return geometric, normal
    sign = 1.0 if area > 0.0 else -1.0
    # Directions in which u grows and v shrinks: green points up the image (glTF 2.0, §3.9.3).
    along = combined(sign * dv2, first, -sign * dv1, second)
    upward = combined(sign * du2, first, -sign * du1, second)
    along = unit(combined(1.0, along, -dot(along, normal), normal))
    upward = unit(combined(1.0, upward, -dot(upward, normal), normal))
    bend = paint.numbers[m, NORMAL_SCALE]
    aside = combined(bend * (2.0 * texel[0] - 1.0), along, bend * (2.0 * texel[1] - 1.0), upward)
    return geometric, unit(combined(max(2.0 * texel[2] - 1.0, 0.05), normal, 1.0, aside))


@inner
def _split_sum(roughness: float, slope: float) -> tuple[float, float]:
    """Scale and bias of the reflectance at normal incidence for GGX, by the angle's cosine to the eye.

    Analytic fit: Karis, "Physically Based Shading on Mobile", 2014.
    """
    r0, r1 = 1.0 - roughness, 0.0425 - 0.0275 * roughness
    a004 = min(r0 * r0, 2.0 ** (-9.28 * slope)) * r0 + r1
    return 1.04 - 0.572 * roughness - 1.04 * a004, 0.022 * roughness - 0.04 + 1.04 * a004
