"""Callbacks without which an algorithm would not be what it is, brought by the algorithm itself."""

import importlib
from collections.abc import Sequence

import lightning as L

from edp_lightning.errors import UserError


def missing_callbacks(paths: Sequence[str], present: Sequence[L.Callback]) -> list[L.Callback]:
    """Return those of the necessary callbacks, with their default options, that a trainer lacks.

    Args:
        paths: Import paths of their classes.
        present: The trainer's callbacks; one of a derived class counts.

    Raises:
        UserError: If one is there twice, so that what it does would be done twice in every gradient step.
    """
    missing: list[L.Callback] = []
    for path in paths:
        module, _, name = path.rpartition(".")
        kind: type[L.Callback] = getattr(importlib.import_module(module), name)
        found = sum(isinstance(callback, kind) for callback in present)
        if found > 1:
            raise UserError(f"the trainer has {found} callbacks {name}: its work would be done {found} times, leave one")
        if found == 0:
            missing.append(kind())
    return missing
