"""Malformed configs: one clear error, or a run that trains; never a traceback or a hang."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edp_lightning.cli import main
from tests.conftest import FUZZ_SETTINGS, TINY

VALUES = st.sampled_from(
    [None, -1, 0, 1, 2, 0.5, -0.5, 1.0, 1e30, math.nan, math.inf, "x", "", "none", [], [0], [2], {}, {"x": 1}, True, False]
)
OPTIONS = {
    "data": "batch_size steps_per_epoch n_step action_chunk terminals reward_transform reward_scale view "
    "normalize_observations action_clip_eps environment discount nonsense",
    "model": "hidden_dims num_critics num_diffusion_steps schedule bc_loss reverse_variance discount eta entropy entropy_coef "
    "q_aggregation lcb_coef num_candidates max_q_backup num_backup_actions candidate_temperature actor_lr critic_lr "
    "lr_schedule gradient_clip_val hidden_precision observation_dim action_dim",
    "trainer": "devices accelerator strategy precision log_every_n_steps max_steps val_check_interval check_val_every_n_epoch "
    "limit_val_batches gradient_clip_val accumulate_grad_batches num_nodes callbacks logger plugins max_epochs",
    "target_update": "tau ema_decay ema_every ema_start ema_before_start",
    "entropy_tuning": "enabled target_entropy lr",
    "evaluation": "num_episodes num_envs seed num_test_episodes background",
    "guard": "every_n_steps q_bound",
    "last_checkpoint": "every_n_steps",
    "data_report": "every_n_steps",
}
WHOLE = ["seed_everything", "run_name", "ckpt_path", "trainer", "model", "data", "nonsense"]
FIELDS = st.sampled_from([*(f"{section}.{name}" for section, names in OPTIONS.items() for name in names.split()), *WHOLE])
RUNS_FOR_EVER = {"trainer.max_steps", "trainer.max_epochs"}
"""-1 and null mean no end: a right config, not a malformed one."""
LOGGERS = [
    {"class_path": kind, "init_args": {"save_dir": save_dir} | more}
    for kind in ("CSVLogger", "TensorBoardLogger", "tests.probes.LoggerAnywhere")
    for save_dir in (".", "logs", "..", 3, None)
    for more in ({}, *({"name": None}, {"name": "x", "version": 2}, {"version": "v"}) * (kind != "tests.probes.LoggerAnywhere"))
]
LOGGERS += ["CSVLogger", "WandbLogger", "MLFlowLogger", "NoLogger", ["CSVLogger", "TensorBoardLogger"], [], True, False]
STARTS_PROCESSES = {"trainer.devices", "trainer.num_nodes"}


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Change the working directory (``contextlib.chdir`` of Python 3.11)."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def check_config(changes: dict[str, Any], logger: Any, folder: Path, capsys: Any) -> str:
    """Train two steps under a spoilt config, with any logger; return how that ended. Writes into the run's folder only."""
    config: dict[str, Any] = {}
    for field, value in changes.items():
        if field in RUNS_FOR_EVER and value in (None, -1, math.inf, 1e30):
            continue
        if field in STARTS_PROCESSES and value not in (0, -1, "x", "", {}, None, math.nan):
            continue
        section, _, name = field.partition(".")
        if not name:
            config[section] = value
        elif isinstance(config.setdefault(section, {}), dict):
            config[section][name] = value
    if logger is not None and "trainer.logger" not in changes and isinstance(config.setdefault("trainer", {}), dict):
        config["trainer"]["logger"] = logger
    path = folder / "fuzz.yaml"
    path.write_text(yaml.safe_dump(config))
    capsys.readouterr()
    tiny = [option for option in TINY if option.partition("=")[0].removeprefix("--") not in changes]
    status: Any = 0
    (folder / "work").mkdir(exist_ok=True)
    allowed = {"minari", "cache", "runs", "work", path.name}
    try:
        trainer = config.get("trainer")
        end = [] if isinstance(trainer, dict) and "max_steps" in trainer else ["--trainer.max_steps=2"]
        name = f"--output={folder / 'runs' / str(len(list(folder.glob('runs/*'))))}"
        with working_in(folder / "work"):
            main(["fit", "--data.dataset=edp/toy/two-step-v0", *tiny, *end, name, "--config", str(path)])
    except SystemExit as stop:
        status = stop.code or 0
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert status == 0 or "error: " in message
    assert list((folder / "work").iterdir()) == []
    assert {entry.name for entry in folder.iterdir()} <= allowed
    return {0: "trained", 1: "refused", 2: "usage"}[status]


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=6, derandomize=True, **FUZZ_SETTINGS)
@given(st.dictionaries(FIELDS, VALUES, min_size=1, max_size=2), st.sampled_from(LOGGERS))
def test_a_malformed_config_gives_one_error_or_trains(toy_set, tmp_path, capsys, changes, logger):
    check_config(changes, logger, tmp_path, capsys)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=6, derandomize=True, **FUZZ_SETTINGS)
@given(st.sampled_from(LOGGERS))
def test_any_logger_stays_in_the_folder_of_the_run(toy_set, tmp_path, capsys, logger):
    check_config({}, logger, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_hundreds_of_malformed_configs(toy_set, tmp_path, capsys):
    outcomes: list[str] = []

    @settings(max_examples=400, **FUZZ_SETTINGS)
    @given(st.dictionaries(FIELDS, VALUES, min_size=1, max_size=2), st.sampled_from([None, *LOGGERS]))
    def fuzz(changes, logger):
        outcomes.append(check_config(changes, logger, tmp_path, capsys))

    fuzz()
    counts = {outcome: outcomes.count(outcome) for outcome in set(outcomes)}
    with capsys.disabled():
        print(f"{len(outcomes)} configs: {counts}")
    assert len(outcomes) >= 300
