"""What a method works on: the bases, the options that a study gives them, and their links."""

from collections.abc import Mapping
from typing import Any

from study.methods._checks import need_below_one, need_finite, need_not_negative, need_one_of
from study.transforms import Link, Scalar, scale_by_adagrad, scale_by_adam, scale_by_rmsprop, scale_by_sgd

BASES = ("adagrad", "sgd", "rmsprop", "adamw")

OPTIONS: dict[str, bool | float | None] = {
    "nesterov": False,
    "beta1": 0.9,
    "beta2": 0.999,
    "alpha": 0.99,
    "eps": None,
}
"""Options of the bases, with torch's defaults. The runs of a stack agree in them.

nesterov: of sgd with momentum. beta1, beta2: of adamw. alpha: decay of rmsprop's mean of squares. eps: of all but sgd;
None is that of the recipe, which embeddings always have.
"""

_BASES_WITH = {
    "nesterov": ("sgd",),
    "beta1": ("adamw",),
    "beta2": ("adamw",),
    "alpha": ("rmsprop",),
    "eps": ("adagrad", "rmsprop", "adamw"),
    "momentum": ("sgd", "rmsprop"),
}


def check(values: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
    """Raise ValueError for options of a base that are out of range, or of another base.

    Args:
        values: `base`, `weight_decay`, `momentum` and `OPTIONS`, without those that a method has as its own.
        changed: Those that differ from their defaults.
    """
    base = values["base"]
    need_one_of(BASES, base=base)
    need_finite(weight_decay=values["weight_decay"], momentum=values["momentum"])
    need_not_negative(weight_decay=values["weight_decay"])
    need_below_one(momentum=values["momentum"])
    for key in changed:
        if base not in (bases := _BASES_WITH.get(key, BASES)):
            raise ValueError(f"{key} needs {' or '.join(f'base={name}' for name in bases)}, got base={base}")
    need_below_one(**{key: changed[key] for key in ("beta1", "beta2", "alpha") if key in changed})
    if changed.get("eps") is not None:
        need_finite(eps=changed["eps"])
        need_not_negative(eps=changed["eps"])
    if changed.get("nesterov") and not values["momentum"]:
        raise ValueError("nesterov needs momentum > 0, got momentum=0")


def link_arguments(base: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a base's link, from `OPTIONS`."""
    if base == "sgd":
        return {"nesterov": values["nesterov"]}
    if base == "rmsprop":
        return {"decay": values["alpha"]}
    return {"b1": values["beta1"], "b2": values["beta2"]} if base == "adamw" else {}


def link(
    base: str, momentum: Scalar, initial_accumulator: float, eps: float, more: Mapping[str, Any], **adagrad_only: bool
) -> Link:
    """Return the link of a base.

    Args:
        base: One of `BASES`.
        momentum: Of sgd and rmsprop.
        initial_accumulator: Adagrad's G0.
        eps: Added inside Adagrad's root, and to the root of RMSProp and AdamW.
        more: Further arguments of the link.
        adagrad_only: What a method asks of Adagrad.
    """
    if base == "adagrad":
        return scale_by_adagrad(initial_accumulator, eps, **adagrad_only)
    assert not any(adagrad_only.values()), f"{adagrad_only} with base={base}"
    if base == "sgd":
        return scale_by_sgd(momentum, **more)
    if base == "rmsprop":
        return scale_by_rmsprop(eps=eps, momentum=momentum, **more)
    return scale_by_adam(eps=eps, **more)
