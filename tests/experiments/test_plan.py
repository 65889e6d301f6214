"""Sweep files: which trials they mean, what they may not say, and what is printed of them."""

from pathlib import Path

import pytest
import yaml

from edp_lightning.algorithms.registry import algorithm_class
from edp_lightning.cli import main
from edp_lightning.errors import UserError
from edp_lightning.experiments.datasets import missing_sets
from edp_lightning.experiments.options import stated
from edp_lightning.experiments.plan import Plan, read_plan

ROOT = Path(__file__).parents[2]


def plan_of(tmp_path: Path, **changes: object) -> Plan:
    (tmp_path / "base.yaml").write_text(
        "data:\n  dataset: edp/toy/two-step-v0\n  collect_steps: 400\nmodel:\n  num_critics: 3\n"
    )
    for family in ("gym", "maze"):
        (tmp_path / f"iql-{family}.yaml").write_text(f"model:\n  width: {family}\n")
    content = {
        "output": str(tmp_path / "runs"),
        "steps": 10,
        "seeds": [0, 1],
        "tasks": {
            "toy": {"options": [f"{tmp_path}/base.yaml"], "family": "gym"},
            "maze": {
                "options": [f"{tmp_path}/base.yaml", "--data.dataset=edp/pointmaze/umaze-v0"],
                "family": "maze",
                "seeds": [1],
            },
        },
        "algorithms": {"Ours": [], "IQL": [f"{tmp_path}/iql-{{family}}.yaml"]},
        **changes,
    }
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}, sort_keys=False))
    return read_plan(file)


def names(plan: Plan) -> list[str]:
    return [trial.name for trial in plan.trials]


def test_tasks_times_algorithms_times_seeds(tmp_path):
    plan = plan_of(tmp_path)
    assert names(plan) == [
        "toy Ours seed 0", "toy IQL seed 0", "toy Ours seed 1", "toy IQL seed 1", "maze Ours seed 1", "maze IQL seed 1",
    ]  # fmt: skip
    last = plan.trials[-1]
    assert last.folder == tmp_path / "runs" / "edp-pointmaze-umaze-v0" / "IQL-seed1"
    assert last.fit() == [
        "fit", f"--config={tmp_path}/base.yaml", "--data.dataset=edp/pointmaze/umaze-v0", f"--config={tmp_path}/iql-maze.yaml",
        f"--output={tmp_path}/runs", "--run_name=IQL", "--seed_everything=1", "--trainer.max_steps=10", "--ckpt_path=last",
    ]  # fmt: skip
    assert last.test("last") == ["test", *last.fit()[1:]]


def test_overlays_common_options_and_exclusions(tmp_path):
    plan = plan_of(
        tmp_path,
        overlays={"plain": [], "wide": ["--model.hidden_dims=[64]"]},
        options=["--trainer.accelerator=cpu"],
        exclude=[{"task": "toy", "algorithm": ["Ours"], "overlay": "wide"}, {"seed": 0, "algorithm": "IQL"}],
    )
    assert names(plan) == [
        "toy Ours plain seed 0", "toy Ours plain seed 1", "toy IQL plain seed 1", "toy IQL wide seed 1",
        "maze Ours plain seed 1", "maze Ours wide seed 1", "maze IQL plain seed 1", "maze IQL wide seed 1",
    ]  # fmt: skip
    wide = plan.trials[3]
    assert wide.folder.name == "IQL-wide-seed1"
    assert wide.options[-2:] == ("--model.hidden_dims=[64]", "--trainer.accelerator=cpu")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stepz": 3}, "did you mean steps?"),
        ({"steps": None}, "steps is missing"),
        ({"steps": 0}, "from 1 on"),
        ({"seeds": [1, 1]}, "different whole numbers"),
        ({"judge": ["first"]}, "judge is a list of last and best"),
        ({"algorithms": {"Ours": ["nowhere.yaml"]}}, "nowhere.yaml does not exist"),
        ({"algorithms": {"Ours": ["--output=x"]}}, "output is set by the sweep"),
        ({"algorithms": {"Ours": ["--model.width", "3"]}}, "--NAME=VALUE"),
        ({"algorithms": {"a/b": []}}, "letters, digits"),
        ({"tasks": {"toy": ["--model.width=3"]}}, "name no data.dataset"),
        ({"tasks": {"a": ["--data.dataset=x"]}}, "needs the family of task a"),
        ({"tasks": {name: {"options": ["--data.dataset=x"], "family": "gym"} for name in "ab"}}, "share"),
        ({"exclude": [{"algorithm": "IQ"}]}, "did you mean IQL?"),
        ({"exclude": [{"seed": 7}]}, "no trial is like that"),
        ({"exclude": [{"seed": [0, 1]}]}, "nothing is left"),
    ],
)  # fmt: skip
def test_mistakes_are_named(changes, said, tmp_path):
    with pytest.raises(UserError, match=r"\S") as error:
        plan_of(tmp_path, **changes)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_sets_are_collected_once_and_alike(tmp_path, toy_set):
    plan = plan_of(tmp_path)
    assert missing_sets(plan.trials, 3) == [["collect", "pointmaze-umaze", "--steps=400", "--workers=3"]]
    options = [f"{tmp_path}/base.yaml", "--data.dataset=edp/pointmaze/umaze-v0"]
    differing = plan_of(tmp_path, tasks={"maze": options}, algorithms={"a": [], "b": ["--data.collect_steps=9"]})
    with pytest.raises(UserError, match="collect edp/pointmaze/umaze-v0 differently"):
        missing_sets(differing.trials, 1)


def test_dry_run_and_slurm_print_and_run_nothing(tmp_path, capsys):
    plan = plan_of(tmp_path, exclude=[{"task": "maze", "algorithm": "IQL"}])
    main(["sweep", str(tmp_path / "sweep.yaml"), "--dry-run", "--threads=2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("python -m edp_lightning collect toy --steps=400 --workers=")
    assert lines[2] == "# 0: toy Ours seed 0, waiting"
    assert lines[3].startswith("OMP_NUM_THREADS=2 ")
    assert len(lines) == 2 + 5 * 3
    assert not (tmp_path / "runs").exists()
    main(["sweep", str(tmp_path / "sweep.yaml"), "--engine=slurm", "--threads=2", "--workers=4", "--gpus_per_trial=0.5"])
    text = capsys.readouterr().out
    assert "#SBATCH --array=0-4%4\n" in text
    assert "#SBATCH --cpus-per-task=2\n#SBATCH --gpus-per-task=1\n" in text
    job = f'sweep {tmp_path}/sweep.yaml --trial "$SLURM_ARRAY_TASK_ID" --digest {plan.digest} --threads 2'
    assert text.splitlines()[-1].endswith(job)
    assert f'#SBATCH --output="{tmp_path}/runs/slurm-%A_%a.out"\n' in text
    assert list((tmp_path / "runs").iterdir()) == []  # where SLURM is to write must be there


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_sweep_files_of_the_package_can_be_read(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = read_plan(file)
    assert all(stated(trial.options, "data.dataset") for trial in plan.trials)


def printed(capsys: pytest.CaptureFixture[str], words: list[str]) -> dict[str, object]:
    with pytest.raises(SystemExit):
        main([*words, "--print_config"])
    parsed: dict[str, object] = yaml.safe_load(capsys.readouterr().out)
    return parsed


SHIPPED = {
    (file.stem, trial.algorithm): trial
    for file in sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
    for trial in reversed(read_plan(file).trials)
}
"""The first trial of every system of the shipped files."""


@pytest.mark.parametrize("system", SHIPPED, ids=" ".join)
def test_every_system_of_the_shipped_sweeps_can_be_built(system, capsys, monkeypatch):
    """A file that parses may still hold options that its algorithm refuses."""
    monkeypatch.chdir(ROOT)
    model = printed(capsys, ["fit", *SHIPPED[system].arguments])["model"]
    assert isinstance(model, dict)
    options = model.get("init_args", {name: value for name, value in model.items() if name != "class_path"})
    algorithm_class(model.get("class_path", "EntropyDiffusionPolicy"))(**options)
