"""Whole runs through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from edp_lightning import load_policy
from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.cli import main
from edp_lightning.data.datamodule import OfflineDataModule
from tests.conftest import TINY, scalars

CONFIGS = Path(__file__).parents[1] / "configs"
OF_MACHINES = ("cpu.yaml", "gpu.yaml")
COMPLETE = sorted(p for p in [*CONFIGS.glob("*.yaml"), *CONFIGS.glob("reference/*.yaml")] if p.name not in OF_MACHINES)
ABLATIONS = sorted(CONFIGS.glob("ablations/*.yaml"))
BASES = {p: p.with_suffix(".yaml") for p in CONFIGS.rglob("*") if p.is_dir() and p.with_suffix(".yaml").is_file()}
OVERLAYS = [(base, path) for folder, base in sorted(BASES.items()) for path in sorted(folder.glob("*.yaml"))]
MANY = ("reference", "ogbench")  # of the many small ones, one per family:
PARSED = [pair for pair in OVERLAYS if not {*MANY} & {*pair[1].parts}]
PARSED += [next(pair for pair in OVERLAYS if pair[0] == base) for folder, base in BASES.items() if {*MANY} & {*folder.parts}]


def printed_config(capsys: pytest.CaptureFixture[str], *args: str) -> dict:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *args, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def bare_config(capsys: pytest.CaptureFixture[str], config: Path) -> dict:
    if config not in BARE:
        BARE[config] = printed_config(capsys, "--config", str(config))
    return BARE[config]


BARE: dict[Path, dict] = {}


@pytest.mark.parametrize("config", COMPLETE, ids=lambda p: p.stem)
def test_every_config_is_complete(config, capsys):
    parsed = printed_config(capsys, "--config", str(config))
    assert parsed["data"]["dataset"]
    assert parsed["trainer"]["max_steps"] > 0


@pytest.mark.parametrize(
    ("base", "overlay"), [*PARSED, *((CONFIGS / "antmaze.yaml", CONFIGS / name) for name in OF_MACHINES)], ids=lambda p: p.stem
)
def test_every_overlay_changes_its_base(base, overlay, capsys):
    plain = bare_config(capsys, base)
    changed = printed_config(capsys, "--config", str(base), "--config", str(overlay))
    assert plain != changed
    for section, values in yaml.safe_load(overlay.read_text()).items():
        for name, value in values.items() if isinstance(values, dict) else []:
            assert changed[section][name] == value


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda p: p.stem)
def test_every_ablation_sets_the_model_of_any_config(ablation, capsys):
    wanted = yaml.safe_load(ablation.read_text())
    assert set(wanted) == {"model"}
    changed = printed_config(capsys, "--config", str(CONFIGS / "toy.yaml"), "--config", str(ablation))["model"]
    assert wanted["model"].items() <= changed.items()
    EntropyDiffusionPolicy(**changed)  # no combination that the module refuses


ROBOTS = ("hopper", "halfcheetah", "walker2d")
MAZES = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")
KITCHENS = ("complete", "partial", "mixed")
SETS = {
    "gym": {f"d4rl:{robot}-medium{kind}-v2" for robot in ROBOTS for kind in ("", "-replay", "-expert")},
    "antmaze": {name.format(maze) for name in ("d4rl:antmaze-{}-v2", "D4RL/antmaze/{}-v1") for maze in MAZES},
    "adroit": {name.format(kind) for name in ("d4rl:pen-{}-v1", "D4RL/pen/{}-v2") for kind in ("human", "cloned")},
    "kitchen": {name.format(kind) for name in ("d4rl:kitchen-{}-v0", "D4RL/kitchen/{}-v2") for kind in KITCHENS},
}
PAPER = {  # arXiv 2402.04080, table 4, and the released code: eta, actor_lr, clip, bc_loss, reward, gradient steps, episodes
    "gym": (1.0, 3e-4, 4.0, "likelihood", "none", 2_000_000, 10),
    "antmaze": (2.0, 3e-4, 4.0, "noise_matching", "affine", 1_000_000, 100),
    "adroit": (0.1, 3e-5, 8.0, "noise_matching", "standardize", 1_000_000, 100),
    "kitchen": (0.005, 3e-4, 10.0, "likelihood", "none", 1_000_000, 100),
}


@pytest.mark.parametrize("family", list(SETS))
def test_every_dataset_of_the_paper_has_an_overlay_with_its_settings(family, capsys):
    overlays = sorted((CONFIGS / "reference" / family).glob("*.yaml"))
    found = {yaml.safe_load(path.read_text())["data"]["dataset"] for path in overlays}
    assert SETS[family] <= found
    assert all(name.startswith(("mujoco/", "d4rl:", "D4RL/")) for name in found)
    base = bare_config(capsys, CONFIGS / "reference" / f"{family}.yaml")
    model, data = base["model"], base["data"]
    assert PAPER[family] == (
        model["eta"], model["actor_lr"], model["gradient_clip_val"], model["bc_loss"], data["reward_transform"],
        base["trainer"]["max_steps"], base["evaluation"]["num_test_episodes"],
    )  # fmt: skip
    for path in overlays:  # what an overlay may change: the set, and max-Q backup for umaze
        own = yaml.safe_load(path.read_text())
        for section in ("data", "model"):
            assert own.get(section, {}).keys() <= base[section].keys()
        umaze = path.name.startswith(("d4rl-umaze-v", "minari-umaze-v"))
        assert own.get("model", {}) == ({"max_q_backup": False} if umaze else {})


def test_fit_test_validate_predict(toy_set, command, capsys):
    folder = command("fit", "--trainer.max_steps=10", "--target_update.tau=0.02")
    files = {p.name for p in folder.rglob("*") if p.is_file()}
    assert {"config.yaml", "last.ckpt", "best.ckpt"} <= files
    logged = scalars(folder)
    assert [step for step, _ in logged["critic/loss"]] == list(range(10))  # one batch, one step
    assert [step for step, _ in logged["evaluation/return"]] == [4, 9]
    assert {"critic/q_mean", "actor/bc_loss", "actor/entropy_coef", "evaluation/episode_length", "evaluation/score"} <= set(
        logged
    )

    capsys.readouterr()
    command("test", "--ckpt_path=last")
    result = json.loads((folder / "test_last.json").read_text())
    assert len(result["episodes"]) == 4
    assert result["scores"]["return"] == pytest.approx(np.mean([e["return"] for e in result["episodes"]]), abs=1e-6)
    assert result["dataset"]["id"] == toy_set
    assert result["checkpoint"]["gradient_steps"] == 10
    assert result["checkpoint"]["training_seed"] == 0
    options = result["checkpoint"]["options"]
    assert (options["model"]["num_critics"], options["data"]["batch_size"]) == (3, 8)
    assert "seed" not in options["model"]
    assert options["target_update"]["tau"] == 0.02
    assert "online" not in options
    assert {"torch", "lightning", "minari"} <= set(result["versions"])

    before = (folder / "config.yaml").read_text()
    checkpoint = folder / "checkpoints" / "best.ckpt"
    main(["validate", f"--ckpt_path={checkpoint}", "--evaluation.num_episodes=2"])  # no config: all from the checkpoint
    main(["predict", f"--ckpt_path={checkpoint}"])
    actions = np.load(folder / "predictions_best.npy")
    assert actions.shape == (400, 1)
    assert (folder / "config.yaml").read_text() == before


def test_predictions_are_in_the_order_of_the_data_and_in_the_environments_units(pendulum_set, tmp_path):
    options = [word for word in TINY if word.startswith(("--data", "--trainer"))]
    options += ["--model=BehaviorCloning", "--model.hidden_dims=[8]", "--trainer.max_steps=5", "--data.environment=none"]
    main(["fit", f"--data.dataset={pendulum_set}", f"--output={tmp_path}", "--run_name=t", *options])
    folder = tmp_path / "tests-pendulum-v0" / "t-seed0"
    main(["predict", f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"])
    data = OfflineDataModule(pendulum_set)
    data.setup("predict")
    expected = load_policy(folder).act(data.transitions.observation.numpy(), seed=0)
    found = np.load(folder / "predictions_last.npy")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found) > 1e-3  # the rows differ


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # a run that branches off another's checkpoint
def test_command_line_beats_the_checkpoint(toy_set, command, capsys):
    folder = command("fit", "--trainer.max_steps=5")
    command(
        "fit",
        "--trainer.max_steps=6",
        f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}",
        "--model.critic_lr=0.5",
        run_name="u",
    )
    config = yaml.safe_load((folder.parent / "u-seed0" / "config.yaml").read_text())
    assert config["model"]["critic_lr"] == 0.5
    state = torch.load(folder.parent / "u-seed0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == 0.5


def test_a_checkpoint_with_matched_variances_is_refused_by_a_run_without(toy_set, command, capsys):
    last = command("fit", "--trainer.max_steps=5", "--model.reverse_variance=matched") / "checkpoints" / "last.ckpt"
    with pytest.raises(SystemExit):
        main(["test", f"--ckpt_path={last}", "--model.reverse_variance=posterior"])
    assert "has reverse_variance matched but this run has posterior" in capsys.readouterr().err


def test_interpolation_is_resolved_after_all_overrides(toy_set, command, tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text("model:\n  actor_lr: 0.001\n  critic_lr: ${model.actor_lr}\n")
    folder = command("fit", f"--config={base}", "--trainer.max_steps=5", "--model.actor_lr=0.25")
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert [o["param_groups"][0]["lr"] for o in state["optimizer_states"]] == [0.25, 0.25]


def failing(capsys, *args: str, status: int = 1) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    assert stop.value.code == status
    err = capsys.readouterr().err
    message = err[err.index("error: ") :]
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.discount=1.5"], "model.discount must be at most 1; got 1.5"),
        (["--model.actor_lr=.nan"], "model.actor_lr must be a finite number; got nan"),
        (["--model.hidden_dims=[8,0]"], "model.hidden_dims must be at least 1; got 0"),
        (["--model=IQL", "--model.expectile=1.2"], "model.expectile must be at most 1; got 1.2"),
        (["--model.execution_noise=-0.1"], "model.execution_noise must be at least 0; got -0.1"),
    ],
)
def test_options_out_of_range_are_refused(toy_set, options, message, capsys):
    assert message in failing(capsys, "fit", f"--data.dataset={toy_set}", *options)


def test_a_refused_command_leaves_the_runs_config_alone(toy_set, command, capsys):
    folder = command("fit", "--trainer.max_steps=5")
    before = (folder / "config.yaml").read_text()
    with pytest.raises(SystemExit):
        command("fit", "--ckpt_path=last", "--model.hidden_dims=[4]", "--target_update.tau=0.5")
    assert "the checkpoint has hidden_dims" in capsys.readouterr().err
    assert (folder / "config.yaml").read_text() == before


def test_changed_options_of_callbacks_that_learn_are_named(toy_set, command, caplog):
    command("fit", "--trainer.max_steps=5", "--model.entropy=path", "--entropy_tuning.enabled=true")
    with caplog.at_level("INFO"):
        command("fit", "--ckpt_path=last", "--trainer.max_steps=6", "--model.entropy=path", "--target_update.tau=0.5")
    said = "those of the run (in brackets): target_update.tau 0.5 (0.005), entropy_tuning.enabled False (True)"
    assert said in caplog.text


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_branch_takes_a_discount_of_the_data_alone_from_the_file(toy_set, tmp_path):
    """Cloning has no discount of its own; the best share of the episodes is chosen by the data's."""
    options = [word for word in TINY if word.startswith(("--data", "--trainer"))]
    common = [
        f"--data.dataset={toy_set}",
        f"--output={tmp_path}",
        "--model=BehaviorCloning",
        "--model.hidden_dims=[8]",
        *options,
    ]
    main(["fit", *common, "--run_name=a", "--trainer.max_steps=5", "--data.discount=1", "--data.best_share=0.5"])
    file = tmp_path / "edp-toy-two-step-v0" / "a-seed0" / "checkpoints" / "last.ckpt"
    main(["fit", *common, "--run_name=b", "--trainer.max_steps=6", f"--ckpt_path={file}"])
    config = yaml.safe_load((tmp_path / "edp-toy-two-step-v0" / "b-seed0" / "config.yaml").read_text())
    assert (config["data"]["discount"], config["data"]["best_share"]) == (1.0, 0.5)


def test_weights_alone_are_nothing_to_go_on_from(toy_set, command, tmp_path, capsys):
    folder = command("fit", "--trainer.max_steps=5")
    whole = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({key: value for key, value in whole.items() if key != "optimizer_states"}, tmp_path / "weights.ckpt")
    with pytest.raises(SystemExit):
        command("fit", f"--ckpt_path={tmp_path / 'weights.ckpt'}", "--trainer.max_steps=6", run_name="other")
    assert "holds weights alone" in capsys.readouterr().err


def test_missing_set_without_network_names_the_fix(command, capsys):
    message = failing(capsys, "fit", "--data.dataset=D4RL/pen/human-v2", *TINY)
    assert "D4RL/pen/human-v2" in message
    assert "huggingface-cli" in message
    assert "data.download" in message
    message = failing(capsys, "fit", "--data.dataset=edp/toy/two-step-v0", *TINY)
    assert "collect toy" in message


def test_misspelt_set_gets_a_suggestion(toy_set, capsys):
    assert "did you mean edp/toy/two-step-v0" in failing(capsys, "fit", "--data.dataset=edp/toy/twostep-v0", *TINY)


def test_lcb_of_one_critic_is_refused(toy_set, capsys):
    message = failing(capsys, "fit", f"--data.dataset={toy_set}", *TINY, "--model.num_critics=1")
    assert "num_critics" in message
    assert "'min'" in message


def test_a_run_is_not_overwritten(toy_set, command, capsys):
    folder = command("fit", "--trainer.max_steps=5")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(SystemExit):
        command("fit", "--trainer.max_steps=5")
    assert "--ckpt_path last" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_unwritable_output(toy_set, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    message = failing(capsys, "fit", f"--data.dataset={toy_set}", f"--output={tmp_path / 'file'}", *TINY)
    assert "--output" in message


@pytest.mark.parametrize("content", ["truncated", "foreign", "pickle", "absent"])
def test_bad_checkpoint_is_refused_by_name(content, toy_set, command, capsys, tmp_path):
    folder = command("fit", "--trainer.max_steps=5")
    path = tmp_path / "bad.ckpt"
    good = (folder / "checkpoints" / "last.ckpt").read_bytes()
    marker = tmp_path / "executed"
    if content == "truncated":
        path.write_bytes(good[: len(good) // 2])
    elif content == "foreign":
        torch.save({"state_dict": {}}, path)
    elif content == "pickle":
        torch.save({"hyper_parameters": Touch(marker)}, path)
    message = failing(capsys, "test", f"--data.dataset={toy_set}", f"--ckpt_path={path}", *TINY)
    assert "bad.ckpt" in message
    assert not marker.exists()


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_checkpoint_of_another_dataset_is_refused(toy_set, random_set, command, capsys):
    folder = command("fit", "--trainer.max_steps=5")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    message = failing(capsys, "validate", f"--ckpt_path={checkpoint}", f"--data.dataset={random_set}")
    assert "observation_dim 1" in message
    assert "2" in message


def test_a_set_without_an_environment_can_be_trained_on_but_not_tested(random_set, command, capsys):
    folder = command("fit", "--trainer.max_steps=10", dataset=random_set)
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.ckpt"}
    assert not any(name.startswith("evaluation/") for name in scalars(folder))
    with pytest.raises(SystemExit):
        command("test", "--ckpt_path=last", dataset=random_set)
    assert "data.environment" in capsys.readouterr().err


def test_the_progress_bar_can_be_switched_off(toy_set, command, capsys):
    folder = command("fit", "--trainer.max_steps=5", "--trainer.enable_progress_bar=false")
    assert (folder / "checkpoints" / "last.ckpt").exists()
    output = capsys.readouterr()
    assert "Epoch" not in output.out + output.err


@pytest.mark.parametrize(
    ("option", "instead"),
    [("gradient_clip_val=1", "model.gradient_clip_val"), ("accumulate_grad_batches=2", "data.batch_size")],
)
def test_what_the_trainer_cannot_do_for_two_optimizers_is_refused(option, instead, toy_set, capsys):
    assert instead in failing(capsys, "fit", f"--data.dataset={toy_set}", *TINY, f"--trainer.{option}")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("val_check_interval=6", "data.steps_per_epoch 5"),
        ("val_check_interval=4 limit_train_batches=3", "trainer.limit_train_batches leaves fewer"),
        ("val_check_interval=0", "above 0"),
        ("check_val_every_n_epoch=0", "at least 1"),
    ],
)
def test_an_evaluation_period_that_never_comes_is_refused(option, message, toy_set, capsys):
    options = [f"--trainer.{word}" for word in option.split()]
    assert message in failing(capsys, "fit", f"--data.dataset={toy_set}", *TINY, *options)


def test_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--data.dataset=a/b-v0", "--model.gama=0.9"])
    assert stop.value.code == 2
    assert "gama" in capsys.readouterr().err


def test_collect_through_the_command_line(minari_root, capsys):
    main(["collect", "toy", "--steps", "10", "--seed", "3"])
    assert (minari_root / "edp" / "toy" / "two-step-v0" / "data" / "metadata.json").exists()
    assert "antmaze-umaze" in failing(capsys, "collect", "nothing", status=2)


@pytest.mark.parametrize("seed", ["true", "false", "-1", "5000000000"])
def test_a_seed_that_names_no_run_is_refused(seed, toy_set, command, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        command("fit", f"--seed_everything={seed}")
    assert stop.value.code == 1
    assert "must be a number from 0 to 4294967295" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
