"""What a policy collects while it goes on learning: its episodes, whole and under way, and their form in a checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edp_lightning.data.transitions import Episode

Floats = NDArray[np.float32]

STATE = "OnlineTraining"
"""Name under which a checkpoint keeps what was collected."""


@dataclass
class CollectedEpisode:
    """One episode of T steps so far. All environments take their steps together: time is counted in such steps.

    Attributes:
        seed: Seed of the environment's reset.
        slot: Number of the environment.
        begin: Steps that every environment had taken before it.
        observation: What the policy saw, T + 1 arrays of shape (observation_dim,), through the view.
        action: What was played, T arrays of shape (action_dim,), in the environment's units.
        reward: The environment's rewards.
        terminated: Whether the task truly ended with each step.
        success: Whether ``info["success"]`` was ever true; None where the environment does not say.
        over: Whether no further step follows.
    """

    seed: int
    slot: int
    begin: int
    observation: list[Floats] = field(default_factory=list)
    action: list[Floats] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    terminated: list[bool] = field(default_factory=list)
    success: bool | None = None
    over: bool = False

    def __len__(self) -> int:
        """Return T."""
        return len(self.reward)

    @property
    def end(self) -> int:
        """Steps that every environment had taken after its last one."""
        return self.begin + len(self)

    def add(self, action: Floats, observation: Floats, reward: float, terminated: bool) -> None:
        """Add a step."""
        self.action.append(action)
        self.observation.append(observation)
        self.reward.append(reward)
        self.terminated.append(terminated)

    def episode(self, first: int = 0) -> Episode:
        """Return its steps from ``first`` on, as a dataset would have them; one under way is cut after its last step."""
        steps = len(self) - first
        terminated = np.array(self.terminated[first:], dtype=np.bool_)
        truncated = np.zeros(steps, dtype=np.bool_)
        truncated[-1] = not terminated[-1]
        return Episode(
            np.stack(self.observation[first:]),
            np.stack(self.action[first:]),
            np.array(self.reward[first:], dtype=np.float32),
            terminated,
            truncated,
        )


def pack(episodes: Sequence[CollectedEpisode]) -> dict[str, Any]:
    """Return episodes as a few tensors, which load without executing code; at least one."""
    unknown = -1
    return {
        "length": torch.tensor([len(e) for e in episodes]),
        "seed": torch.tensor([e.seed for e in episodes]),
        "slot": torch.tensor([e.slot for e in episodes]),
        "begin": torch.tensor([e.begin for e in episodes]),
        "over": torch.tensor([e.over for e in episodes]),
        "success": torch.tensor([unknown if e.success is None else int(e.success) for e in episodes]),
        "observation": torch.from_numpy(np.stack([row for e in episodes for row in e.observation])),
        "action": _stack([row for e in episodes for row in e.action]),
        "reward": torch.tensor([value for e in episodes for value in e.reward], dtype=torch.float64),
        "terminated": torch.tensor([value for e in episodes for value in e.terminated], dtype=torch.bool),
    }


def _stack(rows: Sequence[Floats]) -> torch.Tensor:
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, 0)


def unpack(packed: Mapping[str, torch.Tensor]) -> list[CollectedEpisode]:
    """Return the episodes that :func:`pack` was given, in their order."""
    observation, action = packed["observation"].numpy(), packed["action"].numpy()
    reward, terminated = packed["reward"].tolist(), packed["terminated"].tolist()
    numbers = zip(*(packed[name].tolist() for name in ("length", "seed", "slot", "begin", "over", "success")), strict=True)
    episodes: list[CollectedEpisode] = []
    start = 0
    for length, seed, slot, begin, over, success in numbers:
        stop, seen = start + length, start + len(episodes)  # one observation more than steps for each episode before
        episodes.append(
            CollectedEpisode(
                seed, slot, begin, list(observation[seen : seen + length + 1]), list(action[start:stop]),
                reward[start:stop], terminated[start:stop], None if success < 0 else bool(success), over,
            )
        )  # fmt: skip
        start = stop
    return episodes
