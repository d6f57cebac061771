"""Links of methods: transforms from a gradient to an update, for many runs at once.

A `Chain` passes the gradient from link to link. The result is subtracted from the weight:

    layer_clip = chain(clip_by_norm(max_norm), scale_by_adagrad(), scale(lr))
    clippy     = chain(scale_by_adagrad(), scale(lr), shrink_to_weights(rel, abs_))

A hyperparameter is a float, or a tensor of shape (R,) with one value for each run. Tensors may change between steps.
"""

from study.transforms._adaptive_clipping import clip_by_percentile, clip_by_z_score, clip_to_average_norm
from study.transforms._base import Base, Chain, ElementLink, Leaf, LeafLink, Link, Parts, apply_factor, chain
from study.transforms._clipping import (
    clip_by_global_norm,
    clip_by_norm,
    clip_by_rms,
    clip_to_weights,
    shrink_to_weights,
)
from study.transforms._math import Scalar, global_norm, per_run
from study.transforms._scaling import (
    Scale,
    decay_weights,
    scale,
    scale_by_adagrad,
    scale_by_adam,
    scale_by_rmsprop,
    scale_by_sgd,
    scale_by_trust_ratio,
)
from study.transforms._segments import Segments

__all__ = [
    "Base",
    "Chain",
    "ElementLink",
    "Leaf",
    "LeafLink",
    "Link",
    "Parts",
    "Scalar",
    "Scale",
    "Segments",
    "apply_factor",
    "chain",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_percentile",
    "clip_by_rms",
    "clip_by_z_score",
    "clip_to_average_norm",
    "clip_to_weights",
    "decay_weights",
    "global_norm",
    "per_run",
    "scale",
    "scale_by_adagrad",
    "scale_by_adam",
    "scale_by_rmsprop",
    "scale_by_sgd",
    "scale_by_trust_ratio",
    "shrink_to_weights",
]
