"""Hashes the source of a user's own modules, so that the record says which code trained a run.

The hash of a module covers its file and all files that it imports, directly or not, from its own package or from the
folder in which that package lies. Imports are read from the files (`ast`) and nothing is imported. A folder of
installed libraries (it holds `*.dist-info`) counts only for the module's own package. Ours have no hash: the record
keeps the version of the project. Files that are opened, or imported by a computed name, are not seen.

The hash is of the syntax tree: comments, white space and docstrings change no result. It leaves out `study = ...` at
the top of a module, so that a loop's search space in the same file may grow.
"""

import ast
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study import plugins
from study.text.own_errors import is_ours, our_folders

SHOWN = 12
"""Digits of a hash in messages."""


@functools.cache  # a process trains what it has imported, whatever becomes of the files
def digest(name: str) -> str | None:
    """Return the SHA-256 of a module's code and of what it imports; None for one of ours, or one that is not found.

    Args:
        name: a dotted name, or the path of a script from the user's folder, such as `train.py`.
    """
    place = _place(name)
    if place is None:
        return None
    content = hashlib.sha256()
    for module, code in sorted(_codes(place).items()):
        content.update(f"{module}\0{code}\0".encode())
    return content.hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a module is: its name and file, the folder of its top-level package or file, and the folder around that."""

    module: str
    file: Path
    package: Path
    folder: Path

    def find(self, module: str) -> Path | None:
        """Return the file of a module that lies here; None for a library's, or for one of ours."""
        top, *rest = module.split(".")
        own = top == self.module.partition(".")[0]
        if not own and (not top.isidentifier() or self._holds_libraries):
            return None
        at = Path(self.package if own else self.folder / top, *rest)
        ours = our_folders().get(top)
        if ours and _file_at(ours.joinpath(*rest)):
            return None  # ours is imported, also where a working directory holds a copy of the project
        found = _file_at(at)
        return None if found is None or is_ours(found) else found

    @functools.cached_property
    def _holds_libraries(self) -> bool:
        return any(self.folder.glob("*.dist-info"))


def _place(name: str) -> _Place | None:
    user_folder = Path(plugins.user_folder or ".").absolute()
    if name.endswith(".py"):
        file = user_folder / name
        if not file.is_file() or is_ours(file):
            return None
        return _Place(module=file.stem, file=file, package=file.with_suffix(""), folder=file.parent)
    file = _file_of(name, user_folder)
    if file is None or file.suffix != ".py" or not file.is_file() or is_ours(file):
        return None
    depth = name.count(".") + (file.name == "__init__.py")
    package = file.parents[depth - 1] if depth else file.with_suffix("")
    return _Place(module=name, file=file, package=package, folder=file.parents[depth])


def _file_of(name: str, user_folder: Path) -> Path | None:
    imported = getattr(sys.modules.get(name), "__file__", None)
    if imported:
        return Path(imported).absolute()
    for folder in (*sys.path, user_folder):  # as Python looks for it
        if found := _file_at(Path(folder, *name.split(".")).absolute()):
            return found
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).absolute() if spec and spec.has_location and spec.origin else None


def _file_at(place: Path) -> Path | None:
    """Return the file of the package or module of this path without its ending."""
    return next((file for file in (place / "__init__.py", place.parent / f"{place.name}.py") if file.is_file()), None)


def _codes(place: _Place) -> dict[str, str]:
    """Return the code of a module and of each that it imports, by name."""
    found: dict[str, str] = {}
    waiting = [(place.module, place.file), *_with_parents(place, place.module)]
    while waiting:
        module, file = waiting.pop()
        if module in found:
            continue
        content = file.read_bytes()
        try:
            tree = ast.parse(content)
            imported = [*_imports(module, tree, is_package=file.name == "__init__.py")]
            found[module] = _written(_without_words(tree))
        except (SyntaxError, ValueError, RecursionError):
            found[module] = content.hex()
            continue
        for name in imported:
            waiting += _with_parents(place, name)
    return found


def _with_parents(place: _Place, module: str) -> list[tuple[str, Path]]:
    """Return the files that an import of a module runs: those of its packages, and its own."""
    parts = module.split(".")
    names = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    return [(name, file) for name in names if (file := place.find(name))]


def _imports(module: str, tree: ast.Module, *, is_package: bool) -> Iterator[str]:
    """Yield the names of imported modules. Of `from a import b`, also `a.b`, which may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            up = node.level - is_package
            around = parts[: len(parts) - up] if node.level else []
            base = ".".join([*around, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names if base)


def _without_words(tree: ast.Module) -> ast.Module:
    """Remove docstrings, and the search space of the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str:
                node.body = node.body[1:]
    tree.body = [statement for statement in tree.body if not _is_search_space(statement)]
    return tree


def _is_search_space(statement: ast.stmt) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == "study" for target in targets)


def _written(node: Any) -> str:
    """Return a syntax tree as text. (`ast.dump` differs between versions of Python.)"""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
        return f"{type(node).__name__}({','.join(f'{n}={_written(v)}' for n, v in fields if n != 'kind')})"
    if isinstance(node, list):
        return f"[{','.join(map(_written, node))}]"
    return repr(node)
