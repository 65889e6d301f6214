"""Choosing actions for many environments at once: candidates from the policy, judged by the critics, without gradients."""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from edp_lightning.losses import QAggregation, aggregate_q
from edp_lightning.networks import EnsembleLinear, QEnsemble, mish
from edp_lightning.policy import DiffusionPolicy, choose_candidate

BLOCK_ROWS = 1000
"""Candidates that go through a network together on a CPU: their activations stay in its cache from layer to layer."""


class Choice(NamedTuple):
    """How an action is chosen among candidates.

    Attributes:
        num_candidates: Candidates per observation.
        temperature: See ``choose_candidate``.
        aggregation: Pessimism over critics.
        lcb_coef: beta of the lower confidence bound.
    """

    num_candidates: int
    temperature: float
    aggregation: QAggregation
    lcb_coef: float


@torch.no_grad()
def choose_actions(
    actor: DiffusionPolicy, critic: nn.Module, observation: Tensor, normal: Tensor, uniform: Tensor, choice: Choice
) -> Tensor:
    """Return one action in [-1, 1] per observation, shape (batch, action_dim).

    On a CPU the observations are worked off in blocks; a row's action does not depend on the others beside it.

    Args:
        actor: The policy.
        critic: Judges the candidates; unused if there is only one.
        observation: Normalised observations, shape (batch, observation_dim).
        normal: Noise of the sampling chain, shape (num_draws of the policy, batch, num_candidates, action_dim).
        uniform: Draws for the choice, shape (batch, num_candidates).
        choice: How to choose.
    """
    count = choice.num_candidates
    size = max(1, BLOCK_ROWS // count) if observation.device.type == "cpu" else len(observation)
    blocks = []
    parts = torch.split(observation, size), torch.split(normal, size, dim=1), torch.split(uniform, size)
    for state, noise, draws in zip(*parts, strict=True):
        state = state.repeat_interleave(count, dim=0)
        action = actor.sample(state, noise.flatten(1, 2)).clamp(-1.0, 1.0)
        if count > 1:
            values = aggregate_q(ensemble_values(critic, state, action), choice.aggregation, choice.lcb_coef)
            chosen = choose_candidate(values.view(-1, count), choice.temperature, draws)
            action = action.view(len(chosen), count, -1)[torch.arange(len(chosen), device=action.device), chosen]
        blocks.append(action)
    return torch.cat(blocks)


def ensemble_values(critic: nn.Module, observation: Tensor, action: Tensor) -> Tensor:
    """Return ``critic(observation, action)``, (num_critics, batch); on a CPU member by member, twice as fast for many rows."""
    if observation.device.type != "cpu" or not isinstance(critic, QEnsemble):
        values: Tensor = critic(observation, action)
        return values
    inputs = torch.cat([observation, action], dim=-1).to(critic.hidden_dtype)
    layers = [cast(EnsembleLinear, layer) for layer in critic.hidden]
    parameters = [(layer.weight.to(inputs.dtype), layer.bias.to(inputs.dtype)) for layer in layers]
    found = []
    for member in range(critic.num_critics):
        x = inputs
        for weight, bias in parameters:
            x = mish(torch.addmm(bias[member], x, weight[member]))
        found.append(torch.addmm(critic.output.bias[member], x.float(), critic.output.weight[member]).squeeze(-1))
    return torch.stack(found)
