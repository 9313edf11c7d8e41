"""No test may find the settings or the Dagster home of whoever runs it, or depend on its machine's speed."""

import os

from hypothesis import HealthCheck, settings

for name in [name for name in os.environ if name.startswith("TRELLIS_") or name == "DAGSTER_HOME"]:
    if name != "TRELLIS_PARITY_DIR":  # tells tests/parity where its files are
        del os.environ[name]
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
