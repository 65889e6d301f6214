"""Training of the collecting policies: PPO's parts by their formulas, and whole runs through the command line."""

import numpy as np
import pytest
import torch

from edp_lightning.cli import run
from edp_lightning.collect.locomotion_policies import ROLES
from edp_lightning.collect.physics.locomotion import ROBOTS
from edp_lightning.collect.training import selection
from edp_lightning.collect.training.advantages import generalized_advantages
from edp_lightning.collect.training.ant_task import AntTask
from edp_lightning.collect.training.locomotion_task import LocomotionTask
from edp_lightning.collect.training.networks import GaussianActor, ValueNetwork, gaussian_log_prob
from edp_lightning.collect.training.ppo import PPO, PPOSettings
from edp_lightning.collect.training.recipes import recipe_of
from edp_lightning.collect.training.session import TrainingSession
from edp_lightning.collect.training.snapshots import policy_arrays, read_arrays, save_arrays, save_snapshot, snapshot_files
from edp_lightning.collect.training.statistics import RewardScale, RunningStatistics
from edp_lightning.errors import UserError


def test_advantages_are_the_weighted_sum_of_later_errors():
    rng = torch.Generator().manual_seed(0)
    rewards, values, next_values = (torch.randn(6, 2, generator=rng) for _ in range(3))
    ended = torch.zeros(6, 2)
    ended[2, 0] = 1
    found = generalized_advantages(rewards, values, next_values, ended, 0.9, 0.8)
    errors = rewards + 0.9 * next_values - values
    for start, robot, stop in ((0, 0, 2), (1, 1, 5), (3, 0, 5)):
        expected = sum((0.9 * 0.8) ** (t - start) * errors[t, robot] for t in range(start, stop + 1))
        assert found[start, robot] == pytest.approx(float(expected), rel=1e-5)


def test_log_prob_is_that_of_torch_up_to_its_constant():
    mean, action, log_std = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0.1, -0.5, 0.3])
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(action).sum(-1) + 1.5 * np.log(2 * np.pi)
    torch.testing.assert_close(gaussian_log_prob(action, mean, log_std), expected.float())


def test_running_statistics_are_those_of_all_rows():
    rng = np.random.default_rng(0)
    parts = [rng.normal(3, 2, (n, 4)) for n in (5, 50, 7)]
    statistics = RunningStatistics((4,))
    for part in parts:
        statistics.update(part)
    rows = np.concatenate(parts)
    np.testing.assert_allclose(statistics.mean, rows.mean(0), rtol=1e-4)
    np.testing.assert_allclose(statistics.variance, rows.var(0), rtol=1e-4)


def test_scaled_rewards_do_not_depend_on_the_unit():
    rng = np.random.default_rng(0)
    rewards, ended = rng.normal(1, 1, (200, 8)), rng.random((200, 8)) < 0.05
    small, large = RewardScale(8, 0.99), RewardScale(8, 0.99)
    ratio = [(small(r, e).sum(), large(100 * r, e).sum()) for r, e in zip(rewards, ended, strict=True)]
    np.testing.assert_allclose(*np.array(ratio[20:]).T, rtol=1e-3)


def small_ppo(name: str, seed: int) -> PPO:
    torch.manual_seed(seed)
    task = AntTask(1, seed) if name == "ant" else LocomotionTask(ROBOTS[name], 4, seed)
    actor = GaussianActor(task.observation_dim, task.action_dim, (8,), torch.tanh, squash=name == "ant", std=0.3)
    value = ValueNetwork(task.observation_dim, (8,), normalize=name == "ant")
    return PPO(task, actor, value, PPOSettings(rollout_steps=8, epochs=2, batch_size=16), seed)


@pytest.mark.parametrize("name", ["ant", "hopper"])
def test_a_training_in_two_parts_is_the_training_in_one(name, tmp_path):
    identity = {"name": name, "seed": 0, "start": None}

    def part(folder: str, steps: int) -> TrainingSession:
        session = TrainingSession(tmp_path / folder, small_ppo(name, 0), identity, 1)
        session.run(600.0, steps, lambda ppo, seconds, measured: None)
        return session

    part("parts", 160)
    resumed, whole = part("parts", 320), part("whole", 320)
    assert resumed.ppo.steps == whole.ppo.steps == 320
    for one, other in ((resumed.ppo.actor, whole.ppo.actor), (resumed.ppo.value, whole.ppo.value)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert len(snapshot_files(resumed.snapshots)) == 10
    with pytest.raises(UserError, match="belongs to another training"):
        TrainingSession(tmp_path / "parts", small_ppo(name, 1), {**identity, "seed": 1}, 1)


def test_training_makes_a_hopper_stand_longer():
    """A few thousand steps suffice to fall later than the first policy does."""
    torch.manual_seed(0)
    task = LocomotionTask(ROBOTS["hopper"], 16, 0)
    actor = GaussianActor(task.observation_dim, task.action_dim, (32, 32), torch.tanh, squash=False, std=0.6)
    ppo = PPO(task, actor, ValueNetwork(task.observation_dim, (32, 32)), PPOSettings(batch_size=256), 0)
    reports = [ppo.iterate()["return"] for _ in range(12)]
    assert reports[-1] > 2 * reports[0] > 0


def test_command_goes_on_where_it_was_and_says_when_it_was_too_short(tmp_path):
    output = tmp_path / "hopper.npz"
    snapshots = tmp_path / "hopper.npz.training" / "snapshots"
    first = []
    for steps in (4096, 8192):
        with pytest.raises(UserError, match=r"too few snapshots .* more --minutes"):
            run(["collect", "train", "hopper", "--steps", str(steps), "--output", str(output)])
        first.append((snapshots / "0000000000.npz").stat().st_mtime_ns)
    assert [path.name for path in snapshot_files(snapshots)] == ["0000000000.npz", "0000004096.npz"]
    assert first[0] == first[1]  # the second run trained on, it did not begin anew
    assert not output.exists()


def test_command_writes_the_ants_controller_and_its_origin(tmp_path):
    output = tmp_path / "ant.npz"
    run(["collect", "train", "ant", "--steps", "1", "--output", str(output), "--seed", "3"])
    written = read_arrays(output)
    bundled = policy_arrays(recipe_of("ant").build(0, None))
    # the value is trained alone at first
    assert written.keys() == bundled.keys()
    assert all(np.array_equal(written[name], bundled[name]) for name in bundled)
    origin = output.with_suffix(".md").read_text()
    assert "collect train ant --minutes 50 --seed 3 --steps 1" in origin
    wrong = tmp_path / "wrong.npz"
    save_arrays(wrong, {**bundled, "w0": bundled["w0"][:, :5]})
    with pytest.raises(UserError, match="w0 has shape"):
        run(["collect", "train", "ant", "--output", str(tmp_path / "b.npz"), "--start", str(wrong)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["spider"], "choose one of ant"),
        (["hopper", "--minutes", "0"], "minutes > 0"),
        (["hopper", "--output", "x.pt"], "must end in .npz"),
        (["hopper", "--output", "/dev/null/x.npz"], "/dev/null is not writable .* choose another with --output"),
        (["ant", "--output", "/dev/null/x.npz", "--steps", "1"], "/dev/null is not writable"),
        (["hopper", "--start", "x.npz"], "trained from nothing"),
        (["ant", "--start", "absent.npz"], "cannot be read"),
    ],
)
def test_bad_arguments_end_in_one_message(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        run(["collect", "train", *arguments])
    assert not list(tmp_path.iterdir())


def test_weights_in_another_format_are_refused(tmp_path):
    np.save(tmp_path / "weights.npy", np.zeros(3))
    with pytest.raises(UserError, match="give an npz file"):
        read_arrays(tmp_path / "weights.npy")


def test_policies_are_chosen_by_what_they_do(tmp_path, monkeypatch):
    """Of forty snapshots whose returns grow by ten, the best is the last; medium has two fifths of its return."""
    ppo = recipe_of("hopper").build(0, None)
    for number in range(40):
        ppo.steps = 1000 * number
        monkeypatch.setattr(type(ppo), "episode_return", property(lambda self: self.steps / 100))
        save_snapshot(tmp_path, ppo)

    def judge(locomotion, arrays, number, episodes):
        return selection.Judged(number, int(arrays["steps"]), float(arrays["steps"]) / 100, 1.0)

    monkeypatch.setattr(selection, "judge", judge)
    with pytest.raises(UserError, match="too few"):
        selection.choose_policies(ROBOTS["hopper"], tmp_path / "empty", 1)
    arrays, chosen = selection.choose_policies(ROBOTS["hopper"], tmp_path, 1)
    assert chosen["expert"].number == 39
    assert 1 / 3 <= chosen["medium"].mean / chosen["expert"].mean <= 1 / 2
    steps = arrays["steps"]
    assert len(steps) == len(ROLES)
    assert steps[0] == 39000
    assert steps[2] == 0
    assert steps[1] == steps[-1] == 1000 * chosen["medium"].number
    assert np.ptp(np.diff(steps[2:])) <= 1000


@pytest.mark.parametrize(
    ("in_training", "message"),
    [
        (lambda number: float(number), "no return in the training of .* comes to 164, 0.42 of what its best policy reaches"),
        (lambda number: 390.0 + number, "at snapshot 0, and to that policy at snapshot 39, too early for 20 different ones"),
    ],
    ids=["never", "at once"],
)
def test_a_training_without_a_medium_policy_is_told_why(in_training, message, tmp_path, monkeypatch):
    """Of forty snapshots it is not said that they are too few. In the exact physics each is ten better than the one before."""
    ppo = recipe_of("hopper").build(0, None)
    monkeypatch.setattr(type(ppo), "episode_return", property(lambda self: in_training(self.steps // 1000)))
    for number in range(40):
        ppo.steps = 1000 * number
        save_snapshot(tmp_path, ppo)
    monkeypatch.setattr(
        selection, "judge", lambda robot, arrays, number, episodes: selection.Judged(number, 1000 * number, 10.0 * number, 1.0)
    )
    with pytest.raises(UserError, match=message):
        selection.choose_policies(ROBOTS["hopper"], tmp_path, 1)


def test_falls_end_an_ants_episode_and_cost():
    task = AntTask(2, 0)
    fallen = task._mazes[0]
    fallen.changing["states"][0, 4:8] = [0, 1, 0, 0]  # on the back
    fallen.changing["ages"][0] = 0
    steps = [task.step(np.zeros((8, 8))) for _ in range(10)]
    assert [bool(step.terminated[0]) for step in steps] == [False] * 9 + [True]
    assert steps[-1].rewards[0] < -14
    assert fallen.changing["ages"][0] == 0  # a new episode has begun


def test_a_reached_way_point_is_followed_by_the_next_in_one_episode():
    """What bootstraps a step is the value of what the ant sees next: advantages are sums of errors of one value function."""
    task = AntTask(2, 0)
    ants = task._mazes[0]
    ants.changing["ages"][:] = 0
    ants.changing["points"][0] = ants._physics.positions(ants.changing["states"])[0, :2]
    old = ants.changing["points"][0].copy()
    step = task.step(np.zeros((8, 8)))
    assert not (step.terminated | step.truncated).any()
    assert (ants.changing["points"][0] != old).any()
    np.testing.assert_array_equal(step.final_observations, task.observations())


def test_an_actor_without_a_squash_has_a_linear_mean():
    actor = GaussianActor(3, 2, (4,), torch.tanh, squash=False, std=0.5)
    x = torch.randn(7, 3)
    expected = torch.tanh(x @ actor.hidden[0].weight.T + actor.hidden[0].bias) @ actor.mean.weight.T + actor.mean.bias
    torch.testing.assert_close(actor(x), expected)
    assert actor.log_std.exp().tolist() == pytest.approx([0.5, 0.5])
