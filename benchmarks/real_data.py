"""Learning on small sets of real simulators: behaviour, behaviour cloning, Diffusion-QL-like settings, the released ones, ours.

    python benchmarks/real_data.py            # hours on a CPU: runs one after the other, continues where it was stopped
    python benchmarks/real_data.py --quick    # a few steps on the toy task: shows that the script works

The sets are looked for under MINARI_DATASETS_PATH. Every run is an ordinary ``fit`` on one thread, then ``test`` of the last
and of the best checkpoint; its command is printed. Scores are D4RL's: 0 is a random policy, 100 an expert.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


@dataclass(frozen=True)
class Task:
    """One set, with the base config of its family and the family's eta."""

    dataset: str
    config: str
    eta: float
    steps: int
    every: int


TASKS = (
    Task("local/hopper/medium-v0", "reference/gym.yaml", 1.0, 20_000, 5),
    Task("local/pen/noisy-v0", "reference/adroit.yaml", 0.1, 20_000, 5),
)
QUICK = (Task("edp/toy/two-step-v0", "toy.yaml", 1.0, 20, 1),)

OURS = (
    "--model.bc_loss=noise_matching",
    "--model.clip_start=true",
    "--model.lcb_coef=1.0",
    "--model.candidate_temperature=0.0",
    "--model.lr_schedule=cosine",
    "--model.actor_lr=3.0e-4",
    "--data.normalize_observations=standard",
    "--target_update.ema_before_start=copy",
)


def methods(task: Task, critics: int) -> dict[str, tuple[str, ...]]:
    """Return the options of each row of the table; all share network sizes, steps and batches."""
    size = f"--model.num_critics={critics}"
    return {
        "reference": (size,),
        "ours": (size, *OURS, f"--model.eta={task.eta}"),
        "cloning": (size, *OURS, "--model.eta=0.0", "--model.entropy=none", "--model.num_candidates=1"),
        "diffusion_ql": ("--model.num_critics=2", "--model.q_aggregation=min", "--model.entropy=none", *OURS[:2], *OURS[3:]),
    }


def run(options: argparse.Namespace, task: Task, method: str, extra: tuple[str, ...], seed: int) -> dict[str, float]:
    """Train and test one run, or read what an earlier call left; return last and best score."""
    folder = Path(options.output) / re.sub(r"[^\w.-]+", "-", task.dataset) / f"{method}-seed{seed}"
    common = [
        f"--config={CONFIGS / task.config}", f"--data.dataset={task.dataset}", f"--output={options.output}",
        f"--run_name={method}", f"--seed_everything={seed}", "--trainer.accelerator=cpu",
        f"--trainer.max_steps={options.steps or task.steps}", f"--trainer.check_val_every_n_epoch={task.every}",
        f"--evaluation.num_episodes={options.episodes}", f"--evaluation.num_test_episodes={options.test_episodes}",
        "--model.hidden_precision=auto", f"--model.compile={str(not options.quick).lower()}", *extra, *options.extra,
    ]  # fmt: skip
    if not (folder / "test_last.json").exists():
        resume = ["--ckpt_path=last"] if (folder / "checkpoints" / "last.ckpt").exists() else []
        call("fit", *common, *resume)
        for checkpoint in ("best", "last"):  # last comes last: its file marks the run as complete
            call("test", *common, f"--ckpt_path={checkpoint}")
    found = {}
    for checkpoint in ("last", "best"):
        scores = json.loads((folder / f"test_{checkpoint}.json").read_text())["scores"]
        found[checkpoint] = float(scores["score"])
    return found


def call(*arguments: str) -> None:
    """Run one command of the package on one thread."""
    command = [sys.executable, "-m", "edp_lightning", *arguments]
    print("$", shlex.join(command), flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_MININTERVAL": "60"}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def behaviour(task: Task) -> tuple[float, str]:
    """Return the mean score of the episodes in the set, and what the score is."""
    from edp_lightning.data.datamodule import OfflineDataModule
    from edp_lightning.data.sources.opening import open_source

    module = OfflineDataModule(task.dataset)
    module.setup("validate")
    returns = np.array([float(e.reward.sum(dtype=np.float64)) for e in open_source(task.dataset).episodes(module.view)])
    assert module.environment is not None
    reference = module.environment.score_reference
    if reference is None:
        return float(returns.mean()), "return"
    return float(100 * (returns.mean() - reference.minimum) / (reference.maximum - reference.minimum)), "score"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--methods", nargs="+", default=["reference", "ours", "cloning", "diffusion_ql"])
    parser.add_argument("--critics", type=int, default=10, help="of 64: the time of a step on a CPU")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--test_episodes", type=int, default=50)
    parser.add_argument("--output", default="runs/real_data")
    options = parser.parse_args()
    options.extra, tasks = [], TASKS
    if options.quick:
        from edp_lightning.collect import collect

        temporary = tempfile.mkdtemp(prefix="real_data-")
        os.environ["MINARI_DATASETS_PATH"] = options.output = temporary
        collect("toy", steps=200)
        options.seeds, options.methods, options.episodes, options.test_episodes, tasks = [0], ["ours"], 4, 4, QUICK
        options.extra = ["--model.hidden_dims=[16,16]", "--data.steps_per_epoch=10"]
    rows = []
    for task in tasks:
        level, unit = behaviour(task)
        for method in options.methods:
            extra = methods(task, options.critics)[method]
            runs = [run(options, task, method, extra, seed) for seed in options.seeds]
            rows.append((task.dataset, unit, level, method, [r["last"] for r in runs], [r["best"] for r in runs]))
            print_table(rows, options.seeds)
    for dataset, _, level, method, last, _ in rows:
        if method in ("ours", "reference"):
            met = "met" if np.mean(last) > level else "missed"
            print(f"goal {method}_above_behaviour_{dataset} {np.mean(last):.1f} >{level:.1f} {met}")


def print_table(rows: list[tuple[str, str, float, str, list[float], list[float]]], seeds: list[int]) -> None:
    """Print all finished rows as Markdown; a column per seed would be wider than the means are worth."""
    print(f"\n| set | behaviour | method | last (seeds {', '.join(map(str, seeds))}) | best |\n|---|---|---|---|---|")
    for dataset, _, level, method, last, best in rows:
        cells = [" ".join(f"{value:.1f}" for value in values) for values in (last, best)]
        print(f"| {dataset} | {level:.1f} | {method} | {cells[0]} | {cells[1]} |")
    print(flush=True)


if __name__ == "__main__":
    main()
