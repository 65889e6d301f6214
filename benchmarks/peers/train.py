"""Trains a plain program on a set as the package sees it and judges it in the package's evaluation: only the learning differs.

    python benchmarks/peers/train.py iql edp/pointmaze/medium-v0 --steps 20000 --set normalize_observations=standard

Writes OUTPUT/DATASET/plain-NAME-seedSEED/test_last.json, which ``python -m edp_lightning report`` reads like the package's own.
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import yaml
from torch import Tensor

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.environments.workers import LocalEnvironments
from edp_lightning.evaluation.metrics import evaluation_scores
from edp_lightning.evaluation.results import result_record
from edp_lightning.evaluation.rollout import rollout

NAMES = {"bc": "BehaviorCloning", "cql": "CQL", "iql": "IQL", "rebrac": "ReBRAC"}
BATCH_SIZE = 256
FIRST_EPISODE = 10_000
"""Seed of the first episode, as in the package's tests."""


def options(words: Sequence[str]) -> dict[str, Any]:
    """Return NAME=VALUE words as a dictionary; values are YAML."""
    return {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in words)}


def train(peer: Any, data: OfflineDataModule, steps: int, seed: int) -> None:
    """Take gradient steps on rows drawn uniformly, showing where it is every ten seconds."""
    rows = data.table.gather_with_successors(torch.arange(len(data.table)))._asdict()
    for name in ("observation", "next_observation"):
        rows[name] = (rows[name] - data.observation_mean) / data.observation_std
    generator = torch.Generator().manual_seed(seed)
    shown = time.monotonic()
    for step in range(1, steps + 1):
        index = torch.randint(len(rows["reward"]), (BATCH_SIZE,), generator=generator)
        logged = peer.step({name: column[index] for name, column in rows.items()})
        if step == steps or time.monotonic() > shown + 10:
            shown = time.monotonic()
            print(step, {name: round(value, 4) for name, value in logged.items()}, flush=True)


def play(peer: Any, data: OfflineDataModule, episodes: int) -> dict[str, Any]:
    """Return the record of an evaluation, as ``test`` writes it."""
    environment = data.environment
    assert environment is not None, "the set names no environment"

    @torch.no_grad()
    def act(observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        action = peer.act((observation - data.observation_mean) / data.observation_std).clamp(-1, 1)
        return data.action_low + (action + 1) / 2 * (data.action_high - data.action_low)

    seeds = range(FIRST_EPISODE, FIRST_EPISODE + episodes)
    envs = LocalEnvironments([environment.make() for _ in range(min(10, episodes))])
    results = rollout(envs, act, seeds)
    envs.close()
    scores = evaluation_scores(torch.device("cpu"), environment, results, results)
    return result_record(data.dataset_info, environment, results, scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=sorted(NAMES))
    parser.add_argument("dataset")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], help="options of the data, NAME=VALUE")
    parser.add_argument("--peer-set", nargs="*", default=[], help="options of the plain program, NAME=VALUE")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("runs/peers"))
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    data = OfflineDataModule(arguments.dataset, seed=arguments.seed, **options(arguments.set))
    data.prepare_data()
    data.setup("")
    make = importlib.import_module(f"benchmarks.peers.{arguments.peer}").Peer
    peer = make(data.observation_dim, data.action_dim, arguments.steps, **options(arguments.peer_set))
    begin = time.process_time()
    train(peer, data, arguments.steps, arguments.seed)
    seconds = time.process_time() - begin
    record = play(peer, data, arguments.episodes)
    record["algorithm"] = f"plain {NAMES[arguments.peer]}"
    facts = {"gradient_steps": arguments.steps, "training_seed": arguments.seed, "processor_seconds": round(seconds, 1)}
    record["checkpoint"] = facts
    folder = arguments.output / arguments.dataset.replace("/", "-") / f"plain-{arguments.peer}-seed{arguments.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test_last.json").write_text(json.dumps(record, indent=2))
    print(f"{record['scores']} {folder}")


if __name__ == "__main__":
    main()
