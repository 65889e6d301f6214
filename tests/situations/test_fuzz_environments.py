"""Odd environments: one clear refusal, or the lengths and returns of an independent loop over ``gymnasium.make``."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.environments.workers import LocalEnvironments
from edp_lightning.errors import UserError
from edp_lightning.evaluation.rollout import rollout
from tests.conftest import FUZZ_SETTINGS
from tests.situations.environments import ACTIONS, ENDS, HERE, INFOS, OBSERVATIONS, REWARDS, robot_arrays

LONGEST = 7
"""Steps of the data's longest episode."""

USELESS = {"observation": {"text"}, "action": {"discrete"}, "reward": {"nan", "text", "none"}, "end": {"text"}}


def mostly(name: str, choices: Any) -> st.SearchStrategy[str]:
    """Draw usable kinds more often: one useless kind hides everything else."""
    useful = [choice for choice in choices if choice not in USELESS.get(name, ())]
    return st.one_of(*[st.sampled_from(useful)] * 8, st.sampled_from(list(choices)))


CASES = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["Odd", "Limited", "Skipping", "Class", "Function"]),
        "observation": mostly("observation", OBSERVATIONS),
        "action": mostly("action", ACTIONS),
        "info": mostly("info", INFOS),
        "reward": mostly("reward", REWARDS),
        "end": mostly("end", ENDS),
        "length": st.sampled_from([None, 1, 4, 9]),
        "limit": st.sampled_from([None, None, 2, 5]),
        "chunk": st.integers(1, 3),
        "num_envs": st.integers(1, 3),
        "seed": st.integers(0, 1000),
    }
)


def act(observation: torch.Tensor, generators: Any, chunk: int) -> torch.Tensor:
    """Return numbers beyond most bounds, elementwise, so that a row does not depend on its company."""
    phase = torch.arange(2.0 * chunk)
    return 3 * torch.sin(observation[:, :1] + 0.5 * observation[:, -1:] + phase)


def independent_episode(case: dict[str, Any], kwargs: dict[str, Any], seed: int) -> tuple[int, float, bool | None]:
    """Play an episode with Gymnasium alone; return its length, return and success."""
    spec = copy.deepcopy(gym.spec(f"tests/{case['name']}-v0"))
    limit = case["limit"] or spec.max_episode_steps or LONGEST
    spec.max_episode_steps = None  # counted here
    env = gym.make(spec, **kwargs)
    flat = gym.spaces.flatten_space(env.action_space)
    observation, _ = env.reset(seed=seed)
    length, total, success, plan = 0, 0.0, None, []
    while True:
        if not plan:
            seen = torch.from_numpy(gym.spaces.flatten(env.observation_space, observation).astype(np.float32))
            plan = list(act(seen[None], None, case["chunk"])[0].reshape(-1, 2).double().numpy())
        action = plan.pop(0)
        action = np.clip(np.rint(action) if case["action"] == "integers" else action, flat.low, flat.high)
        observation, reward, terminated, truncated, info = env.step(gym.spaces.unflatten(env.action_space, action))
        length, total = length + 1, total + float(np.ravel(reward)[0])
        told = np.ravel(info["success"]).tolist() if isinstance(info, dict) and "success" in info else []
        if told in ([True], [False]):
            success = bool(success) or told[0]
        if np.ravel(terminated)[0] or np.ravel(truncated)[0] or length == limit:
            return length, total, success


def check_environment(case: dict[str, Any]) -> bool:
    """Compare the package's episodes with independent ones; return whether there were any to compare."""
    kwargs = {name: case[name] for name in ("observation", "action", "info", "reward", "end", "length")}
    useless = [name for name, kinds in USELESS.items() if case[name] in kinds]
    width = gym.spaces.flatdim(OBSERVATIONS[case["observation"]]) if case["observation"] != "text" else 3
    module = OfflineDataModule.from_arrays(
        robot_arrays(width), environment=f"{HERE}:tests/{case['name']}-v0", environment_kwargs=kwargs, n_step=case["chunk"],
        action_chunk=case["chunk"], max_episode_steps=case["limit"],
    )  # fmt: skip
    if useless:
        with pytest.raises(UserError) as refused:
            module.setup("fit")
        assert "\n" not in str(refused.value)
        return False
    module.setup("fit")
    envs = LocalEnvironments([module.environment.make() for _ in range(case["num_envs"])])
    seeds = [case["seed"], case["seed"] + 1, case["seed"] + 7]
    results = rollout(envs, lambda o, g: act(o, g, case["chunk"]), seeds)
    envs.close()
    for seed, result in zip(seeds, results, strict=True):
        length, total, success = independent_episode(case, kwargs, seed)
        assert (result.length, result.success, result.final) == (length, success, {})
        assert result.episode_return == pytest.approx(total, rel=1e-6)
    return True


@settings(max_examples=40, derandomize=True, **FUZZ_SETTINGS)
@given(CASES)
def test_odd_environments_give_one_refusal_or_the_right_episodes(capsys, case):
    check_environment(case)
    capsys.readouterr()  # the cards


@pytest.mark.slow
def test_a_thousand_odd_environments(capsys):
    outcomes: list[bool] = []

    @settings(max_examples=1200, **FUZZ_SETTINGS)
    @given(CASES)
    def fuzz(case):
        outcomes.append(check_environment(case))
        capsys.readouterr()

    fuzz()
    with capsys.disabled():
        print(f"{len(outcomes)} environments: {sum(outcomes)} right, {len(outcomes) - sum(outcomes)} refused")
    assert len(outcomes) >= 1000
    assert min(sum(outcomes), len(outcomes) - sum(outcomes)) >= 100, "one of the two outcomes is hardly tested"
