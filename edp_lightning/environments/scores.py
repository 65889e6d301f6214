"""Reference returns that normalised scores are measured with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

D4RL = "d4rl/infos.py @ 89141a6 (arXiv 2004.07219)"


@dataclass(frozen=True)
class ScoreReference:
    """A score is ``100 (R - minimum) / (maximum - minimum)``.

    Attributes:
        minimum: Return of the random policy.
        maximum: Return of the expert policy.
        origin: Where the two numbers come from; logged with every score.
    """

    minimum: float
    maximum: float
    origin: str


HOPPER = ScoreReference(-20.272305, 3234.3, D4RL)
HALFCHEETAH = ScoreReference(-280.178953, 12135.0, D4RL)
WALKER2D = ScoreReference(1.629008, 4592.3, D4RL)
ANT = ScoreReference(-325.6, 3879.7, D4RL)
PEN = ScoreReference(96.262799, 3076.8331017826877, D4RL)
DOOR = ScoreReference(-56.512833, 2880.5693087298737, D4RL)
HAMMER = ScoreReference(-274.856578, 12794.134825156867, D4RL)
RELOCATE = ScoreReference(-6.425911, 4233.877797728884, D4RL)
MAZE_SUCCESS = ScoreReference(0.0, 1.0, "share of episodes that reach the goal, as D4RL's AntMaze")
KITCHEN = ScoreReference(0.0, 4.0, D4RL)


def from_metadata(metadata: Mapping[str, Any]) -> ScoreReference | None:
    """Return the reference stored with a Minari set, if it has one."""
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is None or high is None or high <= low:
        return None
    return ScoreReference(float(low), float(high), "metadata of the Minari set")
