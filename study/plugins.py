"""Finds what users may add in one file: methods, models, data sources, search spaces.

The file's name is the key: `load("models", "small", ...)` imports `models/small.py`. A name that is none of ours is a
module of the user's own: a file `mine.py`, or a dotted name (`my_pkg.my_model`). A leading underscore means not a
plugin. There is no list to keep.

A user's folder comes last on `sys.path`, so no file there hides a module of ours, of a library or of Python. If the
folder has its own `models/`, `models.mine` is found there, since `__path__` of our package names both folders.
"""

import ast
import contextlib
import difflib
import functools
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from study.text import own_errors
from study.text.own_errors import PACKAGES, ROOT

only_ours = False
"""True in a command that only reads: the author of a record must not choose what is imported."""

user_folder: str | None = None
"""Folder of the user's own modules; None is none."""

NOT_PLUGINS = {f"study.trainers.{name}" for name in ("protocol", "warm_start", "weights_file")}
"""Modules beside the plugins of a package that other packages import, so that their names have no underscore."""


def drop_folder(folder: str) -> None:
    """Remove a folder from `sys.path`, where `python -m study` puts the current one first."""
    if Path(folder) != ROOT:
        sys.path[:] = [entry for entry in sys.path if entry not in ("", folder)]


def add_folder(folder: str | None) -> None:
    """Import a user's modules from a folder, after all others. None adds none."""
    global user_folder
    user_folder = folder
    if folder is None:
        return
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # an editable install is searched after all of sys.path
    if Path(folder) == ROOT:
        return
    drop_folder(folder)
    sys.path.append(folder)
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        ours = list(spec.submodule_search_locations or ())
        if (both := pkgutil.extend_path(ours, name)) != ours:
            importlib.import_module(name).__path__ = both  # the spec keeps ours alone


def own_files() -> list[str]:
    """Return the files of imported modules that lie in the user's folder and are not ours, as paths from there."""
    if user_folder is None:
        return []
    found = []
    for name, module in list(sys.modules.items()):
        path = Path(user_folder, *name.split("."))
        ours = Path(user_folder) == ROOT and name.partition(".")[0] in PACKAGES
        if not ours and getattr(module, "__file__", None) in (f"{path}.py", f"{path / '__init__.py'}"):
            found.append(os.path.relpath(str(module.__file__), user_folder))
    return sorted(found)


def add_script_folder() -> None:
    """Let workers import a user's modules from where this script or notebook does, unless a folder is set already.

    The path of this process keeps its order, since it is the user's.
    """
    if user_folder is None:
        first, before = sys.path[0] if sys.path else "", list(sys.path)
        add_folder(first if Path(first).is_dir() and first else os.getcwd())
        sys.path[:] = [*before, *(entry for entry in sys.path if entry not in before)]


@contextlib.contextmanager
def safe_path_in_children() -> Iterator[None]:
    """Keep the current folder off the path of Python processes that start inside the block, as `python -P` does."""
    with restored_variable("PYTHONSAFEPATH"):
        os.environ["PYTHONSAFEPATH"] = "1"
        yield


@contextlib.contextmanager
def restored_variable(name: str) -> Iterator[None]:
    """Restore an environment variable after the block."""
    before = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


@functools.cache  # asked for each of thousands of arms
def names(package: str) -> tuple[str, ...]:
    """The plugins in the folder of a package, in alphabetical order."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    found = pkgutil.iter_modules(spec.submodule_search_locations)
    ours = (m.name for m in found if not m.name.startswith("_") and f"{package}.{m.name}" not in NOT_PLUGINS)
    return tuple(sorted(ours))


def described(package: str) -> dict[str, str]:
    """Return the first line of each plugin's module, with the options of its `build`.

    The files are read and not imported, which may take seconds.
    """
    spec = importlib.util.find_spec(package)
    assert spec is not None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    found = {}
    for name in names(package):
        paths = [path for folder in folders for path in (folder / f"{name}.py", folder / name / "__init__.py")]
        source = next((path.read_text() for path in paths if path.is_file()), "")
        try:
            module = ast.parse(source)
        except SyntaxError as error:
            found[name] = f"does not compile ({error.msg}, line {error.lineno})"
            continue
        first_line = (ast.get_docstring(module) or "").partition("\n")[0]
        options = _options_of_build(module)
        found[name] = f"{first_line} [{options}]" if options else first_line
    return found


def _options_of_build(module: ast.Module) -> str:
    """`width=64, depth=2`: keywords of the function `build` whose default is written there."""
    return ", ".join(f"{name}={value!r}" for name, value in _defaults_of_build(module).items())


def _defaults_of_build(module: ast.Module) -> dict[str, Any]:
    found = {}
    for function in module.body:
        if isinstance(function, ast.FunctionDef) and function.name == "build":
            defaults = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
            found |= {a.arg: d.value for a, d in defaults if isinstance(d, ast.Constant)}
    return found


def written_defaults(package: str, name: str, folder: Path) -> dict[str, Any]:
    """Return the defaults of a plugin's `build` that are written in its file, which is read and not imported.

    Args:
        package: package of the built-in plugins.
        name: a plugin of the package, or a dotted module.
        folder: where the modules of a user are looked for.

    Returns:
        Keyword -> default; empty if there is no such file, or it cannot be read.
    """
    spec = importlib.util.find_spec(package)
    assert spec is not None
    folders = [*map(Path, spec.submodule_search_locations or ()), folder / package, folder]
    for path in (own / f"{name.replace('.', '/')}.py" for own in folders):
        try:
            return _defaults_of_build(ast.parse(path.read_text()))
        except (OSError, SyntaxError, ValueError):
            continue
    return {}


def load(package: str, name: str, noun: str, wanted: str) -> Any:
    """Return the module of a plugin.

    Args:
        package: package of the built-in plugins.
        name: a plugin of the package, a dotted module, a file in the user's own folder of the package's name, or a
            file in the current folder.
        noun: what a plugin of the package is, for messages.
        wanted: attribute that the module must have.

    Raises:
        ValueError: there is no such plugin (the message lists the names), two modules have the name, or the module has
            no attribute `wanted`.
    """
    known = names(package)
    if name.endswith(".py"):
        raise ValueError(f"name the {noun} without .py: {Path(name).stem}")
    other = "" if package == "search_spaces" else ", or a dotted module name such as my_pkg.mine"
    unknown = f"unknown {noun} {name!r}; there are {', '.join(known)}, or a file of the current folder, such as mine.py"
    unknown += other
    path = module_of(package, name)
    if name not in known:
        if "." not in name and (only_ours or name.startswith("_") or path in NOT_PLUGINS):
            raise ValueError(unknown + _did_you_mean(name, known))
        if only_ours:
            raise ValueError(f"the {noun} {name!r} is not built in; commands that only read import no other modules")
    if not all(part.isidentifier() for part in path.split(".")):
        raise ValueError(unknown + _did_you_mean(name, known))
    try:
        module = import_module(path)
    except ModuleNotFoundError as error:
        if is_missing(error, path):
            raise ValueError(unknown + _did_you_mean(name, known)) from error
        lacks = f"the {noun} {name!r} needs the module {error.name!r}, which is not installed"
        raise ValueError(": ".join(filter(None, (own_errors.place(error, path), lacks)))) from error
    if path == name and (own := _own_file(name)) and Path(module.__file__ or "") != own:
        raise ValueError(f"{own} has the name of another module, {module.__file__}; rename it")
    if "." in name:
        _refuse_same_name(path)
    if not hasattr(module, wanted):
        raise ValueError(f"{path} defines no `{wanted}`, so it is no {noun}")
    return module


def module_of(package: str, name: str) -> str:
    """Return the dotted name of a plugin's module, which need not be there."""
    inside = f"{package}.{name}"
    if "." in name:
        return name
    if name in names(package) or not _own_file(name):
        return inside
    in_own_package = Path(user_folder or "", *inside.split(".")).with_suffix(".py").is_file()
    return inside if in_own_package and package != "search_spaces" else name


def import_module(path: str) -> ModuleType:
    """Return the module of a dotted name.

    Raises:
        ModuleNotFoundError: it is not there, or needs a module that is not there.
        ValueError: its code does not compile or raises; the message says in which line.
    """
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        raise
    except (Exception, SystemExit) as error:
        where = own_errors.place(error, path) or f"{path.rpartition('.')[2]}.py"
        raise ValueError(f"{where}: {own_errors.words(error)}") from error


def is_missing(error: ModuleNotFoundError, path: str) -> bool:
    """Return whether the module itself is not there, or a package that it is in; else it needs another module."""
    return error.name is not None and (path == error.name or path.startswith(f"{error.name}."))


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    """`. Did you mean clippy?` for a name that is nearly one of a plugin, or of a module in the same folder."""
    package, dot, own = name.rpartition(".")
    folders = [user_folder] if user_folder else []
    if dot and not only_ours:  # finding a module imports its package
        with contextlib.suppress(Exception, SystemExit):
            spec = importlib.util.find_spec(package)
            folders = list(spec.submodule_search_locations or ()) if spec else folders
    beside = [module.name for module in pkgutil.iter_modules(folders)]
    close = difflib.get_close_matches(own, [*known, *beside] if not dot else beside, n=1, cutoff=0.7)
    return f". Did you mean {package}{dot}{close[0]}?" if close else ""


def _own_file(name: str) -> Path | None:
    """Return the file of a user's module in the current folder, or elsewhere on the path; None if there is none."""
    if not name.isidentifier() or name.startswith("_"):
        return None
    path = Path(user_folder or "", f"{name}.py")
    if user_folder and path.is_file():
        return path
    spec = PathFinder.find_spec(name)  # on another node, that folder may be elsewhere
    return Path(spec.origin) if spec and spec.origin and own_errors.is_own(spec.origin) else None


def _refuse_same_name(path: str) -> None:
    """Raise ValueError if both our package and the user's own folder of its name have the module."""
    package, _, name = path.rpartition(".")
    if package in PACKAGES:
        specs = [PathFinder.find_spec(path, [folder]) for folder in sys.modules[package].__path__]
        origins = [spec.origin for spec in specs if spec is not None and spec.origin]
        if len(origins) > 1:
            raise ValueError(f"{path} is both {origins[0]} and {origins[1]}; rename your own, or use the name {name}")
