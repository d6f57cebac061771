"""The walls: which part may import what. Read from the sources, so that no import hides in a branch or a function."""

import ast
import re
import sys
from pathlib import Path

import pytest
from paths import ROOT

OURS = ("study", "models", "search_spaces", "analysis")

KNOWN_BY = {
    "ray": ("study.tune",),
    "mlflow": ("study.tracking",),
    "optuna": ("study.search.optuna_tpe",),
    "fsspec": ("study.storage.object_store",),
    "s3fs": ("study.storage.object_store",),
}
BARE_MACHINE = {"torch", "numpy", "pandas", "pyarrow", "filelock"}
"""torch itself depends on filelock."""


def sources(root: Path) -> dict[str, str]:
    """Every module of ours: dotted name -> source. A package's name is its folder's."""
    found = {}
    for package in OURS:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def imports(module: str, source: str, modules: dict[str, str]) -> set[str]:
    """All that a module imports, wherever it stands in it, as full dotted names.

    `import importlib` with a literal name counts as well; what only type checkers read (`if TYPE_CHECKING:`) too.
    """
    is_package = any(other.startswith(f"{module}.") for other in modules)
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")
                parent = parent[: len(parent) - node.level + is_package]
                base = ".".join([*parent, *([base] if base else [])])
            # `from study import config` names a module, `from study.config import Run` something in one.
            inside = {f"{base}.{alias.name}" for alias in node.names} & set(modules)
            found |= inside | {base}
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("__import__", "import_module", "importlib.import_module") and node.args:
                argument = node.args[0]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    found.add(argument.value)
    return found


def reached(module: str, modules: dict[str, str]) -> dict[str, set[str]]:
    """A module and all of ours that importing it imports, their packages included: name -> its imports."""
    graph: dict[str, set[str]] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in graph or name not in modules:
            continue
        graph[name] = imports(name, modules[name], modules)
        for target in {name, *graph[name]}:
            parts = target.split(".")
            waiting += [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    return graph


KNOWN_TO_ANALYSIS = ("study.record", "study.config", "study.monitor.gradient_alarm", "study.storage.atomic")
"""The last two are leaves: the alarm that users deploy is judged, and there is one atomic write."""


ANALYSIS_PARTS = ("stats", "text", "figures", "report", "findings")
"""The folders of `analysis`, each of which imports only itself and those before it. `loading` comes before them all."""


def analysis_breach(module: str, target: str) -> str | None:
    """What is wrong where a module of `analysis` imports a target; None where nothing is."""
    part = module.split(".")[1] if "." in module else ""
    target_part = target.split(".")[1] if target.startswith("analysis.") else ""
    before_text = part in ("stats", "text", "loading")
    if before_text and target.split(".")[0] in ("matplotlib", "seaborn"):
        return f"{module} imports {target}: only figures and reports draw"
    if target_part in ANALYSIS_PARTS and part in (*ANALYSIS_PARTS, "loading"):
        allowed = ANALYSIS_PARTS[: ANALYSIS_PARTS.index(part) + 1] if part in ANALYSIS_PARTS else ()
        if target_part not in allowed:
            return f"{module} imports {target}: analysis.{part} knows nothing of analysis.{target_part}"
    return None


def breaches(modules: dict[str, str]) -> list[str]:
    """Every breach of a wall, one line each: who imports what, and what it may."""
    found = []
    for module, source in modules.items():
        package = module.split(".")[0]
        for target in sorted(imports(module, source, modules)):
            top = target.split(".")[0]
            if top in sys.stdlib_module_names:
                continue
            if top in KNOWN_BY and not any(f"{module}.".startswith(f"{known}.") for known in KNOWN_BY[top]):
                found.append(f"{module} imports {target}: only {' and '.join(KNOWN_BY[top])} know {top}")
            if re.search(r"^ray\b.*\b(_\w+|core)\b", target):
                found.append(f"{module} imports {target}: only Ray's public API is used")
            if package == "models" and top not in ("torch", "models"):
                found.append(f"{module} imports {target}: models import torch only")
            if package == "search_spaces" and target != "study.config" and top != "search_spaces" and target != "study":
                found.append(f"{module} imports {target}: search_spaces import study.config only")
            if package == "analysis":
                if breach := analysis_breach(module, target):
                    found.append(breach)
                if top in ("torch", "models", "search_spaces"):
                    found.append(f"{module} imports {target}: analysis reads the record alone")
                known = tuple(f"{name}." for name in KNOWN_TO_ANALYSIS)
                if top == "study" and target != "study" and not f"{target}.".startswith(known):
                    found.append(f"{module} imports {target}: of study, analysis knows record and config")
    trains_or_records = reached("study.training.trainer", modules) | reached("study.record.tables", modules)
    for module, targets in trains_or_records.items():
        if any(target.split(".")[0] in ("analysis", "search_spaces") for target in targets):
            found.append(f"{module} imports analysis or search_spaces: data flows one way, and the record is between")
    for module, targets in reached("study.training.trainer", modules).items():
        for target in sorted(targets):
            top = target.split(".")[0]
            if top not in BARE_MACHINE and top not in OURS and top not in sys.stdlib_module_names:
                found.append(
                    f"{module} imports {target}: study.training.trainer runs where there is just torch, numpy, pandas"
                )
    return found


def test_the_walls_stand() -> None:
    modules = sources(ROOT)
    assert {"study.config", "study.record.tables", "study.outcomes.judge"} <= set(modules)
    assert breaches(modules) == []


def test_the_definition_of_divergence_needs_numpy_only() -> None:
    modules = sources(ROOT)
    found = {
        target.split(".")[0] for targets in reached("study.outcomes.judge", modules).values() for target in targets
    }
    assert found - set(sys.stdlib_module_names) == {"numpy", "study"}


@pytest.mark.parametrize(
    ("module", "source", "word"),
    [
        ("study.tune.runner", "import ray.tune", None),
        ("study.tune.runner", "from ray._private import services", "only Ray's public API"),
        ("study.tune.runner", "from ray.core.generated import gcs_service_pb2", "only Ray's public API"),
        (
            "study.cli.main",
            "def main():\n    from ray import tune",
            "only study.tune know ray",
        ),
        ("study.tune.runner", "import mlflow", "only study.tracking know mlflow"),
        ("study.tracking.mirror", "import mlflow.entities", None),
        (
            "study.execution.planner",
            "import importlib\nimportlib.import_module('optuna')",
            "only study.search.optuna_tpe know optuna",
        ),
        ("study.search.optuna_tpe", "try:\n    import optuna\nexcept ImportError:\n    pass", None),
        (
            "models.mine",
            "import torch.nn as nn\nfrom models._ranker import x\nfrom . import _ranker\nimport math",
            None,
        ),
        ("models.mine", "import numpy", "models import torch only"),
        ("models.mine", "from study.config import Run", "models import torch only"),
        ("search_spaces.mine", "from study.config import Study\nfrom search_spaces._axes import LRS", None),
        ("search_spaces.mine", "from study import config", None),
        ("search_spaces.mine", "from study.record import tables", "search_spaces import study.config only"),
        ("search_spaces.mine", "import numpy as np", "search_spaces import study.config only"),
        ("analysis.mine", "from study import record\nimport pandas, scipy.stats, matplotlib", None),
        ("analysis.mine", "import torch", "analysis reads the record alone"),
        ("analysis.mine", "from study.outcomes.judge import judge", "analysis knows record and config"),
        ("analysis.mine", "from study.outcomes import judge", "analysis knows record and config"),
        ("analysis.stats.mine", "from analysis.text import format", "analysis.stats knows nothing of analysis.text"),
        ("analysis.stats.mine", "import matplotlib.axes", "only figures and reports draw"),
        ("analysis.text.mine", "from analysis.stats.rates import divergence_rates", None),
        ("analysis.text.mine", "from analysis.figures import curves", "knows nothing of analysis.figures"),
        ("analysis.figures.mine", "import matplotlib\nfrom analysis.text import format", None),
        ("analysis.figures.mine", "from analysis.report import page", "knows nothing of analysis.report"),
        ("analysis.loading", "from analysis.stats import rates", "knows nothing of analysis.stats"),
        ("analysis.mine", "import ray", "only study.tune know ray"),
        ("study.record.tables", "from analysis import rates", "data flows one way"),
        ("study.cli.main", "from analysis import report", None),
        ("study.config", "import search_spaces", "data flows one way"),
        ("study.training.trainer", "import torch, numpy, pandas, pyarrow", None),
        ("study.training.trainer", "import scipy", "study.training.trainer runs where"),
        ("study.training.trainer", "import requests", "study.training.trainer runs where"),
        ("study.training.trainer", "from study import streams", None),
        ("study.training.trainer", "from .. import deep", "study.deep imports scipy.stats"),
        ("study.training.trainer", "import models.heavy", "models.heavy imports tqdm"),
        ("study.training.trainer", "from study.methods.mine import build", "study.methods imports yaml"),
    ],
)
def test_the_checker_sees_a_broken_wall(module: str, source: str, word: str | None) -> None:
    modules = {
        "study": "",
        "study.config": "import json",
        "study.record.tables": "import pandas\nfrom study.config import Study",
        "study.outcomes.judge": "import numpy",
        "study.training.rng": "import numpy",
        "study.deep": "def f():\n    import scipy.stats",
        "study.methods": "import yaml",
        "study.methods.mine": "",
        "models": "",
        "models._ranker": "import torch",
        "models.heavy": "import tqdm",
        "search_spaces": "",
        "search_spaces._axes": "",
        "analysis": "",
        "analysis.stats.rates": "",
        "analysis.report.page": "",
    }
    before = breaches(modules)
    new = [line for line in breaches(modules | {module: source}) if line not in before]
    if word is None:
        assert new == []
    else:
        assert any(word in line for line in new), new


def test_relative_imports_have_full_names() -> None:
    modules = {"study": "", "study.methods": "", "study.methods.a": "", "study.config": "", "study.methods.b": ""}
    assert imports("study.methods.a", "from . import b", modules) == {"study.methods", "study.methods.b"}
    assert imports("study.methods.a", "from ..config import Run", modules) == {"study.config"}
    assert imports("study.methods", "from .a import x", modules) == {"study.methods.a"}
