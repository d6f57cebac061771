"""The networks of a stack, computed together: losses, gradients and logits of all runs.

Shape letters: R runs, G groups of runs that share a seed and so their batches, B batch, I inputs, T tasks.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

import models
from study.config import Recipe
from study.data._dataset import Log, Task
from study.definition import model_options
from study.streams import stream
from study.training import devices
from study.training.activation_clamp import ActivationClamp
from study.training.inputs import Inputs
from study.training.leaves import Places
from study.training.losses import mean_losses
from study.training.matmul import BatchedLinear, onednn_is_exact
from study.training.weights import Weights

# Of an operation of a user's model that `vmap` computes run by run. No user can change that.
warnings.filterwarnings("ignore", "There is a performance drop because we have not yet implemented the batching rule")


def spec_of(log: Log, recipe: Recipe) -> models.Spec:
    """Return what a model is built for: the sizes of the data, and the logits of its base rates."""
    return models.Spec(
        features=len(log.vocabulary),
        embedding_dim=recipe.embedding_dim,
        numbers=log.numbers.shape[1],
        head_bias=tuple(math.log(t.base / (1 - t.base)) if t.kind == "binary" else 0.0 for t in log.tasks),
    )


def build_network(model: str, spec: models.Spec) -> nn.Module:
    """Return the network of a model, such as `small` or `ranker width=128`.

    Raises:
        ValueError: If there is no such model or option.
    """
    name, options = model_options.parse(model)
    return model_options.load(name).build(spec, **model_options.checked(name, options))


def network_of_seed(model: str, spec: models.Spec, seed: int) -> nn.Module:
    """Return a network with the initial weights of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "weights"))
        return build_network(model, spec)


def network_of_weights(model: str, spec: models.Spec, weights: Weights) -> nn.Module:
    """Return a network with these weights, in their precision.

    Raises:
        ValueError: If a parameter or buffer is missing, or has another shape or type.
    """
    network = network_of_seed(model, spec, 0).to(getattr(torch, weights.about.precision))
    for kind, tensors in (("parameter", trained_parameters(network)), ("buffer", constants(network))):
        arrays = weights.network(kind)
        if other := sorted(tensors.keys() ^ arrays.keys()):
            raise ValueError(f"the weights lack or add the {kind} {other[0]} of a {model} network")
        for name, tensor in tensors.items():
            start = torch.from_numpy(arrays[name])
            if (start.shape, start.dtype) != (tensor.shape, tensor.dtype):
                raise ValueError(
                    f"the {kind} {name} is {start.dtype} {tuple(start.shape)}; a {model} network has "
                    f"{tensor.dtype} {tuple(tensor.shape)}"
                )
            tensor.data.copy_(start)
    return network


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training changes, by name: those that require a gradient."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def constants(network: nn.Module) -> dict[str, Tensor]:
    """Return what no gradient changes, by name: buffers, and frozen parameters."""
    frozen = {name: p.detach() for name, p in network.named_parameters() if not p.requires_grad}
    return dict(network.named_buffers()) | frozen


class StackedNetworks:
    """Networks of one architecture, by `vmap` over the run axis: inputs_RBI -> logits_RBT, and perhaps aux_R.

    Args:
        networks: One per run.
        seeds: One per run, for networks that draw random numbers.
        unit_limit: The limit of each run's hidden units (R,); None clamps nothing.

    Attributes:
        parameters: The trained ones by name, (R, *shape), leaves that require a gradient.
        buffers: Buffers and frozen parameters by name, (R, *shape).
        unused: The parameters that took no part in the loss of the last step, each with the runs (R,) or (1,).
        packed: The places of small parameters and their numbers (R, P), whose views they are; None on CPU.
        capturable: Whether each step is the same operations, which a CUDA graph can replay.
    """

    capturable = True

    def __init__(
        self,
        networks: Sequence[nn.Module],
        dtype: torch.dtype,
        device: torch.device,
        seeds: Sequence[int] = (),
        unit_limit: Tensor | None = None,
    ) -> None:
        self.seeds, self.dtype, self.device = seeds, dtype, device
        self.modules = list(networks[:1])
        parameters = _stacked([trained_parameters(network) for network in networks])
        parameters = {k: v.to(device, dtype) for k, v in parameters.items()}
        self.packed = _packed(parameters) if devices.wants_few_operations(device) else None
        views = self.packed[0].views(self.packed[1]) if self.packed else {}
        self.parameters = {k: views.get(k, v).detach().requires_grad_() for k, v in parameters.items()}
        # Running statistics in the run's precision; counters and masks as they are.
        buffers = _stacked([constants(network) for network in networks])
        self.buffers = {k: v.to(device, dtype if v.is_floating_point() else v.dtype) for k, v in buffers.items()}
        self.unit_limit = unit_limit
        self.unused: dict[str, Tensor] = {}
        self._masks: dict[tuple[bool, ...], Tensor] = {}
        onednn_is_exact()  # cached here, so that no step has to measure it
        self._call = torch.vmap(
            self._of_one_run, in_dims=(0, 0, 0, None if unit_limit is None else 0), randomness="error"
        )
        self._prepare(networks)

    def _prepare(self, networks: Sequence[nn.Module]) -> None:
        """Set what a subclass adds."""

    def __call__(self, inputs_RBI: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits (R, B, T), and the auxiliary loss of each run (R,) if the networks have one."""
        return logits_and_aux(self._call(self.parameters, self.buffers, inputs_RBI, self.unit_limit))

    def learn(
        self, inputs: Inputs, labels_RTB: Tensor, tasks: Sequence[Task], share_RTB: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the mean loss of each task (R, T), and the gradients of their sum by the parameters, in their order.

        The gradients are also those of an auxiliary loss, which the losses do not contain. `share_RTB` says what each
        row counts, where labels are missing (`losses.labelled`).

        The gradient by the embeddings is given to `inputs`. The next call may overwrite what this one returned.
        """
        rows_RBI = inputs.rows().requires_grad_(inputs.features > 0)
        logits_RBT, aux_R = self(rows_RBI)
        loss_RT = mean_losses(logits_RBT.mT.contiguous(), labels_RTB, tasks, share_RTB)
        total = loss_RT.sum() if aux_R is None else loss_RT.sum() + aux_R.sum()
        watched = [*self.leaves(), *([rows_RBI] if inputs.features else [])]
        found = torch.autograd.grad(total, watched, allow_unused=True)
        self.unused = self._without(found)
        gradients = [
            torch.zeros_like(w) if gradient is None else gradient for w, gradient in zip(watched, found, strict=True)
        ]
        if inputs.features:
            inputs.take_gradient(gradients.pop())
        return loss_RT.detach(), self.by_parameter(gradients)

    def _without(self, gradients: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """Return which runs of which parameters have no gradient; those of the leaves come first."""
        lacking = [gradient is None for gradient in gradients[: len(self.leaves())]]
        if not any(lacking):
            return {}
        runs = len(lacking) // len(self.parameters)
        of_names = zip(self.parameters, range(0, len(lacking), runs), strict=True)
        return {name: self._mask(*own) for name, i in of_names if any(own := lacking[i : i + runs])}

    def _mask(self, *values: bool) -> Tensor:
        """Return the values on the device. They are copied once, since a step must not wait for the device."""
        if values not in self._masks:
            self._masks[values] = torch.tensor(values, device=self.device)
        return self._masks[values]

    def leaves(self) -> list[Tensor]:
        """Return the tensors that a loss is differentiated by."""
        return list(self.parameters.values())

    def by_parameter(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients of `parameters` from those of the leaves."""
        return list(gradients)

    def logits(self, inputs: Inputs) -> Tensor:
        """Return the logits (R, T, B), without a gradient."""
        with torch.no_grad():
            return self(inputs.rows())[0].mT

    def of_run(
        self, run: int, inputs_BI: Tensor, parameters: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits (B, T) of one run, and its auxiliary loss if it has one, in the precision of its inputs.

        For probes. Training and evaluation compute all runs together.

        Args:
            run: The place on the run axis.
            inputs_BI: Its inputs.
            parameters: Replace the run's own, by name.
        """
        own, buffers = self._of_run(run)
        buffers = {k: v.to(inputs_BI.dtype) if v.is_floating_point() else v for k, v in buffers.items()}
        with _clamped(None if self.unit_limit is None else self.unit_limit[run]):
            weights = ({**own, **(parameters or {})}, buffers)
            return logits_and_aux(functional_call(self.module_of(run), weights, (inputs_BI,)))

    def module_of(self, run: int) -> nn.Module:
        """Return the module that computes a run."""
        return self.modules[0]

    def _of_run(self, run: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        parameters = {name: values[run] for name, values in self.parameters.items()}
        return parameters, {name: values[run] for name, values in self.buffers.items()}

    def weights_of_run(self, run: int) -> dict[str, Tensor]:
        """Return the parameters and buffers of one run by their names in a file of weights. They are not copied."""
        parameters, buffers = self._of_run(run)
        own = {f"parameter/{name}": value for name, value in parameters.items()}
        return own | {f"buffer/{name}": value for name, value in buffers.items()}

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a step changes, by name. They are not copied."""
        parameters = {f"parameter/{name}": value for name, value in self.parameters.items()}
        return parameters | {f"buffer/{name}": value for name, value in self.buffers.items()}

    def _of_one_run(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs_BI: Tensor, unit_limit: Tensor | None
    ) -> Tensor | tuple[Tensor, Tensor]:
        with BatchedLinear(), _clamped(unit_limit):
            return functional_call(self.modules[0], (parameters, buffers), (inputs_BI,))

    @contextlib.contextmanager
    def judging(self) -> Iterator[None]:
        """Put the networks into evaluation mode inside the block."""
        modes = [(part, part.training) for module in self.modules for part in module.modules()]
        for module in self.modules:
            module.eval()
        yield
        for part, training in modes:  # a user may keep a part in evaluation mode
            part.training = training


class SeparateNetworks(StackedNetworks):
    """Networks that `vmap` cannot compute: each run has a module of its own, which is called as in a plain loop.

    The parameters of the modules are views of `parameters`. Random numbers of a network, as of dropout, come from the
    run's own stream, by seed and call.

    Args:
        networks: One per run, none of them twice.
    """

    capturable = False  # a call seeds the random stream, and a module may branch on numbers

    def _prepare(self, networks: Sequence[nn.Module]) -> None:
        self.calls = np.zeros((), dtype=np.int64)  # on the host, where its seeds are made
        self.buffers.clear()  # each module has its own
        self.modules = [network.to(self.device, self.dtype) for network in networks]
        owned = [trained_parameters(network) for network in self.modules]
        for r, of_run in enumerate(owned):
            for name, parameter in of_run.items():
                parameter.data = self.parameters[name].detach()[r]
        self.leaves_of_runs: list[Tensor] = [of_run[name] for name in self.parameters for of_run in owned]

    def leaves(self) -> list[Tensor]:
        return self.leaves_of_runs

    def by_parameter(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        runs = len(self.modules)
        dense = [gradient.to_dense() for gradient in gradients]  # `nn.Embedding(sparse=True)`
        return [torch.stack(dense[first : first + runs]) for first in range(0, len(dense), runs)]

    def module_of(self, run: int) -> nn.Module:
        return self.modules[run]

    def _of_run(self, run: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return super()._of_run(run)[0], constants(self.modules[run])

    def __call__(self, inputs_RBI: Tensor) -> tuple[Tensor, Tensor | None]:
        self.calls += 1
        devices = [inputs_RBI.device] if inputs_RBI.device.type == "cuda" else []
        outputs = []
        with torch.random.fork_rng(devices=devices):
            for r, (seed, module) in enumerate(zip(self.seeds, self.modules, strict=True)):
                torch.manual_seed(stream(seed, "network", str(self.calls)))
                with _clamped(None if self.unit_limit is None else self.unit_limit[r]):
                    outputs.append(logits_and_aux(module(inputs_RBI[r])))
        every_aux = [aux for _, aux in outputs if aux is not None]  # a run may have none in this batch
        return torch.stack([logits for logits, _ in outputs]), torch.stack(every_aux) if every_aux else None

    def state(self) -> dict[str, Tensor]:
        own = {f"buffer/{r}/{name}": x for r, m in enumerate(self.modules) for name, x in m.named_buffers()}
        return super().state() | own | {"calls": torch.from_numpy(self.calls)}


def logits_and_aux(outputs: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return the logits that a network returned, and its auxiliary loss, if it returned both."""
    return outputs if isinstance(outputs, tuple) else (outputs, None)


def _packed(parameters: Mapping[str, Tensor]) -> tuple[Places, Tensor] | None:
    places = Places(parameters)
    return (places, places.packed(parameters)) if places.names else None


def _stacked(of_runs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([own[name].detach() for own in of_runs]) for name in of_runs[0]}


def _clamped(unit_limit: Tensor | None) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if unit_limit is None else ActivationClamp(unit_limit)
