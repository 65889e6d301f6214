"""Writes a dataset's table as plain arrays for the peers.

python benchmarks/peers/table.py --dataset NAME --to table.npz [--set reward_transform=affine reward_shift=-1 ...]
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
import yaml

from edp_lightning.data.datamodule import OfflineDataModule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--set", nargs="*", default=[], help="further options of the data, NAME=VALUE")
    arguments = parser.parse_args()
    options: dict[str, Any] = {}
    for word in arguments.set:
        name, _, value = word.partition("=")
        options[name] = yaml.safe_load(value)
    data = OfflineDataModule(arguments.dataset, **options)
    data.prepare_data()
    data.setup("")
    batch = data.table.gather_with_successors(torch.arange(len(data.table)))
    arrays = {name: column.numpy() for name, column in batch._asdict().items()}
    for name in ("observation", "next_observation"):
        arrays[name] = (arrays[name] - data.observation_mean.numpy()) / data.observation_std.numpy()
    np.savez(arguments.to, **arrays)
    print(f"{len(data.table)} rows in {arguments.to}")


if __name__ == "__main__":
    main()
