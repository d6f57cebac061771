"""Networks: plain modules from embedded inputs to logits.

A file here that does not begin with an underscore is a model: it defines `build(spec: Spec) -> nn.Module` whose
`forward(inputs_BI) -> logits_BT`. Any dotted name of a module that does so (`my_pkg.my_model`) is a model too.
No loss, no sigmoid, no optimizer: those belong to training, and are the same for every model.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a network is built for.

    features: id features, each embedded in `embedding_dim` numbers; they come first in the inputs, side by side.
    numbers: plain number features, after them. head_bias: one value a task: the logit of its base rate, or 0 for a
    regression, whose targets are standardized. A network that starts from these starts as the best constant.
    """

    features: int
    embedding_dim: int
    numbers: int
    head_bias: tuple[float, ...]

    @property
    def width(self) -> int:
        """I, the length of a row of inputs."""
        return self.features * self.embedding_dim + self.numbers


def names() -> list[str]:
    """The models of this package."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> Callable[[Spec], nn.Module]:
    """The builder of a model. Raises ValueError that lists the models where there is none of that name."""
    unknown = (
        f"unknown model {name!r}; there are: {', '.join(names())}, or a dotted module name such as my_pkg.my_model"
    )
    if "." not in name and name not in names():
        raise ValueError(unknown)
    path = name if "." in name else f"{__name__}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name and path.startswith(error.name):
            raise ValueError(unknown) from error
        raise
    except TypeError as error:  # "..x" and the like
        raise ValueError(unknown) from error
    if not callable(getattr(module, "build", None)):
        raise ValueError(f"{path} defines no build(spec), so it is no model")
    return module.build
