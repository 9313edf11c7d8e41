"""From "this triangle is seen here" to a colour: metallic-roughness shading of whole pixels.

Visibility is known at 4 × 4 samples a pixel; shading is far more expensive, so it runs once per triangle and
pixel and is weighted by the samples it covers. Edges are as smooth as 16-fold supersampling makes them at the
price of little more than one shaded sample a pixel; textures are filtered for the pixel's own footprint.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from trellis_pipeline.mesh.camera import Float64
from trellis_pipeline.mesh.raster import edges
from trellis_pipeline.mesh.studio import neutral, radiance
from trellis_pipeline.mesh.texels import sample
from trellis_pipeline.mesh.types import Float32, Int32, UInt8

Int64 = npt.NDArray[np.int64]

# Columns of a material's row of numbers.
BASE_COLOR, METALLIC, ROUGHNESS, ALPHA_MODE, ALPHA_CUTOFF = 0, 4, 5, 6, 7
NORMAL_SCALE, OCCLUSION, EMISSIVE, UNLIT, MATERIAL_COLUMNS = 8, 9, 10, 13, 14
OPAQUE, MASK, BLEND = 0, 1, 2
# Columns of a material's row of textures; -1 where it has none.
BASE_TEXTURE, METALLIC_TEXTURE, NORMAL_TEXTURE, OCCLUSION_TEXTURE, EMISSIVE_TEXTURE = 0, 1, 2, 3, 4

_MAX_SURFACES = 6
"""Most triangles shaded in one pixel; in denser meshes they stand for the rest."""


@numba.njit(cache=True, nogil=True)
def shade(
    seen: Int32,
    samples: int,
    points: Float64,
    faces: Int32,
    face_material: Int32,
    positions: Float32,
    normals: Float32,
    uvs: Float32,
    colors: Float32,
    materials: Float64,
    slots: Int64,
    texels: UInt8,
    levels: Int64,
    info: Int64,
    decode: Float32,
    boxes: Float64,
    exposure: float,
    lights: Float64,
    weights: Float64,
    frame: Float64,
    shadow_depth: Float32,
    eye: Float64,
    turn: Float64,
    picture: Float32,
) -> None:
    """Shade every pixel and write premultiplied display-linear RGB and coverage to `picture` (H, W, 4).

    seen: (H·samples, W·samples) triangle at each sample. points: homogeneous sample coordinates. lights:
    (D, 3) world directions with their weights and shadow maps; frame: (D, 3, 4) world to shadow map (column,
    row, depth). eye: (4,) position and 1, or direction and 0. turn: (2,) cosine and sine of the studio's turn.
    """
    group_face = np.zeros(_MAX_SURFACES, np.int64)
    group_count = np.zeros(_MAX_SURFACES, np.int64)
    group_x, group_y = np.zeros(_MAX_SURFACES), np.zeros(_MAX_SURFACES)
    color = np.zeros(4)
    per_pixel = samples * samples
    # Coprime to any per_pixel that is a power of two: visits the samples scattered over the pixel.
    stride = 7 if per_pixel > 7 else 1
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            groups = covered = grouped = 0
            for s in range(per_pixel):
                index = s * stride % per_pixel
                y, x = row * samples + index // samples, column * samples + index % samples
                face = seen[y, x]
                if face < 0:
                    continue
                covered += 1
                g = 0
                while g < groups and group_face[g] != face:
                    g += 1
                if g == groups:
                    if groups == _MAX_SURFACES:
                        continue
                    groups += 1
                    group_face[g], group_count[g], group_x[g], group_y[g] = face, 0, 0.0, 0.0
                grouped += 1
                group_count[g] += 1
                group_x[g] += x + 0.5
                group_y[g] += y + 0.5
            if covered == 0:
                continue
            for g in range(groups):
                count = group_count[g]
                _surface(
                    group_face[g], group_x[g] / count, group_y[g] / count, float(samples),
                    points, faces, face_material, positions, normals, uvs, colors, materials, slots,
                    texels, levels, info, decode, boxes, exposure, lights, weights, frame, shadow_depth,
                    eye, turn, color,
                )  # fmt: skip
                share = covered / per_pixel * count / grouped
                for channel in range(4):
                    picture[row, column, channel] += color[channel] * share


@numba.njit(cache=True, nogil=True)
def _surface(
    face: int, x: float, y: float, pixel: float,
    points: Float64, faces: Int32, face_material: Int32, positions: Float32, normals: Float32, uvs: Float32,
    colors: Float32, materials: Float64, slots: Int64, texels: UInt8, levels: Int64, info: Int64,
    decode: Float32, boxes: Float64, exposure: float, lights: Float64, weights: Float64, frame: Float64,
    shadow_depth: Float32, eye: Float64, turn: Float64, out: Float64,
) -> None:  # fmt: skip
    """Colour of one surface point: premultiplied RGB and alpha to `out`."""
    i, j, k = faces[face, 0], faces[face, 1], faces[face, 2]
    a0, b0, c0, a1, b1, c1, a2, b2, c2, _ = edges(points, i, j, k)
    e0, e1, e2 = a0 * x + b0 * y + c0, a1 * x + b1 * y + c1, a2 * x + b2 * y + c2
    total = e0 + e1 + e2
    if not total > 0.0:
        out[:] = 0.0
        return
    f0, f1, f2 = e0 / total, e1 / total, e2 / total
    px = f0 * positions[i, 0] + f1 * positions[j, 0] + f2 * positions[k, 0]
    py = f0 * positions[i, 1] + f1 * positions[j, 1] + f2 * positions[k, 1]
    pz = f0 * positions[i, 2] + f1 * positions[j, 2] + f2 * positions[k, 2]
    ux, uy, uz = _unit(eye[0] - eye[3] * px, eye[1] - eye[3] * py, eye[2] - eye[3] * pz)

    # The derivative of a barycentric weight e / total by x is (a - f · Σa) / total, in samples; `pixel` of them
    # make a pixel.
    sum_a, sum_b = a0 + a1 + a2, b0 + b1 + b2
    gx0, gx1, gx2 = (a0 - f0 * sum_a) / total, (a1 - f1 * sum_a) / total, (a2 - f2 * sum_a) / total
    gy0, gy1, gy2 = (b0 - f0 * sum_b) / total, (b1 - f1 * sum_b) / total, (b2 - f2 * sum_b) / total
    u = f0 * uvs[i, 0] + f1 * uvs[j, 0] + f2 * uvs[k, 0]
    v = f0 * uvs[i, 1] + f1 * uvs[j, 1] + f2 * uvs[k, 1]
    # A slightly smaller footprint than the pixel keeps print crisp; 16-fold edges hide the rest.
    step = 0.8 * pixel
    u_right = (gx0 * uvs[i, 0] + gx1 * uvs[j, 0] + gx2 * uvs[k, 0]) * step
    v_right = (gx0 * uvs[i, 1] + gx1 * uvs[j, 1] + gx2 * uvs[k, 1]) * step
    u_down = (gy0 * uvs[i, 0] + gy1 * uvs[j, 0] + gy2 * uvs[k, 0]) * step
    v_down = (gy0 * uvs[i, 1] + gy1 * uvs[j, 1] + gy2 * uvs[k, 1]) * step

    m = face_material[face]
    texel = np.ones((5, 4))
    for slot in range(5):
        t = slots[m, slot]
        if t >= 0:
            sample(texels, levels[t], info[t], decode, u, v, u_right, v_right, u_down, v_down, texel[slot])
    base = texel[BASE_TEXTURE]
    red = materials[m, 0] * base[0] * (f0 * colors[i, 0] + f1 * colors[j, 0] + f2 * colors[k, 0])
    green = materials[m, 1] * base[1] * (f0 * colors[i, 1] + f1 * colors[j, 1] + f2 * colors[k, 1])
    blue = materials[m, 2] * base[2] * (f0 * colors[i, 2] + f1 * colors[j, 2] + f2 * colors[k, 2])
    alpha = materials[m, 3] * base[3] * (f0 * colors[i, 3] + f1 * colors[j, 3] + f2 * colors[k, 3])
    mode = materials[m, ALPHA_MODE]
    if mode == OPAQUE:
        alpha = 1.0
    elif mode == MASK:
        alpha = 1.0 if alpha >= materials[m, ALPHA_CUTOFF] else 0.0
    if alpha <= 0.0:
        out[:] = 0.0
        return
    if materials[m, UNLIT] > 0.0:
        out[0], out[1], out[2], out[3] = red * alpha, green * alpha, blue * alpha, alpha
        return
    glow = texel[EMISSIVE_TEXTURE]
    glow_r, glow_g, glow_b = (
        glow[0] * materials[m, EMISSIVE],
        glow[1] * materials[m, EMISSIVE + 1],
        glow[2] * materials[m, EMISSIVE + 2],
    )
    roughness = min(max(materials[m, ROUGHNESS] * texel[METALLIC_TEXTURE, 1], 0.04), 1.0)
    metallic = materials[m, METALLIC] * texel[METALLIC_TEXTURE, 2]
    occlusion = 1.0 + materials[m, OCCLUSION] * (texel[OCCLUSION_TEXTURE, 0] - 1.0)

    # Geometric normal, turned to the eye; the shading normal follows it, so both sides are lit.
    p1x, p1y, p1z = (
        positions[j, 0] - positions[i, 0],
        positions[j, 1] - positions[i, 1],
        positions[j, 2] - positions[i, 2],
    )
    p2x, p2y, p2z = (
        positions[k, 0] - positions[i, 0],
        positions[k, 1] - positions[i, 1],
        positions[k, 2] - positions[i, 2],
    )
    gx, gy, gz = _unit(p1y * p2z - p1z * p2y, p1z * p2x - p1x * p2z, p1x * p2y - p1y * p2x)
    if gx * ux + gy * uy + gz * uz < 0.0:
        gx, gy, gz = -gx, -gy, -gz
    nx, ny, nz = _unit(
        f0 * normals[i, 0] + f1 * normals[j, 0] + f2 * normals[k, 0],
        f0 * normals[i, 1] + f1 * normals[j, 1] + f2 * normals[k, 1],
        f0 * normals[i, 2] + f1 * normals[j, 2] + f2 * normals[k, 2],
    )
    if nx == 0.0 and ny == 0.0 and nz == 0.0:
        nx, ny, nz = gx, gy, gz
    if nx * gx + ny * gy + nz * gz < 0.0:
        nx, ny, nz = -nx, -ny, -nz
    if slots[m, NORMAL_TEXTURE] >= 0:
        du1, dv1 = uvs[j, 0] - uvs[i, 0], uvs[j, 1] - uvs[i, 1]
        du2, dv2 = uvs[k, 0] - uvs[i, 0], uvs[k, 1] - uvs[i, 1]
        area = du1 * dv2 - du2 * dv1
        if area != 0.0:
            sign = 1.0 if area > 0.0 else -1.0
            tx, ty, tz = (
                (p1x * dv2 - p2x * dv1) * sign,
                (p1y * dv2 - p2y * dv1) * sign,
                (p1z * dv2 - p2z * dv1) * sign,
            )
            along = tx * nx + ty * ny + tz * nz
            tx, ty, tz = _unit(tx - along * nx, ty - along * ny, tz - along * nz)
            # Green points up the image, against v (glTF §3.9.3).
            bx, by, bz = (
                (p1x * du2 - p2x * du1) * sign,
                (p1y * du2 - p2y * du1) * sign,
                (p1z * du2 - p2z * du1) * sign,
            )
            along = bx * nx + by * ny + bz * nz
            bx, by, bz = _unit(bx - along * nx, by - along * ny, bz - along * nz)
            mx = (2.0 * texel[NORMAL_TEXTURE, 0] - 1.0) * materials[m, NORMAL_SCALE]
            my = (2.0 * texel[NORMAL_TEXTURE, 1] - 1.0) * materials[m, NORMAL_SCALE]
            mz = max(2.0 * texel[NORMAL_TEXTURE, 2] - 1.0, 0.05)
            nx, ny, nz = _unit(
                nx * mz + tx * mx + bx * my, ny * mz + ty * mx + by * my, nz * mz + tz * mx + bz * my
            )

    # Light that arrives: each direction's share, if nothing stands in between.
    facing = max(nx * ux + ny * uy + nz * uz, 1e-3)
    rx, ry, rz = 2.0 * facing * nx - ux, 2.0 * facing * ny - uy, 2.0 * facing * nz - uz
    matt = open_gloss = all_gloss = 0.0
    size = shadow_depth.shape[1]
    for d in range(lights.shape[0]):
        lx, ly, lz = lights[d, 0], lights[d, 1], lights[d, 2]
        cosine = nx * lx + ny * ly + nz * lz
        mirrored = max(rx * lx + ry * ly + rz * lz, 0.0)
        mirrored *= mirrored * mirrored
        if cosine <= 0.0 and mirrored < 0.05:
            continue
        lit = _unshadowed(frame[d], shadow_depth[d], size, px, py, pz, gx, gy, gz)
        matt += weights[d] * max(cosine, 0.0) * lit
        open_gloss += mirrored * lit
        all_gloss += mirrored
    occluded = open_gloss / all_gloss if all_gloss > 0.0 else 1.0
    # Even the darkest corner gets some light that bounced twice.
    matt = (0.06 + 0.94 * matt) * occlusion

    alpha2 = roughness * roughness
    gloss = radiance(
        boxes, turn[0] * rx - turn[1] * rz, ry, turn[1] * rx + turn[0] * rz, 0.02 + 0.75 * alpha2
    )
    gloss *= exposure * (0.15 + 0.85 * occluded) * occlusion
    # Analytic fit of the GGX split-sum table: Karis, "Physically Based Shading on Mobile", 2014.
    r0, r1 = 1.0 - roughness, 0.0425 - 0.0275 * roughness
    r2, r3 = 1.04 - 0.572 * roughness, 0.022 * roughness - 0.04
    a004 = min(r0 * r0, 2.0 ** (-9.28 * facing)) * r0 + r1
    scale, bias = -1.04 * a004 + r2, 1.04 * a004 + r3
    dielectric = 0.04 * scale + bias
    diffuse = (1.0 - metallic) * (1.0 - dielectric) * matt
    s_r = ((0.04 + (red - 0.04) * metallic) * scale + bias) * gloss
    s_g = ((0.04 + (green - 0.04) * metallic) * scale + bias) * gloss
    s_b = ((0.04 + (blue - 0.04) * metallic) * scale + bias) * gloss
    # A thin film (glass) reflects fully however little it covers, so only the body is scaled by alpha.
    body = alpha if mode == BLEND else 1.0
    out[0], out[1], out[2] = neutral(
        red * diffuse * body + s_r + glow_r,
        green * diffuse * body + s_g + glow_g,
        blue * diffuse * body + s_b + glow_b,
    )
    out[3] = max(alpha, min(1.0, (s_r + s_g + s_b) / 3.0)) if mode == BLEND else alpha


@numba.njit(cache=True, nogil=True)
def _unshadowed(
    frame: Float64, depth: Float32, size: int,
    x: float, y: float, z: float, gx: float, gy: float, gz: float,
) -> float:  # fmt: skip
    """Share (0..1) of a 2 × 2 neighbourhood of a shadow map that lets the light through to a point."""
    column = frame[0, 0] * x + frame[0, 1] * y + frame[0, 2] * z + frame[0, 3] - 0.5
    row = frame[1, 0] * x + frame[1, 1] * y + frame[1, 2] * z + frame[1, 3] - 0.5
    away = frame[2, 0] * x + frame[2, 1] * y + frame[2, 2] * z + frame[2, 3]
    if not (0.0 <= column < size - 1 and 0.0 <= row < size - 1):
        return 1.0
    # A map's texel is 2 / size wide in depth units; the more slanted the surface, the more it spans.
    slope = frame[2, 0] * gx + frame[2, 1] * gy + frame[2, 2] * gz
    length = math.sqrt(frame[2, 0] ** 2 + frame[2, 1] ** 2 + frame[2, 2] ** 2)
    cosine = min(1.0, abs(slope) / length)
    away -= (2.0 / size) * (1.0 + 1.6 * min(math.sqrt(1.0 - cosine * cosine) / max(cosine, 0.1), 4.0))
    left, top = int(column), int(row)
    fx, fy = column - left, row - top
    # Light fades out over a texel's depth instead of stopping: no steps where a shadow begins to curve away.
    fade = 0.5 * size
    lit = (1.0 - fx) * (1.0 - fy) * min(max(1.0 - (away - depth[top, left]) * fade, 0.0), 1.0)
    lit += fx * (1.0 - fy) * min(max(1.0 - (away - depth[top, left + 1]) * fade, 0.0), 1.0)
    lit += (1.0 - fx) * fy * min(max(1.0 - (away - depth[top + 1, left]) * fade, 0.0), 1.0)
    return lit + fx * fy * min(max(1.0 - (away - depth[top + 1, left + 1]) * fade, 0.0), 1.0)


@numba.njit(cache=True, nogil=True)
def floor_light(
    where: Float64, lights: Float64, weights: Float64, frame: Float64, shadow_depth: Float32, out: Float32
) -> None:
    """Share of the light from above that reaches each floor point. where: (N, 3) world. out: (N,) 0..1."""
    size = shadow_depth.shape[1]
    for n in range(where.shape[0]):
        arriving = possible = 0.0
        for d in range(lights.shape[0]):
            share = weights[d] * lights[d, 1]
            if share > 0.0:
                possible += share
                arriving += share * _unshadowed(
                    frame[d], shadow_depth[d], size, where[n, 0], where[n, 1], where[n, 2], 0.0, 1.0, 0.0
                )
        out[n] = arriving / possible if possible > 0.0 else 1.0


@numba.njit(cache=True, nogil=True)
def _unit(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = math.sqrt(x * x + y * y + z * z)
    if not 0.0 < length < math.inf:
        return 0.0, 0.0, 0.0
    return x / length, y / length, z / length
