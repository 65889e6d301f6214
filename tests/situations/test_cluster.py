"""People on clusters: launchers, requeued jobs, shared file systems, wrapped compilers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_only

from edp_lightning.acceleration.native.library import BuildError, compiler_command
from edp_lightning.callbacks import JobTimer
from edp_lightning.cli import main
from edp_lightning.errors import UserError
from edp_lightning.runs.checkpoint_io import read_checkpoint
from edp_lightning.runs.launchers import MPI_SIZES, check_launch, current_launch
from edp_lightning.runs.processes import is_guarded
from edp_lightning.runs.run_folder import check_writable, claimed_run_folder, folder_of_checkpoint, lock_run_folder
from tests.conftest import TINY, scalars
from tests.test_cli import failing
from tests.test_resume import assert_same_run

ROOT = Path(__file__).parents[2]
TASK = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "edp", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"}
ELASTIC = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch) -> None:
    for name in [n for n in os.environ if n.startswith(("SLURM_", "JSM_", "OMPI_", "PMI_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", *MPI_SIZES):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "message"),
    [
        (TASK | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}, 1, 1, "SLURM started 2 processes .* 1 x .* 1 makes 1"),
        (TASK | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}, 2, 1, None),
        (TASK | {"SLURM_NTASKS": "1"}, 4, 1, "SLURM started 1 processes .* makes 4"),
        (TASK | {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}, 4, 2, None),
        (TASK | {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}, 2, 4, "4 per node, on 2 nodes"),
        (TASK | {"SLURM_NTASKS": "2"}, 2, 1, "--ntasks-per-node"),
        (TASK | {"SLURM_NTASKS": "many"}, 1, 1, "SLURM_NTASKS is 'many'"),
        ({"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}, 2, 1, "left no SLURM_PROCID"),
        (TASK | {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive"}, 1, 1, None),
        (ELASTIC | {"WORLD_SIZE": "2"}, 1, 1, "torchrun started 2 processes .* makes 1"),
        (ELASTIC | {"WORLD_SIZE": "8"}, 4, 2, None),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"}, 2, 1, "left no RANK"),
        (TASK | ELASTIC | {"SLURM_NTASKS": "1", "WORLD_SIZE": "4"}, 4, 1, None),  # one torchrun per node, started by srun
        ({"JSM_NAMESPACE_SIZE": "6", "LSB_DJOB_RANKFILE": "f", "JSM_NAMESPACE_RANK": "0", "JSM_NAMESPACE_LOCAL_RANK": "0"},
         1, 1, "jsrun started 6"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 1, 1, "mpi4py"),
        ({"PMI_SIZE": "1"}, 1, 1, None),
        ({"WORLD_SIZE": "2", "RANK": "1"}, 1, 1, "started 2 processes .* makes 1"),
        ({"WORLD_SIZE": "2"}, 4, 2, None),  # the launcher starts one process a node, which starts the others
        ({"WORLD_SIZE": "8", "LOCAL_RANK": "3"}, 4, 2, None),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, 4, 2, "makes 8"),
        ({"WORLD_SIZE": ""}, 1, 1, "WORLD_SIZE is ''"),
        ({}, 4, 2, None),
    ],
)  # fmt: skip
def test_what_a_launcher_started_and_what_the_trainer_counts_on(variables, devices, nodes, message, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if message is None:
        check_launch(devices, nodes)
        return
    with pytest.raises(UserError, match=message):
        check_launch(devices, nodes)


@pytest.mark.parametrize("variable", MPI_SIZES)
def test_processes_of_mpi_are_counted_where_they_can_find_each_other(variable, monkeypatch):
    monkeypatch.setenv(variable, "3")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "mpi4py")
    with pytest.raises(UserError, match=r"MPI started 3 processes .* makes 2"):
        check_launch(2, 1)
    check_launch(3, 1)


def test_two_tasks_on_one_device_each_are_refused(toy_set, command, capsys, monkeypatch, tmp_path):
    for name, value in (TASK | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        command("fit", "--trainer.max_steps=5")
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "SLURM started 2 processes" in error
    assert "makes 1" in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_a_process_that_is_its_own_world_takes_the_lock_and_logs(toy_set, command, capsys, monkeypatch):
    """Whatever rank a launcher's variables gave it: independent runs of one job, started without SLURM_NTASKS."""
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # which Lightning reads from SLURM_PROCID when it is imported
    folder = command("fit", "--trainer.max_steps=5")
    assert [step for step, _ in scalars(folder)["critic/loss"]] == list(range(5))
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with lock_run_folder(folder), pytest.raises(SystemExit):
        command("fit", "--trainer.max_steps=10", "--ckpt_path=last")
    assert "another process is training" in capsys.readouterr().err


def test_torchrun_inside_slurm_is_torchrun(monkeypatch):
    for name, value in (TASK | ELASTIC | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "WORLD_SIZE": "8"}).items():
        monkeypatch.setenv(name, value)
    assert current_launch() == ("torchrun", "WORLD_SIZE", 8, None, None, False)


def test_a_requeued_job_has_its_own_time(toy_set, command):
    """Lightning's timer goes on where the first job's ended: the second would do nothing, for ever."""
    options = ["--trainer.max_time=00:00:00:01", "--trainer.check_val_every_n_epoch=10000"]
    folder = command("fit", *options)
    first = read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"]
    command("fit", *options, "--ckpt_path=last")
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] > first > 0


@pytest.mark.parametrize("last", [7, 10])
def test_a_job_whose_time_is_up_leaves_no_trace_in_the_run(last, toy_set, command, monkeypatch):
    """In the middle of an epoch that ends with an evaluation, and after one: the other evaluations stay where they were."""
    options = ["--trainer.max_steps=20", "--trainer.check_val_every_n_epoch=2", "--trainer.max_time=00:01:00:00"]
    options += ["--entropy_tuning.enabled=true"]
    whole = command("fit", *options, run_name="whole")
    on_train_batch_end = JobTimer.on_train_batch_end

    def end(self, trainer, *args, **kwargs):
        self._offset = 3600.0 if trainer.global_step == last else 0.0
        on_train_batch_end(self, trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(JobTimer, "on_train_batch_end", end)
        folder = command("fit", *options, run_name="parts")
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == last
    command("fit", *options, "--ckpt_path=last", run_name="parts")
    assert_same_run(folder, whole)
    judged = [
        read_checkpoint(run / "checkpoints" / "last.ckpt")["callbacks"]["EnvironmentEvaluation"] for run in (whole, folder)
    ]
    assert [step for step, _ in judged[0]["history"]] == [10, 20]
    assert judged[0] == judged[1]


def test_the_time_of_earlier_jobs_is_left_alone():
    spent = Timer("00:01:00:00").state_dict()
    spent["time_elapsed"]["train"] = 7200.0
    timer = JobTimer("00:01:00:00")
    assert timer.state_key == Timer("00:01:00:00").state_key  # an older checkpoint's state finds its reader
    timer.load_state_dict(spent)
    assert timer.time_remaining() == 3600


def test_a_misspelt_dataset_leaves_no_folder(toy_set, command, capsys, tmp_path):
    for subcommand in ("fit", "test"):
        with pytest.raises(SystemExit):
            command(subcommand, dataset="edp/toy/two-stepp-v0")
        assert "did you mean" in capsys.readouterr().err
        assert not (tmp_path / "runs").exists()


def test_a_folder_is_taken_away_only_by_whoever_made_it_for_nothing(tmp_path):
    (tmp_path / "runs").mkdir()
    folder = tmp_path / "runs" / "set" / "t-seed0"

    def work() -> None:
        (folder / "events").write_text("1")
        raise UserError

    def fail(trained: bool) -> None:
        with pytest.raises(UserError), claimed_run_folder(folder, False, lambda: trained):
            work()

    fail(trained=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]
    fail(trained=True)  # as when a loss is not finite: what it left is for the user
    assert (folder / "events").exists()
    (folder / "mine").write_text("")
    fail(trained=False)
    assert (folder / "mine").exists()
    other = tmp_path / "runs" / "set" / "u-seed0"
    with pytest.raises(UserError), claimed_run_folder(other, False, lambda: False), lock_run_folder(other):
        raise UserError  # leaves the lock first, and then the folder
    assert not other.exists()
    with claimed_run_folder(other, False, lambda: False):
        lock = lock_run_folder(other)
    with lock, pytest.raises(UserError), claimed_run_folder(other, False, lambda: False):
        raise UserError
    assert other.exists()


@pytest.mark.parametrize("output", ["/proc/runs", "x" * 300, "{file}", "{file}/below"])
def test_an_output_that_cannot_be_written(output, toy_set, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    output = output.format(file=tmp_path / "file")
    for subcommand in ("fit", "test"):
        assert "--output" in failing(capsys, subcommand, f"--data.dataset={toy_set}", f"--output={output}", *TINY)


def test_a_lock_of_somebody_else(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match="cannot be opened"):
        lock_run_folder(tmp_path)


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*args: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.warns(UserWarning, match="no lock on"), lock_run_folder(tmp_path):
        pass


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("/x.ckpt", "/"),
        ("/data/x.ckpt", "/data"),
        ("/runs/set/t-seed0/checkpoints/best.ckpt", "/runs/set/t-seed0"),
        ("/lightning_logs/version_0/checkpoints/epoch=0.ckpt", "/lightning_logs/version_0"),
    ],
)
def test_results_lie_with_the_checkpoint_or_its_run(file, folder):
    assert folder_of_checkpoint(file) == Path(folder)


def test_results_of_a_checkpoint_that_was_copied_lie_beside_it(toy_set, command, tmp_path):
    folder = command("fit", "--trainer.max_steps=5")
    copied = tmp_path / "elsewhere" / "x.ckpt"
    copied.parent.mkdir()
    copied.write_bytes((folder / "checkpoints" / "last.ckpt").read_bytes())
    before = set(tmp_path.iterdir())
    main(["test", f"--ckpt_path={copied}", "--evaluation.num_test_episodes=1"])
    assert {path.name for path in copied.parent.iterdir()} == {"x.ckpt", "test_x.json"}
    assert set(tmp_path.iterdir()) == before


def test_a_folder_for_results_that_cannot_be_written_is_named_before_the_episodes():
    with pytest.raises(UserError, match="not writable"):
        check_writable(Path("/proc/results"))


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        (None, ["g++"]),
        ("", ["g++"]),
        ("clang++", ["clang++"]),
        ("ccache g++", ["ccache", "g++"]),
        ("'/opt/my gcc/g++' -m64", ["/opt/my gcc/g++", "-m64"]),
    ],
)
def test_a_compiler_may_have_a_wrapper_and_options(variable, words, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    if variable is not None:
        monkeypatch.setenv("CXX", variable)
    assert compiler_command() == words


def test_a_compiler_that_cannot_be_read(monkeypatch):
    monkeypatch.setenv("CXX", "'g++")
    with pytest.raises(BuildError, match="CXX"):
        compiler_command()


def test_lines_of_a_script_under_its_guard():
    script = "import a\nif __name__ == '__main__':\n    a.x()\n    a.y(\n        1)\nelse:\n    pass\na.z()\nif a:\n    a.w()\n"
    assert [line for line in range(1, 11) if is_guarded(script, line)] == [2, 3, 4, 5, 6, 7]


SCRIPTS = {
    "unguarded": "from edp_lightning.cli import main\nimport sys\nopen('starts', 'a').write('x')\nmain(sys.argv[1:])\n",
    "guarded": "from edp_lightning.cli import main\nimport sys\n"
    "if __name__ == '__main__':\n    open('starts', 'a').write('x')\n    main(sys.argv[1:])\n",
}


@pytest.mark.parametrize("kind", [pytest.param("guarded", marks=pytest.mark.slow), "unguarded"])
def test_a_script_without_guard_does_not_train_twice(kind, toy_set, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPTS[kind])
    arguments = ["fit", f"--data.dataset={toy_set}", *TINY, "--trainer.max_steps=5", "--evaluation.num_workers=1"]
    done = subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (tmp_path / "starts").read_text() == "x"
    assert "Traceback" not in done.stderr
    if kind == "guarded":
        assert done.returncode == 0, done.stderr[-2000:]
        return
    assert done.returncode == 1
    assert "line 4" in done.stderr
    assert "__main__" in done.stderr
    assert not (tmp_path / "runs").exists()
