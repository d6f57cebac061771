"""The multitask ranker, its size by options."""

from models import Spec
from models._ranker import Ranker

MOST_LAYERS = 1_000
"""A plan tries the runs of a network side by side, which takes a minute for so many layers."""

MOST_WEIGHTS = 250_000_000
"""A plan holds about 26 copies of a network (measured): 24 GiB for so many. The largest of the paper have 203M."""


def build(
    spec: Spec,
    *,
    width: int = 64,
    depth: int = 2,
    cross_layers: int = 0,
    layer_norm: bool = True,
    experts: int = 1,
) -> Ranker:
    """Return a ranker with hidden layers of one width.

    Args:
        spec: What the data and the recipe ask of the network.
        width: Units of each hidden layer.
        depth: Hidden layers of the bottom, or of each expert.
        cross_layers: DCN-v2 cross layers in front of the bottom.
        layer_norm: Whether the output of the cross layers is normalized.
        experts: 1 is a shared bottom; more are mixed by a gate for each task (MMoE).

    Raises:
        ValueError: If a size is out of range, the network is too large, or `layer_norm` is off without a cross layer.
    """
    for name, value, least in (
        ("width", width, 1),
        ("depth", depth, 1),
        ("cross_layers", cross_layers, 0),
        ("experts", experts, 1),
    ):
        if value < least:
            raise ValueError(f"need {name} >= {least}, got {name}={value}")
    layers = depth * experts + cross_layers
    weights = experts * width * (spec.width + (depth - 1) * width) + cross_layers * spec.width**2
    for what, number, most in (("layers", layers, MOST_LAYERS), ("weights", weights, MOST_WEIGHTS)):
        if number > most:
            raise ValueError(
                f"a network has at most {most:,} {what}, and this one would have {number:,} (inputs={spec.width}, "
                f"width={width}, depth={depth}, cross_layers={cross_layers}, experts={experts})"
            )
    if not layer_norm and not cross_layers:
        raise ValueError("layer_norm=false needs cross_layers >= 1")
    return Ranker(spec, hidden=(width,) * depth, cross_layers=cross_layers, layer_norm=layer_norm, experts=experts)
