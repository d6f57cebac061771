"""What the tests of several folders share: small log."""

from pathlib import Path

import numpy as np

from study.data._cache import ArrayFile
from study.data._dataset import Log, Task

IDS, LABELS = np.arange(12, dtype=np.int32).reshape(6, 2), np.array([0, 1, 0, 1, 0, 1], dtype=np.float32)


def build_small(into: Path) -> Log:
    arrays = {}
    for name, columns in {"ids": IDS.T, "numbers": [], "labels": [LABELS]}.items():
        with ArrayFile(into, name, 6) as file:
            for column in columns:
                file.append(column)
        arrays[name] = file.read()
    return Log(
        **arrays,
        train_rows=4,
        vocabulary=(12, 12),
        id_names=("a", "b"),
        number_names=(),
        tasks=(Task(name="click", kind="binary", base=0.5, constant_loss=float(np.log(2))),),
        content="c",
        facts={"days": 2},
    )
