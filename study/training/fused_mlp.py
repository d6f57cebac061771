"""The study's own shared-bottom rankers on CPU, with a forward and a backward pass written by hand.

`StackedNetworks` computes layer by layer for all runs, so each activation of 32 runs pushes the last one out of the
cache. Here a few runs at a time go through all layers, their loss and back while they fit into the cache of a core.
Only their activations are kept. The result equals `StackedNetworks` except for rounding
(tests/study/training/test_fused_mlp.py); the gain is in docs/performance.md.

Shape letters: R runs, C of them at a time, B batch, I inputs, P inputs padded with zeros (`study.training.inputs`),
O outputs of a layer, H width of the last hidden layer, T tasks.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models._ranker import CrossNorm, Heads, Ranker
from study.data._dataset import Task
from study.training.inputs import Inputs, TouchedInputs
from study.training.losses import LossGradient, mean_losses
from study.training.matmul import product
from study.training.networks import StackedNetworks

_relu_backward = torch.ops.aten.threshold_backward.grad_input
_norm_backward = torch.ops.aten.native_layer_norm_backward.default

BYTES_AT_A_TIME = 2**21
"""Bytes of activations at a time: few runs fit into a cache, and many share the overhead of an operation."""


def takes(network: nn.Module, dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether the networks of a stack can be computed here: rankers as `models` builds them, unchanged."""
    return (
        type(network) is Ranker
        and _is_plain(network.front)
        and type(network.heads) is Heads
        and type(network.bottom) is nn.Sequential
        and [type(layer) for layer in network.bottom] == [nn.Linear, nn.ReLU] * (len(network.bottom) // 2)
        and not any(_is_changed(module) for module in network.modules())
        and all(p.requires_grad for p in network.parameters())
        and len(list(network.parameters())) == len(list(network.named_parameters(remove_duplicate=False)))
        and (dtype, device.type) == (torch.float32, "cpu")
    )


def _is_plain(front: nn.Module) -> bool:
    if type(front) is CrossNorm:
        return (type(front.cross), type(front.norm)) == (nn.Linear, nn.LayerNorm)
    return type(front) is nn.Identity


def _is_changed(module: nn.Module) -> bool:
    """Whether a user has changed what a module computes: hooks, a forward of its own, no bias."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    own = "forward" in vars(module) or getattr(module, "bias", module) is None
    return any(hooks) or own or bool(module._buffers)


class FusedRankers(StackedNetworks):
    """Rankers of one shape: one cross layer with LayerNorm or none, linear layers with ReLU, heads."""

    def _prepare(self, networks: Sequence[nn.Module]) -> None:
        self.limits_R11 = None if self.unit_limit is None else self.unit_limit.float().view(-1, 1, 1)
        network = networks[0]
        assert isinstance(network, Ranker)
        assert isinstance(network.bottom, nn.Sequential)
        self.gradients = {name: torch.zeros_like(p, requires_grad=False) for name, p in self.parameters.items()}
        both = {name: (p.detach(), self.gradients[name]) for name, p in self.parameters.items()}
        self.front = _FusedCross(both, network.front) if isinstance(network.front, CrossNorm) else None
        names = [f"bottom.{i}" for i, layer in enumerate(network.bottom) if isinstance(layer, nn.Linear)]
        self.bottom = [_FusedLinear(both, name) for name in names]
        self.heads = _FusedHeads(both)

    def learn(
        self, inputs: Inputs, labels_RTB: Tensor, tasks: Sequence[Task], share_RTB: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        assert isinstance(inputs, TouchedInputs)
        by_logits = LossGradient(tasks, inputs.batch, inputs.dtype, inputs.device)
        logits_RTB = torch.empty_like(labels_RTB)
        with torch.inference_mode():  # cheaper than `no_grad`
            self.heads.prepare()
            for runs, rows in self._parts(inputs):
                part = slice(runs.start, runs.stop)
                logits_CTB, activations = self._forward(part, rows)
                logits_RTB[part] = logits_CTB
                gradient_CTB = by_logits(logits_CTB, labels_RTB[part], None if share_RTB is None else share_RTB[part])
                gradient_CBI = self._backward(part, activations, gradient_CTB, inputs.embedded_width)
                if inputs.features:
                    inputs.take_gradient_of(runs, gradient_CBI)
            self.heads.finish()
            return mean_losses(logits_RTB, labels_RTB, tasks, share_RTB), list(self.gradients.values())

    def logits(self, inputs: Inputs) -> Tensor:
        assert isinstance(inputs, TouchedInputs)
        with torch.inference_mode():
            self.heads.prepare()
            parts = [self._forward(slice(runs.start, runs.stop), rows)[0] for runs, rows in self._parts(inputs)]
            return torch.cat(parts)

    def _parts(self, inputs: TouchedInputs) -> Iterator[tuple[range, Tensor]]:
        """Yield a few runs at a time with their inputs: (C, B, P), or (C, B, I) for a cross layer, which allows no
        padding."""
        widths = inputs.width * (3 if self.front else 1) + sum(layer.weight_ROI.shape[1] for layer in self.bottom)
        most = max(1, BYTES_AT_A_TIME // (widths * inputs.batch * inputs.dtype.itemsize))
        for first in range(0, inputs.runs, most):
            runs = range(first, min(first + most, inputs.runs))
            rows_CBP = inputs.rows_of(runs)
            yield runs, rows_CBP[:, :, : inputs.width].contiguous() if self.front else rows_CBP

    def _forward(self, part: slice, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the logits (C, T, B), and the inputs of each layer, the heads last."""
        activations = [rows]
        if self.front:
            activations.append(self.front.forward(part, rows))
        for layer in self.bottom:
            hidden = layer.forward(part, activations[-1]).relu_()
            activations.append(hidden if self.limits_R11 is None else hidden.clamp_(max=self.limits_R11[part]))
        return self.heads.forward(part, activations[-1]), activations

    def _backward(self, part: slice, activations: list[Tensor], gradient: Tensor, embedded: int) -> Tensor:
        """Return the gradient by the embedded inputs (C, B, F * E), from that by the logits (C, T, B).

        The gradients of the parameters are stored.
        """
        gradient = self.heads.backward(part, activations[-1], gradient)
        for i, layer in reversed(list(enumerate(self.bottom, 1 if self.front else 0))):
            inputs, out = activations[i : i + 2]
            if self.limits_R11 is not None:
                gradient = torch.where(out < self.limits_R11[part], gradient, 0.0)
            gradient = _relu_backward(gradient, out, 0, grad_input=gradient)
            gradient = layer.backward(part, inputs, gradient, None if i else embedded)
        return self.front.backward(part, activations[0], gradient, embedded) if self.front else gradient


class _FusedLinear:
    """A linear layer of all runs. Its inputs may be padded with zeros, P instead of I."""

    def __init__(self, both: dict[str, tuple[Tensor, Tensor]], name: str) -> None:
        self.weight_ROI, self.of_weight_ROI = both[f"{name}.weight"]
        bias_RO, self.of_bias_RO = both[f"{name}.bias"]
        self.bias_R1O = bias_RO.unsqueeze(1)

    def forward(self, part: slice, inputs_CBP: Tensor) -> Tensor:
        weight, filled = self.weight_ROI[part], inputs_CBP.shape[2] - self.weight_ROI.shape[2]
        weight = functional.pad(weight, (0, filled)) if filled else weight
        return product(inputs_CBP, weight.mT).add_(self.bias_R1O[part])

    def backward(self, part: slice, inputs_CBP: Tensor, gradient_CBO: Tensor, most: int | None = None) -> Tensor:
        """Return the gradient by the first `most` inputs, or all. Stores those by weight and bias."""
        torch.sum(gradient_CBO, 1, out=self.of_bias_RO[part])
        width = self.weight_ROI.shape[2]
        if inputs_CBP.shape[2] == width:
            product(gradient_CBO.mT, inputs_CBP, out=self.of_weight_ROI[part])
        else:
            self.of_weight_ROI[part] = product(gradient_CBO.mT, inputs_CBP)[:, :, :width]
        # A product with rows that are not contiguous is 100 times slower.
        return product(gradient_CBO, self.weight_ROI[part, :, :most].contiguous())


class _FusedCross:
    """LayerNorm(x * (W x + b) + x) of all runs."""

    def __init__(self, both: dict[str, tuple[Tensor, Tensor]], module: CrossNorm) -> None:
        self.cross = _FusedLinear(both, "front.cross")
        self.eps = module.norm.eps
        (self.scale_RI, self.of_scale_RI), (self.shift_RI, self.of_shift_RI) = (
            both[f"front.norm.{kind}"] for kind in ("weight", "bias")
        )
        self.kept: tuple[Tensor, Tensor, list[list[Tensor]]]

    def forward(self, part: slice, rows_CBI: Tensor) -> Tensor:
        crossed = self.cross.forward(part, rows_CBI)
        total = (rows_CBI * crossed).add_(rows_CBI)
        out, moments = torch.empty_like(total), []
        for out_BI, total_BI, scale_I, shift_I in zip(
            out, total, self.scale_RI[part], self.shift_RI[part], strict=True
        ):
            # one run at a time: torch's norm of many runs with their own scales takes more than twice as long
            normed, *of_run = torch.native_layer_norm(total_BI, scale_I.shape, scale_I, shift_I, self.eps)
            out_BI.copy_(normed)
            moments.append(of_run)
        self.kept = crossed, total, moments
        return out

    def backward(self, part: slice, rows_CBI: Tensor, gradient: Tensor, most: int) -> Tensor:
        crossed, total, moments = self.kept
        runs = range(part.start, part.stop)
        for run, gradient_BI, total_BI, of_run in zip(runs, gradient, total, moments, strict=True):
            scale_I, shift_I = self.scale_RI[run], self.shift_RI[run]
            of_total, of_scale, of_shift = _norm_backward(
                gradient_BI, total_BI, scale_I.shape, *of_run, scale_I, shift_I, [True, True, True]
            )
            gradient_BI.copy_(of_total)
            self.of_scale_RI[run], self.of_shift_RI[run] = of_scale, of_shift
        out = self.cross.backward(part, rows_CBI, gradient * rows_CBI, most)
        return out.add_(crossed.mul_(gradient).add_(gradient)[:, :, :most])


class _FusedHeads:
    """The linear heads of all tasks, computed as one product."""

    def __init__(self, both: dict[str, tuple[Tensor, Tensor]]) -> None:
        self.tasks = sum(name.startswith("heads.weights.") for name in both)
        self.pairs = [[both[f"heads.{kind}.{t}"] for t in range(self.tasks)] for kind in ("weights", "biases")]
        self.weight_RTH, self.bias_RT = [torch.cat([p for p, _ in pairs], 1) for pairs in self.pairs]
        self.of_weight_RTH, self.of_bias_RT = torch.zeros_like(self.weight_RTH), torch.zeros_like(self.bias_RT)

    def prepare(self) -> None:
        """Gather the heads, before each batch."""
        for pairs, together in zip(self.pairs, (self.weight_RTH, self.bias_RT), strict=True):
            torch.cat([p for p, _ in pairs], 1, out=together)

    def forward(self, part: slice, hidden_CBH: Tensor) -> Tensor:
        return torch.bmm(self.weight_RTH[part], hidden_CBH.mT).add_(self.bias_RT[part].unsqueeze(2))

    def backward(self, part: slice, hidden_CBH: Tensor, gradient_CTB: Tensor) -> Tensor:
        torch.sum(gradient_CTB, 2, out=self.of_bias_RT[part])
        torch.bmm(gradient_CTB, hidden_CBH, out=self.of_weight_RTH[part])
        return torch.bmm(gradient_CTB.mT, self.weight_RTH[part])

    def finish(self) -> None:
        """Scatter the gradients to the heads, after each batch."""
        for pairs, together in zip(self.pairs, (self.of_weight_RTH, self.of_bias_RT), strict=True):
            for t, (_, gradient) in enumerate(pairs):
                gradient.copy_(together[:, t : t + 1])
