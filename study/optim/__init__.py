"""The methods of `study.methods` as `torch.optim.Optimizer`s, for anyone's training loop.

    optimizer = Clippy(model.parameters(), lr=0.1)

- A step never waits for the device, unless a sparse gradient is not coalesced: then it reads the number of its rows, as
  torch's own optimizers do.
- Sparse (COO) gradients are summed over duplicates. Only the touched rows change: weights, state and decay. Norms and
  minima are taken over the touched rows.
- Parameters narrower than 32 bits keep their state in float32, and are rounded once a step.
- `eps` is inside Adagrad's root, as in Keras and the paper (torch's own Adagrad adds it to the root). RMSProp and AdamW
  add it to the root.

Formulas and sources stand in `study.methods`.
"""

from study.optim._aliases import AGC, LAMB, AdaGC, AutoClip, Clippy, GlobalClip, LayerClip, UpdateRMSClip, ZClip
from study.optim._base import MethodOptimizer
from study.optim._clip_updates import ClipUpdates

__all__ = [
    "AGC",
    "LAMB",
    "AdaGC",
    "AutoClip",
    "ClipUpdates",
    "Clippy",
    "GlobalClip",
    "LayerClip",
    "MethodOptimizer",
    "UpdateRMSClip",
    "ZClip",
]
