"""One optimizer class for each method, with the method's thresholds in its signature.

All take parameters or parameter groups, and a learning rate: a float or a tensor of one element. All take the keywords
of `MethodOptimizer` too: `initial_accumulator_value`, `eps`, `base`, `weight_decay`, `momentum`, `maximize` and
`record_clip_factors`.
"""

from typing import ClassVar, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from study.optim._base import Common, MethodOptimizer


class Clippy(MethodOptimizer):
    """Shrink each step so that no weight moves by more than a share of itself (`study.methods.clippy`).

        sigma = min(1, min_i (relative_threshold * |w_i| + absolute_threshold) / |u_i|) ;  w -= sigma * u

    One factor a parameter tensor; u is the base's update, lr included.

    Args:
        relative_threshold: Share of its own size by which a weight may move.
        absolute_threshold: Added to that share, so that zero weights can move.
        accumulator_relative_threshold: Adds `accumulator_relative_threshold / sqrt(G + eps)` to the bound.
        delayed_accumulator: Divide by the accumulator before this gradient (the authors' released code).
        clip_accumulator: With `delayed_accumulator`, accumulate `(sigma * g)^2`.
        norm: "max", or "rms" for the root mean square of the ratios.

    Source: Tang et al., KDD 2023 (arXiv 2302.09178), Algorithm 1.
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
        *,
        delayed_accumulator: bool = False,
        clip_accumulator: bool = False,
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
        super().__init__(params, lr, "clippy", options, **common)


class AGC(MethodOptimizer):
    """Clip gradients to a share of the weights' norm (`study.methods.agc`).

        g *= min(1, max_ratio * max(norm(w), floor) / norm(g))

    Args:
        max_ratio: Largest ratio of the gradient's norm to the weights'.
        floor: Smallest norm of the weights that counts.
        per: "tensor", or "unit" for each output unit (NFNets).
        after: Whether the raw gradient feeds the accumulator, and the factor scales the update.

    Source: Brock et al., ICML 2021 (arXiv 2102.06171).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        max_ratio: float = 0.01,
        floor: float = 1e-3,
        *,
        per: str = "tensor",
        after: bool = False,
        **common: Unpack[Common],
    ) -> None:
        options = {"max_ratio": max_ratio, "floor": floor, "per": per, "after": after}
        super().__init__(params, lr, "agc", options, **common)


class LAMB(MethodOptimizer):
    """Scale Adagrad's direction r to the weights' norm: `u = lr * mu * norm(w) / norm(r) * r` (`study.methods.lamb`).

    There is no global clip before it, and weight decay is not part of the ratio.

    Args:
        mu: Step length as a share of the weights' norm.

    Source: You et al., ICLR 2020 (arXiv 1904.00962), with Adagrad in place of Adam.
    """

    def __init__(self, params: ParamsT, lr: float | Tensor, mu: float = 0.1, **common: Unpack[Common]) -> None:
        super().__init__(params, lr, "lamb", {"mu": mu}, **common)


class LayerClip(MethodOptimizer):
    """Clip each tensor's gradient to a norm (`study.methods.layer_clip`).

    Args:
        max_norm: Largest norm of a tensor's gradient.
        after: Whether the raw gradient feeds the accumulator, and the factor scales the update.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        max_norm: float = 0.1,
        *,
        after: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, lr, "layer_clip", {"max_norm": max_norm, "after": after}, **common)


class GlobalClip(MethodOptimizer):
    """Clip all gradients to one norm, over every parameter group (`study.methods.global_clip`).

    Args:
        max_norm: Largest norm of all gradients together.
        after: Whether the raw gradient feeds the accumulator, and the factor scales the update.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        max_norm: float = 1.0,
        *,
        after: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, lr, "global_clip", {"max_norm": max_norm, "after": after}, **common)


class UpdateRMSClip(MethodOptimizer):
    """Shrink the base's direction to a root mean square, per tensor (`study.methods.update_rms_clip`).

    Args:
        d: Largest root mean square. Adafactor's 1 suits the bases "rmsprop" and "adamw". After Adagrad it would never
            act, since |r| < 1.

    Source: Shazeer & Stern, ICML 2018 (arXiv 1804.04235).
    """

    def __init__(self, params: ParamsT, lr: float | Tensor, d: float = 0.05, **common: Unpack[Common]) -> None:
        super().__init__(params, lr, "update_rms_clip", {"d": d}, **common)


class ZClip(MethodOptimizer):
    """Clip all gradients when their norm is an outlier among past norms (`study.methods.zclip`).

    The norm is taken over all parameter groups, and each group remembers all norms: those of steps without a gradient
    of its own too.

    Args:
        z_max: Standard deviations above the mean at which a norm is an outlier.
        decay: Of the moving mean and variance.
        warmup_steps: Steps that are not clipped and give the first mean and variance.

    Source: Kumar et al., 2025 (arXiv 2504.02507).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        z_max: float = 2.5,
        decay: float = 0.97,
        warmup_steps: int = 25,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, lr, "zclip", {"z_max": z_max, "decay": decay, "warmup_steps": warmup_steps}, **common)


class AdaGC(MethodOptimizer):
    """Clip each tensor's gradient to `rel` times its own moving average norm (`study.methods.adagc`).

    Args:
        rel: Largest ratio of a norm to the moving average.
        abs: Limit of the norm over all parameter groups during the warm-up.
        decay: Of the moving average.
        warmup_steps: Steps of the warm-up.

    Source: Wang et al., 2025 (arXiv 2502.11034).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        rel: float = 1.05,
        abs: float = 1.0,
        decay: float = 0.98,
        warmup_steps: int = 100,
        **common: Unpack[Common],
    ) -> None:
        options = {"rel": rel, "abs": abs, "decay": decay, "warmup_steps": warmup_steps}
        super().__init__(params, lr, "adagc", options, **common)


class AutoClip(MethodOptimizer):
    """Clip all gradients to a percentile of past norms, over all parameter groups (`study.methods.autoclip`).

    Args:
        percentile: Of the norms so far, in 0 to 100.
        history: How many of the newest norms are kept.

    Source: Seetharaman et al., MLSP 2020 (arXiv 2007.14469).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        percentile: float = 10.0,
        history: int = 1000,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, lr, "autoclip", {"percentile": percentile, "history": history}, **common)
