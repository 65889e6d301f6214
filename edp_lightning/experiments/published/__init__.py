"""Scores that others published, to be set beside one's own."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

ID = re.compile(r"(?:minari:)?(?:edp|D4RL)/(\w+)/([\w-]+?)-v\d+|d4rl:([\w-]+?)-v\d+")
"""Ids of sets that stand for a task of D4RL: those collected locally, Minari's copies and the files themselves."""


@dataclass(frozen=True)
class Published:
    """A table of scores.

    Attributes:
        title: Where it was published.
        caveat: What to know before comparing.
        columns: Class of an algorithm of this package -> heading of its column.
        scores: (task, heading) -> score.
    """

    title: str
    caveat: str
    columns: dict[str, str]
    scores: dict[tuple[str, str], float]

    def score(self, dataset: str, algorithm: str) -> float | None:
        """Return the published score of an algorithm on the task that a dataset's id stands for, None if there is none."""
        found = ID.fullmatch(dataset)
        if found is None:
            return None
        task = found[3] or f"{found[1]}-{found[2]}"
        return self.scores.get((task, self.columns.get(algorithm, "")))


def published(name: str) -> Published:
    """Return a table of this folder, such as ``slides``."""
    content = yaml.safe_load((Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8"))
    scores = {
        (task, column): float(value)
        for task, row in content["scores"].items()
        for column, value in zip(content["columns"], row, strict=True)
        if value is not None
    }
    return Published(content["title"], " ".join(content["caveat"].split()), content["algorithms"], scores)
