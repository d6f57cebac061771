"""Errors of a user's own files, in one line: the file, the line, and the error's own words."""

import contextlib
import functools
import importlib.util
import os
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from study.text.console import joined_lines

PACKAGES = ("study", "models", "search_spaces", "analysis")
"""Our top-level packages. A user's folder may have folders of the same names."""

ROOT = Path(__file__).parents[2]
"""Folder of `study`: `site-packages`, a checkout, or what Ray unpacked."""

LIBRARIES = tuple({f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@functools.cache
def our_folders() -> dict[str, Path]:
    """Return the folder of each of our packages. They lie side by side, or Ray unpacked each (`py_modules`) apart."""
    found = {}
    for name in PACKAGES:
        beside = ROOT / name
        spec = None if beside.is_dir() else importlib.util.find_spec(name)
        found[name] = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else beside
    return found


def is_ours(file: Path) -> bool:
    """Whether a file, by its absolute path, lies in one of our packages."""
    return any(file.is_relative_to(folder) for folder in our_folders().values())


def place(error: BaseException, module: str) -> str:
    """Return where a user's own code raised an error: `my_models/mine.py, line 7`; empty if it did not.

    Args:
        error: the error.
        module: name of a module that counts as the user's own, wherever it is.
    """
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return in_line(error.filename, error.lineno)
    own = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__") == module or is_own(frame.f_code.co_filename)
    ]
    return in_line(*own[-1]) if own else ""


def in_line(file: str, line: int) -> str:
    """Return `my_models/mine.py, line 7`: from the current folder, or the last two parts of the path."""
    shown = Path(*Path(file).parts[-2:])
    with contextlib.suppress(FileNotFoundError, ValueError):  # that folder was removed, or the file lies elsewhere
        shown = Path(file).absolute().relative_to(Path.cwd())
    return f"{shown}, line {line}"


def place_of(function: Callable[..., Any]) -> str:
    """Return where a function is defined, as `place` does."""
    code = getattr(function, "__code__", None)
    return in_line(code.co_filename, code.co_firstlineno) if code else ""


def words(error: BaseException) -> str:
    """Return the error's own words in one line, with its type unless it is a ValueError."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    text = joined_lines(str(error))
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")


@contextlib.contextmanager
def located(module: str, what: str = "") -> Iterator[None]:
    """Raise what a user's code raises inside the block as a ValueError that says where.

    Args:
        module: name of the user's module.
        what: what was tried, for an error that no line of the user's files raised.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        where = place(error, module) or what
        raise ValueError(f"{where}: {words(error)}" if where else words(error)) from error


def of_plugin(name: str, module: str) -> contextlib.AbstractContextManager:
    """Return `located` for a user's own plugin, whose name is that of its module; ours raise what they raise."""
    return located(module) if name == module else contextlib.nullcontext()


def is_own(file: str) -> bool:
    """Whether a file is none of ours, of a library or of Python."""
    if not os.path.isfile(file):  # `<string>`, for which a current folder that was removed has no path
        return False
    path = Path(os.path.abspath(file))
    return not is_ours(path) and not str(path).startswith(LIBRARIES)
