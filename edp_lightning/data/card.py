"""What a dataset looks like, for people: printed at the start of a run, logged, and part of results."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edp_lightning.data.transitions import Batch, Episode


@dataclass(frozen=True)
class DataCard:
    """Named facts about a dataset, as text.

    Attributes:
        title: Dataset id.
        facts: Pairs of a name and its value.
    """

    title: str
    facts: tuple[tuple[str, str], ...]

    def with_fact(self, name: str, value: str) -> "DataCard":
        """Return the card with one more line."""
        return replace(self, facts=(*self.facts, (name, value)))

    def markdown(self) -> str:
        """Return a table for TensorBoard's text page."""
        rows = "\n".join(f"| {name} | {value} |" for name, value in self.facts)
        return f"| {self.title} | |\n|---|---|\n{rows}"

    def print(self) -> None:
        """Print the card."""
        table = Table(title=self.title, show_header=False)
        for name, value in self.facts:
            table.add_row(name, value)
        Console().print(table)


def make_card(
    dataset: str,
    origin: str,
    view: str,
    stored: Sequence[Episode],
    used: Sequence[Episode],
    transitions: Batch,
    low: NDArray[np.float32],
    high: NDArray[np.float32],
) -> DataCard:
    """Return the card of a dataset.

    Args:
        dataset: Its id.
        origin: Where it comes from.
        view: Name of the observation view.
        stored: Episodes as they are on disk.
        used: Episodes after relabelling and termination rules.
        transitions: The table that training draws from.
        low: Lower bounds of the action box.
        high: Upper bounds of the action box.
    """
    returns = np.array([float(e.reward.sum(dtype=np.float64)) for e in used])
    lengths = np.array([len(e) for e in used])
    raw = np.concatenate([e.reward for e in stored])
    bounds = transitions.action.abs().amax(dim=1)
    ends = sum(int(e.terminated.sum()) for e in used)
    cut = sum(int(e.truncated.any()) for e in used)
    final = transitions.reward
    return DataCard(
        dataset,
        (
            ("origin", origin),
            ("episodes", f"{len(used)}"),
            ("steps", f"{lengths.sum()}"),
            ("observation, action", f"{transitions.observation.shape[1]} (view {view}), {transitions.action.shape[1]}"),
            ("episode length", _range(lengths, "{:.0f}")),
            ("episode return", _range(returns, "{:.4g}")),
            ("episodes with a positive reward", f"{np.mean([bool((e.reward > 0).any()) for e in used]):.1%}"),
            ("terminated steps, truncated episodes", f"{ends}, {cut}"),
            ("reward as stored", _range(raw, "{:.4g}")),
            ("reward in training", f"{float(final.min()):.4g} to {float(final.max()):.4g}, mean {float(final.mean()):.4g}"),
            ("action box", f"{float(low.min()):.4g} to {float(high.max()):.4g}"),
            ("actions at a bound", f"{float((bounds > 0.999).float().mean()):.1%}"),
        ),
    )


def _range(values: NDArray[np.generic], form: str) -> str:
    low, mean, high = (form.format(float(v)) for v in (values.min(), values.mean(), values.max()))
    return f"{low} to {high}, mean {mean}"
