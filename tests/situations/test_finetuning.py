"""A model goes on with another dataset."""

import pytest
import torch

from edp_lightning.errors import UserError
from edp_lightning.runs.checkpoint_io import read_checkpoint
from edp_lightning.runs.run_folder import run_folder
from tests.situations.sets import data, listening, model, robot_log, saved, trainer


@pytest.fixture
def said(caplog):
    """What the run says to its user."""
    with listening(caplog) as heard:
        yield heard


@pytest.fixture
def fit(tmp_path, command):
    """Run ``fit`` on a file; returns the last checkpoint."""

    def run(dataset, name, *options):
        command("fit", *options, dataset=dataset, run_name=name)
        return run_folder(tmp_path / "runs", dataset, name, 0) / "checkpoints" / "last.ckpt"

    return run


def scales(checkpoint):
    state = read_checkpoint(checkpoint)["state_dict"]
    return [
        state[f"{name}"].tolist() for name in ("action_scaler.low", "action_scaler.high", "normalizer.mean", "normalizer.std")
    ]


def test_another_action_box_is_refused_or_taken(tmp_path, fit, capsys, said):
    """The table of B is scaled with B's bounds; the actions of a policy in A's units would be ten times too small."""
    a, b = saved(tmp_path / "a.npz", bound=1.0), saved(tmp_path / "b.npz", bound=10.0)
    first = fit(a, "a", "--model.reverse_variance=matched", "--trainer.max_steps=5")
    capsys.readouterr()
    longer = [f"--ckpt_path={first}", "--trainer.max_steps=6", "--model.reverse_variance=matched"]
    with pytest.raises(SystemExit) as stop:
        fit(b, "refused", *longer)
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert "trained with actions from -1 to 1, but those of" in message
    assert "go from -10 to 10" in message
    assert "data.action_low -1 and data.action_high 1" in message
    taken = fit(b, "taken", *longer, "--data.scales=dataset")
    assert scales(taken)[:2] == [[-10.0], [10.0]]
    assert "action bounds are those of" in said()
    rows = [read_checkpoint(c)["state_dict"]["actor.prediction_error.sums"][:, -1].sum().item() for c in (first, taken)]
    assert rows[0] > 4.9  # five steps, nearly
    assert rows[1] == pytest.approx(1.0)  # what was measured in A's units is forgotten


def test_bounds_given_by_hand_keep_the_units_of_the_checkpoint(tmp_path, fit):
    a, b = saved(tmp_path / "a.npz", bound=10.0), saved(tmp_path / "b.npz", bound=1.0)
    first = fit(a, "a", "--trainer.max_steps=5")
    kept = fit(b, "kept", f"--ckpt_path={first}", "--trainer.max_steps=6", "--data.action_low=-10", "--data.action_high=10")
    assert scales(kept)[:2] == [[-10.0], [10.0]]


def test_observation_statistics_stay_the_models_unless_the_sets_are_wanted(tmp_path, said):
    module = model()
    trainer(tmp_path, 1).fit(module, data(normalize_observations="standard"))
    mean = module.normalizer.mean.clone()
    trainer(tmp_path, 1).fit(module, data(robot_log(shift=5.0), normalize_observations="standard"))
    torch.testing.assert_close(module.normalizer.mean, mean)
    assert "normalised with the statistics the model was trained with" in said()
    trainer(tmp_path, 1).fit(module, data(robot_log(shift=5.0), normalize_observations="standard", scales="dataset"))
    torch.testing.assert_close(module.normalizer.mean, mean + 5.0)


def test_one_module_on_two_data_modules(tmp_path):
    module = model()
    trainer(tmp_path, 1).fit(module, data())
    with pytest.raises(UserError, match="the same numbers would mean other actions"):
        trainer(tmp_path, 1).fit(module, data(robot_log(bound=10.0)))
    assert module.action_scaler.high.item() == 1.0


def test_other_units_of_rewards_are_said(tmp_path, said):
    first = trainer(tmp_path, 1)
    first.fit(model(), data(reward_transform="standardize"))
    first.save_checkpoint(tmp_path / "a.ckpt")
    other = robot_log()
    other["rewards"] = 100 * other["rewards"]
    again = {"ckpt_path": tmp_path / "a.ckpt", "weights_only": True}
    trainer(tmp_path, 2).fit(model(), data(reward_transform="standardize"), **again)
    assert "other units" not in said()
    trainer(tmp_path, 2).fit(model(), data(other, reward_transform="standardize"), **again)
    assert "its critics speak of other units" in said()
