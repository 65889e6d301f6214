"""What reaches the gradient step's device, and how."""

import torch

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.data.transitions import Batch


def moved(batch, device):
    return OfflineDataModule("tests/none-v0").transfer_batch_to_device(batch, torch.device(device), 0)


def test_rows_that_are_on_the_device_are_not_walked_through():
    batch = Batch(*(torch.zeros(2, 1) for _ in Batch._fields))
    assert moved(batch, "cpu") is batch


def test_anything_else_is_moved():
    batch = Batch(*(torch.zeros(2, 1) for _ in Batch._fields))
    assert all(field.device.type == "meta" for field in moved(batch, "meta"))
    assert moved(torch.zeros(2), "meta").device.type == "meta"
