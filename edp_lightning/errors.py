"""The one exception type whose message is meant for the user, not for a developer."""


class UserError(Exception):
    """A problem the user can mend: bad data, bad settings, a missing file.

    The message names the cause and the fix in one or two lines. The command line prints it without a traceback and exits with
    status 1; everything else that goes wrong keeps its traceback because it is a defect of this package.
    """


def first_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
