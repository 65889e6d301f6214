"""Values of a policy by recorded data and by the critics it was trained with, against episodes where some can be played."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.data.tables.normalize import observation_statistics
from edp_lightning.data.tables.rewards import RewardMap
from edp_lightning.environments.workers import LocalEnvironments
from edp_lightning.errors import UserError
from edp_lightning.evaluation.calibration import spread_evenly
from edp_lightning.evaluation.fitted_q import FitOptions, PolicyTransitions, fit_q, travelled
from edp_lightning.evaluation.offline_estimates import (
    Floats,
    bootstrap_mean,
    discounted_return,
    has_settled,
)
from edp_lightning.evaluation.rollout import Trajectory, rollout
from edp_lightning.networks.scaling import ActionScaler, ObservationNormalizer
from edp_lightning.runs.rng import stream_seed

DRAWS = 8
"""Actions of the policy per initial state, over whose values is averaged."""

AT_A_TIME = 1024
"""States that go through the policy at once."""

NOTED = 20
"""Points of a fit at which the estimate is noted."""


class Estimator(NamedTuple):
    """What values states and actions.

    Attributes:
        q: Maps observations (rows, observation_dim) in the environment's units, and actions in the data's [-1, 1], to values
            (members, rows).
        units: What became of rewards in the values.
    """

    q: Any
    units: RewardMap


class Judge:
    """A policy and the units of the data that it is judged on.

    Args:
        algorithm: The policy.
        data: The data, read.
        progress: Where progress is shown.
        seed: Seed of the policy's draws.
    """

    def __init__(self, algorithm: OfflineAlgorithm, data: OfflineDataModule, progress: Progress, seed: int) -> None:
        self.algorithm = algorithm
        self.progress = progress
        self._seed = seed
        self._draws = 0
        device = algorithm.device
        self.normalizer = ObservationNormalizer(data.observation_dim).to(device)
        self.normalizer.set(*observation_statistics(data.facts, "standard"))
        self.scaler = ActionScaler(data.action_dim).to(device)
        self.scaler.set(data.action_low, data.action_high)

    def act(self, observation: Tensor, what: str) -> Tensor:
        """Return one draw of the policy per observation (rows, observation_dim), in [-1, 1] of the data's box."""
        device, actions = self.algorithm.device, []
        for part in self.progress.track(torch.split(observation, AT_A_TIME), description=what):
            self._draws += 1
            generator = torch.Generator().manual_seed(stream_seed(self._seed, "evaluate_offline", self._draws))
            actions.append(self.scaler.inverse(self.algorithm.act(part.to(device), [generator] * len(part))))
        return torch.cat(actions)

    @torch.no_grad()
    def values(self, q: Any, observation: Tensor, what: str) -> Tensor:
        """Return values of states, (members, states), float64 on the CPU, averaged over ``DRAWS`` draws of the policy.

        Args:
            q: See :class:`Estimator`.
            observation: The states, shape (states, observation_dim).
            what: Says in the progress what is going on.
        """
        rows = observation.repeat_interleave(DRAWS, dim=0)
        found: Tensor = q(rows.to(self.algorithm.device), self.act(rows, what))
        return found.reshape(len(found), len(observation), DRAWS).mean(dim=2).cpu().double()


def estimate(
    judge: Judge,
    data: OfflineDataModule,
    reward_map: RewardMap | None,
    discount: float,
    options: FitOptions,
    max_rows: int,
    max_states: int,
    episodes: int,
) -> dict[str, Any]:
    """Return everything that is estimated, and how it compares with episodes if any are to be played.

    Args:
        judge: The policy.
        data: The data.
        reward_map: What became of rewards in the policy's training, if that is known.
        discount: Discount per environment step.
        options: How Q is fitted.
        max_rows: Transitions to fit on.
        max_states: Initial states to judge.
        episodes: Episodes to play; 0 for none.

    Raises:
        UserError: If episodes would pay other rewards than the data.
    """
    if episodes and data.reward_mismatch:
        raise UserError(f"episodes would pay other rewards than the data ({data.reward_mismatch}): leave --episodes out")
    starts, returns = [], []
    for episode in data.episodes():
        starts.append(episode.observation[0])
        returns.append(discounted_return(episode.reward, episode.terminated, discount))
    chosen = spread_evenly(len(starts), max_states)
    states = torch.from_numpy(np.stack([starts[i] for i in chosen]))
    transitions, distance = _transitions(judge, data, max_rows, options.seed)
    trace: list[float] = []
    first = judge.act(states, "acting in initial states")
    task = judge.progress.add_task("fitting Q", total=options.steps)

    def note(step: int, q: Any) -> None:
        judge.progress.advance(task)
        if step * NOTED // options.steps > (step - 1) * NOTED // options.steps:
            with torch.no_grad():
                trace.append(float(q(judge.normalizer(states.to(first.device)), first).mean()))

    fitted = fit_q(transitions, discount, options, note)
    own = {} if reward_map is None else _own(judge, reward_map)
    estimators = {"fitted_q": Estimator(lambda s, a: fitted(judge.normalizer(s), a), RewardMap()), **own}
    by_state = {name: judge.values(each.q, states, f"judging by {name}").numpy() for name, each in estimators.items()}
    found: dict[str, Any] = {
        "rows": len(transitions.reward),
        "estimates": {
            name: bootstrap_mean(values.mean(axis=0)) | {"units": _units(estimators[name])} for name, values in by_state.items()
        },
        "fitted_q_by_member": by_state["fitted_q"].mean(axis=1).tolist(),
        "data_return": bootstrap_mean(np.array(returns)),
        "mean_squared_distance_to_data_actions": distance,
        "trace": trace,
        "settled": has_settled(trace),
        "share_of_the_way_values_can_have_gone": travelled(options, discount),
    }
    if episodes:
        found["comparison"] = _comparison(judge, data, estimators, discount, episodes)
    return found


def _transitions(judge: Judge, data: OfflineDataModule, max_rows: int, seed: int) -> tuple[PolicyTransitions, float]:
    """Return rows of the data with the policy's next actions, and how far its actions are from the data's."""
    table, device = data.table, judge.algorithm.device
    generator = torch.Generator().manual_seed(stream_seed(seed, "evaluate_offline", 0))
    index = torch.randperm(len(table), generator=generator)[:max_rows].sort().values
    rows = type(table.columns)(*(column.to(device) for column in table.gather(index.to(table.rows.device))))
    going_on = rows.terminated == 0
    next_action = torch.zeros_like(rows.action)
    if going_on.any():
        next_action[going_on] = judge.act(rows.next_observation[going_on], "acting in the data's states")
    some = torch.from_numpy(spread_evenly(len(index), 1000)).to(device)
    apart = (judge.act(rows.observation[some], "comparing with the data's actions") - rows.action[some]).square().mean()
    fields = (judge.normalizer(rows.observation), rows.action, rows.reward, judge.normalizer(rows.next_observation))
    return PolicyTransitions(*fields, next_action, rows.terminated, rows.steps), float(apart)


def _own(judge: Judge, reward_map: RewardMap) -> dict[str, Estimator]:
    """Return the critics that the policy was trained with; they speak in training's units of reward."""
    critics, algorithm = judge.algorithm.critics, judge.algorithm
    if critics is None:
        return {}

    def own(observation: Tensor, action: Tensor) -> Tensor:
        return critics.target(algorithm.normalizer(observation), algorithm.action_scaler.inverse(judge.scaler(action)))

    def pessimistic(observation: Tensor, action: Tensor) -> Tensor:
        return critics.pessimistic(own(observation, action)).unsqueeze(0)

    found = {"own_critics_mean": own, "own_critics_pessimistic": pessimistic}
    return {name: Estimator(q, reward_map) for name, q in found.items()}


def _units(estimator: Estimator) -> str:
    return "rewards r of the environment" if estimator.units == RewardMap() else f"training's rewards {estimator.units}"


def _comparison(
    judge: Judge, data: OfflineDataModule, estimators: Mapping[str, Estimator], discount: float, episodes: int
) -> dict[str, Any]:
    """Return what episodes of the environment really returned, and the error of each estimate from their initial states."""
    assert data.environment is not None
    envs = LocalEnvironments([data.environment.make() for _ in range(min(episodes, 20))])
    task = judge.progress.add_task("playing episodes", total=episodes)
    try:
        seeds = range(10_000, 10_000 + episodes)
        played = rollout(envs, judge.algorithm.act, seeds, lambda _: judge.progress.advance(task), record=True)
    finally:
        envs.close()
    trajectories = [result.trajectory for result in played if result.trajectory is not None]
    states = torch.from_numpy(np.stack([t.observation[0] for t in trajectories]))
    cut = [discount ** len(t.reward) for t in trajectories if not t.terminated]
    errors = {}
    for name, estimator in estimators.items():
        value: Floats = judge.values(estimator.q, states, f"judging by {name}").mean(dim=0).numpy()
        collected = _collected(trajectories, discount, estimator.units)
        errors[name] = {
            "units": _units(estimator),
            "estimate": bootstrap_mean(value),
            "true_return": bootstrap_mean(collected),
            "bias": bootstrap_mean(value - collected),
        }
    return {
        "environment": data.environment.describe()["id"],
        "true_return": bootstrap_mean(_collected(trajectories, discount, RewardMap())),
        "largest_weight_beyond_a_time_limit": max(cut, default=0.0),
        "estimators": errors,
    }


def _collected(trajectories: Sequence[Trajectory], discount: float, units: RewardMap) -> Floats:
    """Return the discounted return of each episode, shape (episodes,)."""
    never = np.zeros(0, dtype=np.bool_)  # a task that ends, ends with an episode's last step
    return np.array([discounted_return(units(trajectory.reward), never, discount) for trajectory in trajectories])
