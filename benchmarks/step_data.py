"""What ``step.py`` trains on: random rows of AntMaze's widths, and batches that let other contenders run in between."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import lightning as L
import torch

from edp_lightning.data.loader import TransitionLoader
from edp_lightning.data.tables.table import TransitionTable
from edp_lightning.data.transitions import Batch

OBSERVATION, ACTION, ROWS = 29, 8, 256
TABLE_ROWS = 100_000


class Data(L.LightningDataModule):
    """Random rows of AntMaze's widths; hands out batches and lets the other contenders run in between."""

    dataset = "random"
    observation_dim, action_dim = OBSERVATION, ACTION
    environment = None

    def __init__(self, device: torch.device, turns: Callable[[], Iterator[int]]) -> None:
        super().__init__()
        self.save_hyperparameters({"batch_size": ROWS})
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        action = torch.rand(TABLE_ROWS, ACTION, generator=generator) * 2 - 1
        flag = (torch.rand(TABLE_ROWS, generator=generator) < 0.01).float()
        table = Batch(
            normal(TABLE_ROWS, OBSERVATION),
            action,
            normal(TABLE_ROWS),
            normal(TABLE_ROWS, OBSERVATION),
            flag,
            torch.ones(TABLE_ROWS),
        )
        self.table = TransitionTable.from_batch(table).to(device)
        self.transitions = self.table.columns
        self.facts = SimpleNamespace(reward=SimpleNamespace(low=float(table.reward.min()), high=float(table.reward.max())))
        self.observation_mean, self.observation_std = torch.full((OBSERVATION,), 0.1), torch.full((OBSERVATION,), 1.1)
        self.action_low, self.action_high = -torch.ones(ACTION), torch.ones(ACTION)
        self.card = self
        self.turns = turns

    def markdown(self) -> str:
        return "random"

    def loader(self) -> TransitionLoader:
        return TransitionLoader(self.table, ROWS, 1_000_000, seed=0)

    def train_dataloader(self) -> "Turns":
        return Turns(self.loader(), self.turns)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # as OfflineDataModule does with training rows, which lie on the device


class Turns:
    """Batches for the Trainer; everything between two turns of it happens inside this iterator."""

    def __init__(self, loader: TransitionLoader, turns: Callable[[], Iterator[int]]) -> None:
        self.loader, self.turns = loader, turns

    def __len__(self) -> int:
        return 1_000_000

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.loader)
        for _ in self.turns():
            yield next(batches)
