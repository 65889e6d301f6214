"""Critics against collected returns: closed forms, and a run whose numbers are calculated a second time by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.algorithms.inspection import Critics
from edp_lightning.callbacks import QDiagnostics
from edp_lightning.collect.tasks import TOY_SPEC, task_of
from edp_lightning.collect.toy import TwoStepEnv
from edp_lightning.data.tables.rewards import RewardMap
from edp_lightning.environments.families import POINTMAZE
from edp_lightning.environments.recipe import evaluation_environment, reward_mismatch
from edp_lightning.evaluation.calibration import bias, correlation, returns_to_go
from edp_lightning.evaluation.rollout import Trajectory
from edp_lightning.networks.scaling import ActionScaler
from edp_lightning.runs.rng import stream_seed
from tests.conftest import scalars


def test_returns_of_an_episode_that_ended():
    value, unseen = returns_to_go(np.array([1.0, 2.0, 4.0]), 0.5, last_q=None)
    np.testing.assert_allclose(value, [1 + 1 + 1, 2 + 2, 4])
    np.testing.assert_array_equal(unseen, 0)


def test_returns_are_those_of_the_steps_at_which_a_chunk_was_chosen():
    reward = np.arange(7.0)
    every = returns_to_go(reward, 0.9, last_q=5.0)
    some = returns_to_go(reward, 0.9, last_q=5.0, decided_at=np.array([0, 3, 6]))
    np.testing.assert_array_equal(some.value, every.value[[0, 3]])  # the last one closes the sums
    np.testing.assert_array_equal(some.unseen, every.unseen[[0, 3]])


@pytest.mark.parametrize("error", [0.0, 0.7, -3.0])
def test_a_constant_error_is_found_exactly_in_episodes_that_were_cut(error):
    discount, steps = 0.9, 30
    truth = 1 / (1 - discount)  # reward 1 for ever
    value, unseen = returns_to_go(np.ones(steps), discount, last_q=truth + error)
    assert len(value) == steps - 1
    np.testing.assert_allclose(unseen, discount ** np.arange(steps - 1, 0, -1))
    assert bias(np.full(steps - 1, truth + error), value, unseen) == pytest.approx(error, abs=1e-9)


def test_correlation_of_constants_is_not_a_number_that_is_logged():
    assert correlation(np.ones(3), np.arange(3.0)) is None
    assert correlation(np.arange(3.0), -np.arange(3.0)) == pytest.approx(-1)


def test_rewards_are_comparable_only_where_evaluation_pays_what_the_data_paid():
    task = task_of("pointmaze-umaze")
    view = POINTMAZE.views[1]
    environment = evaluation_environment("x", task.collection_spec(), task.evaluation_spec(), view)
    assert reward_mismatch(task.collection_spec(), environment, "reward") == ""
    assert "ends at the goal" in reward_mismatch(task.collection_spec(), environment, "env")
    dense = evaluation_environment("x", task.collection_spec(), task.evaluation_spec(), view, None, {"reward_type": "dense"})
    assert "reward_type" in reward_mismatch(task.collection_spec(), dense, "reward")
    assert "different environments" in reward_mismatch(TOY_SPEC, environment, "reward")
    assert "does not say" in reward_mismatch(None, environment, "reward")
    kitchen = EnvSpec(
        id="FrankaKitchen-v1",
        entry_point="gymnasium_robotics.envs.franka_kitchen:KitchenEnv",
        kwargs={"remove_task_when_completed": False, "terminate_on_tasks_completed": True},
    )
    recipe = evaluation_environment("x", kitchen, None, view)
    assert "remove_task_when_completed" in reward_mismatch(kitchen, recipe, "env")


def images(folder) -> set[str]:
    found = set()
    for file in folder.glob("events*"):
        events = EventAccumulator(str(file))
        events.Reload()
        found |= set(events.Tags()["images"])
    return found


def test_logged_numbers_equal_a_second_calculation(toy_set, command):
    folder = command(
        "fit", "--trainer.max_steps=5", "--data.reward_transform=affine", "--data.reward_shift=-0.5", "--data.reward_scale=4"
    )
    module = EntropyDiffusionPolicy.load_from_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True)
    q, value = [], []
    for seed in (10_000, 10_001, 10_002):
        env, generator = TwoStepEnv(), torch.Generator().manual_seed(stream_seed(seed, "episode", 0))
        observation, _ = env.reset(seed=seed)
        rewards, done = [], False
        while not done:
            state = torch.tensor(observation, dtype=torch.float32)[None]
            action = module.act(state, [generator])
            with torch.no_grad():
                q.append(module.target_critic(state, action)[:, 0])
            observation, reward, done, _, _ = env.step(action[0].numpy())
            rewards.append((reward - 0.5) * 4)
        value += [rewards[0] + 0.99 * rewards[1], rewards[1]]
    q = torch.stack(q, dim=1).numpy()
    lcb = q.mean(axis=0) - 4.0 * q.std(axis=0, ddof=1)
    logged = {name: values[-1][1] for name, values in scalars(folder).items()}
    assert logged["q_diagnostics/bias"] == pytest.approx(q.mean() - np.mean(value), abs=1e-4)
    assert logged["q_diagnostics/lcb_bias"] == pytest.approx(lcb.mean() - np.mean(value), abs=1e-4)
    assert logged["q_diagnostics/correlation"] == pytest.approx(np.corrcoef(q.mean(axis=0), value)[0, 1], abs=1e-3)
    assert logged["q_diagnostics/spread_data"] > 0
    assert logged["q_diagnostics/spread_policy"] > 0
    assert images(folder) == {"q_diagnostics/calibration"}


def test_bias_is_in_the_units_of_training_and_a_cut_episode_is_closed_by_the_critics():
    """Q = 3 normalised state + scaled action for both critics; the box is [-2, 2], states have mean 1 and deviation 2."""

    def q(observation, action):
        return (3 * observation + action)[:, 0].expand(2, -1)

    scaler = ActionScaler(1)
    scaler.set(torch.tensor([-2.0]), torch.tensor([2.0]))
    module = SimpleNamespace(
        normalizer=lambda observation: (observation - 1) / 2,
        action_scaler=scaler,
        critics=Critics(q, q, lambda values: values.amin(dim=0)),
        discount=0.5,
        device=torch.device("cpu"),
    )
    trainer = SimpleNamespace(datamodule=SimpleNamespace(reward_map=RewardMap(1.0, 2.0, 0.0)), logger=None)
    ended = Trajectory(np.float32([[3.0], [5.0]]), np.float32([[2.0], [-1.0]]), np.arange(2), np.float32([1.0, 2.0]), True)
    cut = Trajectory(
        np.float32([[1.0], [2.0], [7.0]]),
        np.float32([[0.0], [1.0], [2.0]]),
        np.array([0, 2, 4]),
        np.float32([1, 0, 1, 3, 5]),
        False,
    )
    # values: 3 * 1 + 1 and 3 * 2 - 0.5; 3 * 0 + 0 and 3 * 0.5 + 0.5, closed by 3 * 3 + 1 at step 4
    values = np.array([4.0, 5.5, 0.0, 2.0])
    mapped = lambda *rewards: [(reward + 1) * 2 for reward in rewards]  # noqa: E731
    first, second = mapped(1.0, 2.0), mapped(1, 0, 1, 3)
    returns = [first[0] + 0.5 * first[1], first[1]]
    returns += [sum(0.5**k * r for k, r in enumerate(second)) + 0.5**4 * 10, second[2] + 0.5 * second[3] + 0.5**2 * 10]
    unseen = np.array([0.0, 0.0, 0.5**4, 0.5**2])
    found = QDiagnostics()._calibrate(trainer, module, [ended, cut], 5)
    assert found["bias"] == pytest.approx(np.mean(values - returns) / np.mean(1 - unseen), rel=1e-5)
    assert found["correlation"] == pytest.approx(np.corrcoef(values, returns)[0, 1], rel=1e-5)


def test_without_matplotlib_the_run_goes_on_and_says_so(toy_set, command, monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with caplog.at_level("INFO"):
        folder = command("fit", "--trainer.max_steps=10")
    assert caplog.text.count("pip install 'edp_lightning[plot]'") == 1
    assert len(scalars(folder)["q_diagnostics/bias"]) == 2


def test_other_rewards_are_not_compared_but_the_spreads_are_logged(pendulum_set, command, caplog):
    with caplog.at_level("INFO"):
        folder = command("fit", "--trainer.max_steps=5", "--data.environment=Pendulum-v1", dataset=pendulum_set)
    assert "no comparison with returns" in caplog.text
    logged = scalars(folder)
    assert "q_diagnostics/spread_policy" in logged
    assert "q_diagnostics/bias" not in logged


def test_it_can_be_switched_off(toy_set, command):
    folder = command("fit", "--trainer.max_steps=5", "--q_diagnostics.enabled=false")
    assert not any(name.startswith("q_diagnostics") for name in scalars(folder))
