"""Networks: plain modules from embedded inputs to logits.

A file here that does not begin with an underscore is a model: it defines `build(spec: Spec) -> nn.Module` whose
`forward(inputs_BI) -> logits_BT`. Any dotted name of a module that does so (`my_pkg.my_model`) is a model too.
No loss, no sigmoid, no optimizer: those belong to training, and are the same for every model.
"""

from dataclasses import dataclass


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
