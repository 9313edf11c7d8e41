"""The house stays easy to find one's way in: imports point down only, and loading it stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top floor down; a module may import from its own floor's package or from floors below.
FLOORS = (
    {"cli"},
    {"cli_care", "cli_costs", "cli_generate", "cli_serve", "cli_weights"},
    {"cli_common"},
    {"definitions"},
    {"automation"},
    {"assets"},
    {"resources"},
    {"purchasing", "service", "review", "weights"},
    {"generation"},
    {"quality", "catalog", "imagery", "storage", "costs", "config"},
    {"mesh", "trellis2"},
    {"config_automation", "config_environment", "config_local", "config_products", "config_purchasing"},
    {"errors", "stopping"},
)
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}
# A run in this process is started from the definitions, as any other client of them would.
KNOWN_EXCEPTIONS = {("automation", "definitions")}


def room_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] == "trellis_pipeline":
        return parts[1] if len(parts) > 1 else None
    return parts[0] if parts[0] in {"assets", "resources"} else None


def source_files() -> list[Path]:
    folders = ("trellis_pipeline", "assets", "resources")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imports_of(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down_only(path):
    here = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if here is None:
        return
    for module in imports_of(path):
        there = room_of(module)
        if there is None or there == here or (here, there) in KNOWN_EXCEPTIONS:
            continue
        assert FLOOR_OF[there] > FLOOR_OF[here], (
            f"{path.relative_to(ROOT)} imports {module}, which is not below it"
        )


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_knows_no_dagster(path):
    here = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if here in {"definitions", "automation", "assets", "resources"}:
        return
    assert not any(module.split(".")[0].startswith("dagster") for module in imports_of(path))


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


def test_loading_the_definitions_imports_no_heavy_library():
    loaded = run_python(
        "import sys, trellis_pipeline.definitions as d; d.defs();"
        "print(*[m for m in ('torch', 'trimesh', 'numba', 'cv2', 'scipy', 'onnxruntime', 'pandas', 'boto3')"
        " if m in sys.modules])"
    )
    assert loaded == ""


def test_dagster_finds_one_code_location_with_every_configured_catalog():
    keys = run_python(
        "import trellis_pipeline.definitions as d;"
        "print(*sorted(k.to_user_string() for k in d.defs().resolve_asset_graph().get_all_asset_keys()))"
    )
    assert keys.split() == [
        f"demo/{name}"
        for name in (
            "cost_report",
            "model_quality",
            "product_catalog",
            "product_crops",
            "product_models",
            "quality_report",
            "source_images",
        )
    ]
