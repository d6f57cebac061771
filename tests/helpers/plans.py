"""A small study and its data, to plan with."""

from pathlib import Path
from typing import Any

import numpy as np

from study.config import Arm, Recipe, Study
from study.data._dataset import Log, Task
from study.execution.planner import Plan, plan
from study.trainers.ranker import Trainer

NO_CACHE = Path("/dev/null/none")

ROWS = 64 * 10


def make_log(content: str = "c" * 64) -> Log:
    rows = ROWS + 64
    return Log(
        ids=np.zeros((rows, 2), np.int32),
        numbers=np.zeros((rows, 3), np.float32),
        labels=np.zeros((rows, 1), np.float32),
        train_rows=ROWS,
        vocabulary=(5, 7),
        id_names=("user", "item"),
        number_names=("a", "b", "c"),
        tasks=(Task(name="click", kind="binary", base=0.5, constant_loss=0.693),),
        content=content,
        facts={},
    )


LOG = make_log()


def make_study(**changes: Any) -> Study:
    values: dict[str, Any] = {
        "name": "edges",
        "models": ("small",),
        "arms": (Arm(method="none"), Arm(method="clippy")),
        "lrs": (0.1, 0.2, 0.4),
        "seeds": (0, 1, 2, 3),
        "recipe": Recipe(batch=64),
    }
    return Study(**values | changes)


def trainer_of(study: Study, cache: Path = NO_CACHE, log: Log = LOG) -> Trainer:
    return Trainer(study, cache, log=log)


def planned_of(study: Study, *recorded: Any, cache: Path = NO_CACHE, log: Log = LOG, **options: Any) -> Plan:
    return plan(study, trainer_of(study, cache, log), *recorded, **options)


def validated(study: Study, cache: Path = NO_CACHE) -> Study:
    return trainer_of(study, cache).validate(study)
