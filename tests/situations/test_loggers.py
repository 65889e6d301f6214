"""People with a logger of their own: everything stays in the run's folder, and a resumed run goes on in the same log."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, WandbLogger

from edp_lightning.errors import UserError
from edp_lightning.runs.loggers import IDENTITY_OF, continue_csv, loggers_of_run, remember_identities, told_by_service
from tests.probes import CrashError, LoggerAnywhere
from tests.test_cli import failing
from tests.test_resume import curves

CSV = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=."]


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch) -> Path:
    """A working directory with a config.yaml of the user's."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "config.yaml").write_text("mine\n")
    monkeypatch.chdir(folder)
    return folder


def history(folder: Path) -> list[dict[str, str]]:
    """Read a CSV log: rows without empty fields and without what depends on the machine's speed."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if v != "" and not k.startswith("speed/")} for row in csv.DictReader(file)]
    return [row for row in rows if row.keys() != {"step"}]


@pytest.mark.parametrize(
    "logger",
    [
        ["--trainer.logger=tests.probes.LoggerAnywhere"],
        CSV,
        ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=."],
        ["--trainer.logger=false"],
    ],
    ids=lambda options: options[0].rpartition("=")[2].rpartition(".")[2],
)
def test_everything_is_written_into_the_folder_of_the_run(logger, toy_set, command, work):
    folder = command("fit", "--trainer.max_steps=5", *logger)
    assert {path.name for path in work.iterdir()} == {"config.yaml"}
    assert (work / "config.yaml").read_text() == "mine\n"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["num_critics"] == 3
    if "save_dir" in logger[-1]:
        assert config["trainer"]["logger"]["init_args"]["save_dir"] == "."  # as it was said, for any other run
        assert list(folder.glob("metrics.csv")) or list(folder.glob("events*"))
    command("test", "--ckpt_path=last", *logger)
    assert (folder / "test_last.json").exists()
    assert {path.name for path in work.iterdir()} == {"config.yaml"}


def test_a_csv_history_goes_on(toy_set, command, work):
    """Rows after the checkpoint are logged again, those before stay: as if the run had never stopped."""
    probe = ["--trainer.callbacks=tests.probes.CrashAt", "--trainer.callbacks.hook=on_train_batch_end"]
    whole = command("fit", "--trainer.max_steps=12", *CSV, "--trainer.logger.flush_logs_every_n_steps=1", run_name="whole")
    options = [*CSV, "--trainer.logger.flush_logs_every_n_steps=1"]
    with pytest.raises(CrashError):
        command("fit", "--trainer.max_steps=12", *options, *probe, "--trainer.callbacks.step=8", run_name="parts")
    parts = command("fit", "--trainer.max_steps=12", "--ckpt_path=last", *options, run_name="parts")
    assert history(parts) == history(whole)
    assert [int(row["step"]) for row in history(parts) if "critic/loss" in row] == list(range(12))
    assert not list(parts.glob(".metrics*"))


def test_a_csv_history_is_complete_at_each_checkpoint(toy_set, command):
    """Lightning writes rows out every 100 steps; a run killed right after a checkpoint would lose those before it."""
    probe = ["--trainer.callbacks=tests.probes.CrashAt", "--trainer.callbacks.hook=on_train_batch_start"]
    with pytest.raises(CrashError):
        command("fit", "--trainer.max_steps=12", *CSV, *probe, "--trainer.callbacks.step=6")
    folder = command("fit", "--trainer.max_steps=7", "--ckpt_path=last", *CSV)
    assert [int(row["step"]) for row in history(folder) if "critic/loss" in row] == list(range(7))


def test_a_tensorboard_logger_of_the_users_own_goes_on(toy_set, command):
    probe = ["--trainer.callbacks=tests.probes.CrashAt", "--trainer.callbacks.hook=on_train_batch_end"]
    options = ["--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=tb", "--trainer.max_steps=12"]
    with pytest.raises(CrashError):
        command("fit", *options, *probe, "--trainer.callbacks.step=8")
    folder = command("fit", *options, "--ckpt_path=last")
    assert [step for step, _ in curves(folder / "tb")["critic/loss"]] == list(range(12))


def test_folders_of_loggers(tmp_path):
    """Relative ones are in the run's folder; outside of it every run has its own, the same at each start."""
    run = tmp_path / "runs" / "set" / "a-seed0"

    def arguments(kind: str, **init_args: object) -> dict:
        config = {"class_path": f"lightning.pytorch.loggers.{kind}", "init_args": init_args}
        found = loggers_of_run([config], run, True, 7)[0]["init_args"]
        assert config["init_args"] == init_args
        return found

    csv_logger = arguments("CSVLogger", save_dir=".", name="lightning_logs", version=None)
    assert Path(CSVLogger(**csv_logger).log_dir) == run
    assert arguments("CSVLogger", save_dir="x", name="n", version=3) == {"save_dir": str(run / "x"), "name": "n", "version": 3}
    outside = arguments("CSVLogger", save_dir="/logs", name="lightning_logs", version=None)
    assert CSVLogger(**outside).log_dir == "/logs/set/a-seed0"
    assert arguments("TensorBoardLogger", save_dir="/logs", name="n", version=None, purge_step=None) == {
        "save_dir": "/logs", "name": "n", "version": "a-seed0", "purge_step": 7,
    }  # fmt: skip
    assert arguments("WandbLogger", save_dir=".", dir=None, id=None, version=None)["save_dir"] == str(run)
    for setting in (True, False, None):
        assert loggers_of_run(setting, run, True, 0) is setting


class Service(WandbLogger):
    """W&B as far as its run's name goes, without W&B."""

    def __init__(self, version: str) -> None:
        self._version = version

    @property
    def version(self) -> str:
        return self._version


class Tracking(MLFlowLogger):
    def __init__(self, run_id: str) -> None:
        self._run = run_id

    @property
    def run_id(self) -> str:
        return self._run


def test_a_service_goes_on_in_the_same_run(tmp_path):
    remember_identities([Service("w1"), CSVLogger(tmp_path), Tracking("m1")], tmp_path)
    config = [
        {"class_path": "lightning.pytorch.loggers.MLFlowLogger", "init_args": {"run_id": None}},
        {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"id": None, "version": None}},
        {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"id": None, "version": None}},
        {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"id": None, "version": "own"}},
    ]
    found = [logger["init_args"] for logger in loggers_of_run(config, tmp_path, True, 5)]
    assert found[0] == {"run_id": "m1"}
    assert [logger["id"] for logger in found[1:]] == ["w1", None, None]
    fresh = loggers_of_run(config, tmp_path, False, 0)
    assert fresh[0]["init_args"]["run_id"] is None


@pytest.mark.parametrize("content", ["", "{}x", "[1]", '[{"logger": "WandbLogger"}]', "\x00"])
def test_spoilt_identities_are_named(content, tmp_path):
    (tmp_path / "loggers.json").write_text(content)
    with pytest.raises(UserError, match=r"loggers\.json"):
        loggers_of_run([{"class_path": "x.WandbLogger", "init_args": {"id": None}}], tmp_path, True, 5)


def test_a_foreign_csv_file_is_not_destroyed(tmp_path):
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="is not a table"):
        continue_csv(CSVLogger(tmp_path, name="", version=""), 5)
    assert (tmp_path / "metrics.csv").read_text() == "a,b\n1,2\n"


def test_rows_of_a_csv_history(tmp_path):
    """A line that a kill cut off, rows of later steps, and a start that was killed while it copied."""
    (tmp_path / ".metrics.csv.before").write_text("epoch,loss,step\n,0.10,0\n1,,3\n,0.3,5\n0.")
    (tmp_path / "metrics.csv").write_text("epoch,loss,step\n,0.10,0\n")
    continue_csv(CSVLogger(tmp_path, name="", version=""), 5)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["epoch,loss,step", ",0.10,0", "1,,3"]
    assert {path.name for path in tmp_path.iterdir()} >= {"metrics.csv"}
    assert not (tmp_path / ".metrics.csv.before").exists()


@pytest.mark.parametrize("logger", ["WandbLogger", "MLFlowLogger"])
def test_a_logger_whose_package_is_missing(logger, toy_set, command, capsys, tmp_path, monkeypatch):
    module = {"WandbLogger": "wandb._WANDB_AVAILABLE", "MLFlowLogger": "mlflow._MLFLOW_AVAILABLE"}[logger]
    monkeypatch.setattr(f"lightning.pytorch.loggers.{module}", False)
    with pytest.raises(SystemExit) as stop:
        command("fit", "--trainer.max_steps=5", f"--trainer.logger={logger}")
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert logger in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("folder", ["/no server", "/not logged in"], ids=["created", "used"])
def test_what_a_service_refuses_is_one_message(folder, toy_set, command, capsys, monkeypatch):
    options = ["--trainer.logger=tests.probes.LoggerAnywhere", f"--trainer.logger.save_dir={folder}"]
    with pytest.raises(SystemExit) as stop:
        command("fit", "--trainer.max_steps=5", *options)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "wandb refuses" in error


def test_other_errors_are_not_a_services():
    error = RuntimeError("ours")
    error.__context__ = KeyError("x")
    assert told_by_service(error) is None


def test_a_root_folder_that_would_be_ignored_is_refused(toy_set, capsys, tmp_path):
    message = failing(capsys, "fit", f"--data.dataset={toy_set}", "--trainer.default_root_dir=/scratch/me")
    assert "--output /scratch/me" in message


def test_identities_are_written_beside_the_config(toy_set, command, monkeypatch):
    monkeypatch.setitem(IDENTITY_OF, LoggerAnywhere, lambda logger: logger.version)
    folder = command("fit", "--trainer.max_steps=5", "--trainer.logger=tests.probes.LoggerAnywhere")
    assert json.loads((folder / "loggers.json").read_text()) == [{"logger": "LoggerAnywhere", "id": "1"}]
