"""Parser of fit, validate, test and predict: help that begins with the options people set, and the rest by section."""

import argparse
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from omegaconf.errors import OmegaConfBaseException

from edp_lightning.command_line.commands import COMMANDS
from edp_lightning.command_line.front import overview
from edp_lightning.command_line.mistakes import name_of
from edp_lightning.command_line.parsers import FriendlyErrors
from edp_lightning.command_line.sections import option_sections, short_help
from edp_lightning.errors import did_you_mean


class TrainerParser(FriendlyErrors, LightningArgumentParser):
    """LightningArgumentParser with this program's help and errors."""

    subcommand: str  # set by jsonargparse; absent on the parser above the commands

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, add_help=False)
        self.add_argument("-h", "--help", action=_SectionHelp)

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse; an interpolation in a config that leads nowhere is a mistake like any other."""
        try:
            return super().parse_args(*args, **kwargs)
        except OmegaConfBaseException as error:
            self.error(f"a value of the config cannot be resolved: {str(error).splitlines()[0]}")

    def print_section(self, wanted: str | None) -> None:
        """Print the help of this command, and exit.

        Args:
            wanted: A section, ``all``, or None for what people set.
        """
        sections = option_sections(self)
        if getattr(self, "subcommand", None) is None:
            sys.stdout.write(overview())
        elif wanted is None:
            sys.stdout.write(short_help(self, COMMANDS[self.subcommand].summary))
        elif wanted == "all":
            self.usage = f"{name_of(self)} [--config FILE] [--SECTION.OPTION VALUE ...]"
            self.print_help()
        elif wanted in sections:
            self.usage, self.description = argparse.SUPPRESS, None
            title, actions = sections[wanted]
            group: Any = SimpleNamespace(title=title, description=None, _group_actions=actions)
            self._action_groups = [group]
            self.print_help()
        else:
            self._no_section(wanted, [*sections, "all"])
        self.exit()

    def _no_section(self, wanted: str, names: Sequence[str]) -> NoReturn:
        sys.stderr.write(f"error: {name_of(self)} has no section {wanted!r}{did_you_mean(wanted, names)}\n")
        sys.stderr.write(f"sections: {', '.join(names)}\n")
        self.exit(2)

    @staticmethod
    def help_for(parser: argparse.ArgumentParser, option: str) -> str:
        """Return the command that shows the help of an option: that of its section."""
        section = option.partition(".")[0]
        known = getattr(parser, "subcommand", None) is not None and section in option_sections(parser)
        # an algorithm other than the default one has options of its own
        named = next((action.default for action in parser._actions if action.dest == "model.class_path"), None)
        words = [name_of(parser), f"--model {named}" if named else "", f"--help={section}" if known else "--help"]
        return " ".join(filter(None, words))


class _SectionHelp(argparse._HelpAction):
    """``--help``, ``--help=SECTION`` or ``--help=all``."""

    def __init__(self, option_strings: Sequence[str], dest: str = argparse.SUPPRESS, **kwargs: Any) -> None:
        super().__init__(
            option_strings, dest=dest, default=argparse.SUPPRESS, help="Show the options that people set and exit."
        )
        self.nargs = "?"
        self.metavar = "SECTION"

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        parser.print_section(values)
