"""Reads saved states: those of older versions too."""

from collections.abc import Sequence
from typing import Any

from study.transforms import Chain


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
