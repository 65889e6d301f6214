"""Packages that do not work together are named."""

import pytest

from edp_lightning.environments import versions
from edp_lightning.environments.families import FAMILIES
from edp_lightning.environments.versions import refuse_versions
from edp_lightning.errors import UserError

KITCHEN = FAMILIES["gymnasium_robotics.envs.franka_kitchen:KitchenEnv"]


@pytest.mark.parametrize(
    ("robotics", "mujoco", "refused"),
    [("1.4.2", "3.11.0", False), ("1.4.2", "3.12.0", True), ("1.4.0", "4.0.1", True), ("1.5.0", "4.0.1", False)],
)
def test_the_kitchen_is_refused_only_where_it_is_broken(robotics, mujoco, refused, monkeypatch):
    monkeypatch.setattr(versions, "version", {"gymnasium-robotics": robotics, "mujoco": mujoco}.__getitem__)
    if not refused:
        refuse_versions(KITCHEN.broken_with, KITCHEN.remedy)
        return
    with pytest.raises(
        UserError, match=f"gymnasium-robotics {robotics} and mujoco {mujoco} together; pip install 'mujoco<3.12'"
    ):
        refuse_versions(KITCHEN.broken_with, KITCHEN.remedy)


def test_other_families_are_refused_nothing():
    refuse_versions({}, "")
