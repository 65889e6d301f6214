"""What a policy plays while it goes on learning."""

import pytest
import torch

from edp_lightning.evaluation.exploration import Exploration, acting
from edp_lightning.networks.scaling import ActionScaler


class Policy:
    """Decides for 1 of [-2, 2], draws from N(0, 0.1) of [-1, 1]."""

    device = torch.device("cpu")

    def __init__(self):
        self.action_scaler = ActionScaler(1)
        self.action_scaler.set(torch.tensor([-2.0]), torch.tensor([2.0]))
        self.normalizer = torch.nn.Identity()

    def act(self, observation, generators):
        return torch.ones(len(observation), 1)

    def draw_actions(self, observation, generator):
        return 0.1 * torch.randn(len(observation), 1, generator=generator)


@pytest.mark.parametrize(
    ("options", "mean", "std"),
    [
        ({"actions": "act", "noise": 0.0}, 1, 0),
        ({"actions": "act", "noise": 0.05}, 1, 0.1),
        ({"actions": "draw", "noise": 0.0}, 0, 0.2),
        ({"actions": "draw", "noise": 0.1}, 0, 0.08**0.5),
    ],
)
def test_what_is_played(options, mean, std):
    generators = [torch.Generator().manual_seed(row) for row in range(4000)]
    played = Exploration(**options).choose(Policy(), torch.zeros(4000, 3), generators)
    assert played.mean().item() == pytest.approx(mean, abs=0.02)
    assert played.std().item() == pytest.approx(std, abs=0.02)


def test_noise_stays_within_the_bounds():
    played = Exploration("act", 3.0).choose(
        Policy(), torch.zeros(50, 3), [torch.Generator().manual_seed(row) for row in range(50)]
    )
    assert played.abs().max() == 2.0


def test_a_policy_without_chance_is_known():
    observation = torch.zeros(5, 3)
    assert Exploration("act", 0.0).is_certain(Policy(), observation)
    assert not Exploration("act", 0.1).is_certain(Policy(), observation)
    assert not Exploration("draw", 0.0).is_certain(Policy(), observation)


def test_dropout_is_off_while_acting_and_parts_keep_their_mode():
    network = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2).eval())
    with acting(network):
        assert [part.training for part in network.modules()] == [False] * 3
    assert [part.training for part in network.modules()] == [True, True, False]
