"""python -m edp_lightning, and the script edp_lightning."""

import sys

from edp_lightning.command_line.front import answer


def main() -> None:
    """Run this process's command line; the frameworks are imported only for one that asks for work."""
    if answer(sys.argv[1:]):
        return
    from edp_lightning.cli import main as run

    run()


if __name__ == "__main__":
    main()
