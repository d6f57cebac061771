"""What is wrong with a user's own model is one line when the study is planned, with the file and the line."""

import dataclasses
from pathlib import Path

import pytest
from own_files import network, own_folder, write  # noqa: F401 - a fixture
from plans import make_study, planned_of
from stacks import LOG, RECIPE

from study.training import own_model

HEADER = "import numpy as np\nimport torch\nfrom torch import nn\n\n\n"


def forward(text: str, init: str = "pass") -> str:
    return network(init, text)


WRONG = {
    "no spec": (
        HEADER + "def build():\n    return nn.Linear(3, 1)\n",
        "line 6: build takes .spec, .*, but: it has no `spec` argument",
    ),
    "options alone": (
        HEADER + "def build(*, width=16):\n    return nn.Linear(3, 1)\n",
        "line 6: build takes .spec, .*, but: it has no `spec` argument",
    ),
    "two arguments": (HEADER + "def build(spec, tasks):\n    return None\n", "line 6: build takes .spec, .*'tasks'"),
    "nothing": (HEADER + "def build(spec):\n    nn.Linear(3, 1)\n", "line 6: build returns NoneType, but a torch.nn"),
    "a class": (HEADER + "def build(spec):\n    return nn.Linear\n", "line 6: build returns type, but a torch.nn.Mod"),
    "a typo": (HEADER + "def build(spec):\n    return nn.Linear(spec.widht, 1)\n", "line 7: AttributeError: .*'widht'"),
    "lazy": (HEADER + "def build(spec):\n    return nn.LazyLinear(1)\n", "line 6: weight has no size yet"),
    "a gru": (
        HEADER + "def build(spec):\n    return nn.GRU(spec.width, 1)\n",
        r"line 6: the model returns tuple, but one logit a task is needed, \(32, 1\) for a batch of 32",
    ),
    "an auxiliary loss a row": (
        forward("y = self.b(self.a(x)); return y, y.square().mean(1)"),
        r"line \d+: the model returns tuple, but one .*, or \(logits, aux\) where aux is one number, a tensor of shape",
    ),
    "an auxiliary loss that is no tensor": (forward("return self.b(self.a(x)), 0.0"), "where aux is one number"),
    "three outputs": (forward("y = self.b(self.a(x)); return y, y.mean(), y"), "where aux is one number"),
    "an auxiliary loss of whole numbers": (
        forward("y = self.b(self.a(x)); return y, y.argmax()"),
        "where aux is one number",
    ),
    "an auxiliary loss with other logits": (
        forward("y = self.b(self.a(x)); return y[:, :0], y.mean()"),
        r"the model returns \(32, 0\), but one logit a task",
    ),
    "too many outputs": (
        HEADER + "def build(spec):\n    return nn.Linear(spec.width, 2)\n",
        r"line 6: the model returns \(32, 2\), but one logit",
    ),
    "one dimension": (forward("return self.b(self.a(x))[:, 0]"), r"line \d+: the model returns \(32,\), but one"),
    "a dict": (forward("return {'logits': self.b(self.a(x))}"), r"line \d+: the model returns dict, but one logit"),
    "classes": (forward("return self.b(self.a(x)).argmax(1, keepdim=True)"), "returns torch.int64, but logits"),
    "no gradient": (forward("return self.b(self.a(x)).detach()"), "no output depends on a weight that can be trained"),
    "a guard": (forward("if True:\n    raise ValueError('need 9 inputs')"), r"mine.py, line \d+: need 9 inputs$"),
    "judging": (
        forward("assert self.training, 'no serving yet'; return self.b(self.a(x))"),
        r"mine.py, line \d+: AssertionError: no serving yet",
    ),
    "a counter": (
        forward("self.calls += 1; return self.b(self.a(x)) / self.calls", "self.calls = 0"),
        "a run that continues from a checkpoint differs: .*no buffer",
    ),
    "a generator": (
        forward(
            "h = self.a(x); return self.b(h * torch.rand(h.shape, generator=self.g))",
            "self.g = torch.Generator().manual_seed(0)",
        ),
        "a run that continues from a checkpoint differs: .*random numbers",
    ),
    "random numbers of numpy": (
        HEADER + "class Noise(nn.Linear):\n    def forward(self, x):\n"
        "        return super().forward(x) * float(np.random.rand())\n\n\n"
        "def build(spec):\n    return Noise(spec.width, 1)\n",
        "line 7: a run has other bits alone than beside other runs",
    ),
    "one module for all": (
        HEADER + "ONE = nn.Sequential(nn.Dropout(0.1), nn.Linear(11, 1))\n\n\ndef build(spec):\n    return ONE\n",
        "line 9: a run has other bits alone than beside other runs",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_one_line(own_folder: Path, kind: str) -> None:  # noqa: F811
    text, message = WRONG[kind]
    with pytest.raises(ValueError, match=message) as raised:
        planned_of(make_study(models=("small", write(own_folder, text))), workers=1)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "one_by_one"),
    [
        (network("self.c = nn.BatchNorm1d(16)", "return self.b(self.c(self.a(x)).relu())"), True),
        (network("self.c = nn.Dropout(0.1)", "return self.b(self.c(self.a(x)).relu())"), True),
        (network("self.c = nn.GRU(1, 16, batch_first=True)", "return self.b(self.c(x[:, :, None])[0][:, -1])"), True),
        (network("self.c = spectral_norm(nn.Linear(16, 16))", "return self.b(self.c(self.a(x)).relu())"), True),
        (network(forward="if not x.isfinite().all():\n    raise FloatingPointError\nreturn self.b(self.a(x))"), True),
        (network("self.a = self.a.double()"), False),
        (network("self.a.requires_grad_(False)"), False),
        (network("self.requires_grad_(False)"), False),
        (network(forward="return self.b(self.a(x).relu_())"), False),
        (network(forward="y = self.b(self.a(x)); return y, 0.1 * y.square().mean()"), False),
        (network("self.c = nn.Dropout(0.1)", "y = self.b(self.c(self.a(x))); return y, y.square().mean()"), True),
    ],
    ids=[
        "norm",
        "dropout",
        "gru",
        "spectral",
        "guard",
        "precisions",
        "frozen",
        "all",
        "in place",
        "aux",
        "aux, dropout",
    ],
)
def test_what_can_be_trained_is_planned(own_folder: Path, text: str, one_by_one: bool) -> None:  # noqa: F811
    plan = planned_of(make_study(models=(write(own_folder, text),)), workers=1)
    assert plan.limits.notes[:1] == plan.limits.notes
    assert bool(plan.limits.notes) == one_by_one
    assert plan.missing


def test_the_example_of_the_page_is_planned_and_its_option_varies(own_folder: Path) -> None:  # noqa: F811
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    name = write(own_folder, page.partition("# my_models/mixture.py\n")[2].partition("```")[0])
    plan = planned_of(make_study(models=(name, f"{name} balance=0.1")), workers=1)
    assert plan.missing
    assert not plan.limits.notes, "its runs are computed together"


def test_a_model_is_tried_on_data_without_ids() -> None:
    log = dataclasses.replace(LOG, ids=LOG.ids[:, :0], vocabulary=(), id_names=())
    assert log.spans == []
    own_model.check("own_models.linear", RECIPE, log)
