"""The one `torch.optim.Optimizer`: any method of `study.methods` by name.

The chains are those that a study trains with, here with one run. Plain Clippy on dense tensors of a CPU takes a faster
path to the same numbers but for their last bits (`study.optim._foreach_clippy`).
"""

import itertools
import math
import operator
import re
from collections.abc import Callable
from typing import Any, ClassVar, TypedDict, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from study import methods
from study.config import check_number
from study.optim import _bases, _foreach_clippy, _loading, _shards, _together
from study.optim._touched import TouchedPart, gradient_of
from study.transforms import Chain, Leaf, Link


class Common(TypedDict, total=False):
    """What every optimizer here takes by name; see `MethodOptimizer`, which has the defaults."""

    initial_accumulator_value: float
    eps: float
    base: str
    weight_decay: float
    momentum: float
    nesterov: bool
    betas: tuple[float, float]
    alpha: float
    maximize: bool
    foreach: bool | None
    capturable: bool
    record_clip_factors: bool


class MethodOptimizer(torch.optim.Optimizer):
    """Any method by name: a file of `study.methods`, or a dotted name of your own.

    Parameter groups may have an lr, thresholds and options of their own, under the same names.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate, a float or a tensor of one element.
        method: Name of the method.
        options: The method's thresholds and options, as in `study.methods.signature`.
        initial_accumulator_value: Adagrad's G0.
        eps: Inside Adagrad's root; added to the root of RMSProp and AdamW.
        base: What the method works on: "adagrad", "sgd", "rmsprop" or "adamw".
        weight_decay: Decoupled, outside the clip.
        momentum: Of the bases "sgd" and "rmsprop".
        nesterov: Of the base "sgd".
        betas: Of the base "adamw"; by default (0.9, 0.999).
        alpha: Of the base "rmsprop"; by default 0.99.
        maximize: Ascend instead of descend.
        foreach: Whether many tensors may be updated together. By default, where that is faster.
        capturable: As torch's own take it. It changes nothing: no step waits for the device.
        record_clip_factors: Keep the factors of each step for `clip_factors`. It makes steps of small tensors slower.

    Raises:
        ValueError: For a value out of range, here, in `add_param_group` and in `load_state_dict`.

    Attributes:
        split_across: A process group whose processes update other parameters each, and its device: norms over all
            parameters go over the group. `ZeroRedundancyOptimizer` sets it.
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
        nesterov: bool = False,
        betas: tuple[float, float] | None = None,
        alpha: float | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        record_clip_factors: bool = False,
    ) -> None:
        if methods.acts_on(method):
            raise ValueError(f"{method} is not available as an optimizer: it acts on more than the update")
        asked = {"base": base, "weight_decay": weight_decay, "momentum": momentum} | (options or {})
        _bases.refuse_words_of_studies(method, asked)
        methods.check_known(method, asked, methods.signature(method).defaults)
        values = methods.signature(method).defaults | self._in_words(lambda: methods.check(method, asked))
        defaults = {
            "lr": lr,
            "method": method,
            **{self.words.get(key, key): value for key, value in values.items()},
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
        }
        given = {"momentum": values["momentum"], "nesterov": nesterov, "betas": betas, "alpha": alpha}
        given = {key: value for key, value in given.items() if value is not None}
        self._methods: dict[str, tuple[Callable[..., Chain], dict[str, str]]] = {}
        self._check(defaults | given)
        del defaults["momentum"]
        defaults |= _bases.of_base(values["base"], given)
        self.record_clip_factors = record_clip_factors
        self._factors: dict[Tensor, Tensor] = {}
        self._fast: dict[int, _foreach_clippy.FastClippy] = {}
        self._together: dict[int, _together.Together] = {}
        self._keys: dict[tuple[Link, ...], set[str]] = {}
        self.split_across: tuple[Any, torch.device] | None = None
        _shards.follow_zero_redundancy()
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as in `torch.optim.Optimizer`. Raises ValueError for a value out of range."""
        own = _bases.of_base(param_group.get("base", self.defaults["base"]), self.defaults | param_group)
        rest = {key: value for key, value in self.defaults.items() if key not in _bases.ALL}
        self._check(rest | own | param_group)
        super().add_param_group(own | param_group)
        for key in _bases.ALL - own.keys():
            self.param_groups[-1].pop(key, None)
        params = self.param_groups[-1]["params"]
        try:
            if any(p.is_complex() for p in params):
                raise ValueError("need real parameters, got a complex one")
            _shards.refuse_flattened(params, self.param_groups[-1]["method"])
        except ValueError:
            self.param_groups.pop()
            raise

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient, and return the closure's loss.

        Raises:
            ValueError: If a gradient is neither dense nor sparse COO.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._factors = {}
        left = [(group, self._fast_step(i, group)) for i, group in enumerate(self.param_groups)]
        chains = [self._chain(group) for group, _ in left]
        norm = None if all(chain.per_leaf for chain in chains) else self._global_norm()
        for number, ((group, params), chain) in enumerate(zip(left, chains, strict=True)):
            keys = self._state_keys(chain)
            params = self._together_step(number, group, params, chain, keys)
            # one by one where the method allows it, so that only one parameter's temporaries are held
            for part in [[p] for p in params] if chain.per_leaf else [params]:
                self._update(part, chain, keys, group, norm)
        return loss

    def clip_factors(self) -> dict[Tensor, Tensor]:
        """Return the factor of each parameter's update in the last step.

        Returns:
            Parameter -> 0-dim tensor on its device; the smallest factor, if a tensor has one for each unit. Empty
            before the first step.

        Raises:
            RuntimeError: If the optimizer was made without `record_clip_factors=True`.
        """
        if not self.record_clip_factors:
            raise RuntimeError("clip factors are not recorded: need record_clip_factors=True")
        return dict(self._factors)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, as in `torch.optim.Optimizer`. The state is copied and keeps its own dtype.

        Raises:
            ValueError: If the state belongs to another method, or a value is out of range.
        """
        given: dict[str, Any] = {}

        def check(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
            given.update(_loading.translated(state_dict, self.param_groups))
            for group, loaded in zip(self.param_groups, given["param_groups"], strict=False):
                if loaded.get("method") != group["method"]:
                    raise ValueError(f"need a state of method {group['method']}, got one of {loaded.get('method')}")
                self._check(loaded)
            given.update(_loading.with_past_norms(given, [self._chain(group) for group in given["param_groups"]]))
            return given

        def restore(_: Any) -> None:
            ours = (p for group in self.param_groups for p in group["params"])
            theirs = (number for group in given["param_groups"] for number in group["params"])
            for p, number in zip(ours, theirs, strict=True):
                # torch has rounded the state to the parameter's dtype, and may share memory with `state_dict`
                for key, value in given["state"].get(number, {}).items():
                    self.state[p][key] = value.detach().to(device=p.device, copy=True)
            for group in self.param_groups:
                if group["params"] and "past_norms" in group:
                    group["past_norms"] = {k: x.to(group["params"][0].device) for k, x in group["past_norms"].items()}

        # after the user's pre-hooks, which may replace the state, and before the user's post-hooks
        hooks = (
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(restore, prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"record_clip_factors": self.record_clip_factors}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._factors = {}
        self._fast, self._together, self._keys = {}, {}, {}
        self._methods = {}
        self.split_across = None

    def _chain(self, group: dict[str, Any]) -> Chain:
        return self._method(group)[0](
            group["lr"],
            self._options(group),
            initial_accumulator=group["initial_accumulator_value"],
            eps=group["eps"],
            of_base=_bases.link_options(group),
        )

    def _method(self, group: dict[str, Any]) -> tuple[Callable[..., Chain], dict[str, str]]:
        """Return what builds the method, and its options: the method's name -> ours."""
        name = group["method"]
        if name not in self._methods:
            words = {key: self.words.get(key, key) for key in methods.signature(name).defaults}
            self._methods[name] = methods.builder(name), words
        return self._methods[name]

    def _options(self, group: dict[str, Any]) -> dict[str, Any]:
        return {key: group[word] for key, word in self._method(group)[1].items() if word in group}

    def _check(self, group: dict[str, Any]) -> None:
        lr = group["lr"]
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError(f"need one lr, got a tensor of shape {tuple(lr.shape)}")
        for key in ("initial_accumulator_value", "eps", *([] if isinstance(lr, Tensor) else ["lr"])):
            check_number(group[key], key)
            if not 0 <= group[key] < math.inf:
                raise ValueError(f"need a finite {key} >= 0, got {key}={group[key]}")
        self._in_words(lambda: methods.check(group["method"], self._options(group)))
        _bases.check(group)

    def _in_words(self, check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return `check()`; errors name the keywords of this class."""
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
        compiling = torch.compiler.is_compiling()  # the compiler fuses the chain by itself
        if compiling or group["foreach"] is False or not _foreach_clippy.is_plain(group["method"], options):
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

    def _state_keys(self, chain: Chain) -> set[str]:
        """Return the state that a parameter has under a chain."""
        stateful = tuple(link for link in chain.links if type(link).init is not Link.init)
        try:
            keys = self._keys.get(stateful)
        except TypeError:  # a link that cannot be hashed
            return chain.keys()
        if keys is None:
            self._keys = {stateful: (keys := chain.keys())} | (self._keys if len(self._keys) < 100 else {})
        return keys

    def _together_step(
        self, number: int, group: dict[str, Any], params: list[Tensor], chain: Chain, keys: set[str]
    ) -> list[Tensor]:
        """Update what `study.optim._together` takes, and return the other parameters."""
        if torch.compiler.is_compiling() or group["foreach"] is False or not (links := _together.Links.of(chain)):
            return params
        together = self._together.setdefault(number, _together.Together())
        fit = together.select(params, [self.state[p] for p in params])
        others = list(itertools.compress(params, map(operator.not_, fit)))
        own = list(itertools.compress(params, fit))
        gradients, states = [p.grad for p in own if p.grad is not None], [self.state[p] for p in own]
        for p, state in zip(own, states, strict=True):
            if not keys <= state.keys():
                new = chain.init(p.detach().unsqueeze(0))
                state |= {key: new[key].squeeze(0) for key in keys if key not in state}
        factors = together.step(own, gradients, states, links, keys, group["maximize"])
        if self.record_clip_factors:
            self._factors |= zip(own, factors, strict=True)
        return others

    def _update(
        self, params: list[Tensor], chain: Chain, keys: set[str], group: dict[str, Any], norm: Tensor | None
    ) -> None:
        parts = [TouchedPart(p, self.state[p], chain, keys, group["maximize"]) for p in params]
        leaves = [part.leaf for part in parts]
        if norm is not None and not leaves:
            nothing = norm.new_zeros(1, 0)
            leaves = [Leaf(nothing, nothing, nothing, chain.init(nothing))]  # the group remembers the norm
        past = self._past_norms(group, chain, leaves)
        for leaf in leaves:
            if norm is not None:
                leaf.scratch["global_norm"] = norm
            leaf.state |= {key: value.unsqueeze(0) for key, value in past.items()}
            if self.record_clip_factors:
                leaf.factor = leaf.weight.new_ones(1)
        chain.updates(leaves)
        for key, value in past.items():
            value.copy_(leaves[0].state[key].squeeze(0))
        for p, part in zip(params, parts, strict=True):
            part.write_back()
            if part.leaf.factor is not None:
                self._factors[p] = part.leaf.factor.squeeze(0)

    def _past_norms(self, group: dict[str, Any], chain: Chain, leaves: list[Leaf]) -> dict[str, Tensor]:
        if chain.shared and "past_norms" not in group:
            new = chain.init(leaves[0].weight.new_zeros(1, 0))
            group["past_norms"] = {key: value.squeeze(0) for key, value in new.items() if key in chain.shared}
        return group["past_norms"] if chain.shared else {}

    def _global_norm(self) -> Tensor | None:
        every = [(p, g["maximize"]) for g in self.param_groups for p in g["params"] if p.grad is not None]
        gradients = [(gradient_of(p, maximize)[1], _shards.parts_of(p)) for p, maximize in every]
        return _shards.norm_of_all(gradients, self.split_across)
