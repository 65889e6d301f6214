"""Algorithms by name: those of this package by their class's name, anybody's by its import path."""

import difflib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Mapping
from typing import Any

from edp_lightning import algorithms
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.errors import UserError

DEFAULT = "EntropyDiffusionPolicy"
"""The algorithm when none is named."""

DEFAULT_MODULE = "edp_lightning.algorithms.entropy_diffusion"


def built_in() -> dict[str, type[OfflineAlgorithm]]:
    """Return the algorithms of this package by name: every class that a file of ``edp_lightning/algorithms`` defines."""
    found = {}
    for info in pkgutil.iter_modules(algorithms.__path__):
        module = importlib.import_module(f"{algorithms.__name__}.{info.name}")
        for name, member in vars(module).items():
            concrete = inspect.isclass(member) and issubclass(member, OfflineAlgorithm) and not inspect.isabstract(member)
            if concrete and member.__module__ == module.__name__ and not name.startswith("_"):
                found[name] = member
    return dict(sorted(found.items()))


def algorithm_class(name: str) -> type[OfflineAlgorithm]:
    """Return an algorithm by name or import path.

    Args:
        name: ``IQL``, ``edp_lightning.algorithms.IQL``, or ``package.module.Class`` of the user's own.

    Raises:
        UserError: If there is no such class, or it is no algorithm.
    """
    path, _, short = name.rpartition(".")
    if path in ("", algorithms.__name__, DEFAULT_MODULE):
        if short == DEFAULT:  # without importing the others
            return getattr(importlib.import_module(DEFAULT_MODULE), DEFAULT)  # type: ignore[no-any-return]
        known = built_in()
        if short in known:
            return known[short]
        near = difflib.get_close_matches(short, known, 1, 0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"no algorithm {name}: {hint}There are {', '.join(known)}, and package.module.Class names your own")
    try:
        found = getattr(importlib.import_module(path), short)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"algorithm {name} cannot be imported ({error}): give package.module.Class") from error
    return _checked(found, name)


def algorithm_name(algorithm: type[OfflineAlgorithm]) -> str:
    """Return the shortest name by which :func:`algorithm_class` finds an algorithm."""
    inside = algorithm.__module__.startswith(f"{algorithms.__name__}.")
    return algorithm.__qualname__ if inside else f"{algorithm.__module__}.{algorithm.__qualname__}"


def algorithm_of(checkpoint: Mapping[str, Any]) -> type[OfflineAlgorithm]:
    """Return the class of a checkpoint's algorithm. Files of before there were several hold the default one.

    A module outside this package is not imported because a file names it; it must have been imported before.

    Raises:
        UserError: If the class is not there.
    """
    name = str(checkpoint.get("algorithm", f"{DEFAULT_MODULE}.{DEFAULT}"))
    path, _, short = name.rpartition(".")
    if path.startswith(f"{algorithms.__name__}."):
        return algorithm_class(short)
    if path not in sys.modules:
        raise UserError(f"the checkpoint's algorithm is {name}, which is not part of this package: name it with --model {name}")
    return _checked(getattr(sys.modules[path], short, None), name)


def _checked(found: Any, name: str) -> type[OfflineAlgorithm]:
    if not (inspect.isclass(found) and issubclass(found, OfflineAlgorithm)):
        raise UserError(f"{name} is no algorithm: it must be a class that derives from edp_lightning's OfflineAlgorithm")
    if inspect.isabstract(found):
        raise UserError(f"{name} is incomplete: it lacks {', '.join(sorted(found.__abstractmethods__))}")
    return found
