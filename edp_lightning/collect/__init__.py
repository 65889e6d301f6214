"""Collects Minari sets on this machine: PointMaze, AntMaze and the toy task, by bundled controllers."""

from edp_lightning.collect.command import collect
from edp_lightning.collect.tasks import DATASET_IDS
from edp_lightning.collect.writer import collecting_alone

__all__ = ["DATASET_IDS", "collect", "collecting_alone"]
