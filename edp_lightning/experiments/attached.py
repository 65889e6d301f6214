"""Run as a file: starts a command that is asked to stop when the process dies which started it.

A sweep that is killed must leave no trial behind that trains on unseen. Linux only; nothing of the package is imported here.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the command that follows the starter's process id on the command line."""
    starter, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(starter):  # it died before it could be watched
        raise SystemExit(128 + signal.SIGTERM)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
