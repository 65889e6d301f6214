"""The options of a command of the Trainer by section, and the short help that begins with those people set."""

import argparse
import re
import shutil
import textwrap
from typing import Any, NamedTuple

from edp_lightning.command_line.mistakes import name_of

OPTIONS: dict[str, str] = {
    "config": "YAML file of options; a second one overrides the first.",
    "data.dataset": "",
    "data.view": "",
    "data.batch_size": "",
    "model": "Algorithm by name, or package.module.Class of your own; EntropyDiffusionPolicy when not given.",
    "model.num_critics": "",
    "model.num_diffusion_steps": "",
    "model.discount": "",
    "model.eta": "",
    "model.entropy": "",
    "model.q_aggregation": "",
    "model.actor_lr": "",
    "model.hidden_precision": "",
    "model.compile": "",
    "trainer.max_steps": "Gradient steps of the whole run.",
    "trainer.accelerator": "cpu, gpu or auto.",
    "trainer.devices": "Number of devices.",
    "trainer.check_val_every_n_epoch": "Epochs between evaluations in the environment.",
    "evaluation.num_episodes": "",
    "online.env_steps": "",
    "output": "",
    "run_name": "",
    "seed_everything": "Seed of everything random.",
    "ckpt_path": "Checkpoint to go on from or to judge: last, best or a file.",
    "print_config": "Print the whole config that the other arguments make, and exit.",
}
"""The options that people set, in reading order -> what to say of them where their own help is the framework's."""

EVALUATION_OPTIONS: dict[str, str] = {
    **{name: OPTIONS[name] for name in ("config", "ckpt_path", "data.dataset", "data.view")},
    "data.environment": "",
    "evaluation.num_episodes": "",
    "evaluation.num_test_episodes": "",
    "evaluation.num_envs": "",
    "evaluation.num_workers": "",
    "evaluation.seed": "",
    "model.num_candidates": "",
    "model.candidate_temperature": "",
    **{name: OPTIONS[name] for name in ("trainer.accelerator", "output", "run_name", "seed_everything", "print_config")},
}
"""The same for commands that judge a checkpoint."""

FEWEST_MODEL_OPTIONS = 8
"""Options of an algorithm that ``fit --help`` shows at least."""

TITLES = {"run": "The run: its config, folder, seed and checkpoint", "trainer": "Lightning's Trainer"}
"""Titles of the sections that have none of their own."""


INDENT = 31
"""Column that the texts begin in."""


class Section(NamedTuple):
    """Options with the same first part.

    Attributes:
        title: What they configure.
        actions: The options.
    """

    title: str
    actions: list[argparse.Action]


def long_name(action: argparse.Action) -> str:
    """Return an option without its dashes; empty for what is no option."""
    return next((name[2:] for name in action.option_strings if name.startswith("--")), "")


def option_sections(parser: argparse.ArgumentParser) -> dict[str, Section]:
    """Return the options of a command by section; those without a dot in their names are ``run``."""
    sections = {"run": Section(TITLES["run"], [])}
    for group in parser._action_groups:
        prefixes = {name.partition(".")[0] for name in map(long_name, group._group_actions) if "." in name}
        for action in group._group_actions:
            name = long_name(action)
            if not name or action.help == argparse.SUPPRESS:
                continue
            section = name.partition(".")[0]
            if section not in prefixes:
                section = "run"
            sections.setdefault(section, Section(TITLES.get(section) or _short_title(group.title or section), []))
            sections[section].actions.append(action)
    return sections


def _short_title(title: str) -> str:
    """Return the main clause of a docstring's first line."""
    return re.split(r" \(|[;:]|, (?:and|after|in) ", title)[0].replace("``", "")


def chosen_options(names: list[str], wanted: dict[str, str], of_the_model: int = 0) -> list[str]:
    """Return which options the short help shows, in the order of ``wanted``.

    Args:
        names: All options of the command, without dashes.
        wanted: Those that people set, whatever the algorithm.
        of_the_model: How many options of the algorithm to show at least; its first others fill up.
    """
    chosen = [name for name in wanted if name in names]
    of_model = [name for name in chosen if name.startswith("model.")]
    # the widths come with the dataset, and --model names the class
    hidden = (*chosen, "model.observation_dim", "model.action_dim", "model.class_path")
    others = [name for name in names if name.startswith("model.") and name not in hidden and not name.endswith(".help")]
    extra = others[: max(0, of_the_model - len(of_model))]
    place = chosen.index(of_model[-1]) + 1 if of_model else len(chosen)
    return [*chosen[:place], *extra, *chosen[place:]]


def short_help(parser: argparse.ArgumentParser, summary: str) -> str:
    """Return the help that a command of the Trainer shows first.

    Args:
        parser: The command's parser.
        summary: What the command does.
    """
    command = name_of(parser)
    sections = option_sections(parser)
    actions = {long_name(action): action for section in sections.values() for action in section.actions}
    wanted, fewest = (OPTIONS, FEWEST_MODEL_OPTIONS) if command.endswith(" fit") else (EVALUATION_OPTIONS, 0)
    width = max(60, shutil.get_terminal_size().columns)
    usage = f"usage: {command} --config FILE [--SECTION.OPTION VALUE ...]"
    lines = [*textwrap.wrap(summary, width), "", usage, "", "options that people set [default]:"]
    for name in chosen_options(list(actions), wanted, fewest):
        lines += _entry(f"--{name}", wanted.get(name) or _first_sentence(actions[name]), _default(actions[name]), width)
    lines += ["", "all options, by section:"]
    for name, section in sections.items():
        shown = [long_name(action) for action in section.actions]
        count = len([option for option in shown if option not in (name, "help") and not option.endswith(".help")])
        lines += _entry(f"--help={name}", f"{section.title}: {count} option{'s' * (count > 1)}", "", width)
    lines += _entry("--help=all", "Everything.", "", width)
    return "\n".join([*lines, ""])


def _entry(name: str, text: str, remark: str, width: int) -> list[str]:
    lines = textwrap.wrap(f"{text} [{remark}]" if remark else text, width - INDENT, break_on_hyphens=False)
    head = f"  {name}".ljust(INDENT - 1)
    if len(head) < INDENT and lines:
        head = f"{head} {lines.pop(0)}"
    return [head.rstrip(), *(" " * INDENT + line for line in lines)]


def _first_sentence(action: argparse.Action) -> str:
    text = " ".join((action.help or "").replace("``", "").replace("%%", "%").split())
    end = re.search(r"(?<!e\.g)(?<!i\.e)(?<! eq)\.(?=\s)", text)
    return text[: end.end()] if end else text


def _default(action: argparse.Action) -> str:
    value: Any = action.default
    if getattr(action, "_required", action.required):
        return "required"
    if value is None or value == argparse.SUPPRESS or long_name(action) in ("config", "print_config", "help"):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
