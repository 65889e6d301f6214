"""Films of planar tasks, drawn without a renderer: where the policy is, where it was, and what it considers.

What it considers is a fan of first steps: one line per candidate, coloured by the critics' value, the chosen one black.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.collect.toy import HORIZON, TwoStepEnv, reward_mean
from edp_lightning.environments.recipe import EvaluationEnvironment
from edp_lightning.environments.workers import LocalEnvironments
from edp_lightning.evaluation.rollout import EpisodeResult, rollout
from edp_lightning.figures.drawing import new_figure
from edp_lightning.figures.film import Frame, draw_maze
from edp_lightning.figures.run_figure import maze_of
from edp_lightning.policies.shared_observation import SharedObservation

Floats = NDArray[np.float32]

PLAIN_DRAWS = 50
"""Draws of a policy that does not choose among candidates."""

REACH = 0.6
"""Length of a full action in a plan of a maze, in cells."""


@dataclass(frozen=True)
class Considered:
    """One decision.

    Attributes:
        action: What was done, in the environment's units, shape (action_dim,).
        candidates: What might have been done, shape (candidates, action_dim); none for a policy without a spread.
        scores: Their values, shape (candidates,); None where no critics were asked.
    """

    action: Floats
    candidates: Floats
    scores: Floats | None


class Watched:
    """A policy that keeps what it considered.

    It acts with the algorithm's own chooser, as an evaluation does, and then asks one that keeps candidates, in float32, the
    same question.

    Args:
        algorithm: A loaded algorithm for this alone.

    Attributes:
        considered: One entry per decision.
    """

    def __init__(self, algorithm: OfflineAlgorithm) -> None:
        self._algorithm = algorithm
        self.considered: list[Considered] = []
        self._shared = SharedObservation()

    def reset(self, episode: int, target_return: float | None = None) -> None:
        """Begin an episode."""
        self._algorithm.reset(episode, target_return)

    def act(
        self,
        observation: Tensor,
        generators: Sequence[torch.Generator],
        episodes: Sequence[int] | None = None,
        rewards: Sequence[float] | None = None,
    ) -> Tensor:
        """Choose one action for one observation (1, observation_dim)."""
        before = [generator.get_state() for generator in generators]
        action = self._algorithm.act(observation, generators, episodes, rewards)
        if self._algorithm.chooser is not None:
            self._ask_again(observation, before)
        if self._shared.candidates is None or self._shared.scores is None:  # nothing was chosen: there was one action
            candidates, scores = self._draws(observation), None
        else:
            candidates = self._algorithm.action_scaler(self._shared.candidates[0])
            scores = self._shared.scores[0].numpy()
        self.considered.append(Considered(action[0].numpy(), candidates.numpy(), scores))
        return action

    def _ask_again(self, observation: Tensor, states: Sequence[Tensor]) -> None:
        """Make the decision that random streams in these states lead to once more, and keep its candidates and their values."""
        again = [torch.Generator().set_state(state) for state in states]
        own, self._algorithm.chooser = self._algorithm.chooser, self._shared
        self._algorithm.act(observation, again)
        self._algorithm.chooser = own

    @torch.no_grad()
    def _draws(self, observation: Tensor) -> Tensor:
        normalised = self._algorithm.normalizer(observation).expand(PLAIN_DRAWS, -1)
        drawn = self._algorithm.draw_actions(normalised, torch.Generator().manual_seed(0))
        if drawn is None:
            return torch.zeros(0, self._algorithm.action_dim)
        found: Tensor = self._algorithm.action_scaler(drawn)
        return found


class _Followed(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps where an environment was after each decision, the start first."""

    def __init__(self, env: gym.Env[Any, Any], places: list[Floats]) -> None:
        super().__init__(env)
        self._places = places

    def _keep(self, observation: Any) -> None:
        on_line = isinstance(self.env.unwrapped, TwoStepEnv)
        self._places.append(np.array(observation if on_line else self.env.get_wrapper_attr("position")))

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset, and keep the start."""
        observation, info = self.env.reset(**kwargs)
        self._keep(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and keep the place."""
        outcome = self.env.step(action)
        self._keep(outcome[0])
        return outcome


def planar_film(environment: EvaluationEnvironment, algorithm: OfflineAlgorithm, seed: int, every: int) -> list[Frame] | None:
    """Play one evaluation episode and return drawn frames, each (height, width, 3); None if the task is not planar.

    Args:
        environment: Recipe of the environment.
        algorithm: A loaded algorithm, for this alone.
        seed: Seed of the episode.
        every: Decisions between frames; the first and the last are always there.

    Raises:
        UserError: If matplotlib is not installed.
    """
    env = environment.make()
    try:
        on_line = isinstance(env.unwrapped, TwoStepEnv)
        maze = None if on_line else maze_of(environment)
        if maze is None and not on_line:
            return None
        chunk = environment.action_chunk
        drawing = _Line(chunk) if maze is None else _Maze(*maze, chunk=chunk)
        places: list[Floats] = []
        policy = Watched(algorithm)
        (result,) = rollout(LocalEnvironments([_Followed(env, places)]), policy, [seed])
    finally:
        env.close()
    last = len(policy.considered) - 1
    shown = [index for index in range(last + 1) if index % every == 0 or index == last]
    frames = [drawing.frame(places[: index + 1], policy.considered[index], f"decision {index + 1}") for index in shown]
    return [*frames, drawing.frame(places, None, _outcome(result))]


def _outcome(result: EpisodeResult) -> str:
    end = "" if result.success is None else ", goal reached" if result.success else ", goal not reached"
    return f"{result.length} steps, return {result.episode_return:.2f}{end}"


class _Drawing:
    """A figure that is drawn again and again; only what moves is changed."""

    def __init__(self) -> None:
        self.figure, (self.ax,) = new_figure(1, 5.0, 4.6)
        self._moving: list[Any] = []

    def frame(self, places: Sequence[Floats], considered: Considered | None, title: str) -> Frame:
        """Return the picture of one moment.

        Args:
            places: Where it was, the last one being now.
            considered: The decision taken there; None at the end of an episode.
            title: Above the picture.
        """
        from matplotlib.collections import LineCollection

        for artist in self._moving:
            artist.remove()
        way = self.way(places)
        self._moving = [
            *self.ax.plot(*way.T, color="C0", linewidth=1.5),
            *self.ax.plot(*way[-1], "o", color="C0", markersize=7),
        ]
        if considered is not None:
            ends = self.ends(way[-1], considered.candidates)
            if len(ends):
                lines = LineCollection([(way[-1], end) for end in ends], linewidths=0.9, alpha=0.8)
                if considered.scores is not None:
                    lines.set(array=considered.scores, cmap="viridis")
                self._moving.append(self.ax.add_collection(lines, autolim=False))
            for end in self.ends(way[-1], considered.action[None]):
                self._moving += self.ax.plot(*np.stack([way[-1], end]).T, color="black", linewidth=2)
        self.ax.set_title(title)
        canvas: Any = self.figure.canvas
        canvas.draw()
        self.figure.set_layout_engine("none")  # the axes stay where the first frame has put them
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def way(self, places: Sequence[Floats]) -> Floats:
        """Return points of the picture, (places, 2)."""
        raise NotImplementedError

    def ends(self, here: Floats, actions: Floats) -> Floats:
        """Return where lines for actions (n, action_dim) end, (n, 2); none where actions are no steps in the plane."""
        raise NotImplementedError


class _Maze(_Drawing):
    """A plan of a maze from above; an action of two numbers is a push in the plane."""

    def __init__(self, maze_map: Sequence[Sequence[Any]], cell_size: float, chunk: int) -> None:
        super().__init__()
        draw_maze(self.ax, maze_map, cell_size)
        self._reach = REACH * cell_size
        self._chunk = chunk

    def way(self, places: Sequence[Floats]) -> Floats:
        """Return the places themselves, in metres."""
        return np.stack(places)

    def ends(self, here: Floats, actions: Floats) -> Floats:
        """Return points in the direction of the push; of a chunk of actions, the first."""
        width = actions.shape[1] // self._chunk
        return here + self._reach * actions[:, :2] if width == 2 else np.zeros((0, 2), np.float32)


class _Line(_Drawing):
    """The two-step task: its state over the steps, with the reward along the axis of states."""

    def __init__(self, chunk: int) -> None:
        super().__init__()
        self._chunk = chunk
        grid = np.linspace(-1, 1, 201)
        self.ax.fill_betweenx(grid, 2.2, 2.2 + 0.5 * reward_mean(grid), color="0.85")
        self.ax.set(
            xlim=(-0.1, 2.75), ylim=(-1.05, 1.05), xticks=[0, 1, 2], xlabel="step (grey: expected reward)", ylabel="state"
        )

    def way(self, places: Sequence[Floats]) -> Floats:
        """Return steps and states."""
        steps = np.minimum(self._chunk * np.arange(len(places)), HORIZON)
        return np.stack([steps, np.concatenate(places)], axis=1)

    def ends(self, here: Floats, actions: Floats) -> Floats:
        """Return the states that actions lead to; a chunk of them, one after the other."""
        states = np.full(len(actions), here[1])
        for action in actions.T:
            states = np.clip(states + action, -1.0, 1.0)
        return np.stack([np.full(len(states), here[0] + actions.shape[1]), states], axis=1)
