"""Parameters that several processes hold: DTensors (`fully_shard`), and the shards of `ZeroRedundancyOptimizer`.

A step works on the local part of a DTensor, and takes norms and minima over all parts: one small collective each.
"""

from typing import Any

import torch
from torch import Tensor

from study.transforms import Leaf, Parts, global_norm


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a DTensor, as a view; other tensors as they are."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


def local_gradient(parameter: Tensor) -> Tensor:
    """Return the gradient of `local_part(parameter)`."""
    gradient: Any = parameter.grad
    if is_sharded(parameter) and gradient.placements != parameter.placements:  # pyright: ignore[reportAttributeAccessIssue]
        gradient = gradient.redistribute(placements=parameter.placements)  # pyright: ignore[reportAttributeAccessIssue]
    return local_part(gradient.detach())


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a DTensor."""
    return type(tensor) is not Tensor and hasattr(tensor, "placements")


def sharded_like(part: Tensor, parameter: Any) -> Tensor:
    """Return a tensor of the parameter's shape as it is split, with this local part; the part, if it is not split."""
    if not is_sharded(parameter) or part.shape != local_part(parameter).shape:
        return part
    from torch.distributed.tensor import DTensor

    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride())


def parts_of(parameter: Any) -> Parts | None:
    """Return the parts of a DTensor; None if each process has all of it."""
    if not is_sharded(parameter):
        return None
    if any(placement.is_partial() for placement in parameter.placements):
        raise ValueError("need a parameter that is split or replicated, got one of partial sums")
    split = [i for i, placement in enumerate(parameter.placements) if not placement.is_replicate()]
    groups = [parameter.device_mesh.get_group(i) for i in split]
    by_rows = all(parameter.placements[i].dim == 0 for i in split)
    return Parts(lambda x: gathered(x, groups), parameter.numel(), by_rows) if groups else None


def gathered(x: Tensor, groups: list[Any]) -> Tensor:
    """Return (parts, ...) of all processes of these groups, the same in each of them."""
    x = x.contiguous().unsqueeze(0)
    for group in groups:
        every = x.new_empty(group.size() * len(x), *x.shape[1:])
        torch.distributed.all_gather_into_tensor(every, x, group=group)
        x = every
    return x


def norm_of_all(leaves: list[tuple[Tensor, Parts | None]], across: tuple[Any, torch.device] | None) -> Tensor | None:
    """Return the norm (1,) over all gradients; None without any.

    Args:
        leaves: Gradients (local parts), and their parts.
        across: The process group whose processes have other parameters each, and its device.
    """
    norm = None
    if leaves:
        # a norm of one value is the value
        whole = [
            g.unsqueeze(0) if parts is None else Leaf(g, g, g, parts=parts).norm(g.unsqueeze(0)) for g, parts in leaves
        ]
        norm = global_norm(whole)
    if across is None:
        return norm
    group, device = across
    own = torch.zeros(1, dtype=torch.float64, device=device) if norm is None else norm.double()
    total = torch.linalg.vector_norm(gathered(own, [group]), dim=0)
    return total.to(torch.float32 if norm is None else norm.dtype)


_told = False


def follow_zero_redundancy() -> None:
    """Let each `ZeroRedundancyOptimizer` tell its local optimizer, at each step, over which group it is split."""
    global _told
    distributed = torch.distributed
    if _told or not (distributed.is_available() and distributed.is_initialized()):
        return
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    def tell(optimizer: Any, *_: Any) -> None:
        if isinstance(optimizer, ZeroRedundancyOptimizer) and hasattr(optimizer.optim, "split_across"):
            optimizer.optim.split_across = optimizer.process_group, optimizer.join_device

    register_optimizer_step_pre_hook(tell)
    _told = True


def refuse_flattened(parameters: list[Tensor], method: str) -> None:
    """Raise ValueError for parameters of `FullyShardedDataParallel`, which hides where a tensor's other parts are."""
    if method != "none" and any(getattr(p, "_fsdp_flattened", False) for p in parameters):
        raise ValueError(f"{method} needs whole tensors, which FullyShardedDataParallel cuts; use fully_shard (FSDP2)")
