"""What a dataset looks like, for people: printed at the start of a run, logged, and part of results."""

from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from edp_lightning.data.columns import column_facts
from edp_lightning.data.tables.facts import Range, TableFacts


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


def make_card(dataset: str, origin: str, view: str, facts: TableFacts, low: float, high: float) -> DataCard:
    """Return the card of a dataset.

    Args:
        dataset: Its id.
        origin: Where it comes from.
        view: Name of the observation view.
        facts: What its table holds.
        low: Smallest lower bound of the action box.
        high: Largest upper bound of the action box.
    """
    outside = (("actions outside the box, clipped to it", f"{facts.actions_outside:.2%} of steps"),)
    return DataCard(
        dataset,
        (
            ("origin", origin),
            ("episodes", f"{facts.episodes}"),
            ("steps", f"{facts.rows}"),
            ("observation, action", f"{facts.observation_dim} (view {view}), {facts.action_dim}"),
            ("episode length", _range(facts.length, "{:.0f}")),
            ("episode return", _range(facts.episode_return, "{:.4g}")),
            ("episodes with a positive reward", f"{facts.rewarded_episodes:.1%}"),
            ("terminated steps, truncated episodes", f"{facts.terminated_steps}, {facts.truncated_episodes}"),
            ("reward as stored", _range(facts.stored_reward, "{:.4g}")),
            ("reward in training", _range(facts.reward, "{:.4g}")),
            ("action box", f"{low:.4g} to {high:.4g}"),
            ("actions at a bound", f"{facts.actions_at_bound:.1%}"),
            *(outside if facts.actions_outside else ()),
            *column_facts(facts),
        ),
    )


def _range(values: Range, form: str) -> str:
    low, mean, high = (form.format(value) for value in (values.low, values.mean, values.high))
    return f"{low} to {high}, mean {mean}"
