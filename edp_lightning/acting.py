"""Choosing actions for many environments at once: candidates from the policy, judged by the critics, without gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edp_lightning.critic_passes import Layers, values_in_chunks, values_pass
from edp_lightning.losses import QAggregation, aggregate_q
from edp_lightning.networks import QEnsemble
from edp_lightning.policy import DiffusionPolicy, PredictNoise, call_network, choose_candidate

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


class ActionChooser:
    """Samples candidates and takes one per observation. Holds no networks.

    Args:
        prepare: Wraps each pure function before its first use, for example with ``compile_or_eager``; the functions are called
            with any number of rows.
    """

    def __init__(self, prepare: Callable[[Any], Any]) -> None:
        self._predict_noise: PredictNoise = prepare(call_network)
        self._values: Callable[..., Tensor] = prepare(_values)

    @torch.no_grad()
    def choose(
        self, actor: DiffusionPolicy, critic: QEnsemble, observation: Tensor, normal: Tensor, uniform: Tensor, choice: Choice
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
            action = actor.sample(state, noise.flatten(1, 2), self._predict_noise).clamp(-1.0, 1.0)
            if count > 1:
                q = values_in_chunks(self._values, critic, torch.cat([state, action], dim=-1))
                values = aggregate_q(q, choice.aggregation, choice.lcb_coef).view(-1, count)
                chosen = choose_candidate(values, choice.temperature, draws)
                action = action.view(len(chosen), count, -1)[torch.arange(len(chosen), device=action.device), chosen]
            blocks.append(action)
        return torch.cat(blocks)
