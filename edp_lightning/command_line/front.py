"""What can be answered before anything heavy is imported: the overview, the version, and a command that does not exist."""

import sys

from edp_lightning import __version__
from edp_lightning.command_line.commands import COMMANDS, PROGRAM
from edp_lightning.errors import did_you_mean

SENTENCE = "Offline reinforcement learning with entropy-regularised diffusion policies and Q-ensembles (arXiv 2402.04080)."

FIRST_STEPS = (
    ("fit --config configs/pointmaze.yaml", "train on data that it collects itself: minutes on a CPU"),
    ("fit --config configs/pointmaze.yaml --ckpt_path last", "go on where that run stopped"),
    ("test --config configs/pointmaze.yaml --ckpt_path last", "judge its last policy"),
)
READ_ON = f"""\
  {PROGRAM} COMMAND --help   options of one command
  README.md and docs/            what comes with the sources: datasets, algorithms, results
  from {PROGRAM} import load_policy    how to use it from Python: help({PROGRAM})"""


def overview() -> str:
    """Return what ``--help`` prints: every command with what it does, and where to read on."""
    lines = [f"{PROGRAM} {__version__}", SENTENCE, "", f"usage: {PROGRAM} COMMAND [options]    (or python -m {PROGRAM} ...)"]
    group = ""
    for name, command in COMMANDS.items():
        if command.group != group:
            group = command.group
            lines += ["", f"{group}:"]
        lines.append(f"  {name:16} {command.summary}")
    lines += [
        "",
        "options:",
        "  -h, --help      Show this overview.",
        "  --version       Show the version.",
        "",
        "first steps:",
    ]
    for arguments, meaning in FIRST_STEPS:
        lines += [f"  {PROGRAM} {arguments}", f"      {meaning}"]
    return "\n".join([*lines, "", "read on:", READ_ON, ""])


def answer(arguments: list[str]) -> bool:
    """Answer a command line that asks for no work.

    Args:
        arguments: The command line without the program's name.

    Returns:
        Whether it was answered; otherwise it begins with a command of the table, or with an option that is for the parser.

    Raises:
        SystemExit: With status 2 after a message on stderr, if there is no command or none of that name.
    """
    if not arguments:
        sys.stderr.write(overview())
        raise SystemExit(2)
    first = arguments[0]
    if first in ("-h", "--help"):
        sys.stdout.write(overview())
    elif first == "--version":
        print(f"{PROGRAM} {__version__}")
    elif first == "info":  # before anything heavy, which may be what cannot be imported
        from edp_lightning.command_line.info import run

        run(arguments[1:])
    elif not first.startswith("-") and first not in COMMANDS:
        sys.stderr.write(f"error: there is no command {first!r}{did_you_mean(first, COMMANDS)}\n")
        sys.stderr.write(f"all commands: {PROGRAM} --help\n")
        raise SystemExit(2)
    else:
        return False
    return True
