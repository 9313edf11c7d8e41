"""Where the parity files are, and the table of how close everything came."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

RESULTS = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser):
    parser.addoption("--parity-dir", help="directory of parity files (.npz) of the original modules")


def parity_files(config: pytest.Config) -> list[Path]:
    """The files that were asked for. Raises UsageError for a directory that has none."""
    directory = config.getoption("--parity-dir", default=None) or os.environ.get("TRELLIS_PARITY_DIR")
    if not directory:
        return []
    files = sorted(Path(directory).glob("*.npz"))
    if not files:
        raise pytest.UsageError(f"no .npz file in {directory}")
    return files


def pytest_generate_tests(metafunc):
    if "parity_file" in metafunc.fixturenames:
        files = parity_files(metafunc.config)
        skip = pytest.mark.skip(reason="no parity files: give --parity-dir or set TRELLIS_PARITY_DIR")
        params = files or [pytest.param(None, marks=skip)]
        metafunc.parametrize("parity_file", params, ids=lambda path: path.stem if path else "no-files")


@pytest.fixture
def report(request):
    """Takes one line about a parity file for the table at the end."""
    results = request.config.stash.setdefault(RESULTS, {})

    def tell(name: str, line: str) -> None:
        results[name] = line

    return tell


def pytest_terminal_summary(terminalreporter, config):
    results = config.stash.get(RESULTS, {})
    if results:
        terminalreporter.section("parity with the original modules")
        for name, line in sorted(results.items()):
            terminalreporter.write_line(f"{name:32} {line}")
