"""How long the code location takes to load, beside `import dagster` alone, each in fresh processes in turn.

python benchmarks/definitions_load.py
"""

import statistics
import subprocess
import sys
import time

RUNS = 7
COMMANDS = {
    "import dagster": "import dagster",
    "load the definitions": "import trellis_pipeline.definitions as d; d.defs()",
}


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, code in COMMANDS.items():
            taken[name].append(seconds(code))
    for name, values in taken.items():
        print(f"{name:22} median {statistics.median(values):.2f} s, best {min(values):.2f} s")
    peer, ours = (statistics.median(values) for values in taken.values())
    print(f"ratio of medians       {ours / peer:.2f}")


if __name__ == "__main__":
    main()
