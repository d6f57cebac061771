"""On two processes, sharded parameters are updated as in one."""

import functools
import math
import warnings

import pytest
import torch
import torch.distributed as dist
from optimizer_steps import F64, OPTIMIZERS
from torch import nn
from two_ranks import on_two_ranks

from study.optim import AGC, Clippy, ClipUpdates, MethodOptimizer, ZClip

SHAPES = {"even": ((4, 3), (6, 2), (4,)), "uneven": ((5, 3), (3,), (1, 2))}
ZERO_SHAPES = SHAPES | {"a rank without parameters": ((3, 2),)}

CASES = {
    **{optimizer.__name__: optimizer for optimizer in OPTIMIZERS},
    "Clippy adamw": functools.partial(Clippy, base="adamw", weight_decay=0.1),
    "Clippy rms": functools.partial(Clippy, relative_threshold=0.1, norm="rms"),
    "Clippy without abs": functools.partial(Clippy, absolute_threshold=0.0),
    "AGC unit": functools.partial(AGC, per="unit"),
    "AGC after": functools.partial(AGC, after=True),
    "clippy around AdamW": lambda p, lr: ClipUpdates(torch.optim.AdamW(p, lr, foreach=False), "clippy", rel=0.1),
    "lamb around SGD": lambda p, lr: ClipUpdates(torch.optim.SGD(p, lr, foreach=False), "lamb"),
    "global_clip around SGD": lambda p, lr: ClipUpdates(torch.optim.SGD(p, lr, foreach=False), "global_clip"),
}


def model_of(shapes):
    torch.manual_seed(0)
    model = nn.Module()
    for i, shape in enumerate(shapes):
        model.register_parameter(f"p{i}", nn.Parameter(torch.randn(shape, dtype=F64)))
    return model


def gradients(shapes, step):
    generator = torch.Generator().manual_seed(step)
    size = 10.0 ** math.sin(step)
    return [torch.randn(shape, generator=generator, dtype=F64) * size for shape in shapes]


def in_one_process(make, shapes, count=8):
    params = list(model_of(shapes).parameters())
    optimizer = make(params, 0.3)
    for t in range(count):
        for p, g in zip(params, gradients(shapes, t), strict=True):
            p.grad = g
        optimizer.step()
    return [p.detach() for p in params]


def fully_sharded(shapes):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_tensor

    found = {}
    mesh = init_device_mesh("cpu", (2,))
    for name, make in CASES.items():
        model = fully_shard(model_of(shapes), mesh=mesh)
        params = list(model.parameters())
        optimizer = make(params, 0.3)
        for t in range(8):
            for p, g in zip(params, gradients(shapes, t), strict=True):
                p.grad = distribute_tensor(g, mesh, p.placements)
            optimizer.step()
            if t == 4:
                optimizer.load_state_dict(optimizer.state_dict())
        found[name] = [p.full_tensor().detach() for p in params]
        for p in params:
            for key, value in optimizer.state[p].items():
                if value.ndim:
                    assert (value.shape, value.placements) == (p.shape, p.placements), (name, key)
    nan = fully_shard(model_of(shapes), mesh=mesh)
    [first, *_] = nan.parameters()
    bad = gradients(shapes, 0)[0]
    bad[-1] = math.nan
    first.grad = distribute_tensor(bad, mesh, first.placements)
    Clippy([first], 0.1).step()
    found["nan"] = first.full_tensor().detach()
    return found


@pytest.mark.parametrize("shapes", SHAPES)
def test_fully_sharded_parameters_equal_one_process(both, shapes):
    for rank in both:
        found = rank["fully sharded"][shapes]
        assert found["nan"].isnan().all()
        for name, make in CASES.items():
            for p, q in zip(found[name], in_one_process(make, SHAPES[shapes]), strict=True):
                torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12, msg=name)


def zero_redundancy(shapes):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    found = {}
    for optimizer in OPTIMIZERS:
        params = list(model_of(shapes).parameters())
        made = ZeroRedundancyOptimizer(params, optimizer, lr=0.3)
        for t in range(8):
            for p, g in zip(params, gradients(shapes, t), strict=True):
                p.grad = g
            made.step()
            if t == 4 and optimizer is ZClip:
                made.consolidate_state_dict(to=0)
                states = [made.state_dict() if dist.get_rank() == 0 else None]
                dist.broadcast_object_list(states)
                made = ZeroRedundancyOptimizer(params, optimizer, lr=7.0)
                made.load_state_dict(states[0])
        found[optimizer.__name__] = [p.detach() for p in params]
    return found


@pytest.mark.parametrize("shapes", ZERO_SHAPES)
def test_zero_redundancy_equals_one_process(both, shapes):
    for rank in both:
        for name, params in rank["zero"][shapes].items():
            for p, q in zip(params, in_one_process(CASES[name], ZERO_SHAPES[shapes]), strict=True):
                torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12, msg=name)


def refused():
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    messages = []
    with warnings.catch_warnings(action="ignore"):  # it is deprecated
        for own in (True, False):
            model = FullyShardedDataParallel(nn.Linear(3, 4), use_orig_params=own, device_id=torch.device("cpu"))
            MethodOptimizer(model.parameters(), 0.1, "none")
            for make in (Clippy, lambda p, lr: ClipUpdates(torch.optim.SGD(p, lr))):
                try:
                    make(model.parameters(), 0.1)
                except ValueError as error:
                    messages.append(str(error))
    mesh = init_device_mesh("cpu", (2,))
    p = nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(1)]))
    p.grad = distribute_tensor(torch.ones(4, 4), mesh, [Shard(1)])
    try:
        AGC([p], 0.1, per="unit").step()
    except ValueError as error:
        messages.append(str(error))
    return messages


def every_case():
    return {
        "fully sharded": {name: fully_sharded(shapes) for name, shapes in SHAPES.items()},
        "zero": {name: zero_redundancy(shapes) for name, shapes in ZERO_SHAPES.items()},
        "refused": refused(),
    }


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return on_two_ranks(every_case, tmp_path_factory.mktemp("ranks"))


def test_what_cannot_be_right_is_refused(both):
    for messages in (rank["refused"] for rank in both):
        assert len(messages) == 5
        assert all("use fully_shard" in message for message in messages[:4])
        assert "per=unit needs a matrix that is split by its rows" in messages[4]
        assert not any("\n" in message for message in messages)
