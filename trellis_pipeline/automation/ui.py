"""`make ui`: the Dagster web server and daemon on this machine's persistent home, until Ctrl-C.

They are started separately because that is what works everywhere, in a terminal and without one. If either
ends, the other is ended too, so that no half of a Dagster is left running.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from trellis_pipeline.automation.instance import open_instance
from trellis_pipeline.config import load_settings
from trellis_pipeline.definitions import build_definitions
from trellis_pipeline.errors import TrellisError

_PATIENCE_SECONDS = 60.0  # the daemon ends its threads one after the other


def main() -> int:
    """Serve until stopped. TRELLIS_UI_PORT: another port than 3000."""
    port = os.environ.get("TRELLIS_UI_PORT", "3000")
    try:
        settings = load_settings()
        build_definitions(settings)  # what only Dagster can judge is said here, not in the browser
        open_instance(settings).dispose()  # made here, before two processes would make it at once
        home = settings.dagster_home
    except TrellisError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command's output
        return 2
    environment = {**os.environ, "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "yes"}
    scripts = Path(sys.executable).parent
    where = ["-m", "trellis_pipeline.definitions"]
    commands = [
        [str(scripts / "dagster-webserver"), "-h", "127.0.0.1", "-p", port, *where],
        [str(scripts / "dagster-daemon"), "run", *where],
    ]
    print(f"Dagster UI on http://127.0.0.1:{port} (home: {home}); Ctrl-C ends it", flush=True)  # noqa: T201
    processes = [subprocess.Popen(command, env=environment, cwd=settings.root) for command in commands]  # noqa: S603
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while all(process.poll() is None for process in processes):
            time.sleep(0.2)
    except KeyboardInterrupt:
        pass
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return max(process.returncode or 0 for process in processes)


if __name__ == "__main__":
    sys.exit(main())
