"""What can be said about a dataset after reading it: the checks it passed, and what needs a second look."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edp_lightning.data.sources.bounds import Floats, outside
from edp_lightning.data.sources.source import Source
from edp_lightning.data.transitions import Episode


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        passed: Whether it is as it should be; otherwise the text says what to think about.
        text: The finding, with numbers.
    """

    passed: bool
    text: str


def check_episodes(
    source: Source, episodes: Sequence[Episode], horizon: int | None, low: Floats | None = None, high: Floats | None = None
) -> list[Check]:
    """Return the findings about a source.

    Args:
        source: Where the episodes come from; reading them has refused what cannot be used.
        episodes: The episodes as read.
        horizon: Time limit of the environment the data were collected in, if known.
        low: Lower bounds of the actions; the source's own when not given.
        high: Upper bounds of the actions; the source's own when not given.
    """
    steps = sum(len(e) for e in episodes)
    found = [
        Check(True, f"{len(episodes)} episodes, {steps} steps: no NaN, T + 1 observations for T steps in every one"),
        _ends(episodes),
        _jumps(episodes),
        _actions(episodes, source.action_low if low is None else low, source.action_high if high is None else high),
    ]
    if horizon is not None:
        longer = sum(len(e) > horizon for e in episodes)
        found.append(Check(longer == 0, f"{longer} episodes are longer than the environment's time limit of {horizon} steps"))
    found.extend(Check(True, note) for note in source.notes)
    return found


def _ends(episodes: Sequence[Episode]) -> Check:
    open_ends = sum(not (e.terminated[-1] or e.truncated[-1]) for e in episodes)
    inside = sum(int(e.terminated[:-1].sum()) for e in episodes)
    text = f"{len(episodes) - open_ends} of {len(episodes)} episodes end with a termination or truncation"
    return Check(open_ends == 0, f"{text}; {inside} terminated steps inside episodes" if inside else text)


def _jumps(episodes: Sequence[Episode]) -> Check:
    """Neighbouring observations of different episodes would be far apart: compare the largest step with usual ones."""
    change = np.concatenate([np.linalg.norm(np.diff(e.observation, axis=0), axis=1) for e in episodes])
    usual, largest = float(np.quantile(change, 0.99)), float(change.max())
    text = f"largest change between neighbouring observations {largest:.3g}, 99 % stay below {usual:.3g}"
    return Check(largest <= 100 * usual, text)


def _actions(episodes: Sequence[Episode], low: Floats, high: Floats) -> Check:
    actions = np.concatenate([e.action for e in episodes])
    share = float(outside(actions, low, high).mean())
    still = int((actions.std(axis=0) == 0).sum())
    text = f"{share:.2%} of actions outside the box: they are clipped" if share else "every action is inside the box"
    return Check(share == 0 and still == 0, f"{text}; {still} action components never change" if still else text)
