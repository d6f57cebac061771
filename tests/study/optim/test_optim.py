"""The optimizers agree with torch's own and with references by hand, dense and sparse, with an optimizer's manners."""

import copy
import inspect
import math
import pickle
import warnings

import pytest
import torch
from torch import nn

from study import methods
from study.optim import (
    AGC,
    LAMB,
    AdaGC,
    AutoClip,
    Clippy,
    GlobalClip,
    LayerClip,
    MethodOptimizer,
    UpdateRMSClip,
    ZClip,
    _foreach_clippy,
)
from study.transforms import Leaf

OPTIMIZERS = [Clippy, AGC, LAMB, LayerClip, GlobalClip, UpdateRMSClip, ZClip, AdaGC, AutoClip]
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)

F64 = torch.float64


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.sparse.check_sparse_tensor_invariants():
        yield
    torch.set_num_threads(before)


def parameters(*shapes, dtype=F64, seed=0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=F64).to(dtype)) for shape in shapes]


def steps(optimizer, params, count, *, seed=1, sparse=False, start=0) -> list[torch.Tensor]:
    """Steps start ... start + count - 1 on random gradients of changing size. Returns the parameters after them."""
    for t in range(start, start + count):
        generator = torch.Generator().manual_seed(1000 * seed + t)
        for p in params:
            gradient = torch.randn(p.shape, generator=generator, dtype=F64) * 10.0 ** math.sin(t)
            if sparse:
                # seven draws from the rows: some twice, most never
                rows = torch.randint(len(p), (7,), generator=generator)
                values = gradient.new_zeros(7, *p.shape[1:]).normal_(generator=generator)
                gradient = torch.sparse_coo_tensor(rows.unsqueeze(0), values, p.shape)
            p.grad = gradient.to(p.dtype)
        optimizer.step()
    return [p.detach().clone() for p in params]


def assert_same(ours, theirs, rtol=1e-11):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-14)


# --- against others ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("G0", [0.1, 0.003])
def test_25_steps_equal_torch_adagrad(sparse, G0):
    ours, theirs = parameters((30, 3), (20,)), parameters((30, 3), (20,))
    us = MethodOptimizer(ours, 0.3, "none", initial_accumulator_value=G0, eps=0.0)
    them = torch.optim.Adagrad(theirs, 0.3, initial_accumulator_value=G0, eps=0.0)
    assert_same(steps(us, ours, 25, sparse=sparse), steps(them, theirs, 25, sparse=sparse))
    assert_same([us.state[p]["accumulator"] for p in ours], [them.state[p]["sum"] for p in theirs])


BASES = {
    "rmsprop": ({}, lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.99, eps=1e-7)),
    "adamw": ({"weight_decay": 0.3}, lambda p: torch.optim.AdamW(p, 0.01, eps=1e-7, weight_decay=0.3)),
    "sgd": ({"momentum": 0.9}, lambda p: torch.optim.SGD(p, 0.01, momentum=0.9)),
    "plain sgd": ({"weight_decay": 0.5}, lambda p: torch.optim.SGD(p, 0.01, weight_decay=0.5)),
}


@pytest.mark.parametrize("base", BASES)
def test_30_steps_of_other_bases_equal_torch(base):
    options, make = BASES[base]
    ours, theirs = parameters((4, 3), (3,)), parameters((4, 3), (3,))
    us = Clippy(ours, 0.01, relative_threshold=math.inf, base=base.split()[-1], **options)
    assert_same(steps(us, ours, 30), steps(make(theirs), theirs, 30), rtol=1e-9)


def test_layer_clip_equals_clipping_each_tensor_with_torch():
    ours, theirs = parameters((4, 3), (3,)), parameters((4, 3), (3,))
    steps(LayerClip(ours, 0.3, max_norm=2.0, eps=0.0), ours, 1)
    clipped_steps(theirs, 1, lambda: [nn.utils.clip_grad_norm_([p], 2.0) for p in theirs])
    assert_same(ours, theirs, rtol=1e-6)  # torch adds 1e-6 to the norm


def test_global_clip_equals_torch_over_all_groups():
    ours, theirs = parameters((4, 3), (3,)), parameters((4, 3), (3,))
    us = GlobalClip([{"params": ours[:1]}, {"params": ours[1:]}], 0.3, max_norm=2.0, eps=0.0)
    ours = steps(us, ours, 20)
    clipped_steps(theirs, 20, lambda: nn.utils.clip_grad_norm_(theirs, 2.0))
    assert_same(ours, theirs, rtol=1e-5)


def clipped_steps(params, count, clip):
    adagrad = torch.optim.Adagrad(params, 0.3, initial_accumulator_value=0.1, eps=0.0)
    adagrad.register_step_pre_hook(lambda *_: clip() and None)
    steps(adagrad, params, count)


@each_optimizer
def test_the_two_faces_give_the_same_bits(optimizer, monkeypatch):
    monkeypatch.setattr(_foreach_clippy, "is_plain", lambda *_: False)
    params = parameters((4, 3), (3,), (), dtype=torch.float32)
    optimizer = optimizer(params, 0.3)
    name = optimizer.param_groups[0]["method"]
    chain = methods.build(name, torch.tensor([0.3, 0.3]), {})
    weights = [p.detach().clone().expand(2, *p.shape).clone() for p in params]
    states = [chain.init(w) for w in weights]
    for t in range(8):
        steps(optimizer, params, 1, start=t)
        gradients = [p.grad.expand(2, *p.shape).clone() for p in params if p.grad is not None]
        leaves = [Leaf(w, g, g, s) for w, g, s in zip(weights, gradients, states, strict=True)]
        chain.updates(leaves)
        for leaf in leaves:
            leaf.weight.sub_(leaf.update)
    for p, w in zip(params, weights, strict=True):
        assert torch.equal(p.detach(), w[1])


def test_lamb_equals_a_loop_over_scalars():
    (p,) = parameters((2, 3))
    w, G = p.flatten().tolist(), [0.1] * 6
    optimizer = LAMB([p], 0.5, mu=0.2)
    for t in range(25):
        steps(optimizer, [p], 1, start=t)
        assert p.grad is not None
        g = p.grad.flatten().tolist()
        r = []
        for i in range(6):
            G[i] += g[i] * g[i]
            r.append(g[i] / math.sqrt(G[i] + 1e-7))
        ratio = math.hypot(*w) / math.hypot(*r)
        for i in range(6):
            w[i] -= 0.5 * 0.2 * ratio * r[i]
    assert p.flatten().tolist() == pytest.approx(w, rel=1e-10)


@pytest.mark.parametrize("sparse", [False, True])
def test_clippy_single_step_of_the_authors(sparse):
    for clip_accumulator, G in ((False, 100.01), (True, 0.10)):
        p = nn.Parameter(torch.tensor([[1.0], [7.0], [2.0]]) if sparse else torch.tensor([1.0, 2.0]))
        optimizer = Clippy(
            [p],
            0.2,
            relative_threshold=0.4,
            absolute_threshold=0.1,
            accumulator_relative_threshold=0.01,
            initial_accumulator_value=0.01,
            eps=0.0,
            delayed_accumulator=True,
            clip_accumulator=clip_accumulator,
            record_clip_factors=True,
        )
        gradient = torch.tensor([10.0, 10.0])
        if sparse:
            # 10 for row 0 in two parts
            rows, values = torch.tensor([[0, 2, 0]]), torch.tensor([[4.0], [10.0], [6.0]])
            gradient = torch.sparse_coo_tensor(rows, values, (3, 1))
        p.grad = gradient
        optimizer.step()
        assert optimizer.clip_factors()[p].item() == pytest.approx(0.03)
        expected = ([0.4, 7.0, 1.4], [G, 0.01, G]) if sparse else ([0.4, 1.4], [G, G])
        assert p.flatten().tolist() == pytest.approx(expected[0])
        assert optimizer.state[p]["accumulator"].flatten().tolist() == pytest.approx(expected[1])


# --- sparse gradients --------------------------------------------------------------------------------------------


@each_optimizer
@pytest.mark.parametrize("base", methods.BASES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_sparse_step_is_a_dense_step_of_the_touched_rows(optimizer, base, weight_decay):
    (table,) = parameters((20, 3))
    rows = torch.tensor([2, 3, 11])
    part = nn.Parameter(table.detach()[rows].clone())
    before = table.detach().clone()
    sparse = optimizer([table], 0.5, base=base, weight_decay=weight_decay)
    dense = optimizer([part], 0.5, base=base, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        gradient = torch.randn(3, 3, generator=generator, dtype=F64)
        doubled = torch.cat([rows.flip(0), rows]).unsqueeze(0)
        halves = torch.cat([(gradient / 4).flip(0), gradient * 3 / 4])
        table.grad = torch.sparse_coo_tensor(doubled, halves, table.shape)
        part.grad = gradient
        sparse.step()
        dense.step()
    torch.testing.assert_close(table.detach()[rows], part.detach(), rtol=1e-12, atol=0.0)
    assert not torch.equal(part.detach(), before[rows])
    untouched = torch.ones(20, dtype=torch.bool).index_fill_(0, rows, False)
    assert torch.equal(table.detach()[untouched], before[untouched])
    for key, value in sparse.state[table].items():
        if value.shape == table.shape:
            start = 0.1 if key == "accumulator" else 0.0
            assert torch.equal(value[untouched], torch.full_like(value[untouched], start)), key
            torch.testing.assert_close(value[rows], dense.state[part][key], rtol=1e-12, atol=0.0)


def test_an_embedding_trains_and_a_zero_row_freezes_only_those_who_touch_it():
    embedding = nn.Embedding(10, 2, sparse=True)
    with torch.no_grad():
        embedding.weight[4].zero_()
    optimizer = Clippy(embedding.parameters(), 1.0, absolute_threshold=0.0)
    for ids, moves in (([1, 2], True), ([1, 4], False)):
        before = embedding.weight.detach().clone()
        optimizer.zero_grad()
        embedding(torch.tensor(ids)).square().add(embedding(torch.tensor(ids))).sum().backward()
        optimizer.step()
        assert torch.equal(embedding.weight.detach(), before) is not moves


def test_sparse_gradient_without_rows_changes_nothing():
    (p,) = parameters((5, 2))
    before = p.detach().clone()
    optimizer = Clippy([p], 1.0, record_clip_factors=True)
    p.grad = torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0, 2, dtype=F64), (5, 2))
    optimizer.step()
    assert torch.equal(p.detach(), before)
    assert optimizer.clip_factors()[p].item() == 1.0


def test_fully_sparse_matrices():
    (p,) = parameters((4, 5))
    before = p.detach().clone()
    at = torch.tensor([[0, 3, 0], [1, 2, 1]])
    p.grad = torch.sparse_coo_tensor(at, torch.tensor([1.0, -2.0, 2.0], dtype=F64), (4, 5))
    MethodOptimizer([p], 0.5, "none", {"base": "sgd"}).step()
    before[0, 1] -= 1.5
    before[3, 2] += 1.0
    torch.testing.assert_close(p.detach(), before)


def test_other_layouts_are_refused():
    with warnings.catch_warnings(action="ignore"):  # torch calls this layout a beta
        p = nn.Parameter(torch.eye(3).to_sparse_csr())
        p.grad = p.detach().clone()
    with pytest.raises(ValueError, match=r"need dense or sparse COO gradients, got torch\.sparse_csr"):
        Clippy([p], 0.1).step()


# --- the fast path of plain Clippy -------------------------------------------------------------------------------

FAST_SHAPES = ((4, 3), (3,), (), (0, 2), (1, 5), (16,), (41, 40), (60, 50), (2000,))


@pytest.fixture
def small_chunks(monkeypatch):
    """Packs and chunks of a few elements, with ends that fill no register: several of each, in tensors of this size."""
    for name, size in (("SMALL", 1700), ("PACK", 1800), ("CHUNK", 701)):
        monkeypatch.setattr(_foreach_clippy, name, size)


def chain_of(monkeypatch, optimizer, params, *args, **kwargs):
    with monkeypatch.context() as patch:
        patch.setattr(_foreach_clippy, "is_plain", lambda *_: False)
        return steps(optimizer, params, *args, **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("lr", [0.3, torch.tensor([0.3])])
def test_fast_steps_equal_the_chain(small_chunks, monkeypatch, dtype, maximize, lr):
    """From the same start, each step: no bit of the accumulator, and a few last bits of the update."""
    fast, slow = (parameters(*FAST_SHAPES, dtype=dtype) for _ in range(2))
    a, b = (Clippy(p, lr, maximize=maximize, record_clip_factors=True) for p in (fast, slow))
    smallest = 1.0
    for t in range(12):
        steps(a, fast, 1, start=t)
        chain_of(monkeypatch, b, slow, 1, start=t)
        assert a.clip_factors().keys() == set(fast)
        for p, q in zip(fast, slow, strict=True):
            assert torch.equal(a.state[p]["accumulator"], b.state[q]["accumulator"])
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(p.detach(), q.detach(), rtol=eps, atol=8 * eps)
            factor = b.clip_factors()[q]
            torch.testing.assert_close(a.clip_factors()[p], factor, rtol=8 * eps, atol=0.0)
            smallest = min(smallest, factor.item())
            p.data.copy_(q.data)
    assert smallest < 0.1


def test_a_tensor_has_the_same_bits_in_any_pack(small_chunks):
    together = parameters(*FAST_SHAPES, dtype=torch.float32)
    optimizer = Clippy(together, 0.3)
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    single = [Clippy([p], 0.3) for p in alone]
    for t in range(6):
        steps(optimizer, together, 1, start=t)
        for p, q, own in zip(together, alone, single, strict=True):
            q.grad = p.grad
            own.step()
    assert all(torch.equal(p, q) for p, q in zip(together, alone, strict=True))


def test_parameters_come_and_go_between_fast_steps(small_chunks, monkeypatch):
    """Who has a gradient changes, a state is loaded, and the type: the accumulators follow, bit for bit."""
    fast, slow = (parameters(*FAST_SHAPES, dtype=torch.float32) for _ in range(2))
    a, b = Clippy(fast, 0.3), Clippy(slow, 0.3)
    for t in range(9):
        for p, q in zip(fast, slow, strict=True):
            p.data.copy_(q.data)
        for optimizer, params in ((a, fast), (b, slow)):
            generator = torch.Generator().manual_seed(t)
            for i, p in enumerate(params):
                gradient = torch.randn(p.shape, generator=generator, dtype=F64).to(p.dtype)
                p.grad = None if (i + t) % 4 == 0 else gradient
            if t == 4:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            if t == 6:
                for p in params:
                    p.data, p.grad = p.data.double(), None if p.grad is None else p.grad.double()
        a.step()
        with monkeypatch.context() as patch:
            patch.setattr(_foreach_clippy, "is_plain", lambda *_: False)
            b.step()
        for p, q in zip(fast, slow, strict=True):
            assert (p in a.state) == (q in b.state)
            if p in a.state:
                torch.testing.assert_close(
                    a.state[p]["accumulator"].float(), b.state[q]["accumulator"].float(), rtol=2e-7, atol=0.0
                )
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-6, atol=1e-6)


def test_a_model_that_turns_double_is_computed_in_double():
    model = nn.Linear(3, 2)
    optimizer = Clippy(model.parameters(), 0.3, relative_threshold=1e6)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(1, 3, dtype=model.weight.dtype)).sum().backward()
        before = model.bias.detach().clone()
        optimizer.step()
        model.double()
    accumulator = optimizer.state[model.bias]["accumulator"]
    step = 0.3 / (accumulator + 1e-7).sqrt()
    torch.testing.assert_close(before - model.bias.detach(), step, rtol=1e-14, atol=0.0)


def test_who_takes_the_fast_path(monkeypatch):
    taken = []
    step = _foreach_clippy.FastClippy.step

    def watched(self, weights, *others):
        taken.extend(weights)
        return step(self, weights, *others)

    monkeypatch.setattr(_foreach_clippy.FastClippy, "step", watched)
    dense, table, narrow, turned = parameters((4, 3), (20, 3), (5,), (300, 200))
    narrow = nn.Parameter(narrow.detach().bfloat16())
    turned = nn.Parameter(turned.detach().t())
    params = [dense, table, narrow, turned]
    for p in params:
        p.grad = torch.ones_like(p)
    table.grad = torch.ones_like(table).to_sparse()
    optimizer = Clippy(params, 0.1, record_clip_factors=True)
    before = [p.detach().clone() for p in params]
    optimizer.step()
    assert [id(p) for p in taken] == [id(dense)]
    assert optimizer.clip_factors().keys() == set(params)
    assert all((p.detach() != old).all() for p, old in zip(params, before, strict=True))

    taken.clear()
    others = {
        "relative_threshold": math.inf,
        "absolute_threshold": 0.0,
        "accumulator_relative_threshold": 0.1,
        "delayed_accumulator": True,
        "norm": "rms",
        "base": "sgd",
        "weight_decay": 0.1,
    }
    for key, value in others.items():
        Clippy([dense], 0.1, **{key: value}).step()
    for other in (AGC, LAMB, LayerClip, GlobalClip):
        other([dense], 0.1).step()
    assert not taken
    MethodOptimizer([dense], 0.1, "clippy").step()
    assert len(taken) == 1


def test_a_nan_stays_in_its_tensor_on_the_fast_path(small_chunks):
    params = parameters(*FAST_SHAPES, dtype=torch.float32)
    optimizer = Clippy(params, 0.3, record_clip_factors=True)
    bad = {0, 6, 7}
    for i, p in enumerate(params):
        p.grad = torch.ones_like(p)
        if i in bad:
            p.grad.view(-1)[-1] = math.nan
    optimizer.step()
    for i, p in enumerate(params):
        assert optimizer.clip_factors()[p].isnan().item() == (i in bad)
        assert p.isnan().all() if i in bad else p.isfinite().all()


# --- manners of an optimizer -------------------------------------------------------------------------------------


@each_optimizer
@pytest.mark.parametrize("base", methods.BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_goes_on_from_a_saved_state_bit_for_bit(tmp_path, optimizer, base, dtype):
    options = {"base": base} | ({"momentum": 0.9} if base == "sgd" else {})
    shapes = ((4, 3), (3,), ())
    params = parameters(*shapes, dtype=dtype)
    through = optimizer(params, 0.1, **options)
    halfway = steps(through, params, 3)
    torch.save(through.state_dict(), tmp_path / "state.pt")
    expected = steps(through, params, 3, start=3)

    fresh = [nn.Parameter(p) for p in halfway]
    other = optimizer(fresh, 7.0, **options)
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    other.load_state_dict(loaded)
    kept = copy.deepcopy(loaded["state"])
    for a, b in zip(expected, steps(other, fresh, 3, start=3), strict=True):
        assert torch.equal(a, b)
    assert str(kept) == str(loaded["state"]), "training on changes what was loaded"
    wide = torch.float64 if dtype == F64 else torch.float32
    assert all(value.dtype == wide for state in other.state.values() for value in state.values())


def test_copies_and_pickles():
    params = parameters((4, 3))
    optimizer = Clippy(params, 0.1, record_clip_factors=True)
    steps(optimizer, params, 1)
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        own = again.param_groups[0]["params"]
        steps(again, own, 1, start=1)
        assert again.clip_factors()[own[0]].item() < 1
    steps(optimizer, params, 1, start=1)
    assert torch.equal(own[0], params[0])


def test_refuses_the_state_of_another_method():
    params = parameters((4, 3))
    with pytest.raises(ValueError, match="need a state of method global_clip, got one of layer_clip"):
        GlobalClip(params, 0.1).load_state_dict(LayerClip(params, 0.1).state_dict())
    with pytest.raises(ValueError, match="need a state of method clippy, got one of None"):
        Clippy(params, 0.1).load_state_dict(torch.optim.Adagrad(params, 0.1).state_dict())


def test_groups_have_their_own_lr_and_thresholds():
    params = parameters((3,), (3,), (3,))
    alone = parameters((3,), (3,), (3,))
    groups = [
        {"params": params[:1]},
        {"params": params[1:2], "lr": 0.7, "relative_threshold": 0.01},
        {"params": params[2:], "base": "sgd", "momentum": 0.5},
    ]
    together = steps(Clippy(groups, 0.2), params, 5)
    single = [
        Clippy(alone[:1], 0.2),
        Clippy(alone[1:2], 0.7, relative_threshold=0.01),
        Clippy(alone[2:], 0.2, base="sgd", momentum=0.5),
    ]
    for t in range(5):
        generator = torch.Generator().manual_seed(1000 + t)
        for p in alone:
            p.grad = torch.randn(3, generator=generator, dtype=F64) * 10.0 ** math.sin(t)
        for optimizer in single:
            optimizer.step()
    assert all(torch.equal(a, b.detach()) for a, b in zip(together, alone, strict=True))


def test_schedulers_set_the_lr():
    (p,) = parameters((2,))
    optimizer = MethodOptimizer([p], 1.0, "none", {"base": "sgd"})
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    before = p.detach().clone()
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(p.detach(), before - 1.75)
    (p,) = parameters((2,))
    cycle = torch.optim.lr_scheduler.OneCycleLR(Clippy([p], 0.1, base="sgd"), max_lr=0.1, total_steps=5)
    for _ in range(4):
        p.grad = torch.ones_like(p)
        cycle.optimizer.step()
        cycle.step()
    assert p.isfinite().all()


def test_lr_as_a_tensor():
    ours, theirs = parameters((3,)), parameters((3,))
    a, b = Clippy(ours, torch.tensor(0.3, dtype=F64)), Clippy(theirs, 0.3)
    assert torch.equal(steps(a, ours, 3)[0], steps(b, theirs, 3)[0])


def test_closure_runs_with_gradients_and_its_loss_comes_back():
    (p,) = parameters((2,))
    optimizer = LAMB([p], 0.1)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss.item()

    before = closure()
    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss == before
    assert p.square().sum().item() < before


@each_optimizer
def test_maximize_is_the_negative_gradient(optimizer):
    up, down = parameters((3,), (2, 2)), parameters((3,), (2, 2))
    a, b = optimizer(up, 0.1, maximize=True), optimizer(down, 0.1)
    for p, q in zip(up, down, strict=True):
        p.grad, q.grad = torch.full_like(p, 3.0), torch.full_like(q, -3.0)
    a.step()
    b.step()
    assert all(torch.equal(p, q) for p, q in zip(up, down, strict=True))


@each_optimizer
def test_odd_parameters(optimizer):
    without, scalar, empty, frozen = parameters((3,), (), (0, 2), (2,))
    frozen.requires_grad_(False)
    before = without.detach().clone(), scalar.detach().clone()
    optimizer = optimizer([without, scalar, empty, frozen], 0.1, record_clip_factors=True)
    scalar.grad, empty.grad = torch.ones_like(scalar), torch.ones_like(empty)
    optimizer.step()
    assert torch.equal(without.detach(), before[0])
    assert scalar.item() < before[1].item()
    assert set(optimizer.clip_factors()) == {scalar, empty}
    assert without not in optimizer.state


@each_optimizer
def test_narrow_parameters_are_computed_wide_and_rounded_once(optimizer):
    (narrow,) = parameters((50, 3), dtype=torch.bfloat16)
    a = optimizer([narrow], 0.1)
    wide = nn.Parameter(narrow.detach().float())
    b = optimizer([wide], 0.1)
    for t in range(4):
        steps(a, [narrow], 1, start=t)
        assert narrow.grad is not None
        wide.grad = narrow.grad.float()
        b.step()
        with torch.no_grad():
            wide.copy_(wide.bfloat16())
        assert torch.equal(narrow.detach().float(), wide.detach())
    assert a.state[narrow].keys() == b.state[wide].keys() != set()
    assert all(torch.equal(a.state[narrow][key], b.state[wide][key]) for key in a.state[narrow])


def test_narrow_sparse_gradients_are_summed_wide():
    p = nn.Parameter(torch.zeros(2, 1, dtype=torch.bfloat16))
    rows, values = torch.zeros(1, 257, dtype=torch.int64), torch.ones(257, 1, dtype=torch.bfloat16)
    p.grad = torch.sparse_coo_tensor(rows, values, (2, 1))
    MethodOptimizer([p], 1 / 257, "none", {"base": "sgd"}).step()
    assert p.flatten().tolist() == [-1.0, 0.0]  # in bfloat16, 256 + 1 is 256


def test_parameters_that_are_not_contiguous():
    (p,) = parameters((4, 3))
    turned = nn.Parameter(p.detach().clone().t().contiguous().t())
    assert not turned.is_contiguous()
    a, b = (Clippy([q], 0.3, delayed_accumulator=True) for q in (p, turned))
    assert_same(steps(a, [p], 5), steps(b, [turned], 5))


@each_optimizer
def test_never_waits_for_the_device(optimizer):
    """Tensors on the device "meta" have no values: whatever asks for one raises."""
    params = [nn.Parameter(torch.zeros(shape, device="meta")) for shape in ((4, 3), (3,), ())]
    optimizer = optimizer(params, 0.1, record_clip_factors=True, weight_decay=0.1)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.step()
    assert optimizer.clip_factors()[params[0]].device.type == "meta"


def test_clip_factors():
    a, b = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([1.0]))
    optimizer = LayerClip([a, b], 0.1, max_norm=1.0)
    a.grad, b.grad = torch.tensor([6.0, 8.0]), torch.tensor([0.5])
    optimizer.step()
    assert optimizer.clip_factors() == {}  # nobody watched; from now on somebody does
    optimizer.step()
    factors = optimizer.clip_factors()
    assert [factors[a].item(), factors[b].item()] == [pytest.approx(0.1), 1.0]
    b.grad = None
    optimizer.step()
    assert set(optimizer.clip_factors()) == {a}


@each_optimizer
def test_nan_is_not_hidden(optimizer):
    (p,) = parameters((3,))
    optimizer = optimizer([p], 0.1)
    p.grad = torch.tensor([1.0, math.nan, 1.0], dtype=F64)
    optimizer.step()
    assert p.isnan().any()


@each_optimizer
def test_defaults_are_those_of_the_method(optimizer):
    made = optimizer(parameters((2,)), 0.1)
    name = made.defaults["method"]
    for key, default in methods.signature(name).defaults.items():
        word = optimizer.words.get(key, key)
        assert made.defaults.get(word, 0.0) == default
        if key not in methods.COMMON:
            assert inspect.signature(optimizer).parameters[word].default == default


WRONG = [
    (lambda p: Clippy(p, -0.1), "need a finite lr >= 0, got lr=-0.1"),
    (lambda p: Clippy(p, math.nan), "need a finite lr >= 0"),
    (lambda p: Clippy(p, torch.ones(2)), r"need one lr, got a tensor of shape \(2,\)"),
    (lambda p: Clippy(p, 0.1, relative_threshold=-1.0), "need relative_threshold >= 0, got relative_threshold=-1"),
    (lambda p: Clippy(p, 0.1, 0.0, 0.0), "need relative_threshold > 0 or absolute_threshold > 0"),
    (lambda p: Clippy(p, 0.1, clip_accumulator=True), "clip_accumulator needs delayed_accumulator=true"),
    (lambda p: Clippy(p, 0.1, eps=-1.0), "need a finite eps >= 0"),
    (lambda p: Clippy(p, 0.1, initial_accumulator_value=math.nan), "need a finite initial_accumulator_value >= 0"),
    (lambda p: Clippy(p, 0.1, base="adam"), "base is one of adagrad, sgd, rmsprop, adamw; got 'adam'"),
    (lambda p: Clippy(p, 0.1, weight_decay=-1.0), "need weight_decay >= 0"),
    (lambda p: AGC(p, 0.1, momentum=0.5), "momentum needs base=sgd"),
    (lambda p: AGC(p, 0.1, per="row"), "per is one of tensor, unit"),
    (lambda p: LayerClip(p, 0.1, 0.0), "need max_norm > 0"),
    (lambda p: MethodOptimizer(p, 0.1, "clipy"), "unknown method 'clipy'; there are activation_clip"),
    (lambda p: MethodOptimizer(p, 0.1, "activation_clip"), "is not available as an optimizer"),
    (lambda p: Clippy([{"params": p, "absolute_threshold": -1.0}], 0.1), "need absolute_threshold >= 0"),
    (lambda p: Clippy([{"params": p, "lr": -1.0}], 0.1), "need a finite lr >= 0"),
    (lambda p: Clippy([nn.Parameter(torch.ones(2, dtype=torch.complex64))], 0.1), "need real parameters"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_wrong_values_are_answered_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make(parameters((2,)))
    assert "\n" not in str(error.value)
