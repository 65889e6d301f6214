"""The ``collect train`` command."""

from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from edp_lightning.collect.physics.locomotion import ROBOTS
from edp_lightning.collect.training.origin import write_origin
from edp_lightning.collect.training.ppo import PPO
from edp_lightning.collect.training.recipes import recipe_of
from edp_lightning.collect.training.selection import choose_policies
from edp_lightning.collect.training.session import TrainingSession
from edp_lightning.collect.training.snapshots import policy_arrays, save_arrays
from edp_lightning.errors import UserError
from edp_lightning.runs.run_folder import check_writable


def train(
    name: str,
    minutes: float = 50.0,
    seed: int = 0,
    output: str | None = None,
    steps: int | None = None,
    start: str | None = None,
) -> None:
    """Train the controller or the policies that a dataset is collected with, by PPO on one core.

    The same command goes on where an interrupted one stopped, exactly, and with more minutes trains further.

    Args:
        name: ant, hopper, halfcheetah or walker2d.
        minutes: Minutes of training in all.
        seed: Seed.
        output: File to write (NAME.npz when not given); checkpoint and snapshots are kept beside it in ``OUTPUT.training``.
        steps: Environment steps in all, if that comes first.
        start: The ant's starting weights; the bundled controller when not given.

    Raises:
        UserError: If the name is unknown, a number is out of range, the output cannot be written, or the folder belongs to
            another training.
    """
    recipe = recipe_of(name)
    if minutes <= 0 or seed < 0 or (steps is not None and steps < 1):
        raise UserError(f"collect train needs minutes > 0, seed >= 0 and steps >= 1; got {minutes}, {seed}, {steps}")
    target = Path(output or f"{name}.npz")
    if target.suffix != ".npz" or target.is_dir():
        raise UserError(f"--output must end in .npz and be no folder, got {target}")
    check_writable(target.parent)
    torch.set_num_threads(1)
    ppo = recipe.build(seed, Path(start) if start else None)
    folder = target.with_name(target.name + ".training")
    session = TrainingSession(folder, ppo, {"name": name, "seed": seed, "start": start}, recipe.snapshot_period)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}"), TimeRemainingColumn())
    with Progress(*columns, refresh_per_second=1) as progress:
        bar = progress.add_task(f"training {name}", total=minutes * 60, completed=int(session.seconds), line="")

        def report(ppo: PPO, seconds: float, measured: dict[str, float]) -> None:
            line = f"{ppo.steps / 1e6:.2f}M steps " + " ".join(f"{key} {value:.4g}" for key, value in measured.items())
            progress.update(bar, completed=seconds, line=line)
            if ppo.iterations % 20 == 0:
                progress.console.print(f"{seconds:.0f} s {line}", soft_wrap=True)

        session.run(minutes * 60, steps, report)
    if name in ROBOTS:
        arrays, policies = choose_policies(ROBOTS[name], session.snapshots)
    else:
        arrays, policies = policy_arrays(ppo), {}
    save_arrays(target, arrays)
    given = {"minutes": f"{minutes:g}", "seed": seed, "steps": steps, "start": start, "output": target}
    options = " ".join(f"--{option} {value}" for option, value in given.items() if value is not None)
    origin = write_origin(target, f"python -m edp_lightning collect train {name} {options}", ppo, session.seconds, policies)
    print(f"{target} and {origin} written after {ppo.steps} steps; the same command with more --minutes trains further")
