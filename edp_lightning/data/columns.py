"""What training does not see as it is stored: observations that float32 is too coarse for, actions outside their box."""

from collections.abc import Sequence

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from edp_lightning.data.tables.facts import TableFacts

VANISHED = 0.1
"""Share of a column's changes from step to step that may vanish in float32 before it is named."""

COARSE = 1e-5
"""Distance of float32 numbers, in standard deviations of a column, from which vanished changes matter: below it they are noise,
as that of an object which nobody has touched."""


def constant_columns(facts: TableFacts) -> list[int]:
    """Return the columns that have one value in the whole table."""
    return [c for c, (low, high) in enumerate(zip(facts.observation_low, facts.observation_high, strict=True)) if low == high]


def coarse_columns(facts: TableFacts) -> list[int]:
    """Return the columns that float32 is too coarse for: many of the set's changes from step to step have vanished."""
    found = []
    columns = zip(facts.observation_low, facts.observation_high, facts.observation_std, facts.vanished_changes, strict=True)
    for column, (low, high, std, vanished) in enumerate(columns):
        spacing = float(np.spacing(np.float32(max(abs(low), abs(high)))))
        if vanished > VANISHED and spacing > COARSE * std:
            found.append(column)
    return found


def column_facts(facts: TableFacts) -> list[tuple[str, str]]:
    """Return lines for the data card; none if there is nothing to say."""
    lines = []
    constant, coarse = constant_columns(facts), coarse_columns(facts)
    if constant:
        lines.append(("observation columns that never change", f"{ranges(constant)} of 0 to {facts.observation_dim - 1}"))
    if coarse:
        share = max(facts.vanished_changes[column] for column in coarse)
        lines.append(
            ("observation columns too fine for float32", f"{ranges(coarse)}: up to {share:.0%} of their changes vanish")
        )
    return lines


def tell_losses(dataset: str, facts: TableFacts) -> None:
    """Say what was lost, and what can be done."""
    coarse = coarse_columns(facts)
    if coarse:
        rank_zero_warn(
            f"{dataset}: observation columns {ranges(coarse)} (counted from 0) change by less than float32 can tell at their "
            "size; the policy cannot see it. Store each less its first value of the episode (times, counters), or leave it out"
        )
    if facts.actions_outside:
        rank_zero_info(
            f"{facts.actions_outside:.2%} of the actions of {dataset} lie outside its action box and are clipped to it; if the "
            "box is wrong, set data.action_low and data.action_high"
        )


def ranges(columns: Sequence[int]) -> str:
    """Return ascending numbers as text, neighbours as ranges: ``0, 3-7``."""
    parts: list[list[int]] = []
    for column in columns:
        if parts and parts[-1][-1] == column - 1:
            parts[-1] = [parts[-1][0], column]
        else:
            parts.append([column])
    return ", ".join("-".join(str(end) for end in part) for part in parts)
