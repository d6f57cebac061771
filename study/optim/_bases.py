"""What the bases take, in torch's words and with torch's defaults."""

from collections.abc import Mapping
from typing import Any

from study.config import check_number
from study.methods import COMMON, signature

OPTIONS: dict[str, dict[str, Any]] = {
    "adagrad": {},
    "sgd": {"momentum": 0.0, "nesterov": False},
    "rmsprop": {"momentum": 0.0, "alpha": 0.99},
    "adamw": {"betas": (0.9, 0.999)},
}
"""Base -> its options in a parameter group. Schedulers that cycle a momentum or beta1 look for these."""

ALL = frozenset(key for options in OPTIONS.values() for key in options)


def of_base(base: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a base: those given, or the defaults. An unknown base has none."""
    return {key: given.get(key, default) for key, default in OPTIONS.get(base, {}).items()}


def refuse_words_of_studies(method: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for an option of the base in a study's words, such as beta1: here it is an argument."""
    for key in signature(method).of_base.keys() & options.keys():
        word = "betas" if key in ("beta1", "beta2") else key
        raise ValueError(f"{method} has no option {key} here: the optimizer takes {word}")


def check(group: Mapping[str, Any]) -> None:
    """Raise ValueError if a value is out of range, or belongs to another base. The rest is checked before."""
    base = group["base"]
    for key in ALL - COMMON.keys():
        if group.get(key) and key not in OPTIONS[base]:
            owners = " or ".join(f"base={other}" for other, options in OPTIONS.items() if key in options)
            raise ValueError(f"{key} needs {owners}, got base={base}")
    betas = group.get("betas", (0.9, 0.999))
    if not (isinstance(betas, tuple | list) and len(betas) == 2):
        raise ValueError(f"need two betas, 0 <= beta < 1, got betas={betas}")
    for i, beta in enumerate(betas):
        check_number(beta, f"betas[{i}]")
        if not 0 <= beta < 1:
            raise ValueError(f"need two betas, 0 <= beta < 1, got betas={betas}")
    check_number(group.get("alpha", 0.0), "alpha")
    if not 0 <= group.get("alpha", 0.0) < 1:
        raise ValueError(f"need 0 <= alpha < 1, got alpha={group['alpha']}")
    if group.get("nesterov") and not group["momentum"]:
        raise ValueError("nesterov needs momentum > 0, got momentum=0")


def link_options(group: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the base's link; see `study.methods.build`.

    torch corrects Adam's bias by `1 - beta^t` with the beta of this step. Where the betas change, so does this.
    """
    if group["base"] == "sgd":
        return {"nesterov": group["nesterov"]}
    if group["base"] == "rmsprop":
        return {"decay": group["alpha"]}
    if group["base"] != "adamw":
        return {}
    b1, b2 = group["betas"]
    if group.setdefault("constant_betas", (b1, b2)) != (b1, b2):
        group["constant_betas"] = None
    return {"b1": b1, "b2": b2, "count_steps": True, "by_steps": group["constant_betas"] is None}
