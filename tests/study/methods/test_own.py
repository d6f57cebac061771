"""Methods of a user's own are tried on toy tensors: what raises or mixes runs is one line, with its file and line."""

from pathlib import Path

import pytest
import torch
from own_files import own_folder, write  # noqa: F401 - a fixture
from plans import make_study, planned_of

from study import methods
from study.config import Arm
from study.methods import _own
from study.transforms import Leaf, apply_factor

METHOD = """
import torch
from study.transforms import LeafLink, apply_factor, chain, scale


class Mine(LeafLink):
    def __init__(self, c):
        self.c, self.calls = c, 0

    def init(self, weight):
        return {init}

    def apply_one(self, leaf):
        {body}


def build(lr, *, base, c=0.5):
    return {build}
"""


def method(body: str = "pass", *, init: str = "{}", build: str = "chain(base(), scale(lr), Mine(c))") -> str:
    return METHOD.format(init=init, body=body.replace("; ", "\n        "), build=build)


def links(body: str, init: str = "{}") -> str:
    return method(body, init=init)


C = "c = self.c.view(-1, *[1] * (leaf.update.dim() - 1)) if isinstance(self.c, torch.Tensor) else self.c; "

WRONG = {
    "norm over runs": (method("leaf.update = leaf.update * 0.1 / leaf.update.norm()"), "line 1[34]: .*mixes runs"),
    "mean over runs": (method("leaf.update = leaf.update - leaf.update.mean(0)"), "line 1[34]: .*mixes runs"),
    "first run": (method("leaf.update = leaf.update * (1 + leaf.weight[:1])"), "line 1[34]: .*mixes runs"),
    "state over runs": (
        links("leaf.state['m'] += leaf.update.abs().sum(); leaf.update = leaf.update / (1 + leaf.state['m'])",
              "{'m': weight * 0}"), "line 1[34]: .*mixes runs"),
    "if": (method("if self.c > 0.1: leaf.update = leaf.update * self.c"), r"line 14: RuntimeError: Boolean value of T"),
    "size": (method("leaf.update = leaf.update * self.c"), "line 14: RuntimeError: The size of tensor a"),
    "no init": (method("leaf.update = leaf.update + leaf.state['m']"), "line 14: KeyError: 'm'"),
    "late state": (method("leaf.state['m'] = leaf.update"), r"line 1[34]: leaf.state\['m'\] is not made by the li"),
    "state of no run": (method(init="{'m': torch.zeros(1)}"), r"line 17: leaf.state\['m'\] is \(1,\): its first"),
    "counter": (method("self.calls += 1; leaf.update = leaf.update / self.calls"), "line 1[34]: .*from a checkpoint"),
    "weight": (method("leaf.weight.mul_(0.9)"), "line 1[34]: a link changes leaf.weight or leaf.gradient"),
    "gradient": (method(build="chain(Mine(c), base(), scale(lr))", body="leaf.gradient.mul_(0.9)"),
                 "line 1[34]: a link changes leaf.weight or leaf.gradient"),
    "random": (method("leaf.update.add_(torch.randn_like(leaf.update), alpha=1e-3)"), "line 1[34]: .*random numbers"),
    "norm over runs, large": (
        method("leaf.update = leaf.update * (10.0 / leaf.update.norm()).clamp(max=1.0)"), "line 1[34]: .*mixes runs"),
    "norm over runs, an if": (
        method("if leaf.update.norm() > 10: leaf.update = leaf.update * 0.1"), "line 1[34]: .*mixes runs"),
    "largest over runs": (
        method("if leaf.update.abs().max() > 100: leaf.update = leaf.update * 0.1"), "line 1[34]: .*mixes runs"),
    "largest gradient over runs": (
        method("if leaf.gradient.abs().max() > 1e6: leaf.update = leaf.update * 0.1"), "line 1[34]: .*mixes runs"),
    "smallest over runs": (
        method("if leaf.update.norm() < 0.002: leaf.update = leaf.update * 0"), "line 1[34]: .*mixes runs"),
    "shape": (method("leaf.update = leaf.update.flatten(1).sum(1)"), r"leaves an update \(1,\) for a weight \(1, 4, "),
    "threshold rounds": (
        method(C + "leaf.update = leaf.update * (c if isinstance(c, float) else c + 0.1)"),
        "line 1[34]: .*one value a run"),
    "nothing": (method(build="None"), "line 17: TypeError: a chain takes links, got NoneType"),
    "a function": (method(build="chain(base(), lambda leaves: None)"), "line 18: TypeError: a chain takes links"),
    "option": (method(build="chain(base(decay=0.9), scale(lr))"), "line 1[89]: TypeError: .*decay"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_one_line(own_folder: Path, kind: str) -> None:  # noqa: F811
    text, message = WRONG[kind]
    with pytest.raises(ValueError, match=rf"mine\.py, {message}" if "line" in message[:4] else message) as raised:
        planned_of(make_study(arms=(Arm(method="none"), Arm(method=write(own_folder, text)))), workers=1)
    assert len(str(raised.value).splitlines()) == 1
    assert str(raised.value).count("mine.py") == 1


@pytest.mark.parametrize(
    "text",
    [
        method(C + "leaf.update = leaf.update.clamp(-c, c) if isinstance(c, float) else leaf.update.clamp(-c, c)"),
        method(C + "apply_factor(leaf, (leaf.update.abs().reciprocal() * c).clamp(max=1.0))"),
        method("leaf.state['m'].mul_(0.9).add_(leaf.update * 0.1); leaf.update = leaf.state['m'].clone()",
               init="{'m': torch.zeros_like(weight)}"),
        method("leaf.update = leaf.update.sign()", build="chain(Mine(c), scale(lr))"),
        method(build="base()"),
        method("leaf.update.mul_(0.9)", build="chain(Mine(c), base(), scale(lr))"),
        method("leaf.update.mul_(0.9)", build="chain(clip_by_norm(math.inf), Mine(c), base(), scale(lr))").replace(
            "import torch\n", "import math\nimport torch\nfrom study.transforms import clip_by_norm\n"),
        method("for _ in range(3): leaf.update = leaf.update * leaf.update * leaf.update",
               build="chain(Mine(c), scale(lr))"),
        method(build="chain(base(), Mine(c), scale(lr if (lr < 1000).all() else 1 / 0))"),
    ],
    ids=["clamp", "factor", "average", "own base", "one link", "gradient in place", "in place after a clip", "overflow",
         "raises at a high lr"],
)  # fmt: skip
def test_what_is_right_is_planned(own_folder: Path, text: str) -> None:  # noqa: F811
    name = write(own_folder, text)
    assert planned_of(make_study(arms=(Arm(method="none"), Arm(method=name, options={"c": 2.0}))), workers=1).missing


@pytest.mark.parametrize("name", methods.names())
@pytest.mark.parametrize("base", methods.BASES)
def test_our_own_pass(name: str, base: str) -> None:
    _own.check(name, methods.check(name, {"base": base, "weight_decay": 0.1}))
    assert methods.uses_base(name)


def test_a_method_with_its_own_base_takes_no_other(own_folder: Path) -> None:  # noqa: F811
    name = write(own_folder, method("leaf.update = leaf.update.sign()", build="chain(Mine(c), scale(lr))"))
    assert not methods.uses_base(name)
    assert methods.check(name, {"base": "adagrad"}) == {}
    with pytest.raises(ValueError, match="mine does not use `base`: base=adamw would change nothing"):
        methods.check(name, {"base": "adamw"})
    with pytest.raises(ValueError, match=r"mine does not use `base`: eps=0\.1 would change nothing"):
        methods.check(name, {"eps": 0.1})


def test_an_option_of_its_own_comes_before_that_of_a_base(own_folder: Path) -> None:  # noqa: F811
    """Methods of older studies keep their names."""
    text = METHOD.format(init="{}", body="pass", build="chain(base(), scale(lr), scale(eps), scale(alpha))")
    text = text.replace("c=0.5", "eps=0.5, alpha=2.0")
    name = write(own_folder, text)
    assert methods.check(name, {"eps": 0.25, "alpha": 8, "base": "sgd"}) == {"eps": 0.25, "alpha": 8, "base": "sgd"}
    _own.check(name, {"eps": 0.25, "base": "sgd"})
    chain = methods.build(name, 1.0, {"eps": 0.25, "alpha": 8, "base": "sgd"})
    leaf = Leaf(weight=torch.ones(1, 2), gradient=torch.ones(1, 2), update=torch.ones(1, 2))
    chain.updates([leaf])
    assert leaf.update.tolist() == [[2.0, 2.0]]
    assert methods.base_options(name, {"eps": 0.25})["eps"] is None


def test_factors_of_elements_are_recorded_by_their_smallest() -> None:
    update = torch.tensor([[[4.0, 1.0], [2.0, 0.5]], [[1.0, 1.0], [1.0, 1.0]]])
    leaf = Leaf(weight=update, gradient=update, update=update, factor=torch.ones(2))
    apply_factor(leaf, (1 / update).clamp(max=1.0))
    assert leaf.factor is not None
    assert leaf.factor.tolist() == [0.25, 1.0]
    assert leaf.update.tolist() == [[[1.0, 1.0], [1.0, 0.5]], [[1.0, 1.0], [1.0, 1.0]]]


def test_the_example_of_the_page_is_planned(own_folder: Path) -> None:  # noqa: F811
    page = (Path(__file__).parents[3] / "docs" / "methods.md").read_text()
    name = write(own_folder, page.partition("# my_methods/clip_values.py\n")[2].partition("```")[0])
    _own.check(name, methods.check(name, {"limit": 0.07}))
