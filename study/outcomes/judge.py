"""What became of a run: the rule that calls a training diverged, undertrained or completed, and the watch that asks.

    d_t = (c_t - loss_t) / c                  the gain: the best constant predictor's loss minus the run's, on the batch
                                              of step t before its update, in units of the constant's mean loss c
    g_t = median(d_{t-24} ... d_t)            its trailing median; the windows of the first steps are shorter
    h_t = g_t / G                             in units of the reference gain G, what the control learns
    kept = h_T                                at the last step

    nonfinite      a loss or weight is not finite
    collapsed      kept < 0.25, and max h >= 0.5
    never_learned  kept < 0.25, and max h < 0.5
    undertrained   kept < 0.25, but h never fell more than 0.25 below its best, rose by at least 0.05 in the last
                   quarter, and the loss never exceeded twice its first value; or the network has come less than half
                   as far from its start as the control's: slow, not unstable, hence not diverged
    completed      all else
    episode        a micro divergence: a stretch of steps with h more than 0.25 below its best, at its deepest 0.5 or
                   more, that ends before the run does; falls are those of whole windows, from step 24 on: the median
                   of a few first steps would make an episode of every spike in warm-up
    spike          a step whose d_t / G lies 1 or more below h_t

The numbers are `study.config.Rule`; a value exactly at a threshold is on its good side (`kept`, `slow_*`), or counts as
an event (`once_had`, `micro_fall`, `spike`). A loss that is not finite has gain minus infinity.

Source: the definition is ours. It answers to the divergences and micro-divergences that Tang et al. show, "Improving
Training Stability for Multitask Ranking Models in Recommender Systems", KDD 2023 (arXiv 2302.09178), by hand.

How far the network has come, the L2 norm of the change of all its parameters, tells a run that has hardly begun from
one that is dead, where losses cannot: both stay flat. (On real data, dead networks had come 2 to 100 times as far as
the control's, runs at an lr under 0.002 less than a fifth as far.) Of a run that went back (`study.training.rollback`)
it says nothing: whoever is put back at every spike stays near the start however fast it goes. Its distance is not
known, and only its losses can show that it is slow.

"Twice its first value" is paired like all else: loss_t / c_t against loss_0 / c_0. The loss of a rare task on one batch
is often twice that on another only because the batch holds twice the positives.

Letters: R runs, T steps, K tasks, C = 1 + K columns: the training loss (the sum over tasks), then each task.
"""

import math
from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from study.config import Rule, canonical_json

Episode = tuple[int, float | None, int]
"""A micro divergence: its first step, its deepest fall in units of G (None where that is not finite), its steps."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the control learns: the scale on which every run of the same data, model and recipe is judged.

    lr: the safe lr. gain: G of the training loss. task_gain: G of each task, None where the task is not learnable.
    moved: how far the control's networks came from their start, the median over seeds; None where it was not watched.
    """

    lr: float
    gain: float
    task_gain: tuple[float | None, ...]
    moved: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one run. Plain Python values, JSON-able.

    outcome: completed | diverged | undertrained. reason: nonfinite | collapsed | never_learned; None unless diverged.
    diverged_at_step: None unless diverged. nonfinite: the first step whose loss is not finite, or the last step, where
        only the weights after it are not. Otherwise the first step of the last stretch with h below `kept`, from which
        the run did not come back; so it is 0 for a run that never had that much, dead from the start.
    micro_episodes, episodes, spikes: of the training loss.
    final_loss: mean training loss over the last `median_steps` steps; None where it, or a weight, is not finite.
    kept, task_kept: h at the last step; None where it, or a weight, is not finite; for a task, also where it is not
        learnable. task_diverged: by the same rule on the task's own loss; None where it is not learnable.
    """

    outcome: str
    reason: str | None
    diverged_at_step: int | None
    micro_episodes: int
    episodes: tuple[Episode, ...]
    spikes: int
    final_loss: float | None
    kept: float | None
    task_kept: tuple[float | None, ...]
    task_diverged: tuple[bool | None, ...]

    def columns(self, tasks: Sequence[str]) -> dict[str, Any]:
        """As the record has it: the columns of one row (`study.record.tables`), those of each task among them."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("task_")}
        columns["episodes"] = canonical_json([list(episode) for episode in self.episodes])
        for task, kept, diverged in zip(tasks, self.task_kept, self.task_diverged, strict=True):
            columns |= {f"kept_{task}": kept, f"diverged_{task}": diverged}
        return columns


def gains(loss_RTK: np.ndarray, constant_RTK: np.ndarray, constant_loss_K: np.ndarray) -> np.ndarray:
    """d_t of the training loss and of every task, float64 (R, T, 1 + K).

    loss_RTK: each task's mean loss on the batch of each step, before its update. constant_RTK: the same of the best
    constant predictor. constant_loss_K: that constant's mean loss over the training part. Column 0 is the sum over
    tasks in units of the sum of `constant_loss_K`; a loss that is not finite has gain minus infinity.

    Raises ValueError where the shapes do not agree, or where the constant's losses are no scale.
    """
    loss_RTC, constant_RTC, unit_C = _columns(loss_RTK, constant_RTK, constant_loss_K)
    return _gains(loss_RTC, constant_RTC, unit_C)


def trailing_median(gain: np.ndarray, steps: int) -> np.ndarray:
    """g_t: the median over the last `steps` steps, that one included; over all there are where there are fewer.

    gain: (T,), or (R, T, ...): time is the second axis, or the only one. Same shape, float64. Minus infinity sorts as
    the number it is: it reaches the median once half of a window holds it.
    """
    gain = np.asarray(gain, np.float64)
    if steps < 1:
        raise ValueError(f"need steps >= 1, got steps={steps}")
    if gain.ndim == 1:
        return trailing_median(gain[None], steps)[0]
    by_time = np.ascontiguousarray(np.moveaxis(gain, 1, -1))
    median = np.empty_like(by_time)
    total = by_time.shape[-1]
    for t in range(min(steps - 1, total)):
        median[..., t] = _middle(by_time[..., : t + 1])
    # A block at a time: a partition copies every window.
    block = max(1, 4_000_000 // (steps * max(1, by_time[..., 0].size)))
    for start in range(steps - 1, total, block):
        stop = min(start + block, total)
        windows = np.lib.stride_tricks.sliding_window_view(by_time[..., start - steps + 1 : stop], steps, axis=-1)
        median[..., start:stop] = _middle(windows)
    return np.moveaxis(median, -1, 1)


def reference(
    lrs_R: Sequence[float] | np.ndarray,
    seeds_R: Sequence[int] | np.ndarray,
    loss_RTK: np.ndarray,
    constant_RTK: np.ndarray,
    constant_loss_K: np.ndarray,
    rule: Rule,
    moved_R: Sequence[float] | np.ndarray | None = None,
) -> Reference:
    """The safe lr and its gains, from the control's runs: `none`, a few seeds at every lr of a ladder.

    The final gain of an lr is the median over seeds of g at the last step. An lr is safe where no loss of any seed is
    not finite, and no seed's g falls below its best, over whole windows, by more than `control_fall` of that final
    gain and more than `control_noise` standard errors of g: where little is learned, the noise of batches alone makes
    g fall by a quarter of it, at every lr. The safe lr with
    the highest final gain (the lower of equals) is the reference. A task is learnable where its final gain there is
    positive and at least `learnable_errors` standard errors, std(ddof=1) / sqrt(seeds).

    Raises ValueError where the training loss is not learnable or no lr is safe, where an lr has fewer than two seeds,
    and as `gains`.
    """
    lrs = np.asarray(lrs_R, np.float64)
    seeds = np.asarray(seeds_R)
    d_RTC = gains(loss_RTK, constant_RTK, constant_loss_K)
    if not len(lrs) == len(seeds) == len(d_RTC):
        raise ValueError(f"need an lr and a seed for each of {len(d_RTC)} runs, got {len(lrs)} and {len(seeds)}")
    if not len(lrs):
        raise ValueError("the control has no runs")
    for lr in np.unique(lrs):
        here = seeds[lrs == lr]
        if len(np.unique(here)) < max(2, len(here)):
            raise ValueError(f"the control needs two or more different seeds at lr={lr:g}, got {here.tolist()}")

    g_RTC = trailing_median(d_RTC, rule.median_steps)
    fall_R = _falls(g_RTC[:, min(rule.median_steps, g_RTC.shape[1]) - 1 :, 0]).max(axis=1)
    fall_R[fall_R <= rule.control_noise * _errors(d_RTC[:, :, 0], rule.median_steps)] = 0.0
    fall_R[~np.isfinite(d_RTC).all(axis=(1, 2))] = np.inf
    ladder = []
    for lr in np.unique(lrs):
        final_C = _middle(g_RTC[lrs == lr, -1].T)
        ladder.append((float(final_C[0]), -float(lr), float(fall_R[lrs == lr].max())))

    best, negative_lr, _ = max(ladder)
    if best <= 0:
        raise ValueError(
            f"the training loss is not learnable here: at no lr does the control beat the best constant predictor"
            f" (its best gain is {best:.3g}, at lr={-negative_lr:g})"
        )
    safe = [step for step in ladder if step[0] > 0 and step[2] <= rule.control_fall * step[0]]
    if not safe:
        raise ValueError(
            f"no lr of the control's ladder is safe: from {lrs.min():g} to {lrs.max():g}, the gain falls by more than"
            f" {rule.control_fall:g} of what is learned"
        )
    lr = -max(safe)[1]
    final_CS = g_RTC[lrs == lr, -1].T
    gain_C = _middle(final_CS)
    error_C = final_CS.std(axis=1, ddof=1) / math.sqrt(final_CS.shape[1])
    learnable_C = (gain_C > 0) & (gain_C >= rule.learnable_errors * error_C)
    if not learnable_C[0]:
        raise ValueError(
            f"the training loss is not learnable here: at lr={lr:g} the control gains {gain_C[0]:.3g}, less than"
            f" {rule.learnable_errors:g} standard errors of {error_C[0]:.3g}"
        )
    task_gain = (float(g) if yes else None for g, yes in zip(gain_C[1:], learnable_C[1:], strict=True))
    moved = None if moved_R is None else float(np.median(np.asarray(moved_R, np.float64)[lrs == lr]))
    return Reference(lr=lr, gain=float(gain_C[0]), task_gain=tuple(task_gain), moved=moved)


def _errors(d_RT: np.ndarray, steps: int) -> np.ndarray:
    """The standard error (R,) of a median of `steps` gains, from how much neighbouring gains differ."""
    if d_RT.shape[1] < 2:
        return np.zeros(len(d_RT))
    with np.errstate(invalid="ignore"):
        differences = np.nan_to_num(np.abs(np.diff(d_RT, axis=1)), nan=0.0, posinf=0.0)
    # A normal variable's median absolute value is 0.6745 of its deviation; a difference deviates sqrt(2) times as
    # much as its terms; a median of n deviates sqrt(pi / 2n) times as much as its terms.
    deviation = np.median(differences, axis=1) / (0.6745 * math.sqrt(2))
    return deviation * math.sqrt(math.pi / (2 * steps))


def judge(
    loss_RTK: np.ndarray,
    constant_RTK: np.ndarray,
    constant_loss_K: np.ndarray,
    finite_weights_R: Sequence[bool] | np.ndarray,
    reference: Reference,
    rule: Rule,
    moved_R: Sequence[float] | np.ndarray | None = None,
) -> list[Outcome]:
    """The outcome of each of R runs; of a run alone the same, bit for bit.

    Losses as in `gains`; T is the number of steps really trained. finite_weights_R: whether all weights are finite
    after the last step. moved_R: how far each network has come from its start, NaN where that is not known; without
    it, or without the reference's, only its losses can show that a run is slow. Raises ValueError where the shapes do
    not agree or the reference is no scale.
    """
    loss_RTC, constant_RTC, unit_C = _columns(loss_RTK, constant_RTK, constant_loss_K)
    finite_R = np.asarray(finite_weights_R, bool)
    if finite_R.shape != loss_RTC.shape[:1]:
        raise ValueError(f"need finite_weights of {loss_RTC.shape[0]} runs, got shape {finite_R.shape}")
    if len(reference.task_gain) != loss_RTC.shape[2] - 1:
        raise ValueError(f"the reference has {len(reference.task_gain)} tasks, the losses have {loss_RTC.shape[2] - 1}")
    G_C = np.array([reference.gain, *(math.nan if g is None else g for g in reference.task_gain)])
    if not (math.isfinite(reference.gain) and np.all((G_C > 0) | np.isnan(G_C))):
        raise ValueError(f"need reference gains > 0, got {reference.gain:g} and {reference.task_gain}")
    begun_R = np.ones(len(loss_RTC), bool)
    if moved_R is not None and reference.moved is not None:
        begun_R = ~(np.asarray(moved_R, np.float64) < rule.slow_moved * reference.moved)
    d_RTC = _gains(loss_RTC, constant_RTC, unit_C)
    g_RTC = trailing_median(d_RTC, rule.median_steps)
    return _outcomes(loss_RTC, constant_RTC, d_RTC, g_RTC, finite_R, begun_R, G_C, rule)


def stack_losses(losses: Any, tasks: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Recorded losses as arrays: run ids, loss_RTK, constant_RTK (float32) and steps_R, in the order of the record.

    losses: a table as of `study.record.tables.read_losses`. Only a run that went non-finite is shorter than others: its
    losses are NaN up to the longest. Raises ValueError where a run lacks a task.
    """
    by_run: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for run, task, loss, constant in zip(
        losses["run_id"], losses["task"], losses["loss"], losses["constant"], strict=True
    ):
        by_run.setdefault(run, {})[task] = (np.asarray(loss, np.float32), np.asarray(constant, np.float32))
    for run, parts in by_run.items():
        missing = [task for task in tasks if task not in parts]
        if missing:
            raise ValueError(f"the losses of run {run[:12]} lack {', '.join(missing)}")
    steps_R = np.array([len(parts[tasks[0]][0]) for parts in by_run.values()], int)
    shape = (len(by_run), int(steps_R.max(initial=0)), len(tasks))
    loss_RTK = np.full(shape, np.nan, np.float32)
    constant_RTK = np.ones(shape, np.float32)
    for r, parts in enumerate(by_run.values()):
        for k, task in enumerate(tasks):
            loss, constant = parts[task]
            loss_RTK[r, : len(loss), k] = loss
            constant_RTK[r, : len(loss), k] = constant[: len(loss)]
    return list(by_run), loss_RTK, constant_RTK, steps_R


def rescore(
    losses: Any,
    tasks: Sequence[str],
    constant_loss_K: np.ndarray,
    lost_weights: Collection[str],
    reference: Reference,
    rule: Rule,
    moved: Mapping[str, float] | None = None,
) -> dict[str, Outcome]:
    """Outcomes of recorded runs under another rule, without training: run id -> Outcome.

    losses: a table as of `study.record.tables.read_losses`. lost_weights: ids of the runs that ended with non-finite
    weights; in a table of runs, those with reason "nonfinite" and no `kept`. reference: under the new rule, too. moved:
    how far each run's network came, by run id, as in the table of runs; NaN, or no id, where that is not known.
    """
    ids, loss_RTK, constant_RTK, steps_R = stack_losses(losses, tasks)
    outcomes: dict[str, Outcome] = {}
    for steps in np.unique(steps_R):
        rows = np.flatnonzero(steps_R == steps)
        finite_R = [ids[r] not in lost_weights for r in rows]
        far_R = None if moved is None else [moved.get(ids[r], math.nan) for r in rows]
        judged = judge(
            loss_RTK[rows, :steps], constant_RTK[rows, :steps], constant_loss_K, finite_R, reference, rule, far_R
        )
        outcomes |= zip((ids[r] for r in rows), judged, strict=True)
    return {run: outcomes[run] for run in ids}


@dataclass(frozen=True, kw_only=True)
class State:
    """What a `Monitor` has seen so far. gain: g now, None before the first step or where it is not finite.
    reference_gain: G, None where it is not known yet. kept: gain / G, None without either.
    diverged: a loss was not finite, or what was once learned (`once_had`) is lost now (`kept`). reason: nonfinite |
    collapsed | None. To have learned nothing yet is no event while a training runs; `Monitor.outcome` judges it.
    """

    steps: int
    gain: float | None
    reference_gain: float | None
    kept: float | None
    diverged: bool
    reason: str | None
    diverged_at_step: int | None
    micro_episodes: int
    episodes: tuple[Episode, ...]
    spikes: int


class Monitor:
    """The same watch for anyone's training loop: one run, its training loss, asked whenever they like.

        monitor = Monitor(constant_loss=0.693, reference_gain=0.2)
        for batch in batches:
            loss = train(batch)
            monitor.watch(loss)             # a float, or a tensor of one element on any device
            if step % 1000 == 0 and monitor.state().diverged:
                ...

    constant_loss: mean loss of the best constant predictor (the base rate's, the mean's). reference_gain: G, the gain
    of a training known to be good: (constant_loss - its final loss) / constant_loss. Without it G is the best g seen
    so far, once that stands `rule.learnable_errors` standard errors of its window above 0; a training that never
    learned, or is fading slowly from the start, is then not told from one that can do no better.

    `watch` never waits for the device: it keeps a detached copy of the loss. The copies come to the host when
    somebody asks, or every `BLOCK` steps, so that they hold at most `BLOCK` small tensors on the device (two, with
    `constant`); the host keeps 32 bytes a step. To ask costs time proportional to the steps watched: about 60 ms for
    a million.

    Raises ValueError where `constant_loss` or `reference_gain` is no positive number.
    """

    BLOCK: int = 4096

    def __init__(self, constant_loss: float, reference_gain: float | None = None, rule: Rule = Rule()) -> None:  # noqa: B008
        if not (math.isfinite(constant_loss) and constant_loss > 0):
            raise ValueError(f"need constant_loss > 0, got constant_loss={constant_loss}")
        if reference_gain is not None and not (math.isfinite(reference_gain) and reference_gain > 0):
            raise ValueError(f"need reference_gain > 0, got reference_gain={reference_gain}")
        self._constant_loss = float(constant_loss)
        self._reference_gain = reference_gain
        self._rule = rule
        self._waiting: list[tuple[Any, Any]] = []
        self._loss, self._constant, self._gain, self._median = (array("d") for _ in range(4))

    def watch(self, loss: Any, constant: Any = None) -> None:
        """The loss of one step, before its update. constant: the constant predictor's loss on the same batch; with it
        the noise of the labels cancels, without it `constant_loss` stands in."""
        self._waiting.append((_kept_back(loss), None if constant is None else _kept_back(constant)))
        if len(self._waiting) >= self.BLOCK:
            self._fold()

    def outcome(self) -> Outcome:
        """What became of the run if it ended here; no tasks. Raises ValueError before the first step.

        Without a reference gain, a run that is finite and never beat the constant by more than noise `never_learned`,
        and its `kept` is None.
        """
        self._fold()
        if not self._loss:
            raise ValueError("no step was watched yet")
        G = self._reference()
        # Against an unreachable gain, h is 0 as long as it is finite: never learned.
        outcome = self._judged(np.inf if G is None else G)
        return outcome if G is not None else replace(outcome, kept=None)

    def state(self) -> State:
        """What was seen so far; asked at any time, before the first step as well."""
        self._fold()
        if not self._loss:
            return State(
                steps=0, gain=None, reference_gain=self._reference_gain, kept=None, diverged=False, reason=None,
                diverged_at_step=None, micro_episodes=0, episodes=(), spikes=0,
            )  # fmt: skip
        G = self._reference()
        outcome = self._judged(np.inf if G is None else G)
        diverged = outcome.reason in ("nonfinite", "collapsed")
        return State(
            steps=len(self._loss),
            gain=_finite(self._median[-1]),
            reference_gain=G,
            kept=None if G is None else outcome.kept,
            diverged=diverged,
            reason=outcome.reason if diverged else None,
            diverged_at_step=outcome.diverged_at_step if diverged else None,
            micro_episodes=outcome.micro_episodes,
            episodes=outcome.episodes,
            spikes=outcome.spikes,
        )

    def _judged(self, G: float) -> Outcome:
        loss, constant, gain, median = (
            np.array(values)[None, :, None] for values in (self._loss, self._constant, self._gain, self._median)
        )
        return _outcomes(loss, constant, gain, median, np.array([True]), np.array([True]), np.array([G]), self._rule)[0]

    def _reference(self) -> float | None:
        if self._reference_gain is not None:
            return self._reference_gain
        median = np.array(self._median)
        best = int(median.argmax())
        window = np.array(self._gain[max(0, best + 1 - self._rule.median_steps) : best + 1])
        window = window[np.isfinite(window)]
        if len(window) < 2 or median[best] <= 0:
            return None
        error = window.std(ddof=1) / math.sqrt(len(window))
        return float(median[best]) if median[best] >= self._rule.learnable_errors * error else None

    def _fold(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        loss = np.array([_number(value) for value, _ in waiting])
        constant = np.array([self._constant_loss if value is None else _number(value) for _, value in waiting])
        gain = _gains(loss, constant, np.array(self._constant_loss))
        before = np.array(self._gain[max(0, len(self._gain) + 1 - self._rule.median_steps) :])
        median = trailing_median(np.concatenate([before, gain]), self._rule.median_steps)[len(before) :]
        for kept, values in zip(
            (self._loss, self._constant, self._gain, self._median), (loss, constant, gain, median), strict=True
        ):
            kept.frombytes(values.tobytes())


def _columns(loss_RTK: Any, constant_RTK: Any, constant_loss_K: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    loss, constant, unit = (np.asarray(a, np.float64) for a in (loss_RTK, constant_RTK, constant_loss_K))
    if loss.ndim != 3 or constant.shape != loss.shape or unit.shape != loss.shape[2:]:
        raise ValueError(
            f"need losses (runs, steps, tasks), the constant's of the same shape, and its mean loss of each task;"
            f" got {loss.shape}, {constant.shape} and {unit.shape}"
        )
    if loss.shape[1] < 1 or loss.shape[2] < 1:
        raise ValueError(f"need at least one step and one task, got {loss.shape[1]} and {loss.shape[2]}")
    if not (np.isfinite(unit).all() and (unit > 0).all()):
        raise ValueError(f"need a positive constant_loss of each task, got {unit.tolist()}")
    if not np.isfinite(constant).all():
        raise ValueError("the best constant predictor's loss is not finite on some batch")
    with np.errstate(invalid="ignore"):
        return _with_total(loss), _with_total(constant), _with_total(unit)


def _with_total(values: np.ndarray) -> np.ndarray:
    # Task by task: the order of a library's sum may depend on the shape, and with it the last bit of a run.
    total = values[..., 0].copy()
    for k in range(1, values.shape[-1]):
        total += values[..., k]
    return np.concatenate([total[..., None], values], axis=-1)


def _gains(loss: np.ndarray, constant: np.ndarray, unit: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(np.isfinite(loss), (constant - loss) / unit, -np.inf)


def _middle(values: np.ndarray) -> np.ndarray:
    """The median over the last axis; `np.median` warns where it meets infinities."""
    count = values.shape[-1]
    high = count // 2
    if count % 2:
        return np.partition(values, high, axis=-1)[..., high]
    parted = np.partition(values, (high - 1, high), axis=-1)
    return (parted[..., high - 1] + parted[..., high]) / 2


def _falls(h: np.ndarray) -> np.ndarray:
    """How far h lies below its best so far (time is axis 1); 0 where there was nothing finite to fall from."""
    best = np.maximum.accumulate(h, axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(best), best - h, 0.0)


def _outcomes(
    loss_RTC: np.ndarray,
    constant_RTC: np.ndarray,
    d_RTC: np.ndarray,
    g_RTC: np.ndarray,
    finite_weights_R: np.ndarray,
    begun_R: np.ndarray,
    G_C: np.ndarray,
    rule: Rule,
) -> list[Outcome]:
    R, T, _ = loss_RTC.shape
    whole = min(rule.median_steps, T) - 1
    with np.errstate(invalid="ignore"):
        h_RTC = np.where(np.isneginf(g_RTC), g_RTC, g_RTC / G_C)
        depth_RT = np.where(np.isfinite(h_RTC[:, :, 0]), h_RTC[:, :, 0] - d_RTC[:, :, 0] / G_C[0], 0.0)
        fall_RTC = np.zeros_like(h_RTC)
        fall_RTC[:, whole:] = _falls(h_RTC[:, whole:])
        kept_RC = h_RTC[:, -1]
        rise_RC = kept_RC - h_RTC[:, T - 1 - min(T - 1, max(1, round(rule.slow_rise_steps * T)))]
        # Cross-multiplied: the constant's loss on a batch may be 0.
        grew_RC = (loss_RTC * constant_RTC[:, :1] > rule.slow_loss * loss_RTC[:, :1] * constant_RTC).any(axis=1)

    finite_loss_RTC = np.isfinite(loss_RTC)
    nonfinite_RC = ~finite_loss_RTC.all(axis=1) | ~finite_weights_R[:, None]
    slow_RC = (fall_RTC.max(axis=1) <= rule.slow_fall) & (rise_RC >= rule.slow_rise) & ~grew_RC | ~begun_R[:, None]
    low_RC = kept_RC < rule.kept
    diverged_RC = nonfinite_RC | (low_RC & ~slow_RC)
    once_had_R = h_RTC[:, :, 0].max(axis=1) >= rule.once_had
    spikes_R = (depth_RT >= rule.spike).sum(axis=1)

    outcomes = []
    for r in range(R):
        outcome, reason, at_step = ("undertrained" if low_RC[r, 0] else "completed"), None, None
        if nonfinite_RC[r, 0]:
            outcome, reason = "diverged", "nonfinite"
            bad = np.flatnonzero(~finite_loss_RTC[r, :, 0])
            at_step = int(bad[0]) if len(bad) else T - 1
        elif diverged_RC[r, 0]:
            outcome, reason = "diverged", "collapsed" if once_had_R[r] else "never_learned"
            alive = np.flatnonzero(h_RTC[r, :, 0] >= rule.kept)
            at_step = int(alive[-1]) + 1 if len(alive) else 0
        episodes = _episodes(fall_RTC[r, :, 0], rule)
        last = loss_RTC[r, -rule.median_steps :, 0]
        kept = [_finite(k) if finite_weights_R[r] else None for k in kept_RC[r]]
        outcomes.append(
            Outcome(
                outcome=outcome,
                reason=reason,
                diverged_at_step=at_step,
                micro_episodes=len(episodes),
                episodes=episodes,
                spikes=int(spikes_R[r]),
                final_loss=_mean(last) if finite_weights_R[r] else None,
                kept=kept[0],
                task_kept=tuple(kept[1:]),
                task_diverged=tuple(
                    None if math.isnan(G) else bool(yes) for G, yes in zip(G_C[1:], diverged_RC[r, 1:], strict=True)
                ),
            )
        )
    return outcomes


def final_loss(loss_TK: np.ndarray, rule: Rule) -> float | None:
    """Mean training loss, the sum over tasks, of a run's last `median_steps` steps; None where it is not finite."""
    return _mean(np.asarray(loss_TK, np.float64).sum(axis=1)[-rule.median_steps :])


def _mean(last: np.ndarray) -> float | None:
    # fsum: exact, so the same for every shape of the array.
    return math.fsum(last) / len(last) if np.isfinite(last).all() else None


def _episodes(fall_T: np.ndarray, rule: Rule) -> tuple[Episode, ...]:
    if fall_T.max() < rule.micro_fall:
        return ()
    down = np.concatenate([[False], fall_T > rule.micro_recovery, [False]])
    starts, stops = np.flatnonzero(down[1:] & ~down[:-1]), np.flatnonzero(down[:-1] & ~down[1:])
    episodes = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        depth = float(fall_T[start:stop].max())
        if depth >= rule.micro_fall and stop < len(fall_T):
            episodes.append((start, _finite(depth), stop - start))
    return tuple(episodes)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _kept_back(value: Any) -> Any:
    # A copy: a loop that reuses one buffer for its loss (a captured graph) would overwrite a mere view.
    return value.detach().clone() if hasattr(value, "detach") else float(value)


def _number(value: Any) -> float:
    return float(value.cpu()) if hasattr(value, "cpu") else value
