"""How long ``--help`` takes, against the import of Lightning that any answer of the command line begins with.

python benchmarks/startup.py [--quick]
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "import lightning.pytorch": ["-c", "import lightning.pytorch"],
    "edp_lightning --help": ["-m", "edp_lightning", "--help"],
    "edp_lightning fit --help": ["-m", "edp_lightning", "fit", "--help"],
}


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=Path(__file__).parents[1], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    repeats = 2 if parser.parse_args().quick else 9
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for arguments in COMMANDS.values():  # files into the page cache, modules compiled
        seconds(arguments)
    for _ in range(repeats):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    base, *others = COMMANDS
    for name in COMMANDS:
        print(f"{name:26} {statistics.median(times[name]):5.2f} s")
    for name in others:
        ratio = statistics.median(t / b for t, b in zip(times[name], times[base], strict=True))
        goal = name.partition(" ")[2].replace("--", "").replace(" ", "_")
        print(f"goal startup_{goal} {ratio:.2f}x <=1.3x {'met' if ratio <= 1.3 else 'missed'}")


if __name__ == "__main__":
    main()
