"""All sides of the optimizer benchmark do the same work, and the table has them all."""

import math

import optimizers
import pytest
import torch

from study.optim import Clippy

SOMEBODYS = """
import torch

class ClippyAdagrad(torch.optim.SGD):
    def __init__(self, params, lr, lambda_rel=0.0, eps=0.0):
        assert (lambda_rel, eps) == (0.5, 1e-7)
        super().__init__(params, lr)

    def step(self):
        if self.param_groups[0]["params"][0].grad.is_sparse:
            raise RuntimeError("dense only")
        super().step()
"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small cases, and torch does not warn that it leaves sparse tensors unchecked."""
    monkeypatch.setattr(optimizers, "DENSE", {"ranker": optimizers.RANKER})
    monkeypatch.setattr(optimizers, "SPARSE", {"rows": (9, True), "raw": (9, False)})
    monkeypatch.setattr(optimizers, "TABLE", (20, 3))
    with torch.sparse.check_sparse_tensor_invariants():
        yield


@pytest.mark.parametrize("case", ["ranker", "rows", "raw"])
def test_the_straight_form_and_ours_are_the_same_method(case):
    ours, theirs = optimizers.parameters(case, "cpu"), optimizers.parameters(case, "cpu")
    starts = [p.detach().clone() for p in ours]
    a, b = Clippy(ours, optimizers.LR), optimizers.Straight(theirs)
    for _ in range(3):
        a.step()
        b.step()
    for p, q, start in zip(ours, theirs, starts, strict=True):
        assert not torch.equal(p, start)
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_the_table_has_everyone(tmp_path):
    file = tmp_path / "somebody.py"
    file.write_text(SOMEBODYS)
    rows = optimizers.table(["ranker", "raw"], "cpu", 1, [file])
    name = f"{tmp_path.name}/somebody"
    for row in rows:
        assert row["which"] == ("sparse" if row["case"] == "raw" else row["which"])
        assert row["/ adagrad"] == pytest.approx(row["clippy"] / row["adagrad"])
        assert row["straight / clippy"] == pytest.approx(row["straight"] / row["clippy"])
        assert math.isnan(row[name]) is (row["case"] == "raw")


def test_a_case_is_asked_for_by_a_part_of_its_name(capsys):
    optimizers.main(["--cases", "rank", "--rounds", "1", "--threads", str(torch.get_num_threads())])
    out = capsys.readouterr().out
    assert "| ranker |" in out
    assert "raw" not in out
    with pytest.raises(SystemExit) as stopped:
        optimizers.main(["--cases", "nothing"])
    assert stopped.value.code == 2
