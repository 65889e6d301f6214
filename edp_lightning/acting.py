"""Choosing actions for many environments at once: candidates from the policy, judged by the critics, without gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edp_lightning.critic_passes import Layers, q_values, values_pass
from edp_lightning.losses import QAggregation, aggregate_q
from edp_lightning.native.perceptrons import Forward
from edp_lightning.networks import NoiseNetwork, QEnsemble
from edp_lightning.policy import DiffusionPolicy, PredictNoise, choose_candidate

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


def _call_network(network: NoiseNetwork, noisy: Tensor, t: Tensor, observation: Tensor) -> Tensor:
    predicted: Tensor = network(noisy, t, observation)
    return predicted


def _fused_network(network: NoiseNetwork, forward: Forward) -> PredictNoise:
    """Return the network with its present weights, as a fused forward pass."""
    layers = [*network.hidden, network.output]
    weights = [layer.weight.t().unsqueeze(0).contiguous() for layer in layers]
    biases = [layer.bias.view(1, 1, -1) for layer in layers]
    return lambda noisy, t, observation: forward(network.inputs(noisy, t, observation), weights, biases).squeeze(0)


class ActionChooser:
    """Samples candidates and takes one per observation. Holds no networks.

    Args:
        prepare: Wraps each pure function before its first use, for example with ``compile_or_eager``; the functions are called
            with any number of rows.
        forward: Computes both networks instead on a CPU, if there is such a pass.
    """

    def __init__(self, prepare: Callable[[Any], Any], forward: Forward | None = None) -> None:
        self._call_network: Callable[..., Tensor] = prepare(_call_network)
        self._forward = forward
        self._values = q_values(prepare(_values), forward)

    @torch.no_grad()
    def choose(
        self, actor: DiffusionPolicy, critic: QEnsemble, observation: Tensor, normal: Tensor, uniform: Tensor, choice: Choice
    ) -> Tensor:
        """Return one action in [-1, 1] per observation, shape (batch, action_dim).

        On a CPU without a fused pass the observations are worked off in blocks; a row's action does not depend on the others beside it.

        Args:
            actor: The policy.
            critic: Judges the candidates; unused if there is only one.
            observation: Normalised observations, shape (batch, observation_dim).
            normal: Noise of the sampling chain, shape (num_draws of the policy, batch, num_candidates, action_dim).
            uniform: Draws for the choice, shape (batch, num_candidates).
            choice: How to choose.
        """
        count = choice.num_candidates
        # A fused pass and a GPU take everything at once.
        in_blocks = observation.device.type == "cpu" and self._forward is None
        size = max(1, BLOCK_ROWS // count) if in_blocks else len(observation)
        predict_noise = self._predict_noise(actor.network)
        blocks = []
        parts = torch.split(observation, size), torch.split(normal, size, dim=1), torch.split(uniform, size)
        for state, noise, draws in zip(*parts, strict=True):
            state = state.repeat_interleave(count, dim=0)
            action = actor.sample(state, noise.flatten(1, 2), predict_noise).clamp(-1.0, 1.0)
            if count > 1:
                q = self._values(critic, torch.cat([state, action], dim=-1))
                values = aggregate_q(q, choice.aggregation, choice.lcb_coef).view(-1, count)
                chosen = choose_candidate(values, choice.temperature, draws)
                action = action.view(len(chosen), count, -1)[torch.arange(len(chosen), device=action.device), chosen]
            blocks.append(action)
        return torch.cat(blocks)

    def _predict_noise(self, network: NoiseNetwork) -> PredictNoise:
        if self._forward is not None and network.output.weight.device.type == "cpu":  # a module may have moved since
            return _fused_network(network, self._forward)
        return partial(self._call_network, network)
