"""Stabilization methods, one file each: how a gradient becomes an update.

A method is a module with a function

    def build(lr, *, base, <thresholds>, <options>) -> Chain

- `lr` is the learning rate. `base()` makes the link that the method works on (`study.transforms.Base`).
- Parameters whose default is a float are thresholds, and may differ between the runs of a stack. Those whose default
  is a str, bool or int are options, and agree within a stack.
- `check(*, base, <thresholds>, <options>)`, if present, raises ValueError for values out of range.

A method acts on the network. Embeddings stay on Adagrad, unless the recipe says `embeddings="method"`.

The file's name is the method's name. Your own method is a file here or in the current folder, or any dotted name
(`my_pkg.my_method`). Every method also takes the options in `COMMON`, and in studies those of its base
(`study.methods._bases.OPTIONS`).

A method that acts elsewhere than on the update has a function beside `build` that takes its thresholds and options by
name: `unit_limit(...)` returns the limit of hidden units, `rollback_options(...)` when a run returns to an
earlier snapshot of itself.
"""

from study.methods._bases import BASES
from study.methods._registry import (
    BESIDE,
    COMMON,
    MethodSignature,
    acts_on,
    base_options,
    build,
    builder,
    check,
    check_known,
    load,
    names,
    rollback_options,
    signature,
    stack_options,
    unit_limit,
    uses_base,
)

__all__ = [
    "BASES",
    "BESIDE",
    "COMMON",
    "MethodSignature",
    "acts_on",
    "base_options",
    "build",
    "builder",
    "check",
    "check_known",
    "load",
    "names",
    "rollback_options",
    "signature",
    "stack_options",
    "unit_limit",
    "uses_base",
]
