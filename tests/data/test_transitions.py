import numpy as np
import pytest
import torch

from edp_lightning.data.tables.build import build_table
from edp_lightning.data.tables.cache import table_in_memory
from edp_lightning.data.tables.recipe import TableRecipe
from edp_lightning.data.transitions import Episode, apply_terminals, n_step_rows, relabel


def episode(steps, offset=0.0, rewards=None, terminated=False):
    ends = np.zeros(steps, dtype=bool)
    ends[-1] = True
    return Episode(
        observation=(offset + np.arange(steps + 1, dtype=np.float32))[:, None],
        action=np.linspace(-1, 1, steps, dtype=np.float32)[:, None],
        reward=np.asarray(rewards if rewards is not None else np.arange(steps), dtype=np.float32),
        terminated=ends if terminated else np.zeros(steps, dtype=bool),
        truncated=np.zeros(steps, dtype=bool) if terminated else ends,
        position=np.zeros((steps + 1, 2), dtype=np.float32),
    )


def table(episodes, **kwargs):
    recipe = TableRecipe(**{"low": (-1.0,), "high": (1.0,), **kwargs})
    return table_in_memory(lambda sink: build_table(episodes, recipe, sink))[0].columns


@pytest.mark.parametrize("n_step", [1, 3, 10])
def test_no_row_crosses_an_episode_boundary(n_step):
    rows = table([episode(4, 0.0), episode(3, 100.0), episode(1, 200.0)], n_step=n_step)
    assert len(rows.reward) == 8
    distance = (rows.next_observation - rows.observation).squeeze(1)
    torch.testing.assert_close(distance, rows.steps)  # observations count steps, episodes are 100 apart
    assert rows.steps.max() <= n_step


def test_truncated_rows_keep_their_true_next_observation_and_bootstrap():
    rows = table([episode(3, 0.0), episode(3, 100.0, terminated=True)])
    assert rows.next_observation[2].item() == 3.0
    assert rows.terminated.tolist() == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("n_step", [1, 2, 5])
def test_n_step_rows_equal_a_loop(n_step):
    rng = np.random.default_rng(0)
    lengths = [6, 1, 4]
    reward = rng.normal(size=sum(lengths)).astype(np.float32)
    terminated = rng.random(sum(lengths)) < 0.3
    last = np.repeat(np.cumsum(lengths) - 1, lengths)
    total, ended, steps = n_step_rows(reward, terminated, last, n_step, 0.9)
    for row in range(len(reward)):
        expected, k, end = 0.0, 0, False
        while k < n_step and row + k <= last[row] and not end:
            expected += 0.9**k * reward[row + k]
            end = bool(terminated[row + k])
            k += 1
        assert total[row] == pytest.approx(expected, abs=1e-6)
        assert ended[row] == end
        assert steps[row] == k


def test_terminal_rules():
    e = episode(5, rewards=[0, 1, 1, 0, 1])
    assert apply_terminals(e, "env").terminated.tolist() == [False] * 5
    assert apply_terminals(e, "reward").terminated.tolist() == [False, True, True, False, True]
    cut = apply_terminals(e, "first_success")
    assert len(cut) == 2
    assert cut.terminated.tolist() == [False, True]
    assert not cut.truncated.any()
    assert len(cut.observation) == 3
    without = apply_terminals(episode(3, rewards=[0, 0, 0]), "first_success")
    assert len(without) == 3
    assert without.truncated.tolist() == [False, False, True]


def test_relabelling_rewards_steps_that_end_near_the_goal():
    e = episode(3, rewards=[7, 7, 7])
    position = np.array([[4.0, 4.0], [4.0, 3.0], [4.0, 3.6], [0.0, 0.0]], dtype=np.float32)
    near = relabel(Episode(**{**vars(e), "position": position}), goal=(4.0, 4.0), radius=0.45)
    assert near.reward.tolist() == [0, 1, 0]  # the start's distance belongs to no action


def test_actions_are_scaled_from_the_box_and_clipped():
    e = episode(3)
    rows = table([e], low=(-2.0,), high=(6.0,), action_clip_eps=0.3)
    torch.testing.assert_close(rows.action.squeeze(1), torch.tensor([-0.7, -0.5, -0.25]))
