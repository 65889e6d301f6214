"""Choosing actions for many environments at once: candidates from the policy, judged by the critics, without gradients."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edp_lightning.acceleration.critic_passes import Layers, values_in_chunks, values_pass
from edp_lightning.acceleration.fused_networks import FusedCriticPasses, fused_noise_network
from edp_lightning.acceleration.native.perceptrons import FusedPerceptrons
from edp_lightning.networks.ensemble import QAggregation, QEnsemble, aggregate_q
from edp_lightning.networks.noise_network import NoiseNetwork, PredictNoise
from edp_lightning.policies.diffusion import DiffusionPolicy, choose_candidate

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


# Code of its own for what a gradient step compiles too: a compiler keeps its results by code, and a step must not meet those
# for any number of rows after an evaluation, or a resumed run would differ in the last digits.
def _values(layers: Layers, inputs: Tensor, dtype: torch.dtype) -> Tensor:
    return values_pass(layers, inputs, dtype)


def _call_network(network: nn.Module, noisy: Tensor, t: Tensor, observation: Tensor) -> Tensor:
    predicted: Tensor = network(noisy, t, observation)
    return predicted


def candidate_noise(
    generators: Sequence[torch.Generator], draws: int, count: int, action_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return what :meth:`ActionChooser.choose` needs, each row from its own CPU generator.

    Args:
        generators: One per observation.
        draws: Noise draws per action of the policy.
        count: Candidates per observation.
        action_dim: Width of an action.
        device: Where the noise is used.

    Returns:
        Standard normal draws (draws, batch, count, action_dim), and draws from U(0, 1), (batch, count).
    """
    normal = torch.stack([torch.randn(draws, count, action_dim, generator=g) for g in generators], dim=1)
    return normal.to(device), torch.stack([torch.rand(count, generator=g) for g in generators]).to(device)


class ActionChooser:
    """Samples candidates and takes one per observation. Holds no networks.

    Args:
        prepare: Wraps each pure function before its first use, for example with ``compile_or_eager``; the functions are called
            with any number of rows.
        fused: Used for the networks that it knows instead, while they are on a CPU.
    """

    def __init__(self, prepare: Callable[[Any], Any], fused: FusedPerceptrons | None = None) -> None:
        self._call_network: Callable[..., Tensor] = prepare(_call_network)
        self._values: Callable[..., Tensor] = prepare(_values)
        self._fused = fused

    @torch.no_grad()
    def choose(
        self, actor: DiffusionPolicy, critic: QEnsemble, observation: Tensor, normal: Tensor, uniform: Tensor, choice: Choice
    ) -> Tensor:
        """Return one action in [-1, 1] per observation, shape (batch, action_dim).

        On a CPU, unless a pass is fused, observations are worked off in blocks; a row's action does not depend on the others.

        Args:
            actor: The policy.
            critic: Judges the candidates; unused if there is only one.
            observation: Normalised observations, shape (batch, observation_dim).
            normal: Noise of the sampling chain, shape (num_draws of the policy, batch, num_candidates, action_dim).
            uniform: Draws for the choice, shape (batch, num_candidates).
            choice: How to choose.
        """
        count = choice.num_candidates
        fused = self._fused if observation.device.type == "cpu" else None  # a module may have moved since
        in_blocks = observation.device.type == "cpu" and fused is None
        size = max(1, BLOCK_ROWS // count) if in_blocks else len(observation)
        predict_noise: PredictNoise = partial(self._call_network, actor.network)
        q_values: Callable[[QEnsemble, Tensor], Tensor] = partial(values_in_chunks, self._values)
        if fused is not None:
            assert isinstance(actor.network, NoiseNetwork)
            predict_noise = fused_noise_network(actor.network, fused)
            if FusedCriticPasses.can_pass(critic):
                q_values = FusedCriticPasses(fused).values
        blocks = []
        parts = torch.split(observation, size), torch.split(normal, size, dim=1), torch.split(uniform, size)
        for state, noise, draws in zip(*parts, strict=True):
            state = state.repeat_interleave(count, dim=0)
            action = actor.sample(state, noise.flatten(1, 2), predict_noise).clamp(-1.0, 1.0)
            if count > 1:
                q = q_values(critic, torch.cat([state, action], dim=-1))
                values = aggregate_q(q, choice.aggregation, choice.lcb_coef).view(-1, count)
                chosen = choose_candidate(values, choice.temperature, draws)
                action = action.view(len(chosen), count, -1)[torch.arange(len(chosen), device=action.device), chosen]
            blocks.append(action)
        return torch.cat(blocks)
