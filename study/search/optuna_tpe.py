"""New cells proposed by Optuna's TPE, and the journal that `optuna-dashboard` opens. The only file that imports Optuna.

TPE sees the mean gain of each cell as the objective and k / n - risk as a constraint. A diverged run has gain 0, so no
NaN or infinity reaches Optuna.

Source: J. Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study.search.cells import Cell, Scored, rounded_cell

TRIES = 20
"""Proposals for each new cell; then the round has fewer new cells."""

JOURNAL = "optuna.journal"


def propose(
    scored: Sequence[Scored], ranges: Mapping[str, tuple[float, float]], risk: float, count: int, seed: int
) -> list[Cell]:
    """Return at most `count` new cells proposed by Optuna's TPE. A pure function of its arguments.

    Args:
        scored: The cells tried so far.
        ranges: name -> (low, high).
        risk: The share of diverged runs above which a cell violates the constraint.
        count: Cells. Fewer are returned if the ranges hardly hold any others.
        seed: Of the sampler.
    """
    optuna = _optuna()
    space = _distributions(ranges)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=1))
    study.add_trials([_trial(one.cell, space, one.n, one.k, one.gain, risk, {}) for one in scored])
    tried, new = {one.cell for one in scored}, []
    for _ in range(TRIES * count):
        asked = study.ask(space)
        cell = rounded_cell(asked.params, ranges)
        if cell not in tried:
            tried.add(cell)
            new.append(cell)
        if len(new) == count:
            break
    return new


class Journal:
    """The file that `optuna-dashboard` opens: a study for each arm, a trial for each cell of each round."""

    def __init__(self, path: Path) -> None:
        self._path, self._studies = path, {}
        path.unlink(missing_ok=True)

    def add(
        self, name: str, ranges: Mapping[str, tuple[float, float]], one: Scored, seeds: Sequence[int], risk: float
    ) -> None:
        """Append a trial: a cell's runs of one round."""
        attributes = {"n": one.n, "diverged": one.k, "seeds": list(seeds)}
        self._study(name).add_trial(_trial(one.cell, _distributions(ranges), one.n, one.k, one.gain, risk, attributes))

    def _study(self, name: str) -> Any:
        if name not in self._studies:
            optuna = _optuna()
            backend = optuna.storages.journal.JournalFileBackend(str(self._path))
            storage = optuna.storages.JournalStorage(backend)
            self._studies[name] = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        return self._studies[name]


def _trial(
    cell: Cell, space: Mapping[str, Any], n: int, k: int, gain: float, risk: float, attributes: Mapping[str, Any]
) -> Any:
    assert math.isfinite(gain), f"a gain of {gain} for Optuna"
    return _optuna().create_trial(
        params=dict(cell),
        distributions=dict(space),
        value=gain,
        constraints={"divergence": k / n - risk},
        user_attrs=dict(attributes),
    )


def _distributions(ranges: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    distribution = _optuna().distributions.FloatDistribution
    return {name: distribution(low, high, log=True) for name, (low, high) in sorted(ranges.items())}


@functools.cache
def _optuna() -> Any:
    import optuna
    import optuna.storages.journal

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
