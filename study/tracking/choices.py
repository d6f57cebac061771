"""Which training runs MLflow shows. The command line reads this, so it imports nothing."""

AUTO, ALL, NONE = RUNS = ("auto", "all", "none")
"""Which studies have their training runs in MLflow: those of up to MOST_RUNS, every one, or none."""

MOST_RUNS = 500
