"""Fitted Q evaluation: against values in closed form, and as a command on a run."""

import json

import numpy as np
import pytest
import torch

from edp_lightning.cli import main
from edp_lightning.collect import collect
from edp_lightning.evaluation.fitted_q import FitOptions, PolicyTransitions, fit_q, travelled, value_bounds
from edp_lightning.evaluation.offline_estimates import bootstrap_mean, discounted_return, has_settled
from edp_lightning.evaluation.offline_evaluation import evaluate_offline
from tests.conftest import TINY

STATES, DISCOUNT = 5, 0.8


def chain():
    """A walk on a line by random actions; the policy goes right. Entering the last state pays 1 and ends the task."""
    state = torch.arange(STATES - 1).repeat_interleave(40)
    action = torch.linspace(-1, 1, 40).repeat(STATES - 1).unsqueeze(1)
    following = (state + torch.where(action[:, 0] > 0, 1, -1)).clamp(min=0)
    ended = (following == STATES - 1).float()
    eye = torch.eye(STATES)
    ones = torch.ones(len(state))
    return state, PolicyTransitions(eye[state], action, ended.clone(), eye[following], ones.unsqueeze(1), ended, ones)


def test_the_fixed_point_of_a_chain_is_found():
    """Right of s pays after 4 - s steps: Q(s, right) = 0.8^(3 - s); a step to the left costs two more, at the wall one."""
    state, transitions = chain()
    options = FitOptions(steps=500, batch_size=64, members=1, hidden_dims=(32, 32), lr=5e-3, tau=0.1)
    q = fit_q(transitions, DISCOUNT, options)(transitions.observation, transitions.action).mean(dim=0)
    clear = transitions.action[:, 0].abs() > 0.3  # the step at 0 is smooth in a network
    right = transitions.action[:, 0] > 0
    for s in range(STATES - 1):
        towards, away = DISCOUNT ** (3 - s), DISCOUNT ** (3 - max(s - 1, 0) + 1)
        assert q[(state == s) & right & clear].mean() == pytest.approx(towards, abs=0.03)
        assert q[(state == s) & ~right & clear].mean() == pytest.approx(away, abs=0.03)


def test_windows_of_several_steps_discount_by_their_length():
    """One state that pays 1 in every window of 3 steps for ever is worth 1 / (1 - 0.8^3); its bound is the same."""
    one = torch.ones(16, 1)
    transitions = PolicyTransitions(one, one, one[:, 0], one, one, torch.zeros(16), torch.full((16,), 3.0))
    exact = 1 / (1 - DISCOUNT**3)
    assert value_bounds(transitions, DISCOUNT) == pytest.approx((0.0, exact))
    options = FitOptions(steps=200, batch_size=4, members=1, hidden_dims=(8,), lr=2e-2, tau=0.2)
    assert float(fit_q(transitions, DISCOUNT, options)(one[:1], one[:1])) == pytest.approx(exact, rel=0.02)


def test_a_fit_depends_on_its_seed_alone():
    _, transitions = chain()
    options = [FitOptions(steps=5, members=1, hidden_dims=(8,), seed=seed) for seed in (0, 0, 1)]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = [fit_q(transitions, DISCOUNT, each).body.output.weight for each in options]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_interval_covers_as_often_as_it_says():
    """Of means of 60 normal numbers 95 % of the intervals hold the true mean: of 40, 34 at least but once in 100."""
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(40):
        found = bootstrap_mean(rng.normal(1.0, 2.0, 60), seed=trial)
        hits += found["low"] <= 1.0 <= found["high"]
        assert found["low"] < found["mean"] < found["high"]
    assert 34 <= hits <= 40
    assert bootstrap_mean(np.array([2.0])) == {"mean": 2.0, "low": None, "high": None, "states": 1}


def test_returns_end_where_the_task_does():
    reward, ends = np.array([1.0, 2.0, 4.0]), np.array([False, True, False])
    assert discounted_return(reward, ends, 0.5) == 2.0
    assert discounted_return(reward, np.zeros(3, bool), 0.5) == 3.0


def test_settling_and_the_way_of_values():
    assert has_settled([0, 5, 9, 10, 9, 11, 9, 11])  # it goes to and fro, and nowhere
    assert not has_settled([0, 1, 2, 3, 4, 5, 6, 7])
    assert not has_settled([0, 10, 10, 10, 10, 10, 9, 9])
    assert has_settled([3.0])
    assert travelled(FitOptions(steps=5000, tau=0.02), 0.99) == pytest.approx(1 - np.exp(-1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of five steps and the folder of its data, for all tests below."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        patch.setenv("EDP_LIGHTNING_CACHE", str(folder / "cache"))
        dataset = collect("toy", steps=400)
        main(["fit", f"--data.dataset={dataset}", f"--output={folder}", *TINY, "--trainer.max_steps=5"])
    return folder / "edp-toy-two-step-v0" / "default-seed0", folder / "minari"


@pytest.fixture
def run(trained, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(trained[1]))
    (trained[0] / "offline_last.json").unlink(missing_ok=True)
    return trained[0]


def judge(path, *more):
    main(["evaluate_offline", f"--ckpt_path={path}", "--batch_size=16", *more])


def test_a_run_is_judged_on_its_data_and_against_episodes(run, capsys):
    judge(run, "--steps=20", "--episodes=6", "--max_rows=150", "--max_states=30")
    record = json.loads((run / "offline_last.json").read_text())
    assert record["checkpoint"]["gradient_steps"] == 5
    assert record["rows"] == 150
    assert set(record["estimates"]) == {"fitted_q", "own_critics_mean", "own_critics_pessimistic"}
    fitted = record["estimates"]["fitted_q"]
    assert fitted["states"] == 30
    assert np.mean(record["fitted_q_by_member"]) == pytest.approx(fitted["mean"])
    assert len(record["fitted_q_by_member"]) == 3
    assert len(record["trace"]) == 20
    compared = record["comparison"]
    for name, found in compared["estimators"].items():
        difference = found["estimate"]["mean"] - found["true_return"]["mean"]
        assert found["bias"]["mean"] == pytest.approx(difference), name
    told = capsys.readouterr().out
    assert "not a measurement" in told
    assert f"fitted_q                 {fitted['mean']:.4g}" in told
    assert "bias of fitted_q" in told
    path = str(run / "checkpoints" / "last.ckpt")
    file = evaluate_offline(path, steps=20, batch_size=16, episodes=6, max_rows=150, max_states=30)
    assert file == run / "offline_last.json"
    again = json.loads(file.read_text())
    assert {**again, "date": 0} == {**record, "date": 0}  # the same seed says the same


def test_critics_of_another_discount_are_no_estimate(run, capsys):
    judge(run, "--steps=5", "--episodes=2", "--discount=0.9")
    record = json.loads((run / "offline_last.json").read_text())
    assert set(record["estimates"]) == set(record["comparison"]["estimators"]) == {"fitted_q"}
    assert "own critics are left out: their discount is 0.99, not 0.9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--discount=1.0"], "below 1, or values have no bound"),
        (["--steps=0"], "steps must be at least 1"),
        (["--tau=0"], "tau must be above 0"),
        (["--dataset=edp/toy/nothing-v0"], "is not on this machine"),
    ],
)
def test_what_cannot_be_judged_is_one_message(options, message, run, capsys):
    with pytest.raises(SystemExit) as stop:
        judge(run, *options)
    assert stop.value.code == 1
    assert message in capsys.readouterr().err
    assert not (run / "offline_last.json").exists()
