"""Studies to run: a file here is a search space, with a value `study` that says what is varied."""

import importlib
import pkgutil

from study.config import Study


def names() -> list[str]:
    """The search spaces of this package."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> Study:
    """A search space by name, or by the dotted name of a module of your own. ValueError lists those there are."""
    unknown = (
        f"unknown study {name!r}; there are: {', '.join(names())}, or a dotted module name such as my_pkg.my_space"
    )
    if "." not in name and name not in names():
        raise ValueError(unknown)
    path = name if "." in name else f"{__name__}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name and path.startswith(error.name):
            raise ValueError(unknown) from error
        raise
    except TypeError as error:  # "..x" and the like
        raise ValueError(unknown) from error
    study = getattr(module, "study", None)
    if not isinstance(study, Study):
        raise ValueError(f"{path} has no value `study` of type study.config.Study")
    return study
