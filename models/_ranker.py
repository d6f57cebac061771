"""The multitask ranker of the study: a front, a bottom shared by all tasks or a mixture of experts, a head per task.

After Tang et al., Improving Training Stability for Multitask Ranking Models in Recommender Systems, KDD 2023
(arXiv 2302.09178). DCN-v2: Wang et al., WWW 2021 (arXiv 2008.13535). MMoE: Ma et al., KDD 2018.
Hidden weights are He-normal. Heads and gates are N(0, 1/fan-in). Biases are zero except those of the heads.

Shape letters: B batch, I inputs, H hidden units, E experts, T tasks.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import Spec


class Ranker(nn.Module):
    """inputs_BI -> logits_BT.

    Args:
        spec: What the data and the recipe ask of the network.
        hidden: Widths of the layers of the bottom, or of each expert.
        cross_layers: Full-rank DCN-v2 cross layers on the inputs, before the bottom.
        layer_norm: Whether the output of the cross layers is normalized.
        experts: 1 is a shared bottom. More are experts of that size, mixed by a softmax gate for each task (MMoE).
    """

    def __init__(
        self,
        spec: Spec,
        *,
        hidden: tuple[int, ...],
        cross_layers: int = 0,
        layer_norm: bool = True,
        experts: int = 1,
    ) -> None:
        super().__init__()
        self.front = _front(spec.width, cross_layers, layer_norm)
        if experts == 1:
            self.bottom = _mlp(spec.width, hidden)
            self.heads = Heads(hidden[-1], spec.head_bias)
        else:
            self.bottom = Experts(spec.width, hidden, experts, len(spec.head_bias))
            self.heads = TaskHeads(hidden[-1], spec.head_bias)

    def forward(self, inputs_BI: Tensor) -> Tensor:
        return self.heads(self.bottom(self.front(inputs_BI)))


class Cross(nn.Module):
    """x * (W x + b) + x: one full-rank cross layer on its own input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cross = _he_linear(width, width)

    def forward(self, inputs_BI: Tensor) -> Tensor:
        return inputs_BI * self.cross(inputs_BI) + inputs_BI


class CrossNorm(nn.Module):
    """LayerNorm(x * (W x + b) + x): one full-rank cross layer on its own input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cross = _he_linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, inputs_BI: Tensor) -> Tensor:
        return self.norm(inputs_BI * self.cross(inputs_BI) + inputs_BI)


class CrossLayers(nn.Module):
    """x <- x_0 * (W x + b) + x for each layer, where x_0 are the inputs; then LayerNorm, if asked."""

    def __init__(self, width: int, layers: int, layer_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_he_linear(width, width) for _ in range(layers))
        self.norm = nn.LayerNorm(width) if layer_norm else nn.Identity()

    def forward(self, inputs_BI: Tensor) -> Tensor:
        crossed_BI = inputs_BI
        for layer in self.layers:
            crossed_BI = inputs_BI * layer(crossed_BI) + crossed_BI
        return self.norm(crossed_BI)


class Experts(nn.Module):
    """inputs_BI -> mixed_TBH: bottoms side by side, mixed by one softmax gate a task."""

    def __init__(self, width: int, hidden: tuple[int, ...], experts: int, tasks: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(_mlp(width, hidden) for _ in range(experts))
        self.gates = nn.ModuleList(_output_linear(width, experts) for _ in range(tasks))

    def forward(self, inputs_BI: Tensor) -> Tensor:
        experts_BEH = torch.stack([expert(inputs_BI) for expert in self.experts], dim=1)
        # Each gate is a tensor of its own, for methods that act on one layer. One product computes them all.
        weight, bias = (torch.cat([getattr(gate, name) for gate in self.gates]) for name in ("weight", "bias"))
        gates_BTE = functional.linear(inputs_BI, weight, bias).unflatten(-1, (len(self.gates), -1)).softmax(-1)
        # Contiguous, so that the product of one run has the same bits alone and beside others.
        return (gates_BTE @ experts_BEH).transpose(0, 1).contiguous()


class Heads(nn.Module):
    """hidden_BH -> logits_BT.

    Each head is a tensor of its own, for methods that act on one layer. One product computes them all.
    """

    def __init__(self, width: int, bias: tuple[float, ...]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(1, width) / width**0.5 for _ in bias)
        self.biases = nn.ParameterList(torch.full((1,), float(value)) for value in bias)

    def forward(self, hidden_BH: Tensor) -> Tensor:
        return functional.linear(hidden_BH, torch.cat(list(self.weights)), torch.cat(list(self.biases)))


class TaskHeads(Heads):
    """mixed_TBH -> logits_BT: each head reads its own task's mixture."""

    def forward(self, hidden_BH: Tensor) -> Tensor:
        logits_TB = torch.stack(list(self.weights)) @ hidden_BH.mT
        return (logits_TB.squeeze(1) + torch.stack(list(self.biases))).mT


def _front(width: int, cross_layers: int, layer_norm: bool) -> nn.Module:
    if cross_layers == 0:
        return nn.Identity()
    if cross_layers > 1:
        return CrossLayers(width, cross_layers, layer_norm)
    return CrossNorm(width) if layer_norm else Cross(width)


def _mlp(width: int, hidden: tuple[int, ...]) -> nn.Sequential:
    widths = (width, *hidden)
    layers = (layer for pair in zip(widths, hidden, strict=False) for layer in (_he_linear(*pair), nn.ReLU()))
    return nn.Sequential(*layers)


def _he_linear(fan_in: int, fan_out: int) -> nn.Linear:
    return _linear(fan_in, fan_out, (2 / fan_in) ** 0.5)


def _output_linear(fan_in: int, fan_out: int) -> nn.Linear:
    return _linear(fan_in, fan_out, fan_in**-0.5)


def _linear(fan_in: int, fan_out: int, std: float) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
