"""Packages that do not work together are named."""

import pytest

from edp_lightning.environments import versions
from edp_lightning.environments.families import FAMILIES
from edp_lightning.errors import UserError

PLACES = ("franka_kitchen:KitchenEnv", "fetch.reach:MujocoFetchReachEnv", "shadow_dexterous_hand.reach:MujocoHandReachEnv")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("robotics", "mujoco", "refused"),
    [("1.4.2", "3.11.0", False), ("1.4.2", "3.12.0", True), ("1.4.0", "4.0.1", True), ("1.5.0", "4.0.1", False)],
)
def test_robots_whose_joints_are_checked_are_refused_only_where_that_is_broken(place, robotics, mujoco, refused, monkeypatch):
    family = FAMILIES[f"gymnasium_robotics.envs.{place}"]
    monkeypatch.setattr(versions, "version", {"gymnasium-robotics": robotics, "mujoco": mujoco}.__getitem__)
    if not refused:
        family.broken_with.refuse()
        return
    with pytest.raises(
        UserError, match=f"gymnasium-robotics {robotics} and mujoco {mujoco} together; pip install 'mujoco<3.12'"
    ):
        family.broken_with.refuse()
