"""The documents say what the code does: links lead somewhere, commands work, references are complete."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from trellis_pipeline import errors

ROOT = Path(__file__).parents[2]
SKIPPED = {".venv", ".trellis", "output", "node_modules", ".git", ".hypothesis", ".pytest_cache"}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_TESTED = re.compile(r"^<!-- test -->\n```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Written so that this file does not match itself.
_OUTSIDE = re.compile(
    r"(?<![\w.:/])/(?:work|root|home|Users)/\w|[.]library\b|\bshared/(?:design|reference|images)"
)


def files(*suffixes: str) -> Iterator[Path]:
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if name not in SKIPPED and not name.startswith("__"))
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(suffixes))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def settings_writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_settings", ROOT / "docs/reference/make_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = list(files(".md"))
COMMANDS = [
    pytest.param(block, id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, block in enumerate(_TESTED.findall(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_document_is_reached_from_the_index_or_the_readme() -> None:
    reached = set()
    for start in (ROOT / "README.md", ROOT / "docs/index.md"):
        for link in _LINK.findall(start.read_text(encoding="utf-8")):
            reached.add((start.parent / link.partition("#")[0]).resolve())
    lost = [name_of(page) for page in PAGES if page.is_relative_to(ROOT / "docs") and page not in reached]
    assert lost == []


@pytest.mark.parametrize("block", COMMANDS)
def test_a_command_that_is_shown_works(block: str, tmp_path: Path) -> None:
    (tmp_path / "catalogs").symlink_to(ROOT / "catalogs")
    hidden = ("TRELLIS_", "DAGSTER_HOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["TMPDIR"] = str(tmp_path)
    script = ["bash", "-euo", "pipefail", "-c", block]
    done = subprocess.run(script, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_commands_are_tested_at_all() -> None:
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize(("marker", "command"), [("run", "make demo"), ("test", "make test")])
def test_the_readme_names_its_two_commands_each_alone_in_a_block(marker: str, command: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"^<!-- command: {marker} -->\n```\w*\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert blocks == [f"{command}\n"]


def test_the_settings_reference_is_what_the_models_say_today() -> None:
    writer = settings_writer()
    page = writer.TARGET.read_text(encoding="utf-8")
    assert page == writer.settings_page(), "run: python docs/reference/make_settings.py"


def test_every_setting_has_a_row_and_every_row_a_setting() -> None:
    writer = settings_writer()
    page = writer.TARGET.read_text(encoding="utf-8").split("## Fields of a request")[0]
    assert re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE) == writer.setting_keys()


def test_every_error_class_is_explained_and_no_other() -> None:
    page = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    classes = inspect.getmembers(errors, inspect.isclass)
    raised = [name for name, kind in classes if issubclass(kind, errors.TrellisError)]
    assert sorted(explained) == sorted(raised)


def test_decisions_are_numbered_without_gaps_and_have_their_three_parts() -> None:
    pages = sorted((ROOT / "docs/adr").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {page.name[:4]} ")
        assert all(f"**{part}.**" in text for part in ("Context", "Decision", "Consequence")), page.name


def test_pictures_are_small_enough_for_a_repository() -> None:
    sizes = {
        name_of(path): path.stat().st_size for path in files(".jpg", ".png", ".webp") if "docs" in path.parts
    }
    assert sizes
    assert [name for name, size in sizes.items() if size >= 300_000] == []


def test_no_text_names_a_place_outside_of_the_repository() -> None:
    kinds = (
        ".py",
        ".md",
        ".toml",
        ".yaml",
        ".yml",
        ".csv",
        ".json",
        ".example",
        "Makefile",
        "Dockerfile",
        "run",
    )
    found = [
        f"{name_of(path)}: {match[0]}"
        for path in files(*kinds)
        for match in _OUTSIDE.finditer(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == []
