"""python -m edp_lightning."""

from edp_lightning.cli import main

if __name__ == "__main__":
    main()
