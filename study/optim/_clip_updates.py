"""A method's clip around any torch optimizer: of torch, of this package or of another library."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from study import methods
from study.optim import _shards
from study.optim._touched import gradient_of, rows_of, wide
from study.transforms import Chain, Leaf, LeafLink, Scale

_SHARED_HOOKS = (
    "register_state_dict_pre_hook",
    "register_state_dict_post_hook",
    "register_load_state_dict_pre_hook",
    "register_load_state_dict_post_hook",
)


_OF_ADAGRAD = ("acc_rel", "delayed", "clip_accumulator")
"""Options of Clippy that need Adagrad's accumulator, and so are not available here."""


class ClipUpdates(torch.optim.Optimizer):
    """Limits the updates of an optimizer by the rule of a method.

        optimizer = ClipUpdates(torch.optim.AdamW(model.parameters(), lr=1e-3), "clippy", rel=0.5, abs=0.01)

    The optimizer makes its step; the change of each weight is its update, lr and weight decay included. A rule on the
    gradient (agc, layer_clip, global_clip) clips `.grad` before that. Use it in the optimizer's place:
    parameter groups, state and state dict are the optimizer's own, and it takes schedulers, closures and a GradScaler.
    A step never waits for the device, unless a sparse gradient is not coalesced. It needs one copy of the weights. Of a
    sparse gradient, the touched rows are limited.

    Args:
        optimizer: Any `torch.optim.Optimizer`.
        rule: Name of a method that keeps no state: "clippy", "agc", "update_rms_clip", "lamb", "layer_clip",
            "global_clip", or a dotted name of your own.
        options: The method's own thresholds and options, such as `max_ratio` of "agc" (the table in docs/methods.md).

    Raises:
        ValueError: If the rule or an option is unknown, the rule keeps a state, or an option is out of range.
    """

    _step_supports_amp_scaling = False  # a GradScaler unscales before the step, also for a fused optimizer

    def __init__(self, optimizer: torch.optim.Optimizer, rule: str = "clippy", **options: Any) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(f"need a torch optimizer, got {type(optimizer).__name__}")
        if methods.acts_on(rule):
            raise ValueError(f"{rule} is not available as an optimizer: it acts on more than the update")
        of_optimizer = sorted((methods.COMMON | methods.signature(rule).of_base).keys() & options.keys())
        if of_optimizer:
            raise ValueError(f"{of_optimizer[0]} belongs to the optimizer, got {of_optimizer[0]} for {rule}")
        known = [key for key in methods.signature(rule).defaults if key not in methods.COMMON]
        methods.check_known(rule, options, [key for key in known if key not in _OF_ADAGRAD or key in options])
        # the base takes no part: this one has no option that a method could ask for
        options = methods.check(rule, options | {"base": "sgd"})
        del options["base"]
        if _builder(rule, options)(1.0).init(torch.zeros(1, 0)):
            raise ValueError(f"need a rule without a state, got {rule}")
        _shards.refuse_flattened([p for group in optimizer.param_groups for p in group["params"]], rule)
        self.__setstate__({"optimizer": optimizer, "rule": rule, "options": options})

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer, "rule": self.rule, "options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.optimizer: torch.optim.Optimizer = state["optimizer"]
        super().__setstate__(state)
        self._chain = _builder(self.rule, self.options)
        self._before: dict[Tensor, tuple[tuple[Tensor, ...] | None, Tensor]] = {}
        self._factors: dict[Tensor, Tensor] = {}
        for name in _SHARED_HOOKS:
            setattr(self, name, getattr(self.optimizer, name))

    def __getattr__(self, name: str) -> Any:
        """Return what only the optimizer has, such as its `train` and `eval`."""
        if name == "optimizer":
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    param_groups = property(lambda self: self.optimizer.param_groups)  # pyright: ignore[reportAssignmentType]
    state = property(lambda self: self.optimizer.state)  # pyright: ignore[reportAssignmentType]
    defaults = property(lambda self: self.optimizer.defaults)  # pyright: ignore[reportAssignmentType]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to the optimizer."""
        self.optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's own state dict."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of the optimizer."""
        self.optimizer.load_state_dict(state_dict)

    def clip_factors(self) -> dict[Tensor, Tensor]:
        """Return the factor of each parameter in the last step; the smallest, if a tensor has one for each unit.

        They are always recorded. Empty before the first step.
        """
        return dict(self._factors)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make the optimizer's step, limit it, and return what the optimizer returns."""
        self._before, self._factors = {}, {}

        def evaluate() -> Any:
            assert closure is not None
            with torch.enable_grad():
                loss = closure()
            with torch.no_grad():
                self._begin()
            return loss

        if closure is None:
            self._begin()
            loss = self.optimizer.step()
        else:
            loss = self.optimizer.step(evaluate)
        for group in self.param_groups:
            chain = self._part(group, of_gradient=False)
            if all(isinstance(link, _Direction | Scale) for link in chain.links):
                continue  # the rule is on the gradient alone
            for p in group["params"]:
                if p in self._before:
                    self._limit(p, group["lr"], chain)
        self._before = {}
        return loss

    def _begin(self) -> None:
        """Apply the links on the gradient, and keep the weights."""
        groups = [(g, [p for p in g["params"] if p.grad is not None]) for g in self.param_groups]
        chains = [self._part(group, of_gradient=True) for group, _ in groups]
        norm = None
        if not all(chain.per_leaf for chain in chains):
            every = [p for _, params in groups for p in params]
            norm = _shards.norm_of_all([(gradient_of(p, False)[1], _shards.parts_of(p)) for p in every], None)
        for (_, params), chain in zip(groups, chains, strict=True):
            for p in params:
                rows, gradient = gradient_of(p, False)
                weight = rows_of(_shards.local_part(p.detach()), rows)
                if chain.links:
                    self._scale_gradient(p, rows, gradient, weight, chain, norm)
                self._before.setdefault(p, (rows, weight if rows is not None else weight.clone()))

    def _scale_gradient(
        self,
        p: Tensor,
        rows: tuple[Tensor, ...] | None,
        gradient: Tensor,
        weight: Tensor,
        chain: Chain,
        norm: Tensor | None,
    ) -> None:
        leaf = _leaf(p, weight, gradient)
        if norm is not None:
            leaf.scratch["global_norm"] = norm
        chain.updates([leaf])
        assert leaf.factor is not None
        self._factors[p] = leaf.factor.squeeze(0)
        if rows is None:
            p.grad = _shards.sharded_like(leaf.update.squeeze(0).to(p.dtype), p)
        else:
            values = leaf.update.squeeze(0).to(p.dtype)
            p.grad = torch.sparse_coo_tensor(torch.stack(rows), values, p.shape, is_coalesced=True)

    def _limit(self, p: Tensor, lr: float | Tensor, chain: Chain) -> None:
        rows, before = self._before[p]
        weight = _shards.local_part(p.detach())
        after = rows_of(weight, rows)
        leaf = _leaf(p, before, gradient_of(p, False)[1])
        leaf.scratch["direction"] = (leaf.weight - after.to(leaf.weight.dtype)) / _divisor(lr)
        chain.updates([leaf])
        assert leaf.factor is not None
        factor = leaf.factor.squeeze(0)
        self._factors[p] = self._factors[p] * factor if p in self._factors else factor
        limited = (leaf.weight - leaf.update).squeeze(0).to(p.dtype)
        limited = torch.where(factor == 1, after, limited)  # a factor of 1 changes no bit
        if rows is None:
            weight.copy_(limited)
        else:
            weight[rows] = limited

    def _part(self, group: dict[str, Any], *, of_gradient: bool) -> Chain:
        links = self._chain(_divisor(group["lr"])).links
        [at] = (i for i, link in enumerate(links) if isinstance(link, _Direction))
        return Chain(links[:at] if of_gradient else links[at:])


class _Direction(LeafLink):
    """Stands for the base: the optimizer's own update, without the lr."""

    def apply_one(self, leaf: Leaf) -> None:
        leaf.update = leaf.scratch["direction"]


def _builder(rule: str, options: dict[str, Any]) -> Callable[[float | Tensor], Chain]:
    """Return what builds the chain at an lr. It looks nothing up, so that `torch.compile` can trace it."""
    known = {key: value for key, value in methods.signature(rule).defaults.items() if key not in methods.COMMON}
    return functools.partial(methods.load(rule).build, base=lambda **_: _Direction(), **(known | options))


def _divisor(lr: float | Tensor) -> float | Tensor:
    """Return the lr, or 1 if it is 0: then the update is 0 as well."""
    return torch.where(lr == 0, 1.0, lr) if isinstance(lr, Tensor) else lr or 1.0


def _leaf(p: Tensor, weight: Tensor, gradient: Tensor) -> Leaf:
    weight, gradient = weight.to(wide(weight.dtype)).unsqueeze(0), gradient.unsqueeze(0)
    return Leaf(weight, gradient, gradient, factor=weight.new_ones(1), parts=_shards.parts_of(p))
