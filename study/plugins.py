"""Finds what users may add in one file: methods, models, data sources, search spaces.

The file's name is the key: `load("models", "small", ...)` imports `models/small.py`. A dotted name (`my_pkg.my_model`)
is a module of the user's own. A leading underscore means not a plugin. There is no list to keep.
"""

import ast
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from typing import Any

only_ours = False
"""True in a command that only reads: whoever wrote the record has no say in what is imported."""


NOT_PLUGINS = {f"study.trainers.{name}" for name in ("protocol", "warm_start", "weights_file")}
"""Modules beside the plugins of a package that other packages import, so that their names have no underscore."""


def names(package: str) -> list[str]:
    """The plugins in the folder of a package, in alphabetical order."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    found = pkgutil.iter_modules(spec.submodule_search_locations)
    return sorted(m.name for m in found if not m.name.startswith("_") and f"{package}.{m.name}" not in NOT_PLUGINS)


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
    for function in module.body:
        if isinstance(function, ast.FunctionDef) and function.name == "build":
            defaults = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
            return ", ".join(f"{a.arg}={ast.unparse(d)}" for a, d in defaults if isinstance(d, ast.Constant))
    return ""


def load(package: str, name: str, noun: str, wanted: str) -> Any:
    """The module of a plugin, which has an attribute `wanted`.

    noun: what a plugin of the package is, for the user's ears. Raises ValueError, which lists the right names, where
    there is none of that name, and where the module has nothing called `wanted`.
    """
    known = names(package)
    unknown = f"unknown {noun} {name!r}; there are {', '.join(known)}, or a dotted module name such as my_pkg.mine"
    if name not in known and "." not in name:
        raise ValueError(unknown)
    path = f"{package}.{name}" if name in known else name
    if only_ours and name not in known:
        raise ValueError(
            f"the {noun} {name!r} is a module of somebody's own, which a command that only reads imports not"
        )
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is not None and (path == error.name or path.startswith(f"{error.name}.")):
            raise ValueError(unknown) from error
        raise ValueError(f"the {noun} {name!r} needs the module {error.name!r}, which is not there") from error
    except (TypeError, ValueError) as error:  # "..x" and the like
        raise ValueError(unknown) from error
    if not hasattr(module, wanted):
        raise ValueError(f"{path} defines no `{wanted}`, so it is no {noun}")
    return module
