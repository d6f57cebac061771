"""Usage reports of Ray and MLflow: off, unless the user sets STUDY_TELEMETRY=1."""

import os

OFF = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}


def disabled() -> dict[str, str]:
    """Return the variables that turn reports off. Each library reads its own once, when it is imported.

    A variable that the user has set is left out, and so are all under STUDY_TELEMETRY=1.
    """
    if os.environ.get("STUDY_TELEMETRY") == "1":
        return {}
    return {name: value for name, value in OFF.items() if name not in os.environ}
