"""The page beside a file of weights that says where they come from."""

from pathlib import Path

from edp_lightning import __version__
from edp_lightning.collect.training.ppo import PPO
from edp_lightning.collect.training.selection import Judged


def write_origin(target: Path, command: str, ppo: PPO, seconds: float, policies: dict[str, Judged]) -> Path:
    """Write ``TARGET.md`` and return it.

    Args:
        target: The file of weights.
        command: The command line that made it.
        ppo: What was trained.
        seconds: Seconds of training.
        policies: The chosen policies by role; empty for a single controller.
    """
    lines = [
        f"# {target.name}",
        "",
        f"Written by edp_lightning {__version__} after {ppo.steps:,} steps of proximal policy optimisation (arXiv 1707.06347) "
        f"in {seconds / 60:.0f} minutes:",
        "",
        f"    {command}",
        "",
    ]
    if policies:
        lines += ["| policy | training steps | return in the exact physics, actions drawn |", "|---|---|---|"]
        lines += [f"| {role} | {p.steps:,} | {p.mean:.0f} +- {p.deviation:.0f} |" for role, p in policies.items()]
    path = target.with_suffix(".md")
    path.write_text("\n".join(lines).rstrip() + "\n")
    return path
