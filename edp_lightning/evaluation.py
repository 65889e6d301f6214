"""Rollouts of a policy in several environments at once. Knows no model: a policy is a function from observations to actions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edp_lightning.rng import stream_seed

if TYPE_CHECKING:
    import gymnasium as gym

Act = Callable[[Tensor, Sequence[torch.Generator]], Tensor]
"""(observations (n, observation_dim) float32, one generator per row) -> actions (n, action_dim) in environment units."""


@dataclass
class EpisodeResult:
    """One finished episode.

    Attributes:
        seed: Seed of the environment's reset.
        episode_return: Undiscounted sum of rewards.
        length: Steps until the end.
        success: Whether ``info["success"]`` was ever true; None where the environment does not report it.
        final: Numbers the environment gave in its last ``info["progress"]``, such as the distance to the goal.
    """

    seed: int
    episode_return: float = 0.0
    length: int = 0
    success: bool | None = None
    final: dict[str, float] = field(default_factory=dict)


class _Slot:
    """One environment with the episode that runs in it."""

    def __init__(self, env: "gym.Env[NDArray[np.float32], NDArray[np.float32]]") -> None:
        self.env = env
        self.result: EpisodeResult | None = None
        self.index = -1
        self.observation: NDArray[np.float32] = np.empty(0, dtype=np.float32)
        self.generator = torch.Generator()

    def start(self, index: int, seed: int) -> None:
        self.index = index
        self.observation, _ = self.env.reset(seed=seed)
        self.generator.manual_seed(stream_seed(seed, "episode", 0))
        self.result = EpisodeResult(seed)

    def step(self, action: NDArray[np.float32]) -> bool:
        assert self.result is not None
        self.observation, reward, terminated, truncated, info = self.env.step(action)
        self.result.episode_return += float(reward)
        self.result.length += 1
        if "success" in info:
            self.result.success = bool(self.result.success) or bool(info["success"])
        self.result.final = {name: float(value) for name, value in info.get("progress", {}).items()}
        return bool(terminated or truncated)


def rollout(
    envs: "Sequence[gym.Env[NDArray[np.float32], NDArray[np.float32]]]",
    act: Act,
    seeds: Sequence[int],
    on_episode: Callable[[EpisodeResult], None] | None = None,
) -> list[EpisodeResult]:
    """Play one episode per seed, as many at a time as there are environments.

    All started episodes are finished and counted, so short episodes do not crowd out long ones. An episode's outcome depends
    on its seed only: the policy's draws come from a generator of the episode, whatever runs beside it.

    Args:
        envs: Environments to play in; their observations are flat float32 boxes. They stay open.
        act: The policy.
        seeds: Reset seed of each episode.
        on_episode: Called with each finished episode, for progress.

    Returns:
        One result per seed, in the order of ``seeds``.
    """
    waiting = list(reversed(list(enumerate(seeds))))
    slots = [_Slot(env) for env in envs[: len(seeds)]]
    for slot in slots:
        slot.start(*waiting.pop())
    finished: dict[int, EpisodeResult] = {}
    active = list(slots)
    while active:
        observations = torch.from_numpy(np.stack([slot.observation for slot in active]))
        actions = act(observations, [slot.generator for slot in active]).cpu().numpy()
        remaining = []
        for slot, action in zip(active, actions, strict=True):
            if not slot.step(action):
                remaining.append(slot)
                continue
            assert slot.result is not None
            finished[slot.index] = slot.result
            if on_episode is not None:
                on_episode(slot.result)
            if waiting:
                slot.start(*waiting.pop())
                remaining.append(slot)
        active = remaining
    return [finished[index] for index in range(len(seeds))]
