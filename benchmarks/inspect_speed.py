"""How fast a GLB is inspected, beside trimesh and `gltf-transform inspect`, in one run on one machine.

    python benchmarks/inspect_speed.py [--triangles 100000 500000 1000000] [--repeat 5] [--json FILE]

Every tool gets the same files and a process of its own, so that its memory is its own too. Times, wall and
CPU, are the best of the repeats, with the file in the page cache and compiled code loaded.
`gltf-transform` is timed as the command it is, process start included, and its memory is the process's; the
others' is the growth of the peak resident set during the work (Linux only).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

_BIN = Path(__file__).parents[1] / "tests" / "js" / "node_modules" / ".bin"
TRANSFORM = shutil.which("gltf-transform", path=str(_BIN)) or shutil.which("gltf-transform")


Figures = tuple[float, float, float, Any]


def write_model(path: Path, triangles: int) -> int:
    """A closed, bumpy ring with normals, UVs and a 2048 px JPEG, of about `triangles` triangles."""
    import trimesh
    from PIL import Image

    around = round(triangles**0.5)
    across = round(triangles / 2 / around)
    u = np.arange(around + 1)[:, None] / around  # the last row and column repeat the first: a UV seam
    v = np.arange(across + 1)[None, :] / across
    a, b = 2 * np.pi * (u % 1), 2 * np.pi * (v % 1)
    thick = 0.3 + 0.02 * np.sin(9 * a) * np.cos(7 * b)
    ring = 1 + thick * np.cos(b)
    points = np.stack([ring * np.cos(a), thick * np.sin(b), ring * np.sin(a)], axis=-1).reshape(-1, 3)
    uvs = np.stack(np.broadcast_arrays(u, v), axis=-1).reshape(-1, 2)
    start = (np.arange(around)[:, None] * (across + 1) + np.arange(across)).reshape(-1)
    right, up = start + across + 1, start + 1
    faces = np.stack([start, up, right, right, up, right + 1], axis=1).reshape(-1, 3)
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    jpeg = BytesIO()
    Image.fromarray(noise).resize((2048, 2048)).save(jpeg, "JPEG", quality=90)
    jpeg.seek(0)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.open(jpeg))
    visual = trimesh.visual.TextureVisuals(uv=uvs, material=material)
    mesh = trimesh.Trimesh(points, faces, visual=visual, process=False)
    path.write_bytes(trimesh.Scene(mesh).export(file_type="glb", include_normals=True))
    return len(faces)


def header(path: Path) -> Any:
    from trellis_pipeline.quality.header import read_header

    return read_header(path).triangles


def topology(path: Path) -> Any:
    from trellis_pipeline.mesh.glb_read import parse_glb, read_primitives
    from trellis_pipeline.quality.topology import measure_primitives

    return measure_primitives(read_primitives(parse_glb(path.read_bytes()))).watertight


def everything(path: Path) -> Any:
    from trellis_pipeline.quality.inspect import inspect_glb

    return inspect_glb(path).watertight


def trimesh_header(path: Path) -> Any:
    import trimesh

    return sum(len(mesh.faces) for mesh in trimesh.load_scene(path, process=False).geometry.values())


def trimesh_topology(path: Path) -> Any:
    import trimesh

    mesh = trimesh.load_scene(path, process=False).to_mesh()
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    return mesh.is_watertight


def gltf_transform(path: Path) -> Any:
    subprocess.run([str(TRANSFORM), "inspect", str(path)], check=True, capture_output=True)
    return "-"


def measured(work: Callable[[Path], Any], path: Path, small: Path, repeat: int) -> Figures:
    """(best seconds, best CPU seconds, peak MB, answer) of `work(path)` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, path, small, repeat, sender))
    process.start()
    result: Figures = receiver.recv()
    process.join()
    return result


def _child(work: Callable[[Path], Any], path: Path, small: Path, repeat: int, sender: Any) -> None:
    outside = work is gltf_transform
    if not outside:
        work(small)  # imports and compiled code
    before = 0.0 if outside else _resident_mb()
    best = best_cpu = float("inf")
    answer = None
    for _ in range(min(repeat, 2) if outside else repeat):
        start, start_cpu = time.perf_counter(), _cpu_seconds()
        answer = work(path)
        best_cpu = min(best_cpu, _cpu_seconds() - start_cpu)
        best = min(best, time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 if outside else _peak_mb()
    sender.send((best, best_cpu, after - before, answer))


def _cpu_seconds() -> float:
    """User and system time of this process and of those it started and waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _resident_mb() -> float:
    """The resident set now; the peak is set back to it."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")
    return _peak_mb()


def _peak_mb() -> float:
    # Not getrusage: its peak is inherited from the process that started this one.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--triangles", type=int, nargs="+", default=[100_000, 500_000, 1_000_000])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    arguments = parser.parse_args()
    tools: list[tuple[str, Callable[[Path], Any]]] = [
        ("header tier", header),
        ("topology tier", topology),
        ("inspect, all tiers", everything),
        ("trimesh load", trimesh_header),
        ("trimesh load + is_watertight", trimesh_topology),
    ]
    if TRANSFORM:
        tools.append(("gltf-transform inspect", gltf_transform))
    else:
        print(
            "gltf-transform is not installed (npm install @gltf-transform/cli): left out\n", file=sys.stderr
        )
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.glb"
        write_model(small, 200)
        for wanted in arguments.triangles:
            path = Path(folder) / f"{wanted}.glb"
            count = write_model(path, wanted)
            print(f"{count:,} triangles, {path.stat().st_size / 1e6:.1f} MB")
            times: dict[str, float] = {}
            for name, work in tools:
                seconds, cpu, megabytes, answer = measured(work, path, small, arguments.repeat)
                times[name] = cpu
                rows.append(
                    {
                        "triangles": count,
                        "tool": name,
                        "ms": seconds * 1e3,
                        "cpu_ms": cpu * 1e3,
                        "peak_mb": megabytes,
                    }
                )
                spent = f"{seconds * 1e3:>9.2f} ms {cpu * 1e3:>9.2f} ms CPU {megabytes:>6.0f} MB"
                print(f"  {name:<30} {spent}  {answer}")
            for ours in ("header tier", "topology tier", "inspect, all tiers"):
                theirs = "trimesh load" if ours == "header tier" else "trimesh load + is_watertight"
                line = (
                    f"  by CPU time, {ours} is {times[theirs] / times[ours]:,.0f} times as fast as {theirs}"
                )
                if "gltf-transform inspect" in times:
                    ratio = times["gltf-transform inspect"] / times[ours]
                    line += f" and {ratio:,.0f} times as fast as gltf-transform inspect"
                print(line)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
