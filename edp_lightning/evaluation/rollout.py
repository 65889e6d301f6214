"""Rollouts of a policy in several environments at once. Knows no model: a policy is a function from observations to actions."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edp_lightning.environments.workers import Answer, Command, Environments, Floats
from edp_lightning.runs.rng import stream_seed

Act = Callable[[Tensor, Sequence[torch.Generator]], Tensor]
"""(observations (n, observation_dim) float32, one generator per row) -> actions, or chunks, (n, action_dim) in their units."""


class Player(Protocol):
    """A policy that may remember the episodes it plays, such as every ``OfflineAlgorithm``."""

    def reset(self, episode: int, target_return: float | None = None) -> None:
        """Begin an episode, which may be asked to earn a return; its number is free again when it is over."""

    def act(
        self, observation: Tensor, generators: Sequence[torch.Generator], episodes: Sequence[int], rewards: Sequence[float]
    ) -> Tensor:
        """Return what ``Act`` returns, for the next steps of episodes that have paid ``rewards`` since their last one."""


@dataclass(frozen=True)
class _Forgetful:
    """A plain function as a player."""

    function: Act

    def reset(self, episode: int, target_return: float | None = None) -> None:
        pass

    def act(
        self, observation: Tensor, generators: Sequence[torch.Generator], episodes: Sequence[int], rewards: Sequence[float]
    ) -> Tensor:
        return self.function(observation, generators)


@dataclass(frozen=True)
class Trajectory:
    """The steps of one episode of T steps, as the policy saw them.

    Attributes:
        observation: What the policy saw before each of D decisions, shape (D, observation_dim), float32.
        action: What it decided, in the environment's units, shape (D, action_dim), float32.
        decided_at: Step of each decision, shape (D,): 0, 1, 2, ..., or multiples of the length of a chunk of actions.
        reward: The environment's rewards, shape (T,), float32.
        terminated: Whether the task truly ended with the last step; False if it was cut.
    """

    observation: Floats
    action: Floats
    decided_at: NDArray[np.int64]
    reward: Floats
    terminated: bool


@dataclass
class EpisodeResult:
    """One finished episode.

    Attributes:
        seed: Seed of the environment's reset.
        episode_return: Undiscounted sum of rewards.
        length: Steps until the end.
        success: Whether ``info["success"]`` was ever true; None where the environment does not say true or false.
        final: Numbers that this package's wrappers reported with the last step, such as the distance to the goal.
        trajectory: The episode's steps, where they were recorded.
        target_return: What the policy was asked to earn, where it can be asked.
    """

    seed: int
    episode_return: float = 0.0
    length: int = 0
    success: bool | None = None
    final: dict[str, float] = field(default_factory=dict)
    trajectory: Trajectory | None = field(default=None, compare=False, repr=False)
    target_return: float | None = None


@dataclass
class _Episode:
    """An episode under way."""

    index: int
    result: EpisodeResult
    generator: torch.Generator
    observation: Floats | None = None
    decisions: list[tuple[Floats, Floats, tuple[float, ...]]] = field(default_factory=list)

    def add(self, action: Floats, answer: Answer, record: bool) -> None:
        self.result.episode_return += sum(answer.rewards)
        self.result.length += len(answer.rewards)
        if answer.success is not None:
            self.result.success = bool(self.result.success) or answer.success
        self.result.final = dict(answer.progress)
        if not record:
            return
        assert self.observation is not None
        self.decisions.append((self.observation, action, answer.rewards))
        if answer.done:
            observation, decided, rewards = zip(*self.decisions, strict=True)
            decided_at = np.cumsum([0, *map(len, rewards[:-1])])
            reward = np.concatenate(rewards).astype(np.float32)
            self.result.trajectory = Trajectory(np.stack(observation), np.stack(decided), decided_at, reward, answer.terminated)


def rollout(
    envs: Environments,
    policy: Act | Player,
    seeds: Sequence[int],
    on_episode: Callable[[EpisodeResult], None] | None = None,
    record: bool = False,
    before_step: Callable[[], None] | None = None,
    target_returns: Sequence[float | None] | None = None,
) -> list[EpisodeResult]:
    """Play one episode per seed, as many at a time as there are environments.

    All started episodes are finished and counted, so short episodes do not crowd out long ones. An episode's outcome depends
    on its seed only: the policy's draws come from a generator of the episode, whatever runs beside it.

    Args:
        envs: Environments to play in. They stay open.
        policy: The policy: a function if it remembers nothing.
        seeds: Reset seed of each episode.
        on_episode: Called with each finished episode, for progress.
        record: Keep every step in ``EpisodeResult.trajectory``.
        before_step: Called before each step of the environments; what it raises ends the rollout.
        target_returns: What each episode is to earn, for policies that can be asked.

    Returns:
        One result per seed, in the order of ``seeds``.
    """
    player: Player = cast(Player, policy) if hasattr(policy, "act") else _Forgetful(policy)
    targets = [None] * len(seeds) if target_returns is None else target_returns
    waiting = deque(enumerate(seeds))
    running: dict[int, _Episode] = {}
    finished: dict[int, EpisodeResult] = {}

    def start(slot: int) -> int:
        index, seed = waiting.popleft()
        generator = torch.Generator().manual_seed(stream_seed(seed, "episode", 0))
        running[slot] = _Episode(index, EpisodeResult(seed, target_return=targets[index]), generator)
        player.reset(slot, targets[index])
        return seed

    commands: dict[int, Command] = {slot: start(slot) for slot in range(min(len(envs), len(seeds)))}
    while commands:
        if before_step is not None:
            before_step()
        answers = envs.advance(commands)
        following: dict[int, Command] = {}
        for slot, answer in answers.items():
            episode = running[slot]
            command = commands[slot]
            if not isinstance(command, int):
                episode.add(command, answer, record)
            if record:  # environments may write the next observation into the same array
                episode.observation = answer.observation.copy()
            if answer.done:
                finished[episode.index] = running.pop(slot).result
                if on_episode is not None:
                    on_episode(episode.result)
                if waiting:
                    following[slot] = start(slot)
        going = [slot for slot in answers if slot not in following and slot in running]
        if going:
            observations = torch.from_numpy(np.stack([answers[slot].observation for slot in going]))
            generators = [running[slot].generator for slot in going]
            actions = player.act(observations, generators, going, [sum(answers[slot].rewards) for slot in going]).cpu().numpy()
            following.update(zip(going, actions, strict=True))
        commands = following
    return [finished[index] for index in range(len(seeds))]
