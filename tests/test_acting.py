import copy

import pytest
import torch

from edp_lightning import acting
from edp_lightning.acting import Choice, choose_actions, ensemble_values
from edp_lightning.diffusion import MeanRevertingSDE
from edp_lightning.losses import aggregate_q
from edp_lightning.networks import NoiseNetwork, QEnsemble
from edp_lightning.policy import DiffusionPolicy, choose_candidate


@pytest.fixture
def networks():
    torch.manual_seed(0)
    actor = DiffusionPolicy(NoiseNetwork(3, 2, [16, 16]), MeanRevertingSDE(4))
    critic = QEnsemble(3, 2, 5, [16, 16])
    for parameter in critic.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return actor, critic


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_those_of_the_ensemble(networks, dtype):
    critic = networks[1]
    critic.hidden_dtype = dtype
    observation, action = torch.randn(40, 3), torch.rand(40, 2)
    expected = critic(observation, action)
    torch.testing.assert_close(
        ensemble_values(critic, observation, action), expected, rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 0.1
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_blocks_choose_what_one_pass_chooses(networks, temperature, monkeypatch):
    actor, critic = networks
    observation, normal, uniform = torch.randn(11, 3), torch.randn(4, 11, 6, 2), torch.rand(11, 6)
    monkeypatch.setattr(acting, "BLOCK_ROWS", 20)  # three observations of six candidates
    found = choose_actions(actor, critic, observation, normal, uniform, Choice(6, temperature, "lcb", 4.0))
    with torch.no_grad():
        for row in range(11):
            state = observation[row].expand(6, -1)
            candidates = actor.sample(state, normal[:, row]).clamp(-1, 1)
            values = aggregate_q(critic(state, candidates), "lcb", 4.0)
            chosen = choose_candidate(values[None], temperature, uniform[row : row + 1])
            torch.testing.assert_close(found[row], candidates[chosen.item()], atol=1e-5, rtol=1e-5)


def test_one_candidate_asks_no_critic(networks):
    actor, critic = copy.deepcopy(networks)
    critic.hidden = None
    noise = torch.randn(4, 7, 1, 2)
    action = choose_actions(actor, critic, torch.zeros(7, 3), noise, torch.rand(7, 1), Choice(1, 1.0, "lcb", 4.0))
    with torch.no_grad():
        torch.testing.assert_close(action, actor.sample(torch.zeros(7, 3), noise[:, :, 0]).clamp(-1, 1))
