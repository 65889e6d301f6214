"""A policy by itself: loaded from a run or a file, acting on what a robot's program has at hand."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edp_lightning import LoadedPolicy, load_policy
from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.collect.toy import TwoStepEnv
from edp_lightning.environments.workers import LocalEnvironments
from edp_lightning.errors import UserError
from edp_lightning.evaluation.rollout import rollout

STORED = Path(__file__).parents[1] / "fixtures" / "format_1.ckpt"
BATCH = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]


class Own(EntropyDiffusionPolicy):
    """An algorithm of the user's own that remembers episodes."""

    begun: list[int]

    def reset(self, episode: int, target_return: float | None = None) -> None:
        self.begun.append(episode)


@pytest.fixture
def policy() -> LoadedPolicy:
    return load_policy(STORED)


def rewritten(path: Path, **entries: object) -> Path:
    torch.save(torch.load(STORED, weights_only=True) | entries, path)
    return path


def test_actions_are_of_the_kind_of_the_observation(policy):
    batch = policy.act(BATCH, seed=3)
    assert (policy.observation_dim, policy.action_dim) == (1, 1)
    assert (batch.shape, batch.dtype) == ((5, 1), np.float32)
    one = policy.act(BATCH[0], seed=3)
    assert one.shape == (1,)
    assert one == pytest.approx(batch[0], abs=1e-6)
    tensor = policy.act(torch.from_numpy(BATCH), seed=3)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), batch)
    assert policy.act(torch.from_numpy(BATCH[0]).double(), seed=3).shape == (1,)
    assert not tensor.requires_grad


def test_an_action_depends_on_its_row_and_the_seed_alone(policy):
    batch = policy.act(BATCH, seed=3)
    others = BATCH.copy()
    others[[0, 1, 3, 4]] = 7.0
    assert policy.act(others, seed=3)[2] == pytest.approx(batch[2], abs=1e-6)
    assert np.abs(policy.act(BATCH, seed=4) - batch).max() > 0.1
    same = policy.act(np.zeros((20, 1)), seed=3)
    assert len(np.unique(same)) > 5  # every row has draws of its own


def test_draws_go_on_until_they_are_reset(policy):
    policy.reset(5)
    first = [policy.act(BATCH) for _ in range(2)]
    policy.act(BATCH, seed=5)  # leaves the streams alone
    third = policy.act(BATCH)
    assert np.abs(first[0] - first[1]).max() > 0.1
    policy.reset(5)
    for expected in (*first, third):
        np.testing.assert_array_equal(policy.act(BATCH), expected)
    np.testing.assert_array_equal(load_policy(STORED, seed=5).act(BATCH), first[0])
    np.testing.assert_array_equal(policy.act(BATCH, seed=5), first[0])


def test_an_episode_is_the_one_that_the_evaluation_plays(policy):
    (judged,) = rollout(LocalEnvironments([TwoStepEnv()]), policy.algorithm.act, [10_007], record=True)
    env = TwoStepEnv()
    observation, _ = env.reset(seed=10_007)
    policy.reset(10_007)
    actions, total, done = [], 0.0, False
    while not done:
        actions.append(policy.act(observation))
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        total += reward
        done = terminated or truncated
    np.testing.assert_array_equal(np.stack(actions), judged.trajectory.action)
    assert total == pytest.approx(judged.episode_return)


def test_actions_are_in_the_environments_units(policy):
    inside = policy.act(BATCH, seed=0)
    policy.algorithm.action_scaler.set(torch.tensor([10.0]), torch.tensor([30.0]))
    np.testing.assert_allclose(policy.act(BATCH, seed=0), 20 + 10 * inside, rtol=1e-5)


def test_a_run_is_loaded_by_its_folder(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"holds no checkpoints/last\.ckpt"):
        load_policy(tmp_path)
    shutil.copy(STORED, tmp_path / "checkpoints" / "last.ckpt")
    expected = load_policy(STORED).act(BATCH, seed=0)
    np.testing.assert_array_equal(load_policy(str(tmp_path)).act(BATCH, seed=0), expected)
    with pytest.raises(UserError, match=r"holds no checkpoints/best\.ckpt"):
        load_policy(tmp_path, "best")
    (tmp_path / "checkpoints" / "last.ckpt").rename(tmp_path / "checkpoints" / "best.ckpt")
    np.testing.assert_array_equal(load_policy(tmp_path, "best").act(BATCH, seed=0), expected)
    with pytest.raises(UserError, match="did you mean best"):
        load_policy(tmp_path, "bset")
    with pytest.raises(UserError, match="does not exist"):
        load_policy(tmp_path / "nothing")


def test_the_algorithm_is_the_one_that_the_checkpoint_names(tmp_path):
    path = rewritten(tmp_path / "own.ckpt", algorithm=f"{__name__}.Own")
    policy = load_policy(path)
    assert type(policy.algorithm) is Own
    policy.algorithm.begun = []
    policy.act(BATCH[:2])
    policy.act(BATCH[:3])
    assert policy.algorithm.begun == [0, 1, 2]
    policy.reset()
    policy.act(BATCH[:1])
    assert policy.algorithm.begun == [0, 1, 2, 0]
    with pytest.raises(UserError, match="cannot be asked"):
        policy.reset(target_return=1.0)


@pytest.mark.parametrize(
    "name", ["nowhere.at_all.Thing", "edp_lightning.algorithms.entropy_diffusion.Thing", f"{__name__}.Thing"]
)
def test_an_unknown_algorithm_is_named(name, tmp_path):
    with pytest.raises(UserError, match="Thing"):
        load_policy(rewritten(tmp_path / "a.ckpt", algorithm=name))


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(STORED.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        load_policy(path)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(2), r"shape \(1,\) or \(batch, 1\); got \(2,\)"),
        (np.zeros((2, 3)), r"got \(2, 3\)"),
        (np.zeros((1, 1, 1)), r"got \(1, 1, 1\)"),
        (np.float32(0), "numpy array"),
        ({"observation": np.zeros(1)}, "side by side"),
        ([0.0], "numpy array"),
        (np.array([np.nan]), "NaN"),
        (torch.tensor([torch.inf]), "NaN or infinite"),
        (np.array(["a"]), "numbers"),
    ],
)
def test_what_is_no_observation_is_refused(observation, message, policy):
    with pytest.raises(UserError, match=message):
        policy.act(observation)


@pytest.mark.parametrize("device", ["nonsense", "cuda:93"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(UserError, match=f"device {device}"):
        load_policy(STORED, device=device)


def test_neither_dataset_nor_environment_is_imported():
    probe = (
        "import sys, edp_lightning\n"
        "assert not {'torch', 'lightning', 'numpy'} & set(sys.modules)\n"
        "import numpy as np\n"
        "print(edp_lightning.load_policy(sys.argv[1]).act(np.zeros(1), seed=0)[0])\n"
        "print(*sorted({'gymnasium', 'gymnasium_robotics', 'h5py', 'minari', 'mujoco', 'tensorboard'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", probe, str(STORED)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    action, imported = done.stdout.split("\n")[:2]
    assert float(action) == pytest.approx(load_policy(STORED).act(np.zeros(1), seed=0)[0], abs=1e-5)
    assert imported == ""
