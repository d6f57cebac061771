"""The study's own shared-bottom rankers on CPU: forward and backward by hand, one run after the other.

`networks.Stacked` computes layer by layer for all runs; each activation of 32 runs pushes the last one out of the
cache. Here a run goes through all its layers, its loss and back while it lies in the cache of its core, and only one
run's activations are ever kept. Equal to `Stacked` but for rounding (tests/test_fused.py); what it earns stands in
docs/performance.md. All other networks go by `Stacked`.

Shape letters: R runs, G groups of runs that share a seed, B batch, I inputs, P inputs filled up to whole words, O
outputs of a layer, H width of the last hidden layer, T tasks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models._ranker import CrossNorm, Heads, Ranker
from study.inputs import Inputs, whole_words
from study.log import Task
from study.losses import LossGradient
from study.networks import Stacked, mean_losses
from study.products import product, suits

_relu_backward = torch.ops.aten.threshold_backward.default
_norm_backward = torch.ops.aten.native_layer_norm_backward.default


def takes(network: nn.Module, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a network is of the kind that is computed here."""
    return (
        type(network) is Ranker
        and type(network.heads) is Heads
        and type(network.bottom) is nn.Sequential
        and all(suits(dtype, device, *p.shape) for p in network.bottom.parameters() if p.dim() == 2)
    )


class FusedRankers(Stacked):
    """Rankers of one shape: a cross layer with its norm or nothing, linear layers with ReLU, heads."""

    def __init__(
        self,
        networks: Sequence[nn.Module],
        dtype: torch.dtype,
        device: torch.device,
        seeds: Sequence[int] = (),
        unit_limit: Tensor | None = None,
    ) -> None:
        super().__init__(networks, dtype, device, seeds, unit_limit)
        self.unit_limits = None if unit_limit is None else unit_limit.to(dtype).unbind()
        network = networks[0]
        assert isinstance(network, Ranker)
        assert isinstance(network.bottom, nn.Sequential)
        self.gradients = {name: torch.zeros_like(p, requires_grad=False) for name, p in self.parameters.items()}
        both = {name: (p.detach(), self.gradients[name]) for name, p in self.parameters.items()}
        self.front = _Cross(both, network.front) if isinstance(network.front, CrossNorm) else None
        names = [f"bottom.{i}" for i, layer in enumerate(network.bottom) if isinstance(layer, nn.Linear)]
        self.bottom = [_Linear(both, name, whole_rows=not (i or self.front)) for i, name in enumerate(names)]
        self.heads = _Heads(both)

    def learn(self, inputs: Inputs, labels_GBT: Tensor, tasks: Sequence[Task]) -> tuple[Tensor, list[Tensor]]:
        """As `Stacked.learn`."""
        by_logits = LossGradient(tasks, inputs.batch, inputs.dtype, inputs.device)
        logits_RBT = torch.empty(inputs.runs, inputs.batch, len(tasks), dtype=inputs.dtype)
        with torch.no_grad():
            self._prepare()
            for run, rows_BP in enumerate(inputs.rows_of_runs()):
                logits_BT, activations = self._forward(run, rows_BP)
                logits_RBT[run].copy_(logits_BT)
                gradient_BT = by_logits(logits_BT, labels_GBT[run // inputs.runs_of_group])
                gradient_BP = self._backward(run, rows_BP, activations, gradient_BT)
                if inputs.features:
                    inputs.take_gradient_of_run(run, gradient_BP)
            self.heads.finish()
            return mean_losses(logits_RBT, labels_GBT, tasks), list(self.gradients.values())

    def logits(self, inputs: Inputs) -> Tensor:
        """As `Stacked.logits`."""
        with torch.no_grad():
            self._prepare()
            return torch.stack([self._forward(run, rows_BP)[0] for run, rows_BP in enumerate(inputs.rows_of_runs())])

    def _prepare(self) -> None:
        for layer in (*self.bottom, self.heads, *([self.front.cross] if self.front else [])):
            layer.prepare()

    def _forward(self, run: int, rows_BP: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, T), and what each layer of the bottom and the heads read."""
        activations = [self.front.forward(run, rows_BP) if self.front else rows_BP]
        for layer in self.bottom:
            hidden = layer.forward(run, activations[-1]).relu_()
            activations.append(hidden if self.unit_limits is None else hidden.clamp_(max=self.unit_limits[run]))
        return self.heads.forward(run, activations[-1]), activations

    def _backward(self, run: int, rows_BP: Tensor, activations: list[Tensor], gradient: Tensor) -> Tensor:
        """From the gradient by the logits to that by the inputs, (B, P); those of parameters on the way."""
        *below, last = activations
        gradient = self.heads.backward(run, last, gradient)
        for layer, out, inputs in zip(self.bottom[::-1], activations[:0:-1], below[::-1], strict=True):
            if self.unit_limits is not None:
                gradient = torch.where(out < self.unit_limits[run], gradient, 0.0)
            gradient = layer.backward(run, inputs, _relu_backward(gradient, out, 0))
        return self.front.backward(run, rows_BP, gradient) if self.front else gradient


class _Linear:
    """A linear layer of all runs. whole_rows: what it reads is filled up with zeros, and so are its weights."""

    def __init__(self, both: dict[str, tuple[Tensor, Tensor]], name: str, *, whole_rows: bool) -> None:
        self.weight_ROI, of_weight = both[f"{name}.weight"]
        bias, of_bias = both[f"{name}.bias"]
        self.width = self.weight_ROI.shape[2]
        self.filled_ROP = None
        if whole_rows and whole_words(self.width) > self.width:
            self.filled_ROP = self.weight_ROI.new_zeros(*self.weight_ROI.shape[:2], whole_words(self.width))
        self.weights = (self.weight_ROI if self.filled_ROP is None else self.filled_ROP).unbind()
        self.transposed = [weight.T for weight in self.weights]
        self.biases, self.of_weights, self.of_biases = bias.unbind(), of_weight.unbind(), of_bias.unbind()

    def prepare(self) -> None:
        """Before each batch."""
        if self.filled_ROP is not None:
            self.filled_ROP[:, :, : self.width] = self.weight_ROI

    def forward(self, run: int, inputs: Tensor) -> Tensor:
        return product(inputs, self.weights[run], self.biases[run])

    def backward(self, run: int, inputs: Tensor, gradient_BO: Tensor) -> Tensor:
        """The gradient by the inputs; those by weight and bias are kept."""
        torch.sum(gradient_BO, 0, out=self.of_biases[run])
        self.of_weights[run].copy_(product(gradient_BO.T, inputs.T)[:, : self.width])
        return product(gradient_BO, self.transposed[run])


class _Cross:
    """LayerNorm(x * (W x + b) + x) of all runs."""

    def __init__(self, both: dict[str, tuple[Tensor, Tensor]], module: CrossNorm) -> None:
        self.cross = _Linear(both, "front.cross", whole_rows=True)
        self.width = self.cross.width
        self.eps = module.norm.eps
        scale, of_scale = both["front.norm.weight"]
        shift, of_shift = both["front.norm.bias"]
        self.scales, self.shifts = scale.unbind(), shift.unbind()
        self.of_scales, self.of_shifts = of_scale.unbind(), of_shift.unbind()
        self.kept: tuple[Tensor, ...] = ()

    def forward(self, run: int, rows_BP: Tensor) -> Tensor:
        rows = rows_BP[:, : self.width]
        crossed = self.cross.forward(run, rows_BP)
        total = (rows * crossed).add_(rows)
        out, mean, rstd = torch.native_layer_norm(total, [self.width], self.scales[run], self.shifts[run], self.eps)
        self.kept = crossed, total, mean, rstd
        return out

    def backward(self, run: int, rows_BP: Tensor, gradient: Tensor) -> Tensor:
        crossed, total, mean, rstd = self.kept
        gradient, of_scale, of_shift = _norm_backward(
            gradient, total, [self.width], mean, rstd, self.scales[run], self.shifts[run], [True, True, True]
        )
        self.of_scales[run].copy_(of_scale)
        self.of_shifts[run].copy_(of_shift)
        out_BP = self.cross.backward(run, rows_BP, gradient * rows_BP[:, : self.width])
        out_BP[:, : self.width] += crossed.mul_(gradient).add_(gradient)
        return out_BP


class _Heads:
    """A linear head for each task, all as one product."""

    def __init__(self, both: dict[str, tuple[Tensor, Tensor]]) -> None:
        self.tasks = sum(name.startswith("heads.weights.") for name in both)
        self.pairs = [[both[f"heads.{kind}.{t}"] for t in range(self.tasks)] for kind in ("weights", "biases")]
        self.weight_RTH, self.bias_RT = [torch.cat([p for p, _ in pairs], 1) for pairs in self.pairs]
        self.of_weight_RTH, self.of_bias_RT = torch.zeros_like(self.weight_RTH), torch.zeros_like(self.bias_RT)
        self.weights, self.biases = self.weight_RTH.unbind(), self.bias_RT.unbind()
        self.of_weights, self.of_biases = self.of_weight_RTH.unbind(), self.of_bias_RT.unbind()

    def prepare(self) -> None:
        """Before each batch."""
        for pairs, together in zip(self.pairs, (self.weight_RTH, self.bias_RT), strict=True):
            torch.cat([p for p, _ in pairs], 1, out=together)

    def forward(self, run: int, hidden_BH: Tensor) -> Tensor:
        return torch.addmm(self.biases[run], hidden_BH, self.weights[run].T)

    def backward(self, run: int, hidden_BH: Tensor, gradient_BT: Tensor) -> Tensor:
        torch.sum(gradient_BT, 0, out=self.of_biases[run])
        torch.mm(gradient_BT.T, hidden_BH, out=self.of_weights[run])
        return torch.mm(gradient_BT, self.weights[run])

    def finish(self) -> None:
        """After each batch: every task's gradients are a tensor of their own."""
        for pairs, together in zip(self.pairs, (self.of_weight_RTH, self.of_bias_RT), strict=True):
            for t, (_, gradient) in enumerate(pairs):
                gradient.copy_(together[:, t : t + 1])
