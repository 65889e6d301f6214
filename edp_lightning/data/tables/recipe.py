"""What becomes of stored episodes on their way into the table."""

from dataclasses import dataclass

from edp_lightning.data.tables.rewards import RewardTransform
from edp_lightning.data.transitions import Terminals


@dataclass(frozen=True)
class TableRecipe:
    """Everything besides the stored episodes that decides the table.

    Attributes:
        low: Lower bounds of the action box.
        high: Upper bounds of the action box.
        goal: World coordinates that rewards are relabelled to; None keeps the stored rewards. Episodes without positions, from
            plain arrays, keep theirs too: they are taken to be the evaluation's.
        goal_radius: Metres within which that goal counts as reached.
        terminals: Rule for terminations.
        reward_transform: What is done to rewards.
        reward_shift: For ``affine``.
        reward_scale: For ``affine``.
        n_step: Largest number of steps per transition.
        discount: Discount per step, used if ``n_step`` is above 1.
        action_clip_eps: Distance that scaled actions keep from -1 and 1.
        action_chunk: Actions per row; at most ``n_step``.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    goal: tuple[float, float] | None = None
    goal_radius: float = 0.0
    terminals: Terminals = "env"
    reward_transform: RewardTransform = "none"
    reward_shift: float = 0.0
    reward_scale: float = 1.0
    n_step: int = 1
    discount: float = 0.99
    action_clip_eps: float = 0.0
    action_chunk: int = 1
