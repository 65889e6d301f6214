"""The networks through ``native.perceptrons``, where there is code made for this processor."""

import torch
from torch import Tensor

from edp_lightning.acceleration.critic_passes import TDGradients, all_layers, gradient_memory
from edp_lightning.acceleration.native.perceptrons import FusedPerceptrons
from edp_lightning.networks.ensemble import QEnsemble
from edp_lightning.networks.noise_network import NoiseNetwork, PredictNoise


def fused_noise_network(network: NoiseNetwork, fused: FusedPerceptrons) -> PredictNoise:
    """Return the network with its present weights, without gradients."""
    layers = [*network.hidden, network.output]
    weights = [layer.weight.detach().t().unsqueeze(0).contiguous() for layer in layers]
    biases = [layer.bias.detach().view(1, 1, -1) for layer in layers]
    return lambda noisy, t, observation: fused.forward(network.inputs(noisy, t, observation), weights, biases).squeeze(0)


class FusedCriticPasses:
    """The interface of ``CriticPasses``, for all critics at once.

    Args:
        fused: Passes through an ensemble of perceptrons.
    """

    def __init__(self, fused: FusedPerceptrons) -> None:
        self._fused = fused

    @staticmethod
    def can_pass(critic: QEnsemble) -> bool:
        """Return whether these passes know the critics' layers: one activation, no normalisation."""
        return critic.activation == "mish" and critic.norm == "none"

    @torch.no_grad()
    def values(self, critic: QEnsemble, inputs: Tensor) -> Tensor:
        """Return Q-values (num_critics, rows) of ``inputs`` (rows, observation_dim + action_dim)."""
        return self._fused.forward(inputs, *_parameters(critic)).squeeze(-1)

    @torch.no_grad()
    def td_gradients(self, critic: QEnsemble, inputs: Tensor, target: Tensor) -> TDGradients:
        """Return the TD loss of ``inputs`` (rows, observation_dim + action_dim) to ``target`` (num_critics, rows)."""
        gradients = gradient_memory(critic)
        into = gradients[0::2], gradients[1::2]  # each layer has a weight and a bias
        q = self._fused.td_gradients(inputs, *_parameters(critic), target, 2 / target.numel(), into)
        return TDGradients((q - target).square().mean(), q, gradients)

    @torch.no_grad()
    def action_values(self, critic: QEnsemble, inputs: Tensor, action_dim: int) -> tuple[Tensor, Tensor]:
        """Return Q-values (num_critics, rows) and their derivatives by the action (num_critics, rows, action_dim)."""
        return self._fused.action_gradients(inputs, *_parameters(critic), action_dim)


def _parameters(critic: QEnsemble) -> tuple[list[Tensor], list[Tensor]]:
    """Return weights and biases of all layers."""
    assert FusedCriticPasses.can_pass(critic)
    layers = all_layers(critic)
    return layers.weights, layers.biases
