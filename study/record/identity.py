"""Proves that recorded runs belong to a study: the id of each is that of the run which its row describes.

A run's id is the hash of its data, model, method, options, lr, seed, recipe and trainer (`study.config.Run`). The row
holds the first six, and the study the others. So a file that was copied here from a study with another recipe is found.
The row holds every threshold, also those at their default, which an id leaves out: each choice of them is tried.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from study.config import RESULTS_VERSION, Run
from study.record.definition import Definition

Ids = Callable[[float, int], str]

MOST_THRESHOLDS = 10
"""Thresholds of a method of which every choice is tried: 1,024 choices. Of more, all or none is written out."""


class Identity:
    """The ids of a study's runs. Reading many files shares what it has found.

    Args:
        definition: of the study.
    """

    def __init__(self, definition: Definition) -> None:
        self._study, self._content = definition.study, str(definition.data["content"])
        self._known: dict[tuple[str, ...], Ids] = {}
        self._written: dict[str, tuple[str, ...]] = {}

    def check(self, table: pa.Table) -> None:
        """Raise ValueError unless the id of every row is that of a run of the study.

        Args:
            table: a file of `runs/`.
        """
        names = ("model", "method", "options", "thresholds", "run_id", "lr", "seed")
        columns = (table[name].to_numpy(zero_copy_only=False).tolist() for name in names)  # `to_pylist` takes ten times
        foreign = 0
        for model, method, options, thresholds, run_id, lr, seed in zip(*columns, strict=True):
            arm = model, method, options, thresholds
            known = self._known.get(arm)
            if known is not None and known(lr, seed) == run_id:
                continue
            found = next((ids for ids in self._ids(*arm) if ids(lr, seed) == run_id), None)
            if found is None:
                foreign += 1
            else:
                self._known[arm] = found
        if foreign:
            of_all = f"{foreign} of its {table.num_rows} runs"
            raise ValueError(f"{of_all} belong to another study, with another recipe or other data")

    def _ids(self, model: str, method: str, options: str, thresholds: str) -> Iterator[Ids]:
        """Yield the ids that such a row may have, first with the thresholds that its method had written out before."""
        own, values = json.loads(options or "{}"), json.loads(thresholds or "{}")
        choices = [tuple(name for name in self._written.get(method, ()) if name in values), *_choices(list(values))]
        for results in range(RESULTS_VERSION, 0, -1):
            for chosen in choices:
                self._written[method] = chosen
                yield Run(
                    data=self._content,
                    model=model,
                    method=method,
                    options={**own, **{name: values[name] for name in chosen}},
                    lr=1.0,
                    seed=0,
                    recipe=self._study.recipe,
                    trainer=self._study.trainer,
                ).ids_like(results)


def _choices(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield every choice of the thresholds, those with few first."""
    sizes = range(len(names) + 1) if len(names) <= MOST_THRESHOLDS else (0, len(names))
    for size in sizes:
        yield from itertools.combinations(names, size)
