"""What a model can do, found by trying it: whether its runs are computed together, and whether it has hidden units."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import models
from study.training.activation_clamp import ActivationClamp
from study.training.networks import SeparateNetworks, StackedNetworks, network_of_seed
from study.training.threads import one_thread_on_cpu

ROWS = 32
SEEDS = (0, 1, 1)


@functools.cache
def stackable(model: str, spec: models.Spec) -> bool:
    """Return whether `vmap` computes runs of the model together, each with the bits that it has alone.

    If not, its runs train one by one.
    """
    inputs = torch.randn(len(SEEDS), ROWS, spec.width, generator=torch.Generator().manual_seed(0))
    network_of_seed(model, spec, 0)  # raises if there is no such model
    one = [slice(i, i + 1) for i in range(len(SEEDS))]
    try:
        with one_thread_on_cpu("cpu"):
            together = _step(StackedNetworks, model, spec, SEEDS, inputs)
            alone = [_step(StackedNetworks, model, spec, SEEDS[part], inputs[part]) for part in one]
            plain = _step(SeparateNetworks, model, spec, SEEDS, inputs)
            tensors = zip(*([*step.values, *step.gradients] for step in (together, *alone)), strict=True)
            same_bits = all(torch.equal(t, torch.cat(parts)) for t, *parts in tensors)
            if not same_bits or not _close(together.values, plain.values):
                return False
            if _close(together.gradients, plain.gradients):
                return True
            # A hidden unit within rounding of zero has one gradient or the other. In float64 it is not so near.
            kinds = (StackedNetworks, SeparateNetworks)
            return _close(*(_step(kind, model, spec, SEEDS, inputs.double()).gradients for kind in kinds))
    except Exception:  # what is wrong with the model itself, its runs alone show too
        return False


class _Step(NamedTuple):
    """What networks compute in a step, each tensor with the run axis first."""

    values: list[Tensor]
    """Logits, auxiliary losses and new buffers."""
    gradients: list[Tensor]


def _close(stack: Sequence[Tensor], plain: Sequence[Tensor]) -> bool:
    """Return whether tensors are equal but for rounding."""
    return all(torch.allclose(s, p, rtol=1e-3, atol=1e-5) for s, p in zip(stack, plain, strict=True))


def _step(
    kind: type[StackedNetworks], model: str, spec: models.Spec, seeds: Sequence[int], inputs_RBI: Tensor
) -> _Step:
    """Try networks whose weights have moved from their start, in the precision of the inputs."""
    networks = [network_of_seed(model, spec, seed) for seed in seeds]
    with torch.random.fork_rng(devices=[]):
        stack = kind(networks, inputs_RBI.dtype, inputs_RBI.device, seeds)
        with torch.no_grad():
            for parameter in stack.parameters.values():
                parameter.mul_(1.25)
        rows_RBI = inputs_RBI.clone().requires_grad_()
        logits_RBT, aux_R = stack(rows_RBI)
        outputs = logits_RBT.sigmoid() * torch.linspace(-1, 1, logits_RBT[0].numel()).view_as(logits_RBT[0])
        aux = [] if aux_R is None else [aux_R.detach()]
        total = outputs.sum() if aux_R is None else outputs.sum() + aux_R.sum()
        gradients = torch.autograd.grad(total, [*stack.leaves(), rows_RBI], materialize_grads=True)
    weights = [stack.weights_of_run(r) for r in range(len(seeds))]
    buffers = [torch.stack([w[name] for w in weights]) for name in weights[0] if name.startswith("buffer/")]
    return _Step([logits_RBT.detach(), *aux, *buffers], [*stack.by_parameter(gradients[:-1]), gradients[-1]])


@functools.cache
def has_hidden_units(model: str, spec: models.Spec, precision: str) -> bool:
    """Return whether a model has activations that can be clamped. precision: "float32" or "float64"."""
    dtype = getattr(torch, precision)
    network = network_of_seed(model, spec, 0).to(dtype)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), ActivationClamp(torch.tensor(1.0, dtype=dtype)) as clamped:
        network(torch.zeros(ROWS, spec.width, dtype=dtype))
    return clamped.seen > 0
