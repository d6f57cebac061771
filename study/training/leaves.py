"""The parameters of a stack as leaves of its method: one each on CPU, all small ones in one on other devices.

On CPU each tensor goes through the method by itself, so that its temporaries stay in the cache. On a GPU every
operation costs its launch, however small the tensor. So small parameters of a run lie side by side there, and a method
acts on all of them at once (`study.transforms.Segments`).

Shape letters: R runs, L tensors, P numbers of a run.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from study.training.packed_copy import whole_words
from study.transforms import Chain, Leaf, Segments

SMALL = 2**18
"""Most numbers of a parameter that is packed. A larger one keeps a device busy, and packing takes memory."""

NEVER_ZERO = ("accumulator", "second_moment")
"""States whose roots divide: where no number of the model is, they are 1, and all others 0."""

States = dict[str, dict[str, Tensor]]
"""The method's state by parameter and key, as checkpoints and users of weights know it."""


class NamedLeaves:
    """One leaf for each parameter.

    Args:
        parameters: By name, (R, *shape).
        states: Of the method, by name.
    """

    def __init__(self, parameters: Mapping[str, Tensor], states: States) -> None:
        self.parameters, self.states = parameters, states

    def of(self, gradients: Mapping[str, Tensor], ones_R: Tensor | None) -> list[Leaf]:
        """Return the leaves of a step. With `ones_R` they record the factors of the method."""
        return [
            Leaf(self.parameters[name], gradient, gradient, self.states[name], factor=ones_R)
            for name, gradient in gradients.items()
        ]

    def by_name(self, leaves: Sequence[Leaf]) -> dict[str, Leaf]:
        """Return one leaf for each parameter, to read."""
        return dict(zip(self.parameters, leaves, strict=True))

    def apply(self, leaves: Sequence[Leaf]) -> None:
        """Subtract the updates from the weights."""
        for weight, leaf in zip(self.parameters.values(), leaves, strict=True):
            weight.sub_(leaf.update)


class Places:
    """Where the small parameters of a run lie side by side: the largest first, so that wide rows begin at whole words.

    Args:
        parameters: By name, (R, *shape).
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        sizes = {name: math.prod(weight.shape[1:]) for name, weight in parameters.items()}
        self.shapes = {name: weight.shape for name, weight in parameters.items() if 0 < sizes[name] <= SMALL}
        self.names = sorted(self.shapes, key=lambda name: -sizes[name])
        self.sizes = [sizes[name] for name in self.names]
        self.beyond = whole_words(sum(self.sizes)) - sum(self.sizes)
        """Numbers after the last tensor, which no tensor has."""

    def packed(self, tensors: Mapping[str, Tensor], beyond: float = 0.0) -> Tensor:
        """Return the tensors side by side (R, P)."""
        parts = [tensors[name].reshape(len(tensors[name]), -1) for name in self.names]
        rest = [parts[0].new_full((len(parts[0]), self.beyond), beyond)] if self.beyond else []
        return torch.cat([*parts, *rest], 1)

    def views(self, packed_RP: Tensor) -> dict[str, Tensor]:
        """Return each tensor (R, *shape)."""
        parts = zip(self.names, packed_RP.split([*self.sizes, self.beyond], 1), strict=False)
        return {name: part.view(self.shapes[name]) for name, part in parts}

    def segments(self, device: torch.device) -> tuple[Segments, Tensor]:
        """Return the places as a method needs them, and the numbers of each tensor (L,)."""
        return Segments.of(self.sizes, device, self.beyond), torch.tensor(self.sizes, device=device)


class PackedLeaves(NamedLeaves):
    """All small parameters in one leaf, the first; one leaf for each large one.

    Args:
        parameters: By name. The small ones are views of `weight_RP`.
        weight_RP: As `places` has packed them.
        states: Of the method, by name. Those of small parameters become views of packed ones.
        chain: The method, which is `packable`.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], weight_RP: Tensor, places: Places, states: States, chain: Chain
    ) -> None:
        super().__init__(parameters, states)
        self.weight_RP, self.places = weight_RP, places
        self.large = [name for name in parameters if name not in places.shapes]
        self.segments, self.counts = places.segments(weight_RP.device)
        self.state = packed_states(states, places, chain)

    def of(self, gradients: Mapping[str, Tensor], ones_R: Tensor | None) -> list[Leaf]:
        gradient_RP = self.places.packed(gradients)
        ones_RL = None if ones_R is None else ones_R.unsqueeze(1).expand(-1, len(self.places.names))
        leaf = Leaf(
            weight=self.weight_RP,
            gradient=gradient_RP,
            update=gradient_RP,
            state=dict(self.state),
            factor=ones_RL,
            segments=self.segments,
            counts=self.counts,
        )
        return [leaf, *super().of({name: gradients[name] for name in self.large}, ones_R)]

    def by_name(self, leaves: Sequence[Leaf]) -> dict[str, Leaf]:
        packed, *others = leaves
        keep_in_place(self.state, packed.state)
        gradients, updates = self.places.views(packed.gradient), self.places.views(packed.update)
        factors = {} if packed.factor is None else dict(zip(self.places.names, packed.factor.unbind(1), strict=True))
        large = dict(zip(self.large, others, strict=True))
        return {
            name: Leaf(weight, gradients[name], updates[name], self.states[name], factor=factors.get(name))
            if name in gradients
            else large[name]
            for name, weight in self.parameters.items()
        }

    def apply(self, leaves: Sequence[Leaf]) -> None:
        packed, *others = leaves
        self.weight_RP.sub_(packed.update)
        keep_in_place(self.state, packed.state)
        for name, leaf in zip(self.large, others, strict=True):
            self.parameters[name].sub_(leaf.update)


def packed_states(states: States, places: Places, chain: Chain) -> dict[str, Tensor]:
    """Return the states of all tensors by key, packed, and make those in `states` views of them.

    A state with one value a number is (R, P). One with a value a tensor is (R, L), or the only one if it is shared.
    """
    first, by_number = states[places.names[0]], of_numbers(chain)
    packed: dict[str, Tensor] = {}
    for key in first:
        of_tensors = {name: states[name][key] for name in places.names}
        if key in by_number:
            packed[key] = places.packed(of_tensors, beyond=1.0 if key in NEVER_ZERO else 0.0)
            views = places.views(packed[key])
        elif key in chain.shared:
            packed[key] = first[key]
            views = dict.fromkeys(places.names, first[key])
        else:
            packed[key] = torch.stack(list(of_tensors.values()), 1)
            views = dict(zip(places.names, packed[key].unbind(1), strict=True))
        for name, view in views.items():
            states[name][key] = view
    return packed


def of_numbers(chain: Chain) -> set[str]:
    """Return the keys of a method's states that have one value a number of the weight."""
    probe = torch.zeros(1, 2, 2)
    return {key for key, value in chain.init(probe).items() if value.shape == probe.shape}


def keep_in_place(kept: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    """Copy new states into the kept ones, so that views of them stay."""
    for key, value in new.items():
        if value is not kept[key]:
            kept[key].copy_(value)
