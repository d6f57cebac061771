"""The methods of `study.methods` as `torch.optim.Optimizer`s, for anyone's training loop.

    optimizer = Clippy(model.parameters(), lr=0.1)

The chains are the ones that the study trains with, here with one run; plain Clippy on dense tensors of a CPU takes a
shorter way to the same numbers but for their last bits, `study.optim._foreach_clippy`. A step never waits for the
device. Sparse (COO) gradients are summed over duplicates, and only the touched rows change: their weights, their state
and their decay; norms and minima run over the touched rows. Parameters narrower than 32 bits keep their state in
float32 and are rounded once a step. `eps` is inside Adagrad's root, as in Keras and the paper (torch's own Adagrad adds
it to the root); RMSProp and AdamW add it to theirs. Formulas and sources stand in `study.methods`.
"""

import itertools
import math
import numbers
import operator
import re
from collections.abc import Callable
from typing import Any, ClassVar, TypedDict, Unpack, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from study import methods
from study.optim import _foreach_clippy
from study.transforms import Chain, Leaf, global_norm


class Common(TypedDict, total=False):
    """What every optimizer here takes by name; see `MethodOptimizer`, which has the defaults."""

    base: str
    weight_decay: float
    momentum: float
    maximize: bool
    record_clip_factors: bool


class MethodOptimizer(torch.optim.Optimizer):
    """Any method by name: a file of `study.methods`, or a dotted name of your own.

    lr: a float or a tensor of one element. method: its name. options: its thresholds and options, as in
    `study.methods.signature`. initial_accumulator_value: Adagrad's G0. base: what the method works on, "adagrad", "sgd"
    (which may have a momentum), "rmsprop" or "adamw". weight_decay: decoupled, outside the clip. maximize: ascend.
    record_clip_factors: keep the factors of each step for `clip_factors`, from the first step on. Parameter groups may
    have an lr, thresholds and options of their own, under the same names.

    Raises ValueError for values that make no sense, here, in `add_param_group` and in `load_state_dict`.
    """

    words: ClassVar[dict[str, str]] = {}
    """The method's option -> what it is called here."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        method: str,
        options: dict[str, Any] | None = None,
        *,
        initial_accumulator_value: float = 0.1,
        eps: float = 1e-7,
        base: str = "adagrad",
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        maximize: bool = False,
        record_clip_factors: bool = False,
    ) -> None:
        if methods.acts_on(method):
            raise ValueError(f"{method} acts on more than the update, which no optimizer can do")
        asked = {"base": base, "weight_decay": weight_decay, "momentum": momentum} | (options or {})
        values = methods.signature(method).defaults | self._in_words(lambda: methods.check(method, asked))
        if values["base"] != "sgd":
            del values["momentum"]  # schedulers that cycle a momentum look for one
        defaults = {
            "lr": lr,
            "method": method,
            **{self.words.get(key, key): value for key, value in values.items()},
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "maximize": maximize,
        }
        self._check(defaults)
        self.record_clip_factors = record_clip_factors
        self._factors: dict[Tensor, Tensor] = {}
        self._fast: dict[int, _foreach_clippy.FastClippy] = {}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in `torch.optim.Optimizer`. Raises ValueError, and adds nothing, for values that make no sense."""
        self._check(self.defaults | param_group)
        super().add_param_group(param_group)
        if any(p.is_complex() for p in self.param_groups[-1]["params"]):
            self.param_groups.pop()
            raise ValueError("need real parameters, got a complex one")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient. Returns what the closure returned.

        Raises ValueError for gradients that are neither dense nor sparse COO.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._factors = {}
        left = [(group, params) for i, group in enumerate(self.param_groups) if (params := self._fast_step(i, group))]
        chains = [self._chain(group) for group, _ in left]
        norm = None if all(chain.per_leaf for chain in chains) else self._global_norm()
        for (group, params), chain in zip(left, chains, strict=True):
            # one by one where the method allows it, so that only one parameter's temporaries are held
            for part in [[p] for p in params] if chain.per_leaf else [params]:
                self._update(part, chain, group["maximize"], norm)
        return loss

    def clip_factors(self) -> dict[Tensor, Tensor]:
        """What the method multiplied each parameter's update by in the last step: parameter -> 0-dim tensor on its
        device (the smallest, where it has one for each unit). Nobody pays for what nobody watches: unless
        `record_clip_factors` was set, the first call returns nothing, and recording begins with the next step."""
        self.record_clip_factors = True
        return dict(self._factors)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in `torch.optim.Optimizer`. The state is copied, and stays wider than the parameters where it was."""
        for group, loaded in zip(self.param_groups, state_dict["param_groups"], strict=False):
            if loaded.get("method") != group["method"]:
                raise ValueError(f"need a state of method {group['method']}, got one of {loaded.get('method')}")
            self._check(group | loaded)
        super().load_state_dict(state_dict)
        ours = (p for group in self.param_groups for p in group["params"])
        theirs = (number for group in state_dict["param_groups"] for number in group["params"])
        for p, number in zip(ours, theirs, strict=True):
            # torch would round the state to the parameter's type, and share it with whoever saved it
            for key, value in state_dict["state"].get(number, {}).items():
                self.state[p][key] = value.detach().to(device=p.device, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"record_clip_factors": self.record_clip_factors}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._factors = {}
        self._fast = {}

    def _chain(self, group: dict[str, Any]) -> Chain:
        return methods.build(
            group["method"],
            group["lr"],
            self._options(group),
            initial_accumulator=group["initial_accumulator_value"],
            eps=group["eps"],
        )

    def _options(self, group: dict[str, Any]) -> dict[str, Any]:
        words = {key: self.words.get(key, key) for key in methods.signature(group["method"]).defaults}
        return {key: group[word] for key, word in words.items() if word in group}

    def _check(self, group: dict[str, Any]) -> None:
        lr = group["lr"]
        if isinstance(lr, Tensor):
            if lr.numel() != 1:
                raise ValueError(f"need one lr, got a tensor of shape {tuple(lr.shape)}")
        elif not _is_finite(lr) or lr < 0:
            raise ValueError(f"need a finite lr >= 0, got lr={lr}")
        for key in ("initial_accumulator_value", "eps"):
            if not _is_finite(group[key]) or group[key] < 0:
                raise ValueError(f"need a finite {key} >= 0, got {key}={group[key]}")
        self._in_words(lambda: methods.check(group["method"], self._options(group)))

    def _in_words(self, check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """`check()`, with its complaints in the words of this class."""
        try:
            return check()
        except ValueError as error:
            if not self.words:
                raise
            known = rf"\b({'|'.join(self.words)})\b"
            raise ValueError(re.sub(known, lambda found: self.words[found[0]], str(error))) from None

    def _fast_step(self, number: int, group: dict[str, Any]) -> list[Tensor]:
        """Update what `study.optim._foreach_clippy` takes of this group, and return its other parameters that have a
        gradient."""
        params = [p for p in group["params"] if p.grad is not None]
        options = self._options(group)
        if not _foreach_clippy.is_plain(group["method"], options):
            return params
        fast = self._fast.setdefault(number, _foreach_clippy.FastClippy())
        gradients = [p.grad for p in params if p.grad is not None]
        fit = fast.select(params, gradients)
        others = list(itertools.compress(params, map(operator.not_, fit)))
        params, gradients = (list(itertools.compress(x, fit)) for x in (params, gradients))
        states = [self.state[p] for p in params]
        for p, state in zip(params, states, strict=True):
            if not state:
                state["accumulator"] = torch.full_like(p, group["initial_accumulator_value"])
        lr = -group["lr"] if group["maximize"] else group["lr"]
        plain = _foreach_clippy.Plain(lr, options["rel"], options["abs"], group["eps"])
        for own, factors in fast.step(params, gradients, states, plain):
            if self.record_clip_factors:
                self._factors |= zip(own, factors.unbind(), strict=True)
        return others

    def _update(self, params: list[Tensor], chain: Chain, maximize: bool, norm: Tensor | None) -> None:
        parts = [_Touched(p, self.state[p], chain, maximize) for p in params]
        for part in parts:
            if norm is not None:
                part.leaf.scratch["global_norm"] = norm
            if self.record_clip_factors:
                part.leaf.factor = part.leaf.weight.new_ones(1)
        chain.updates([part.leaf for part in parts])
        for p, part in zip(params, parts, strict=True):
            part.write_back()
            if part.leaf.factor is not None:
                self._factors[p] = part.leaf.factor.squeeze(0)

    def _global_norm(self) -> Tensor:
        every = [(p, g["maximize"]) for g in self.param_groups for p in g["params"] if p.grad is not None]
        return global_norm([_gradient(p, maximize)[1].unsqueeze(0) for p, maximize in every] or [torch.zeros(1)])


class Clippy(MethodOptimizer):
    """Adagrad whose step moves no weight by more than a share of itself: `study.methods.clippy`.

        sigma = min(1, min_i (relative_threshold * |w_i| + absolute_threshold) / |u_i|) ;  w -= sigma * u

    per parameter tensor, u being the base's update, lr included (Tang et al., KDD 2023). accumulator_relative_threshold
    adds `accumulator_relative_threshold / sqrt(G + eps)` to the bound. delayed_accumulator divides by the accumulator
    as it was before this gradient (the authors' released code); clip_accumulator, with it, accumulates
    `(sigma * g)^2`. norm: "max", or "rms" for the root mean square of the ratios.
    """

    words: ClassVar[dict[str, str]] = {
        "rel": "relative_threshold",
        "abs": "absolute_threshold",
        "acc_rel": "accumulator_relative_threshold",
        "delayed": "delayed_accumulator",
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        relative_threshold: float = 0.5,
        absolute_threshold: float = 1e-2,
        accumulator_relative_threshold: float = 0.0,
        initial_accumulator_value: float = 0.1,
        eps: float = 1e-7,
        delayed_accumulator: bool = False,
        clip_accumulator: bool = False,
        *,
        norm: str = "max",
        **common: Unpack[Common],
    ) -> None:
        options = {
            "rel": relative_threshold,
            "abs": absolute_threshold,
            "acc_rel": accumulator_relative_threshold,
            "delayed": delayed_accumulator,
            "clip_accumulator": clip_accumulator,
            "norm": norm,
        }
        super().__init__(
            params,
            lr,
            "clippy",
            options,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            **common,
        )


class AGC(MethodOptimizer):
    """Adaptive gradient clipping, `g *= min(1, max_ratio * max(norm(w), floor) / norm(g))`: `study.methods.agc`.

    per: "tensor" or "unit". after: the raw gradient feeds the accumulator, and the factor scales the update.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        max_ratio: float = 0.01,
        floor: float = 1e-3,
        initial_accumulator_value: float = 0.1,
        eps: float = 1e-7,
        *,
        per: str = "tensor",
        after: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            params,
            lr,
            "agc",
            {"max_ratio": max_ratio, "floor": floor, "per": per, "after": after},
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            **common,
        )


class LAMB(MethodOptimizer):
    """LAMB on Adagrad's direction r, `u = lr * mu * norm(w) / norm(r) * r`: `study.methods.lamb`.

    No global clip comes before, and weight decay is not part of the ratio.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        mu: float = 0.1,
        initial_accumulator_value: float = 0.1,
        eps: float = 1e-7,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            params,
            lr,
            "lamb",
            {"mu": mu},
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            **common,
        )


class LayerClip(MethodOptimizer):
    """Each tensor's gradient clipped to a norm, then the base: `study.methods.layer_clip`.

    after: the raw gradient feeds the accumulator, and the factor scales the update.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        max_norm: float = 0.1,
        initial_accumulator_value: float = 0.1,
        eps: float = 1e-7,
        *,
        after: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            params,
            lr,
            "layer_clip",
            {"max_norm": max_norm, "after": after},
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            **common,
        )


class GlobalClip(MethodOptimizer):
    """All gradients clipped to one norm, over every parameter group, then the base: `study.methods.global_clip`.

    after: the raw gradient feeds the accumulator, and the factor scales the update.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        max_norm: float = 1.0,
        initial_accumulator_value: float = 0.1,
        eps: float = 1e-7,
        *,
        after: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            params,
            lr,
            "global_clip",
            {"max_norm": max_norm, "after": after},
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            **common,
        )


class UpdateRMSClip(MethodOptimizer):
    """The base's direction r shrunk to a root mean square d, per tensor: `study.methods.update_rms_clip`.

    d: Adafactor's 1 suits the bases "rmsprop" and "adamw"; after Adagrad |r| < 1, and 1 would never act.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        d: float = 0.05,
        initial_accumulator_value: float = 0.1,
        eps: float = 1e-7,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            params,
            lr,
            "update_rms_clip",
            {"d": d},
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            **common,
        )


class ZClip(MethodOptimizer):
    """All gradients cut where their norm is an outlier among its own past: `study.methods.zclip`.

    The norm is over all parameter groups. Each group remembers the norms of the steps that it took part in.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        z_max: float = 2.5,
        decay: float = 0.97,
        warmup_steps: int = 25,
        initial_accumulator_value: float = 0.1,
        eps: float = 1e-7,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            params,
            lr,
            "zclip",
            {"z_max": z_max, "decay": decay, "warmup_steps": warmup_steps},
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            **common,
        )


class AdaGC(MethodOptimizer):
    """Each tensor's gradient clipped to `rel` times its own usual norm: `study.methods.adagc`.

    For the first `warmup_steps`, all gradients are clipped to one norm, `abs`, over every parameter group.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        rel: float = 1.05,
        abs: float = 1.0,
        decay: float = 0.98,
        warmup_steps: int = 100,
        initial_accumulator_value: float = 0.1,
        eps: float = 1e-7,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            params,
            lr,
            "adagc",
            {"rel": rel, "abs": abs, "decay": decay, "warmup_steps": warmup_steps},
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            **common,
        )


class AutoClip(MethodOptimizer):
    """All gradients clipped to a percentile of the norms so far: `study.methods.autoclip`.

    The norm is over all parameter groups. history: how many of the newest norms are remembered.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        percentile: float = 10.0,
        history: int = 1000,
        initial_accumulator_value: float = 0.1,
        eps: float = 1e-7,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            params,
            lr,
            "autoclip",
            {"percentile": percentile, "history": history},
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            **common,
        )


class _Touched:
    """What one step touches of a parameter, as a leaf with one run: all of it, or the rows of a sparse gradient."""

    def __init__(self, parameter: Tensor, state: dict[str, Tensor], chain: Chain, maximize: bool) -> None:
        self.rows, gradient = _gradient(parameter, maximize)
        self.parameter = parameter.detach()
        self.state = state
        wide = _wide(parameter.dtype)
        if not state:
            blank = self.parameter.to(wide).unsqueeze(0)
            state |= {key: value.squeeze(0) for key, value in chain.init(blank).items()}
        gradient = gradient.unsqueeze(0)
        weight = self._rows_of(self.parameter).to(wide).unsqueeze(0)
        self.taken = {key: self._rows_of(value).unsqueeze(0) for key, value in state.items()}
        self.leaf = Leaf(weight=weight, gradient=gradient, update=gradient, state=dict(self.taken))

    def write_back(self) -> None:
        if self.rows is None and self.leaf.weight.dtype == self.parameter.dtype:
            self.parameter.sub_(self.leaf.update.squeeze(0))
        else:
            # of rows, or of another type, the weight is a copy
            self._put(self.parameter, self.leaf.weight.sub_(self.leaf.update).squeeze(0))
        for key, taken in self.taken.items():
            value = self.leaf.state[key]
            if value is not taken or self._is_by_row(self.state[key]):
                self._put(self.state[key], value.squeeze(0))

    def _is_by_row(self, tensor: Tensor) -> bool:
        return self.rows is not None and tensor.shape == self.parameter.shape

    def _rows_of(self, tensor: Tensor) -> Tensor:
        if self.rows is None or not self._is_by_row(tensor):
            return tensor
        return tensor.index_select(0, self.rows[0]) if len(self.rows) == 1 else tensor[self.rows]

    def _put(self, target: Tensor, value: Tensor) -> None:
        if self.rows is None or not self._is_by_row(target):
            target.copy_(value)
        elif len(self.rows) == 1:
            target.index_copy_(0, self.rows[0], value.to(target.dtype))
        else:
            target[self.rows] = value.to(target.dtype)


def _gradient(parameter: Tensor, maximize: bool) -> tuple[tuple[Tensor, ...] | None, Tensor]:
    """The touched rows (None: all of them), and the gradient there, in the type that is computed in."""
    gradient = parameter.grad
    assert gradient is not None
    if gradient.layout not in (torch.strided, torch.sparse_coo):
        raise ValueError(f"need dense or sparse COO gradients, got {gradient.layout}")
    gradient = gradient.detach().to(_wide(parameter.dtype))
    rows = None
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        rows = tuple(gradient.indices())
        gradient = gradient.values()
    return rows, gradient.neg() if maximize else gradient


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize < 4 else dtype


def _is_finite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)
