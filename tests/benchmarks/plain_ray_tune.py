"""What a careful user would write without this project: one Ray Tune trial a run, with MLflow's stock callback.

    python tests/benchmarks/plain_ray_tune.py --data kuairand --data-dir DIR --out DIR --runs 40

What a trial trains is `plain_torch`, and everything is done that is cheap to get right: arrays shared through the
object store, actors that are reused, one thread a trial and a trial a core, one report a trial. It imports of ours only
the reader of the data. The last line that it prints is JSON: seconds to the first trial, of all trials, and how many
trained.
"""

import argparse
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import ray
import torch
from plain_torch import LRS, shared_of, train
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback


def _trial(config: dict[str, Any], shared: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    tune.report(train(config, shared))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="kuairand")
    parser.add_argument("--data-options", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--cache", type=Path, required=True, help="folder of converted data")
    parser.add_argument("--out", type=Path, required=True, help="folder for MLflow's database and Tune's results")
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64], help="widths of the bottom's layers")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--steps", type=int, help="of a run (default: one pass)")
    asked = parser.parse_args()

    began = time.time()
    from study import data

    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    log = data.load(asked.data, asked.data_options, asked.cache)
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    lrs = LRS[: asked.runs]
    seeds = range(asked.runs // len(lrs))
    trials_began = time.time()
    trainable = tune.with_parameters(_trial, shared=shared_of(log, tuple(asked.hidden), asked.steps))
    results = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"lr": tune.grid_search(list(lrs)), "seed": tune.grid_search(list(seeds))},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=os.cpu_count()),
        run_config=tune.RunConfig(
            name="plain",
            storage_path=str(out),
            verbose=0,
            callbacks=[MLflowLoggerCallback(tracking_uri=f"sqlite:///{out / 'mlflow.db'}", experiment_name="plain")],
        ),
    ).fit()
    auc_click = [result.metrics["auc_click"] for result in results if result.metrics and not result.error]
    ray.shutdown()
    told = {"start_seconds": trials_began - began, "trials_seconds": time.time() - trials_began}
    print(json.dumps(told | {"runs": len(auc_click), "best_auc_click": max(auc_click)}))


if __name__ == "__main__":
    main()
