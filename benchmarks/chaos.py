"""Kills a run with SIGKILL at random moments, resumes it each time, and compares its end with an undisturbed run's.

python benchmarks/chaos.py [--quick] [--kills 30] [--steps 4000] [--seed 0]

The toy task with tiny networks: what is tested is that nothing saved is ever lost, whatever the moment. Processes come from a
fork server that has imported everything, so that a start costs tenths of a second.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EVERY = 20
"""Gradient steps between checkpoints."""

OPTIONS = [
    "--data.dataset=edp/toy/two-step-v0",
    "--data.batch_size=8",
    "--data.steps_per_epoch=90",
    "--model.hidden_dims=[16,16]",
    "--model.num_critics=3",
    "--model.num_diffusion_steps=3",
    "--model.num_candidates=3",
    "--entropy_tuning.enabled=true",
    "--evaluation.num_episodes=3",
    "--evaluation.num_envs=3",
    f"--last_checkpoint.every_n_steps={EVERY}",
    "--data_report.every_n_steps=100000000",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_model_summary=false",
]


@dataclass
class Damage:
    """What the kills did.

    Attributes:
        kills: How many there were.
        early: Kills before the run had gone on from its checkpoint.
        repeated: Per kill, the steps that had to be computed again.
        bytes_lost: Size of all checkpoints that could not be read after a kill.
        bytes_unfinished: Size of all temporary files that a kill left behind.
        different: Tensors that differ at the end, in last.ckpt or best.ckpt.
        curves_different: Curves that differ at the end.
        missing: Steps without a loss on TensorBoard.
        doubled: Steps with more than one.
    """

    kills: int = 0
    early: int = 0
    repeated: list[int] = field(default_factory=list)
    bytes_lost: int = 0
    bytes_unfinished: int = 0
    different: list[str] = field(default_factory=list)
    curves_different: list[str] = field(default_factory=list)
    missing: int = 0
    doubled: int = 0


def train(data: str, arguments: list[str], step: Any) -> None:
    """Run the command line in a process of its own, keeping the current gradient step where the killer sees it."""
    os.environ["MINARI_DATASETS_PATH"] = data
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    import torch

    from edp_lightning.callbacks import SpeedMonitor
    from edp_lightning.cli import main

    torch.set_num_threads(1)
    measure = SpeedMonitor.on_train_batch_end

    def observed(self: Any, trainer: Any, *args: Any) -> None:
        step.value = trainer.global_step
        measure(self, trainer, *args)

    SpeedMonitor.on_train_batch_end = observed  # type: ignore[method-assign]
    main(["fit", *OPTIONS, *arguments])


def saved_step(folder: Path) -> int:
    """Return the step of last.ckpt, 0 without one."""
    from edp_lightning.runs.checkpoint_io import read_checkpoint

    path = folder / "checkpoints" / "last.ckpt"
    return int(read_checkpoint(path)["global_step"]) if path.exists() else 0


def modified(folder: Path) -> int:
    path = folder / "checkpoints" / "last.ckpt"
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_at_random(process: Any, folder: Path, patience: int, rng: random.Random) -> bool:
    """Kill a run after up to ``patience`` new checkpoints and a random delay; return False if it ended by itself."""
    wanted, seen, last, gap = rng.randint(0, patience), 0, modified(folder), 0.5
    since = time.monotonic()
    while seen < wanted and process.is_alive():
        if modified(folder) != last:
            now = time.monotonic()
            seen, last, gap, since = seen + 1, modified(folder), min(now - since, 1.0), now
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 2 * gap))
    alive = bool(process.is_alive())
    process.kill()
    process.join()
    return alive


def look(folder: Path, damage: Damage) -> None:
    """Count what a kill left of the files."""
    from edp_lightning.errors import UserError
    from edp_lightning.runs.checkpoint_io import read_checkpoint

    for path in (folder / "checkpoints").glob("*.ckpt"):
        try:
            read_checkpoint(path)
        except UserError:
            damage.bytes_lost += path.stat().st_size
    damage.bytes_unfinished += sum(path.stat().st_size for path in (folder / "checkpoints").glob(".*.writing"))


def compare(folder: Path, whole: Path, steps: int, damage: Damage) -> None:
    """Compare two finished runs bit for bit."""
    import torch
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from edp_lightning.runs.checkpoint_io import read_checkpoint
    from edp_lightning.runs.ranks import named_tensors

    for name in ("last.ckpt", "best.ckpt"):
        parts = []
        for run in (folder, whole):
            checkpoint = read_checkpoint(run / "checkpoints" / name)
            parts.append(dict(named_tensors({k: checkpoint[k] for k in ("state_dict", "optimizer_states", "callbacks")})))
            parts[-1] = {key.replace(str(run), ""): value for key, value in parts[-1].items()}
            numbers = [checkpoint["global_step"], checkpoint["epoch"], checkpoint["OfflineDataModule"]["position"]]
            parts[-1]["counters"] = torch.tensor(numbers)
        keys = parts[0].keys() | parts[1].keys()
        same = {key for key in keys if key in parts[0] and key in parts[1] and torch.equal(parts[0][key], parts[1][key])}
        damage.different += [f"{name} {key}" for key in sorted(keys - same)]
    curves = []
    for run in (folder, whole):
        events = EventAccumulator(str(run), size_guidance={"scalars": 0})
        events.Reload()
        names = [name for name in events.Tags()["scalars"] if not name.startswith("speed/")]
        curves.append({name: [(e.step, e.value) for e in events.Scalars(name)] for name in names})
    damage.curves_different = [
        name for name in curves[0].keys() | curves[1].keys() if curves[0].get(name) != curves[1].get(name)
    ]
    found = [step for step, _ in curves[0]["critic/loss"]]
    damage.missing = len(set(range(steps)) - set(found))
    damage.doubled = len(found) - len(set(found))


def chaos(output: Path, kills: int, steps: int, seed: int) -> Damage:
    """Do all of it under a folder and return what happened."""
    from edp_lightning.collect import collect

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["edp_lightning.cli"])
    os.environ["MINARI_DATASETS_PATH"] = data = str(output / "minari")
    with contextlib.redirect_stdout(sys.stderr):
        collect("toy", steps=400)
    rng, damage, step = (
        random.Random(seed),
        Damage(),
        context.RawValue("l", 0),
    )  # without a lock that a killed process would keep

    def start(name: str, *extra: str) -> Any:
        arguments = [f"--output={output / 'runs'}", f"--run_name={name}", f"--trainer.max_steps={steps}", *extra]
        process = context.Process(target=train, args=(data, arguments, step))
        process.start()
        return process

    whole = start("whole")
    whole.join()
    assert whole.exitcode == 0, "the undisturbed run failed"
    folders = output / "runs" / "edp-toy-two-step-v0"
    folder = folders / "killed-seed0"
    while damage.kills < kills:
        before = saved_step(folder)
        # so that the kills that are left fit into the steps that are left
        patience = max(1, round(1.3 * (steps - before) / (kills - damage.kills) / EVERY) - 2)
        step.value = before
        if not kill_at_random(start("killed", "--ckpt_path=last"), folder, patience, rng):
            break
        damage.kills += 1
        damage.early += step.value == before
        damage.repeated.append(step.value - saved_step(folder))
        look(folder, damage)
        print(f"kill {damage.kills}: at step {step.value}, {damage.repeated[-1]} steps to repeat", file=sys.stderr)
    end = start("killed", "--ckpt_path=last")
    end.join()
    assert end.exitcode == 0, "the killed run could not be finished"
    compare(folder, folders / "whole-seed0", steps, damage)
    return damage


def main() -> None:
    """Print a table and the goals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="5 kills over 600 steps")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kills, steps = (5, 600) if options.quick else (options.kills, options.steps)
    with tempfile.TemporaryDirectory() as output:
        damage = chaos(Path(output), kills, steps, options.seed)
    unsaved = sum(damage.repeated) / max(1, damage.kills)
    print(
        f"{damage.kills} kills over {steps} steps, {damage.early} of them before the run had gone on; checkpoints every {EVERY}"
    )
    print(f"steps to repeat per kill: mean {unsaved:.1f}, most {max(damage.repeated, default=0)}")
    print(f"unfinished temporary files: {damage.bytes_unfinished} bytes; differing tensors: {damage.different[:5] or 'none'}")
    goals = [
        ("kills_survived", damage.kills, kills, damage.kills >= kills),
        ("saved_bytes_lost", damage.bytes_lost, 0, damage.bytes_lost == 0),
        ("tensors_that_differ", len(damage.different), 0, not damage.different),
        ("curves_that_differ", len(damage.curves_different), 0, not damage.curves_different),
        ("steps_missing_or_doubled", damage.missing + damage.doubled, 0, damage.missing + damage.doubled == 0),
    ]
    for name, value, target, met in goals:
        print(f"goal {name} {value} {target} {'met' if met else 'missed'}")


if __name__ == "__main__":
    main()
