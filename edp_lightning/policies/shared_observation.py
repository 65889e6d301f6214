"""Choosing among candidates in another form: what all candidates of an observation share is computed once, and all are kept.

The numbers are those of ``ActionChooser`` up to rounding. It is the form that is exported, and that films look into.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edp_lightning.acceleration.critic_passes import all_layers
from edp_lightning.networks.ensemble import ACTIVATIONS, QEnsemble, aggregate_q, normalize_units
from edp_lightning.networks.mish import mish
from edp_lightning.networks.noise_network import NoiseNetwork, PredictNoise
from edp_lightning.networks.residual_network import ResidualNoiseNetwork
from edp_lightning.policies.acting import ActionChooser, Choice
from edp_lightning.policies.diffusion import DiffusionPolicy, choose_candidate

Form = Callable[[nn.Module, Tensor], PredictNoise]
"""(network, normalised observations (batch, observation_dim)) -> predictions for actions (batch, candidates, action_dim)."""


class SharedObservation(ActionChooser):
    """An :class:`ActionChooser` in which each observation passes through its part of the first layers once.

    Attributes:
        candidates: Actions in [-1, 1] of the last choice, (batch, num_candidates, action_dim); None if there was one each.
        scores: Their pessimistic values, shape (batch, num_candidates).
        choice: How it was chosen.
    """

    def __init__(self) -> None:
        super().__init__(prepare=lambda function: function)
        self.candidates: Tensor | None = None
        self.scores: Tensor | None = None
        self.choice: Choice | None = None

    def choose(
        self, actor: DiffusionPolicy, critic: QEnsemble, observation: Tensor, normal: Tensor, uniform: Tensor, choice: Choice
    ) -> Tensor:
        """Return one action in [-1, 1] per observation, (batch, action_dim); arguments as of the base."""
        # a tracer's stand-in for a module is of a class of its own, derived from the module's
        form = next((form for kind, form in FORMS.items() if isinstance(actor.network, kind)), _any_network)
        candidates = actor.sample(observation, normal, form(actor.network, observation)).clamp(-1.0, 1.0)
        if choice.num_candidates == 1:
            return candidates[:, 0]
        scores = aggregate_q(q_values(critic, observation, candidates), choice.aggregation, choice.lcb_coef)
        chosen = choose_candidate(scores, choice.temperature, uniform)
        self.candidates, self.scores, self.choice = candidates, scores, choice
        return candidates.gather(1, chosen[:, None, None].expand(-1, 1, candidates.shape[-1])).squeeze(1)


def first_layer(action: Tensor, by_action: Tensor, shared: Tensor) -> Tensor:
    """Return what the first layer makes of actions, (batch * candidates, width).

    Args:
        action: Shape (batch, candidates, action_dim).
        by_action: The action's columns of the weight, shape (width, action_dim).
        shared: What the layer makes of everything that candidates share, bias included, shape (batch, width).
    """
    rows, count, _ = action.shape
    if isinstance(rows, int) and rows == 1:  # a tracer's symbol where any number is meant
        return torch.addmm(shared, action[0], by_action.T)  # which adds while it multiplies
    return (F.linear(action, by_action) + shared.unsqueeze(1)).reshape(rows * count, -1)


def _noise_network(network: nn.Module, observation: Tensor) -> PredictNoise:
    assert isinstance(network, NoiseNetwork)
    first, *others = network.hidden
    action, width = network.output.out_features, observation.shape[-1]
    assert isinstance(first, nn.Linear)
    weight = first.weight  # its columns are in the order of NoiseNetwork.inputs
    shared = F.linear(observation, weight[:, -width:], first.bias)

    def predict(noisy: Tensor, t: Tensor, _: Tensor) -> Tensor:
        by_time = F.linear(network.time_embedding(t), weight[:, action:-width])
        x = first_layer(noisy, weight[:, :action], shared + by_time)
        for layer in others:
            x = layer(mish(x))
        predicted: Tensor = network.output(mish(x))
        return predicted.view(noisy.shape)

    return predict


def _residual_network(network: nn.Module, observation: Tensor) -> PredictNoise:
    assert isinstance(network, ResidualNoiseNetwork)
    weight = network.input.weight  # its columns are for action, observation and time
    action, both = network.output.out_features, network.output.out_features + observation.shape[-1]
    shared = F.linear(observation, weight[:, action:both], network.input.bias)

    def predict(noisy: Tensor, t: Tensor, _: Tensor) -> Tensor:
        x = first_layer(noisy, weight[:, :action], shared + F.linear(network.time(t), weight[:, both:]))
        for block in network.blocks:
            x = block(x)
        predicted: Tensor = network.output(network.activation(x))
        return predicted.view(noisy.shape)

    return predict


def _any_network(network: nn.Module, observation: Tensor) -> PredictNoise:
    def predict(noisy: Tensor, t: Tensor, _: Tensor) -> Tensor:
        rows, count, width = noisy.shape
        state = observation.unsqueeze(1).expand(-1, count, -1).reshape(rows * count, observation.shape[-1])
        predicted: Tensor = network(noisy.reshape(rows * count, width), t, state)
        return predicted.view(rows, count, width)

    return predict


FORMS: dict[type[nn.Module], Form] = {NoiseNetwork: _noise_network, ResidualNoiseNetwork: _residual_network}
"""Noise network -> its form; any other sees observations repeated for their candidates."""


def q_values(critic: QEnsemble, observation: Tensor, candidates: Tensor) -> Tensor:
    """Return Q-values (num_critics, batch, candidates).

    One critic after the other: onnxruntime packs the matrices of single products when it loads a file, those of batched ones
    at every call, and one critic's activations stay in the cache.

    Args:
        critic: The critics.
        observation: Normalised observations, shape (batch, observation_dim).
        candidates: Actions in [-1, 1], shape (batch, candidates, action_dim).
    """
    rows, count, _ = candidates.shape
    activate = ACTIVATIONS[critic.activation]
    width = observation.shape[-1]
    layers = all_layers(critic)
    normalized = layers.norm == "layer"  # then a hidden layer's bias is added after its products are normalised
    values = []
    for member in range(critic.num_critics):
        weights, biases = [w[member] for w in layers.weights], [b[member] for b in layers.biases]
        first = weights[0].T
        shared = F.linear(observation, first[:, :width], None if normalized else biases[0][0])
        x = first_layer(candidates, first[:, width:], shared)
        if normalized:  # which comes before the bias
            x = normalize_units(x)[0] + biases[0]
        for weight, bias in zip(weights[1:-1], biases[1:-1], strict=True):
            x = activate(x)
            x = normalize_units(torch.mm(x, weight))[0] + bias if normalized else torch.addmm(bias, x, weight)
        values.append(torch.addmm(biases[-1], activate(x), weights[-1]).view(rows, count))
    return torch.stack(values)
