"""The exception types whose messages are meant for the user, not for a developer."""

import difflib
import zipfile
import zlib
from collections.abc import Iterable

DAMAGED_NPZ = (OSError, ValueError, EOFError, AttributeError, TypeError, zlib.error, zipfile.BadZipFile)
"""What numpy raises where a file is no npz file of plain arrays, or a damaged one."""


class UserError(Exception):
    """A problem the user can mend: bad data, bad settings, a missing file.

    The message names the cause and the fix in one or two lines. The command line prints it without a traceback and exits with
    ``exit_status``; everything else that goes wrong keeps its traceback because it is a defect of this package.
    """

    exit_status = 1


class UsageError(UserError):
    """A command line that cannot be understood: it names something that does not exist, or leaves out what is needed."""

    exit_status = 2


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that a misspelt word most likely means; None if nothing is near."""
    return next(iter(difflib.get_close_matches(word, sorted(choices), n=1)), None)


def likely_names(word: str, choices: Iterable[str]) -> str:
    """Return ``"did you mean A or B or C?"`` with up to three near choices; an empty string if nothing is near."""
    close = difflib.get_close_matches(word, sorted(choices), n=3)
    return f"did you mean {' or '.join(close)}?" if close else ""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean CHOICE?"`` for the nearest choice, and an empty string if nothing is near."""
    choice = nearest(word, choices)
    return f"; did you mean {choice}?" if choice else ""


def first_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
