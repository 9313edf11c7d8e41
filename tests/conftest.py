"""No test may find the settings or the Dagster home of whoever runs it."""

import os

for name in [name for name in os.environ if name.startswith("TRELLIS_") or name == "DAGSTER_HOME"]:
    del os.environ[name]
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"
