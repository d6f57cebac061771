"""What the modules of a network compute in one call: dead units, and the norm of the last activations."""

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


class Activations:
    """Outputs of ReLU units and inputs of modules, recorded by `record_activations`."""

    def __init__(self, module: nn.Module) -> None:
        self.layer = ""
        self.units: dict[str, list[Tensor]] = {}
        self.inputs: dict[str, Tensor] = {}
        self.last_parameter = [name for name, _ in module.named_parameters()][-1]

    def dead(self) -> dict[str, Tensor]:
        """Return by layer which units are 0 on every row, as bool."""
        return {
            layer: torch.cat([out.flatten(0, -2).eq(0).all(0) for out in outputs])
            for layer, outputs in self.units.items()
        }

    def last_norm(self) -> float:
        """Return the mean norm of the inputs of the module that owns the last parameters; NaN if there is none."""
        owners = [name for name in self.inputs if not name or self.last_parameter.startswith(f"{name}.")]
        return float(self.inputs[max(owners, key=len)].float().norm(dim=-1).mean()) if owners else math.nan


@contextlib.contextmanager
def record_activations(module: nn.Module) -> Iterator[Activations]:
    """Record what the modules compute, as long as the context lasts."""
    activations, hooks = Activations(module), []

    def before(name: str) -> Callable:
        def hook(_module: nn.Module, inputs: tuple) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                activations.inputs[name] = inputs[0]

        return hook

    def after(name: str, own: nn.Module) -> Callable:
        def hook(_module: nn.Module, _inputs: tuple, out: Tensor) -> None:
            if isinstance(own, nn.ReLU):
                activations.units.setdefault(activations.layer, []).append(out)
            elif next(own.parameters(recurse=False), None) is not None:
                activations.layer = name

        return hook

    for name, own in module.named_modules():
        hooks += [own.register_forward_pre_hook(before(name)), own.register_forward_hook(after(name, own))]
    try:
        yield activations
    finally:
        for hook in hooks:
            hook.remove()


def layer_of(module: nn.Module, parameter: str) -> str:
    """Return the module of a parameter: "bottom.0" of "bottom.0.weight", "heads" of "heads.weights.1"."""
    name = parameter.rpartition(".")[0]
    while name and isinstance(module.get_submodule(name), nn.ParameterList | nn.ParameterDict):
        name = name.rpartition(".")[0]
    return name or "network"
