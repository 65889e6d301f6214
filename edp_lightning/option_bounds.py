"""Ranges of options: each class says its own, and all of them are refused in the same words, from a config and from Python."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from edp_lightning.errors import UserError


def check_bounds(section: str, values: Mapping[str, Any], bounded: Any) -> None:
    """Refuse numbers that are not finite or outside their range, and empty lists of what must have entries.

    Args:
        section: Section of a config that the options belong to, for the message.
        values: Options by name; what is no number or list of numbers is not looked at.
        bounded: A class or object whose ``at_least`` and ``at_most`` map names to the smallest and largest value, of a list
            those of each entry.

    Raises:
        UserError: Naming the option and what it may be.
    """
    least: Mapping[str, float] = getattr(bounded, "at_least", {})
    most: Mapping[str, float] = getattr(bounded, "at_most", {})
    for name, value in values.items():
        if isinstance(value, (list, tuple)) and not value and name in least:
            raise UserError(f"{section}.{name} must have at least one entry; got {value!r}")
        for number in _numbers(value):
            if not math.isfinite(number):
                raise UserError(f"{section}.{name} must be a finite number; got {number}")
            if number < least.get(name, number):
                raise UserError(f"{section}.{name} must be at least {least[name]:g}; got {number:g}")
            if number > most.get(name, number):
                raise UserError(f"{section}.{name} must be at most {most[name]:g}; got {number:g}")


def _numbers(value: Any) -> Iterable[float]:
    items = value if isinstance(value, (list, tuple)) else [value]
    return [item for item in items if isinstance(item, (int, float)) and not isinstance(item, bool)]
