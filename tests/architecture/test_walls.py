"""The walls: which part may import what. Imports are read from the sources, so none hides in a branch or a function."""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from paths import ROOT

OURS = ("study", "models", "search_spaces", "analysis")

ONLY_IN = {
    "ray": "study.tune",
    "mlflow": "study.tracking",
    "werkzeug": "study.tracking.server",
    "optuna": "study.search.optuna_tpe",
    "fsspec": "study.storage.object_store",
    "s3fs": "study.storage.object_store",
    "matplotlib": "analysis",
    "seaborn": "analysis",
    "jinja2": "analysis.report",
    "rich": "study.commands",
}
"""Each of these libraries is imported in one place."""

MAY_IMPORT = {
    "models": {"torch", "models"},
    "search_spaces": {"study", "search_spaces", "torch", "sklearn"},
    "study.outcomes": {"numpy", "study.outcomes", "study.config"},
}
"""All that a part may import, the standard library beside it."""

MAY_NOT_IMPORT = {
    "analysis": {"torch", "models", "search_spaces"},
    "analysis.loading": {"matplotlib", "seaborn"},
    "analysis.stats": {"matplotlib", "seaborn"},
    "analysis.text": {"matplotlib", "seaborn"},
    "study.execution": {"torch", "study.training", "study.trainers.ranker", "study.trainers.loop", "study.data"},
    "study.record": {"analysis", "search_spaces", "models"},
    "study.search": {"torch", "study.training", "study.trainers.ranker", "study.trainers.loop"},
    "study.training": {"analysis", "search_spaces", "study.record", "study.execution"},
}

ANALYSIS_PARTS = ("loading", "stats", "text", "figures", "report", "findings")
"""The parts of `analysis`. Each imports itself and those before it."""

OF_STUDY_IN_ANALYSIS = (
    "study.config",
    "study.record",
    "study.outcomes",
    "study.monitor",
    "study.storage.atomic",
    "study.text.wording",
)
"""The last three are leaves: the alarm that users deploy is judged; there is one atomic write, and one plural."""

NEEDS_ONLY = {
    "study.training": {"torch", "numpy", "pandas", "pyarrow", "filelock"},
    "study.outcomes": {"numpy"},
}
"""Whatever these import, and what that imports, needs no other library. (torch itself needs filelock.)"""


def sources(root: Path) -> dict[str, str]:
    """Return every module of ours: dotted name -> source. A package's name is its folder's."""
    found = {}
    for package in OURS:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def imports(module: str, source: str, modules: Mapping[str, str]) -> set[str]:
    """Return the full dotted names of all that a module imports.

    `from study import config` names the module `study.config`; `from study.config import Run` names `study.config`.
    `importlib.import_module` with a literal name counts, and so does what only type checkers read, but for the face
    `study`, which names what it imports when it is used.
    """
    is_package = any(other.startswith(f"{module}.") for other in modules)
    found: set[str] = set()
    tree = ast.parse(source)
    if module == "study":
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")
                parent = parent[: len(parent) - node.level + is_package]
                base = ".".join([*parent, *([base] if base else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= names & set(modules)
            if names - set(modules):
                found.add(base)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("__import__", "import_module", "importlib.import_module") and node.args:
                argument = node.args[0]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    found.add(argument.value)
    return found


def is_in(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


def part_of(module: str) -> str:
    """Return the folder of a module, such as `study.record`; a file beside the folders is a part of its own."""
    names = module.split(".")
    return ".".join(names[:2]) if names[0] in ("study", "analysis") else names[0]


def later_part(module: str, target: str) -> bool:
    """Return whether a part of `analysis` imports a later one."""
    parts = [part_of(name).removeprefix("analysis.") for name in (module, target)]
    if not all(part in ANALYSIS_PARTS for part in parts):
        return False
    return ANALYSIS_PARTS.index(parts[0]) < ANALYSIS_PARTS.index(parts[1])


def reached(module: str, graph: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Yield (importer, imported) for a part and for all of ours that it imports, packages on the way included."""
    waiting, seen = [name for name in graph if is_in(name, module)], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in graph:
            continue
        seen.add(name)
        for target in graph[name]:
            yield name, target
            parts = target.split(".")
            waiting += [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def circles(graph: Mapping[str, set[str]]) -> list[str]:
    """Return each pair of folders that reach each other, with who imports whom."""
    parts: dict[str, dict[str, str]] = {}
    for module, targets in graph.items():
        for target in targets:
            mine, other = part_of(module), part_of(target)
            if target in graph and mine != other:
                parts.setdefault(mine, {}).setdefault(other, f"{module} -> {target}")
    reach: dict[str, set[str]] = {}
    for part in parts:
        seen, waiting = set(), [part]
        while waiting:
            new = set(parts.get(waiting.pop(), ())) - seen
            seen |= new
            waiting += new
        reach[part] = seen
    return sorted(
        f"circle of {part} and {other}: {why}"
        for part, others in parts.items()
        for other, why in others.items()
        if part in reach.get(other, ())
    )


def breaches(modules: Mapping[str, str]) -> list[str]:
    """Return every breach of a wall as one line: who imports what, and why that is wrong."""
    graph = {module: imports(module, source, modules) for module, source in modules.items()}
    found = []
    for module, targets in graph.items():
        for target in sorted(targets):
            top = target.partition(".")[0]
            if top in sys.stdlib_module_names:
                continue
            line = f"{module} imports {target}"
            if re.search(r"^ray\b.*\b(_\w+|core)\b", target):
                found.append(f"{line}: only Ray's public API is used")
            if top in ONLY_IN and not is_in(module, ONLY_IN[top]):
                found.append(f"{line}: {top} belongs in {ONLY_IN[top]}")
            for part, allowed in MAY_IMPORT.items():
                if is_in(module, part) and not any(is_in(target, name) for name in allowed):
                    found.append(f"{line}: {part} imports only {', '.join(sorted(allowed))}")
            for part, forbidden in MAY_NOT_IMPORT.items():
                if is_in(module, part) and any(is_in(target, name) for name in forbidden):
                    found.append(f"{line}: {part} must not")
            if is_in(module, "search_spaces") and top == "study" and target != "study":
                found.append(f"{line}: search_spaces import the face of study")
            of_study = top == "study" and is_in(module, "analysis")
            if of_study and not any(is_in(target, name) for name in OF_STUDY_IN_ANALYSIS):
                found.append(f"{line}: analysis reads {', '.join(OF_STUDY_IN_ANALYSIS)}")
            if later_part(module, target):
                found.append(f"{line}: the parts of analysis are in order")
            if is_in(target, "study.cli") and not is_in(module, "study.cli") and module != "study.__main__":
                found.append(f"{line}: nothing imports the command line")
    for part, libraries in NEEDS_ONLY.items():
        for module, target in sorted(set(reached(part, graph))):
            top = target.partition(".")[0]
            if top not in libraries and top not in OURS and top not in sys.stdlib_module_names:
                found.append(f"{module} imports {target}: {part} needs only {', '.join(sorted(libraries))}")
    return found + circles(graph)


def test_the_walls_stand() -> None:
    modules = sources(ROOT)
    assert {"study.config.runs", "study.record.tables", "study.outcomes.judge"} <= set(modules)
    assert breaches(modules) == []


def test_packages_have_no_code_but_faces() -> None:
    faces = {"study", "study.optim", "study.methods", "study.transforms", "study.data", "study.monitor", "analysis"}
    faces |= {"study.config", "models", "search_spaces"}
    packages = {path.parent.relative_to(ROOT) for top in OURS for path in (ROOT / top).rglob("__init__.py")}
    full = {
        ".".join(folder.parts)
        for folder in packages
        if ast.parse((ROOT / folder / "__init__.py").read_text()).body and ".".join(folder.parts) not in faces
    }
    assert full == set()


TREE = {
    "study": "import study.config",
    "study.config": "import json",
    "study.cli.main": "",
    "study.commands.run": "from study.tune import runner",
    "study.data": "",
    "study.deep": "def f():\n    import scipy.stats",
    "study.execution.trial": "from study.trainers import protocol",
    "study.methods": "",
    "study.methods.mine": "",
    "study.outcomes.judge": "import numpy",
    "study.record.tables": "import pandas\nfrom study.config import Study",
    "study.search.optuna_tpe": "",
    "study.tracking.mirror": "",
    "study.trainers.protocol": "",
    "study.training.trainer": "",
    "study.tune.runner": "",
    "models": "",
    "models.heavy": "import tqdm",
    "models._ranker": "import torch",
    "search_spaces": "",
    "search_spaces._arms": "",
    "analysis": "",
    "analysis.figures.curves": "import matplotlib",
    "analysis.loading": "",
    "analysis.stats.rates": "",
    "analysis.text.rates": "",
}


@pytest.mark.parametrize(
    ("module", "source", "word"),
    [
        ("study.tune.runner", "import ray.tune", None),
        ("study.commands.run", "def main():\n    from ray import tune", "ray belongs in study.tune"),
        ("study.tune.runner", "from ray._private import services", "only Ray's public API"),
        ("study.tune.runner", "from ray.core.generated import gcs_service_pb2", "only Ray's public API"),
        ("study.tune.runner", "import mlflow", "mlflow belongs in study.tracking"),
        ("study.tracking.mirror", "import mlflow.entities", None),
        ("study.commands.run", "import importlib\nimportlib.import_module('optuna')", "optuna belongs in"),
        ("study.search.optuna_tpe", "try:\n    import optuna\nexcept ImportError:\n    pass", None),
        (
            "models.mine",
            "import torch.nn as nn\nfrom models._ranker import x\nfrom . import _ranker\nimport math",
            None,
        ),
        ("models.mine", "import numpy", "models imports only models, torch"),
        ("models.mine", "from study.config import Run", "models imports only"),
        ("search_spaces.mine", "from study import Study\nfrom search_spaces._arms import FIVE", None),
        ("search_spaces.mine", "from study.config import Study", "the face of study"),
        ("search_spaces.mine", "import numpy as np", "search_spaces imports only"),
        ("analysis.mine", "from study.record import tables\nimport pandas, scipy.stats, matplotlib", None),
        ("analysis.mine", "import torch", "analysis must not"),
        ("analysis.mine", "from study.training import trainer", "analysis reads"),
        ("analysis.stats.rates", "from analysis.text import rates", "in order"),
        ("analysis.text.rates", "from analysis.figures import curves", "in order"),
        ("analysis.loading", "from analysis.stats import rates", "in order"),
        ("analysis.figures.curves", "from analysis.text import rates", None),
        ("analysis.stats.rates", "import matplotlib.pyplot", "analysis.stats must not"),
        ("study.record.tables", "from analysis.stats import rates", "study.record must not"),
        ("study.execution.trial", "from study.training.trainer import train", "study.execution must not"),
        ("study.commands.run", "from analysis.stats import rates", None),
        ("study.commands.run", "from study.cli import main", "nothing imports the command line"),
        ("study.outcomes.judge", "import pandas", "study.outcomes needs only numpy"),
        ("study.training.trainer", "import torch, numpy, pandas, pyarrow", None),
        ("study.training.trainer", "import requests", "study.training needs only"),
        ("study.training.trainer", "from .. import deep", "study.deep imports scipy.stats"),
        ("study.training.trainer", "import models.heavy", "models.heavy imports tqdm"),
        ("study.tune.runner", "from study.commands import run", "circle of study.tune and study.commands"),
        ("study.methods.mine", "from study.training.trainer import x", None),
    ],
)
def test_the_checker_sees_a_broken_wall(module: str, source: str, word: str | None) -> None:
    before = breaches(TREE)
    new = [line for line in breaches(TREE | {module: source}) if line not in before]
    if word is None:
        assert new == []
    else:
        assert any(word in line for line in new), new


def test_relative_imports_have_full_names() -> None:
    modules = {"study": "", "study.methods": "", "study.methods.a": "", "study.config": "", "study.methods.b": ""}
    assert imports("study.methods.a", "from . import b", modules) == {"study.methods.b"}
    assert imports("study.methods.a", "from ..config import Run", modules) == {"study.config"}
    assert imports("study.methods", "from .a import x", modules) == {"study.methods.a"}


def test_a_module_beside_the_folders_of_study_serves_several_of_them() -> None:
    """One that a single folder needs belongs into that folder. The face counts: it must stay light."""
    modules = sources(ROOT)
    users: dict[str, set[str]] = {name: set() for name in BESIDE}
    for module, text in modules.items():
        for target in imports(module, text, modules):
            if target in users and module != target:
                users[target].add(part_of(module))
    beside = {f"study.{path.stem}" for path in (ROOT / "study").glob("[!_]*.py")}
    assert beside == set(BESIDE)
    assert {name: parts for name, parts in users.items() if len(parts) < 2} == {}


def test_all_output_goes_through_one_function() -> None:
    """`console.show` escapes control characters. The supervisor of a loop's command is a script without imports."""
    scripts = {"study.loops.supervisor", "analysis.findings.pages", "analysis.findings.published"}
    printing = {
        module
        for module, text in sources(ROOT).items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write")
    }
    assert printing - scripts == {"study.text.console"}


BESIDE = ("study.plugins", "study.streams", "study.telemetry")
