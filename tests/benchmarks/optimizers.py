"""A step of `study.optim.Clippy` against torch's fastest Adagrad, and against public Clippys, on the same parameters.

    python tests/benchmarks/optimizers.py [--device cpu] [--threads N] [--rounds 20] [--cases ranker] [--public FILE]

Everybody in turn takes a few steps, and this many times over; the table has everyone's best, in milliseconds a step,
since others on the machine can only add (of CPU time, where there is one thread). `adagrad` is the fastest that torch
has for the case: foreach or fused, or its only one for sparse gradients. `straight` is what a careful reader of
Algorithm 1 writes (Tang et al., KDD 2023): one tensor after the other, its minimum read by the host. --public: a Python
file with a class `ClippyAdagrad` of somebody else's, timed beside; known ones are `clippyadagrad.py` of
github.com/ledmaster/clippy-adagrad (on sparse gradients, it does not clip) and `clippy_adagrad_pytorch.py` of
github.com/lishuai-97/Clippy (dense gradients only).
"""

import argparse
import functools
import importlib.util
import inspect
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from study.optim import Clippy

LR, REL, ABS, G0, EPS = 0.1, 0.5, 0.01, 0.1, 1e-7

RANKER = ((64, 125), (64,), (64, 64), (64,), *[(1, 64)] * 4, *[(1,)] * 4)
DENSE: dict[str, tuple[tuple[int, ...], ...]] = {
    "500 x 16": ((16,),) * 500,
    "small ranker": RANKER,
    "large ranker": ((256, 125), (256,), *[(256, 256), (256,)] * 3, *[(1, 256)] * 4, *[(1,)] * 4),
    "4 x 512x512": ((512, 512), (512,)) * 4,
    "4096x4096": ((4096, 4096),),
}
SPARSE: dict[str, tuple[int, bool]] = {
    "1e6x16, 5,000 rows": (5_000, True),
    "the same, raw": (5_000, False),
    "1e6x16, 50,000 rows": (50_000, True),
    "the same 50,000, raw": (50_000, False),
}
"""Draws of a row, and whether the gradient comes coalesced."""
TABLE = (1_000_000, 16)

WORDS = {
    "initial_accumulator_value": G0,
    "eps": EPS,
    "epsilon": EPS,
    "lambda_rel": REL,
    "lambda_abs": ABS,
    "params_relative_threshold": REL,
    "variable_relative_threshold": REL,
    "absolute_threshold": ABS,
    "use_standard_accumulator_update": True,
}
"""What public classes call the settings that all sides share."""


class Steps(Protocol):
    def step(self) -> object: ...


Make = Callable[[list[nn.Parameter]], Steps]


class Straight:
    """Algorithm 1 as it reads."""

    def __init__(self, params: Sequence[nn.Parameter]) -> None:
        self.params = params
        self.states: list[dict[str, Tensor]] = [{} for _ in params]

    @torch.no_grad()
    def step(self) -> None:
        for p, state in zip(self.params, self.states, strict=True):
            assert p.grad is not None
            self._update(p, p.grad, state)

    def _update(self, p: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        if not state:
            state["accumulator"] = torch.full_like(p, G0)
        rows = slice(None)
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            rows, gradient = gradient.indices()[0], gradient.values()
        weight, accumulator = p[rows], state["accumulator"][rows] + gradient**2
        update = LR * gradient / torch.sqrt(accumulator + EPS)
        room = (REL * weight.abs() + ABS) / update.abs()
        p[rows] = weight - min(1.0, room.min().item()) * update
        state["accumulator"][rows] = accumulator


def parameters(case: str, device: str) -> list[nn.Parameter]:
    """The case's parameters on the device, each with a gradient; the same numbers at every call."""
    generator = torch.Generator().manual_seed(0)
    if case in DENSE:
        made = [nn.Parameter((torch.randn(shape, generator=generator) * 0.05).to(device)) for shape in DENSE[case]]
        for p in made:
            p.grad = (torch.randn(p.shape, generator=generator) * 0.1).to(device)
        return made
    draws, coalesced = SPARSE[case]
    table = nn.Parameter((torch.randn(TABLE, generator=generator) * 0.05).to(device))
    rows = torch.randint(TABLE[0], (1, draws), generator=generator).to(device)
    values = (torch.randn(draws, TABLE[1], generator=generator) * 0.1).to(device)
    gradient = torch.sparse_coo_tensor(rows, values, TABLE)
    table.grad = gradient.coalesce() if coalesced else gradient
    return [table]


def adagrads(case: str) -> dict[str, Make]:
    """torch's own, each way that takes the case."""
    adagrad = functools.partial(torch.optim.Adagrad, lr=LR, initial_accumulator_value=G0)
    if case in SPARSE:
        return {"sparse": adagrad}
    return {"fused": functools.partial(adagrad, fused=True), "foreach": functools.partial(adagrad, foreach=True)}


def public(path: Path) -> Make:
    """Somebody else's `ClippyAdagrad`, with our settings in its words."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    known = inspect.signature(module.ClippyAdagrad).parameters
    return lambda params: module.ClippyAdagrad(params, lr=LR, **{k: v for k, v in WORDS.items() if k in known})


def milliseconds(makes: dict[str, Make], case: str, device: str, rounds: int) -> dict[str, float]:
    """Each one's best time a step; NaN for who refuses the case."""
    steppers = {}
    best = dict.fromkeys(makes, math.nan)
    for name, make in makes.items():
        optimizer = make(parameters(case, device))
        try:
            for _ in range(3):
                optimizer.step()
        except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
            print(f"{name} does not take {case}: {str(error)[:80]}", file=sys.stderr)
            continue
        steppers[name] = optimizer.step
        best[name] = _time(optimizer.step, 1, device)
    counts = {name: max(1, min(200, int(10 / best[name]))) for name in steppers}
    for _ in range(rounds):
        for name, step in steppers.items():
            best[name] = min(best[name], _time(step, counts[name], device))
    return best


def _time(step: Callable[[], object], count: int, device: str) -> float:
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    _wait(device)
    start = clock()
    for _ in range(count):
        step()
    _wait(device)
    return 1000 * (clock() - start) / count


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def table(cases: Sequence[str], device: str, rounds: int, publics: Sequence[Path]) -> list[dict[str, str | float]]:
    """One row a case: times in ms a step, which Adagrad was the fastest, and the ratios to it and to the others."""
    rows = []
    for case in cases:
        theirs = {path.parent.name + "/" + path.stem: public(path) for path in publics}
        own: dict[str, Make] = {"clippy": lambda params: Clippy(params, LR), "straight": Straight}
        with torch.sparse.check_sparse_tensor_invariants(enable=False):  # or torch warns that it does not
            times = milliseconds(adagrads(case) | own | theirs, case, device, rounds)
        fastest = min(adagrads(case), key=times.__getitem__)
        row: dict[str, str | float] = {"case": case, "adagrad": times[fastest], "which": fastest}
        row |= {"clippy": times["clippy"], "/ adagrad": times["clippy"] / times[fastest]}
        for name in ("straight", *theirs):
            row |= {name: times[name], f"{name} / clippy": times[name] / times["clippy"]}
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    every = [*DENSE, *SPARSE]
    parser = argparse.ArgumentParser(description="A Clippy step against torch's fastest Adagrad and other Clippys.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cases", default="", help="parts of the names of: " + "; ".join(every))
    parser.add_argument("--public", type=Path, nargs="*", default=[])
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    cases = [case for case in every if any(part in case for part in asked.cases.split(","))]
    if not cases:
        parser.error(f"no case has {asked.cases!r} in its name; there are {'; '.join(every)}")
    print(
        f"torch {torch.__version__}, {asked.device}, {asked.threads} threads; ms a step, best of {asked.rounds} rounds"
    )
    rows = table(cases, asked.device, asked.rounds, asked.public)
    print("| " + " | ".join(rows[0]) + " |")
    print("| " + " | ".join("---" for _ in rows[0]) + " |")
    for row in rows:
        print("| " + " | ".join(x if isinstance(x, str) else f"{x:.3g}" for x in row.values()) + " |")


if __name__ == "__main__":
    main()
