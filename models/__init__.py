"""Networks: plain modules from embedded inputs to logits.

A file here without a leading underscore is a model. It defines `build(spec: Spec, *, width=64, ...) -> nn.Module` whose
`forward(inputs_BI)` returns logits_BT, or (logits_BT, aux) with an auxiliary loss, a tensor of shape (). A dotted
module name (`my_pkg.my_model`) is a model too. Numbers among the keywords of `build` are its options, which a study can
set and vary. The loss, the sigmoid and the optimizer belong to training and are the same for every model.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a network is built for.

    Args:
        features: Id features. Each is embedded in `embedding_dim` numbers; they come first in the inputs.
        embedding_dim: Numbers of one embedding.
        numbers: Plain number features, after the embeddings.
        head_bias: One value a task: the logit of its base rate, or 0 for a regression, whose targets are standardized.
            A network that starts from these biases starts as the best constant predictor.
    """

    features: int
    embedding_dim: int
    numbers: int
    head_bias: tuple[float, ...]

    @property
    def width(self) -> int:
        """Return I, the length of a row of inputs."""
        return self.features * self.embedding_dim + self.numbers
