"""t-SNE of datasets through the command line."""

import numpy as np
import pytest
from matplotlib.image import imread

from edp_lightning.cli import main
from edp_lightning.errors import UserError
from edp_lightning.figures.tsne import draw_tsne, embed, sample_states, tsne
from tests.conftest import make_buffer, make_set


@pytest.fixture
def clusters() -> str:
    """Two episodes far from each other, with returns 1 and 5; the third dimension never changes."""
    rng = np.random.default_rng(0)
    buffers = [
        make_buffer(i, np.c_[rng.normal(20 * i, 1, (41, 2)), np.zeros(41)], np.zeros((40, 1)), [(1 + 4 * i) / 40] * 40)
        for i in (0, 1)
    ]
    import gymnasium as gym

    return make_set("tests/clusters-v0", buffers, observation_space=gym.spaces.Box(-np.inf, np.inf, (3,)))


def test_states_are_drawn_once_each_with_the_return_of_their_episode(clusters):
    states, returns = sample_states(clusters, 1000, seed=0)
    assert len(np.unique(states, axis=0)) == 80  # all of a small set, without the states after the last step
    np.testing.assert_allclose(returns, np.where(states[:, 0] > 10, 5, 1), rtol=1e-6)
    some, _ = sample_states(clusters, 10, seed=0)
    again, _ = sample_states(clusters, 10, seed=0)
    other, _ = sample_states(clusters, 10, seed=1)
    np.testing.assert_array_equal(some, again)
    assert not np.array_equal(some, other)


def test_same_seed_same_points_and_clusters_stay_apart(clusters):
    embedding = tsne(clusters, 60, seed=3)
    np.testing.assert_array_equal(embedding.point, tsne(clusters, 60, seed=3).point)
    first, second = (embedding.point[np.isclose(embedding.episode_return, r)] for r in (1, 5))
    between = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    assert between > 2 * max(first.std(), second.std())
    figure = draw_tsne([embedding])
    shown = figure.axes[0].collections[0]
    np.testing.assert_array_equal(np.sort(shown.get_array()), np.sort(embedding.episode_return))


def test_any_number_of_datasets_side_by_side(clusters, toy_set, tmp_path, capsys):
    def picture(name, *args):
        path = tmp_path / "new" / name
        main(["figure", "tsne", *args, "--states=20", "--seed=1", f"--output={path}"])
        return imread(path)

    both = picture("both.png", "--dataset", clusters, "--dataset", toy_set)
    one = picture("one.png", "--dataset", toy_set)
    assert both.shape[1] == pytest.approx(2 * one.shape[1], abs=2)
    np.testing.assert_array_equal(both, picture("again.png", "--dataset", clusters, toy_set))


@pytest.mark.parametrize(
    ("args", "status", "expected"),
    [
        (["figure"], 2, "tsne"),
        (["figure", "histogram"], 2, "tsne"),
        (["figure", "tsne", "--dataset=tests/nothing-v0"], 1, "tests/nothing-v0"),
        (["figure", "tsne", "--dataset=tests/nothing-v0", "--output=a.jpx"], 1, "png"),
        (["figure", "tsne", "--dataset=tests/nothing-v0", "--states=-1"], 1, "at least 3 states; got -1"),
        (["figure", "tsne", "--dataset=tests/nothing-v0", "--seed=-1"], 1, "--seed must be from 0 to 4294967295; got -1"),
        (["figure", "tsne", "--dataset=tests/nothing-v0", "--seed=4294967296"], 1, "--seed must be from 0"),
    ],
)
def test_mistakes_end_in_one_message(args, status, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == status
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("module", ["matplotlib.figure", "sklearn.manifold"])
def test_a_missing_extra_is_named(module, toy_set, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(SystemExit):
        main(["figure", "tsne", "--dataset", toy_set, f"--output={tmp_path / 'a.png'}"])
    assert "pip install 'edp_lightning[plot]'" in capsys.readouterr().err


def test_too_few_states():
    with pytest.raises(UserError, match="at least 3"):
        embed(np.zeros((2, 1), dtype=np.float32), 0)
