"""Parsers that answer a mistake with two lines instead of the whole usage."""

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import jsonargparse

from edp_lightning.command_line.mistakes import explain, name_of

if TYPE_CHECKING:  # a mixin: at run time the other base is argparse's or jsonargparse's
    _Base = argparse.ArgumentParser
else:
    _Base = object


class FriendlyErrors(_Base):
    """For parsers of argparse and jsonargparse: a mistake is named in one line, and a second says where to read on.

    Options are written out: an abbreviation that a new option makes ambiguous would break scripts.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"allow_abbrev": False} | kwargs))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, with the nearest right name, and exit with status 2."""
        if not getattr(self, "exit_on_error", True) or "JSONARGPARSE_DEBUG" in os.environ:
            super().error(message, *([] if ex is None else [ex]))
        mistake = explain(getattr(ex, "subcommand_parser", None) or self, message, getattr(self, "args", None) or ())
        sys.stderr.write(f"error: {mistake.text}\n")
        sys.stderr.write(f"all options: {self.help_for(mistake.parser, mistake.option)}\n")
        self.exit(2)

    @staticmethod
    def help_for(parser: argparse.ArgumentParser, option: str) -> str:
        """Return the command that shows the help of an option.

        Args:
            parser: Parser of the command that it belongs to.
            option: The option without dashes, existing or not; empty for none in particular.
        """
        return f"{name_of(parser)} --help"


class CommandParser(FriendlyErrors, jsonargparse.ArgumentParser):
    """Parser of a command whose options are made from a function's signature."""


class PlainParser(FriendlyErrors, argparse.ArgumentParser):
    """Parser of a command whose options take several values, which jsonargparse cannot express."""
