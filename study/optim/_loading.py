"""Reads saved states: those of older versions, and those of torch's own optimizers, too."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from study.optim import _bases
from study.transforms import Chain

TORCHS = {"adagrad": "lr_decay", "sgd": "dampening", "rmsprop": "centered", "adamw": "amsgrad"}
"""Base -> a key that only the groups of torch's own optimizer of this base have. Where set, we lack the option."""

NAMES = {
    "adagrad": {"sum": "accumulator"},
    "sgd": {"momentum_buffer": "momentum"},
    "rmsprop": {"square_avg": "second_moment", "momentum_buffer": "momentum"},
    "adamw": {"exp_avg": "first_moment", "exp_avg_sq": "second_moment"},
}
"""Base -> torch's name of a state and ours."""


def translated(state_dict: dict[str, Any], groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a state in this version's words.

    Args:
        state_dict: A state of this version, of an older one, or of torch's own optimizer with the base of the groups.
        groups: The groups of the optimizer that loads it.

    Raises:
        ValueError: If torch's optimizer had another base, or an option that there is not here.
    """
    state, loaded = dict(state_dict["state"]), list(state_dict["param_groups"])
    for i, (group, theirs) in enumerate(zip(groups, loaded, strict=False)):
        base = next((base for base, key in TORCHS.items() if key in theirs), None)
        if "method" in theirs or base is None:
            loaded[i] = {"foreach": None, "capturable": False} | theirs
            loaded[i] |= _bases.of_base(theirs.get("base", ""), theirs)
        else:
            loaded[i] = _group_of_torch(base, theirs, group)
            state |= {k: _state_of_torch(base, state[k], loaded[i]) for k in theirs["params"] if k in state}
        if loaded[i].get("base") == "adamw":
            state |= {k: _with_steps(state[k], loaded[i]["betas"]) for k in theirs["params"] if k in state}
    return state_dict | {"state": state, "param_groups": loaded}


def _group_of_torch(base: str, theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    if base != ours["base"]:
        raise ValueError(f"need a state of base {ours['base']}, got one of torch's {base}")
    if theirs[TORCHS[base]]:
        raise ValueError(f"{TORCHS[base]} is not available here, got {TORCHS[base]}={theirs[TORCHS[base]]}")
    if theirs["weight_decay"] and not theirs.get("decoupled_weight_decay", base == "adamw"):
        raise ValueError(
            f"need a state without weight_decay, which torch adds to the gradient; got {theirs['weight_decay']}"
        )
    same = ["lr", "weight_decay", "maximize", *_bases.OPTIONS[base], *([] if base == "adagrad" else ["eps"])]
    group = ours | {key: theirs[key] for key in (*same, "params", "param_names", "initial_lr") if key in theirs}
    return {key: value for key, value in group.items() if key != "constant_betas"}


def _state_of_torch(base: str, theirs: dict[str, Any], group: dict[str, Any]) -> dict[str, Any]:
    ours = {word: theirs[key] for key, word in NAMES[base].items() if theirs.get(key) is not None}
    if base == "adamw":
        step = torch.as_tensor(theirs["step"], dtype=torch.float64)
        b1, b2 = group["betas"]
        values = {"first_share": 1 - b1**step, "second_share": 1 - b2**step, "step": step}
        ours |= {key: value.to(_wide(ours["first_moment"])) for key, value in values.items()}
    return {key: value.to(_wide(value)) for key, value in ours.items()}


def _with_steps(state: dict[str, Any], betas: tuple[float, float]) -> dict[str, Any]:
    """Older versions kept no number of steps: it follows from the share of the second moment."""
    if "step" in state or "second_share" not in state or not betas[1]:
        return state
    left = (1 - state["second_share"].double()).clamp(min=1e-12)
    return state | {"step": (left.log() / torch.tensor(betas[1]).double().log()).round().to(state["second_share"])}


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.dtype.itemsize < 4 else tensor.dtype


def with_past_norms(state_dict: dict[str, Any], chains: Sequence[Chain]) -> dict[str, Any]:
    """Return a state whose groups have their past norms. Older versions kept a copy with each parameter.

    Args:
        state_dict: As an optimizer returned it.
        chains: The chain of each group.
    """
    state, groups = dict(state_dict["state"]), list(state_dict["param_groups"])
    for i, (group, chain) in enumerate(zip(groups, chains, strict=True)):
        old = [k for k in group["params"] if chain.shared and chain.shared <= state.get(k, {}).keys()]
        if old:
            # the parameter that took part last
            newest = state[max(old, key=lambda k: float(state[k]["norms_seen"]))]
            groups[i] = {"past_norms": {key: newest[key] for key in chain.shared}} | group
            state |= {k: {key: x for key, x in state[k].items() if key not in chain.shared} for k in old}
    return state_dict | {"state": state, "param_groups": groups}
