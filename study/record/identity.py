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
"""Thresholds of a method of which every choice is tried: 1,024 choices. Of more, only likely choices are. A row that
none of them proves may still be the study's, so it is not refused."""


class Identity:
    """The ids of a study's runs. Reading many files shares what it has found.

    Args:
        definition: of the study.
    """

    def __init__(self, definition: Definition) -> None:
        self._study, self._content = definition.study, str(definition.data["content"])
        self._known: dict[tuple[str, ...], Ids] = {}
        self._unproved: set[tuple[str, ...]] = set()
        self._likely: dict[str, dict[tuple[str, ...], None]] = {}  # method -> choices, the likeliest last
        ranges = getattr(definition.study.search, "ranges", {})
        for arm in definition.study.arms:
            self._likely.setdefault(arm.method, {})[(*{**arm.options, **ranges.get(arm.method, {})},)] = None

    def check(self, table: pa.Table) -> None:
        """Raise ValueError if the id of some row is that of no run of the study.

        Args:
            table: a file of `runs/`.
        """
        names = ("model", "method", "options", "thresholds", "run_id", "lr", "seed")
        columns = (table[name].to_numpy(zero_copy_only=False).tolist() for name in names)  # `to_pylist` takes ten times
        foreign, failed = 0, set()
        for model, method, options, thresholds, run_id, lr, seed in zip(*columns, strict=True):
            arm = model, method, options, thresholds
            known = self._known.get(arm)
            if arm in self._unproved or (known is not None and known(lr, seed) == run_id):
                continue
            # Every choice takes half a second. The file is bad after one failure: likely choices then do for the count.
            if arm not in failed and self._proves(arm, run_id, lr, seed, every=method not in failed):
                continue
            if len(json.loads(thresholds or "{}")) > MOST_THRESHOLDS:
                self._unproved.add(arm)
                continue
            foreign += 1
            failed |= {arm, method}
        if foreign:
            of_all = f"{foreign} of its {table.num_rows} runs"
            raise ValueError(f"{of_all} belong to another study, with another recipe or other data")

    def _proves(self, arm: tuple[str, str, str, str], run_id: str, lr: float, seed: int, *, every: bool) -> bool:
        """Return whether some choice gives the row its id, and remember that choice.

        Args:
            arm: model, method, options and thresholds of the row.
            run_id, lr, seed: of the row.
            every: whether to try every choice, not only likely ones.
        """
        model, method, options, thresholds = arm
        own, values = json.loads(options or "{}"), json.loads(thresholds or "{}")
        likely = self._likely.setdefault(method, {})
        first = (tuple(name for name in values if name in chosen) for chosen in reversed(likely))
        choices = [*dict.fromkeys(itertools.chain(first, _choices(list(values), every=every)))]
        for results in range(RESULTS_VERSION, 0, -1):
            for chosen in choices:
                ids = Run(
                    data=self._content,
                    model=model,
                    method=method,
                    options={**own, **{name: values[name] for name in chosen}},
                    lr=1.0,
                    seed=0,
                    recipe=self._study.recipe,
                    trainer=self._study.trainer,
                ).ids_like(results)
                if ids(lr, seed) == run_id:
                    self._known[arm] = ids
                    likely.pop(chosen, None)
                    likely[chosen] = None
                    return True
        return False


def _choices(names: Sequence[str], *, every: bool) -> Iterator[tuple[str, ...]]:
    """Yield choices of the thresholds, those with few first: every choice, or none and all."""
    sizes = range(len(names) + 1) if every and len(names) <= MOST_THRESHOLDS else (0, len(names))
    for size in sizes:
        yield from itertools.combinations(names, size)
