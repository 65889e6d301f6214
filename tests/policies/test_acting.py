import copy

import pytest
import torch
from torch._dynamo.utils import counters

from edp_lightning.acceleration.compilation import compile_or_eager
from edp_lightning.acceleration.critic_passes import values_in_chunks, values_pass
from edp_lightning.diffusion import MeanRevertingSDE
from edp_lightning.networks.ensemble import QEnsemble, aggregate_q
from edp_lightning.networks.noise_network import NoiseNetwork
from edp_lightning.policies import acting
from edp_lightning.policies.acting import ActionChooser, Choice
from edp_lightning.policies.diffusion import DiffusionPolicy, choose_candidate

EAGER = ActionChooser(lambda function: function)


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
        values_in_chunks(values_pass, critic, torch.cat([observation, action], dim=-1)),
        expected,
        rtol=1e-5,
        atol=1e-5 if dtype == torch.float32 else 0.1,
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_blocks_choose_what_one_pass_chooses(networks, temperature, monkeypatch):
    actor, critic = networks
    observation, normal, uniform = torch.randn(11, 3), torch.randn(4, 11, 6, 2), torch.rand(11, 6)
    monkeypatch.setattr(acting, "BLOCK_ROWS", 20)  # three observations of six candidates
    found = EAGER.choose(actor, critic, observation, normal, uniform, Choice(6, temperature, "lcb", 4.0))
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
    action = EAGER.choose(actor, critic, torch.zeros(7, 3), noise, torch.rand(7, 1), Choice(1, 1.0, "lcb", 4.0))
    with torch.no_grad():
        torch.testing.assert_close(action, actor.sample(torch.zeros(7, 3), noise[:, :, 0]).clamp(-1, 1))


def test_compiled_once_it_chooses_the_same_for_any_number_of_rows(networks):
    calls = []

    def prepare(function):
        compiled = compile_or_eager(function, dynamic=True)
        return lambda *arguments: calls.append(function) or compiled(*arguments)

    actor, critic = networks
    observation, normal, uniform = torch.randn(11, 3), torch.randn(4, 11, 6, 2), torch.rand(11, 6)
    chooser, choice = ActionChooser(prepare), Choice(6, 0.0, "lcb", 4.0)
    expected = EAGER.choose(actor, critic, observation, normal, uniform, choice)
    together = chooser.choose(actor, critic, observation, normal, uniform, choice)
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=1e-5)
    compiled_already = counters["stats"]["unique_graphs"]
    for first, last in ((0, 2), (2, 7), (7, 11)):
        rows = slice(first, last)
        part = chooser.choose(actor, critic, observation[rows], normal[:, rows], uniform[rows], choice)
        torch.testing.assert_close(part, together[rows], atol=1e-5, rtol=1e-5)
    assert counters["stats"]["unique_graphs"] == compiled_already
    assert len(calls) == 4 * (4 + 1)  # four steps of the chain and one chunk of critics, each time
