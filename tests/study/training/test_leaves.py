"""Parameters side by side get the updates that each gets by itself."""

import pytest
import torch
from torch import Tensor

from study.training.leaves import NamedLeaves, PackedLeaves, Places
from study.transforms import (
    Link,
    chain,
    clip_by_global_norm,
    clip_by_percentile,
    clip_by_z_score,
    clip_to_average_norm,
    scale_by_adam,
    scale_by_rmsprop,
    scale_by_sgd,
)

SHAPES = {"matrix": (2, 3, 2), "bias": (2, 1)}
"""Seven numbers of each of two runs, which are no whole words."""


def three_updates(*links: Link, packed: bool) -> list[dict[str, Tensor]]:
    method = chain(*links)
    draws = torch.Generator().manual_seed(0)
    parameters = {k: torch.randn(s, generator=draws, dtype=torch.float64) for k, s in SHAPES.items()}
    states = {name: method.init(weight) for name, weight in parameters.items()}
    leaves_of = NamedLeaves(parameters, states)
    if packed:
        places = Places(parameters)
        assert places.beyond
        weight_RP = places.packed(parameters)
        leaves_of = PackedLeaves(places.views(weight_RP), weight_RP, places, states, method)
    found = []
    for _ in range(3):
        gradients = {k: torch.randn(s, generator=draws, dtype=torch.float64) for k, s in SHAPES.items()}
        leaves = leaves_of.of(gradients, None)
        method.updates(leaves)
        found.append({name: leaf.update.clone() for name, leaf in leaves_of.by_name(leaves).items()})
        leaves_of.apply(leaves)
    return found


# That the second moment fades at once makes the update of numbers that no tensor has 0 / 0 from the second step on.
@pytest.mark.parametrize(
    "base",
    [
        scale_by_adam(),
        scale_by_adam(b2=1e-200, eps=0.0),
        scale_by_rmsprop(),
        scale_by_rmsprop(1e-200, eps=0.0),
        scale_by_sgd(0.9),
    ],
    ids=["adam", "adam that forgets", "rmsprop", "rmsprop that forgets", "momentum"],
)
@pytest.mark.parametrize(
    "clip",
    [
        clip_by_global_norm(0.1),
        clip_by_z_score(0.1, warmup_steps=1),
        clip_by_percentile(50.0),
        clip_to_average_norm(0.9, 0.1, warmup_steps=2),
    ],
    ids=["global norm", "z-score", "percentile", "average norm"],
)
def test_numbers_that_no_tensor_has_count_in_no_norm_of_an_update(base: Link, clip: Link) -> None:
    alone, together = (three_updates(base, clip, packed=packed) for packed in (False, True))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
