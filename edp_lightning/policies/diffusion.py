"""The diffusion policy: a noise network together with the process that turns its predictions into actions."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edp_lightning.diffusion import DiffusionProcess, bridge_entropy, gaussian_entropy, path_entropy, reference_entropy
from edp_lightning.networks.noise_network import PredictNoise
from edp_lightning.policies.prediction_error import PredictionError

BehaviorLoss = Literal["noise_matching", "likelihood"]
EntropyEstimator = Literal["none", "reference", "bridge", "path"]
ReverseVariance = Literal["posterior", "matched"]


UNIT_OF_ENTROPY: dict[EntropyEstimator, Literal["nats", "mean magnitude"]] = {
    "none": "nats",
    "reference": "mean magnitude",
    "bridge": "mean magnitude",
    "path": "nats",
}
"""In which unit the entropy coefficient weighs an estimate. The released code divides its estimate by the batch's mean
magnitude. A true entropy passes through 0, where that would divide by nothing, and one nat of it is worth the coefficient."""


def entropy_draws(estimator: EntropyEstimator, num_diffusion_steps: int) -> int:
    """Return how many noise draws per action an estimator needs."""
    return {"none": 0, "reference": 1, "bridge": 2, "path": num_diffusion_steps}[estimator]


class DiffusionPolicy(nn.Module):
    """pi(a | s) as the reverse of a diffusion. Actions live in [-1, 1].

    Args:
        network: Predicts the noise of noisy actions, called as ``NoiseNetwork`` is.
        sde: The diffusion: the mean-reverting SDE or another process.
        clip_start: Whether one-step predictions a0hat are clipped to [-1, 1] inside the sampling chain.
        prediction_error: What one-step predictions leave open. Without it the chain's steps have the variance of
            q(a^{t-1} | a^t, a0hat), as if a0hat were the action, and the last step none. With it they have the mean of
            Var(a0 | a^t, s) in addition, also the last one: the best Gaussian steps for the trained network (arXiv 2201.06503,
            theorem 1, here per dimension).
        clip_steps: Whether every step of the sampling chain ends in [-1, 1] (IDQL).
    """

    def __init__(
        self,
        network: nn.Module,
        sde: DiffusionProcess,
        clip_start: bool = True,
        prediction_error: PredictionError | None = None,
        clip_steps: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.sde = sde
        self.clip_start = clip_start
        self.prediction_error = prediction_error
        self.clip_steps = clip_steps

    @property
    def action_dim(self) -> int:
        """Width of an action."""
        output: Any = self.network.output
        return int(output.out_features)

    @property
    def num_draws(self) -> int:
        """Noise draws per action that :meth:`sample` uses."""
        return self.sde.num_steps + (self.prediction_error is not None)

    def default_target_entropy(self, estimator: EntropyEstimator) -> float:
        """Return SAC's default target of -1 nat per action dimension in the estimator's terms, in nats.

        ``path`` bounds the entropy of a^1, the action plus the noise of the first diffusion step, which is never below that
        of the noise alone (0.86 nats per dimension at T = 5). Its target is the entropy of a^1 for Gaussian actions of -1 nat
        per dimension, that is of standard deviation 0.09.
        """
        action_dim = self.action_dim
        if estimator != "path":
            return -float(action_dim)
        action_std = math.exp(-1) / math.sqrt(2 * math.pi * math.e)
        variance = float(self.sde.decay[1]) ** 2 * action_std**2 + float(self.sde.std[1]) ** 2
        return action_dim * gaussian_entropy(variance)

    def sample(self, observation: Tensor, noise: Tensor, predict_noise: PredictNoise | None = None) -> Tensor:
        """Draw actions by running the reverse chain from a^T to a^0.

        Args:
            observation: Observations, shape (batch, observation_dim).
            noise: Standard normal draws for a^T and for the steps T..2, and t = 1 if that has a variance, shape (num_draws,
                batch, action_dim).
            predict_noise: Another form of the network, for example a compiled one.

        Returns:
            Actions in [-1, 1], shape (batch, action_dim). The end of the chain is clipped whatever ``clip_start`` says.
        """
        predict = predict_noise or self.network
        current = noise[0]
        open_variance = None if self.prediction_error is None else self.prediction_error()
        for time in range(self.sde.num_steps, 0, -1):
            t = torch.full((1,), time, dtype=torch.long, device=current.device)  # one time for all rows: embedded once
            clean = self.predict_clean(current, t, predict(current, t, observation))
            if time == 1 and open_variance is None:
                current = clean
                break
            step = self.sde.reverse_step(current, t, clean)
            variance = step.variance
            if open_variance is not None:
                variance = variance + self.sde.posterior_clean_coef[time].square() * open_variance[time]
            current = step.mean + variance.sqrt() * noise[self.sde.num_steps - time + 1]
            if self.clip_steps:
                current = current.clamp(-1.0, 1.0)
        return current.clamp(-1.0, 1.0)

    def draw(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Return one action per observation (batch, observation_dim), with noise of a CPU generator: (batch, action_dim)."""
        noise = torch.randn(self.num_draws, len(observation), self.action_dim, generator=generator)
        return self.sample(observation, noise.to(observation.device))

    def predict_clean(self, noisy: Tensor, t: Tensor, predicted_noise: Tensor) -> Tensor:
        """Return the one-step prediction a0hat as the sampling chain uses it (clipped if ``clip_start``)."""
        return self.clip(self.sde.predict_clean(noisy, t, predicted_noise))

    def clip(self, clean: Tensor) -> Tensor:
        """Return one-step predictions as the sampling chain uses them."""
        return clean.clamp(-1.0, 1.0) if self.clip_start else clean

    def behavior_loss(
        self,
        action: Tensor,
        noisy: Tensor,
        t: Tensor,
        noise: Tensor,
        predicted_noise: Tensor,
        kind: BehaviorLoss,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the behaviour-cloning loss of one noised batch, a scalar (arXiv 2402.04080, section 3.1).

        Args:
            action: Dataset actions a^0, shape (batch, action_dim).
            noisy: Noisy actions a^t, shape (batch, action_dim).
            t: Diffusion times 1..T, shape (batch,).
            noise: The noise in ``noisy``, shape (batch, action_dim).
            predicted_noise: The network's estimate of it, shape (batch, action_dim).
            kind: ``noise_matching`` compares the noises; ``likelihood`` compares the Euler reverse step with the mean of the
                posterior. At few diffusion steps the latter's optimum is wider than the data when it is sampled with
                the posterior (Gaussian data of std 0.20 come back with 0.46 at T = 5).
            weights: Weight of each row, mean 1 over the global batch, shape (batch,); None for equal ones.
        """
        if kind == "noise_matching":
            prediction, target = predicted_noise, noise
        else:
            prediction, target = self.sde.likelihood_step(noisy, t, predicted_noise), self.sde.posterior(noisy, t, action).mean
        if weights is None:
            return F.mse_loss(prediction, target)
        return (weights[:, None] * (prediction - target).square()).mean()

    def entropy(self, estimator: EntropyEstimator, clean: Tensor, observation: Tensor, draws: Tensor) -> Tensor:
        """Return the entropy estimate of the first ``states`` rows in nats, shape (states,).

        ``path`` runs the chain exactly as :meth:`sample` does, clipping included: a bound on any other chain would say nothing
        about the policy that acts. Where a prediction is clipped the chain does not depend on the network, so the entropy
        has no gradient there either.

        Args:
            estimator: ``reference``, ``bridge`` or ``path``; see ``diffusion.entropy``.
            clean: One-step predictions a0hat, shape (batch, action_dim).
            observation: Observations, shape (batch, observation_dim).
            draws: Standard normal noise, shape (entropy_draws, states, action_dim).
        """
        states = draws.shape[1]
        clean, observation = clean[:states], observation[:states]
        if estimator == "reference":
            return reference_entropy(self.sde, clean, draws[0])
        if estimator == "bridge":
            return bridge_entropy(self.sde, clean, draws[0], draws[1])

        def predict_clean(noisy: Tensor, t: Tensor) -> Tensor:
            return self.predict_clean(noisy, t, self.network(noisy, t, observation))

        return path_entropy(self.sde, predict_clean, draws)


def choose_candidate(scores: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """Return the index of the candidate to execute, shape (batch,).

    Args:
        scores: Pessimistic value of each candidate, shape (batch, num_candidates).
        temperature: Draws from softmax(scores / temperature); 0 takes the best candidate. The released code uses 1, whose
            effect depends on the reward scale.
        uniform: Draws from U(0, 1), shape (batch, num_candidates), turned into Gumbel noise.
    """
    return preferences(scores, temperature, uniform).argmax(dim=-1)


def preferences(scores: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """Return the numbers whose largest one is executed, shape (batch, num_candidates); arguments as of the above."""
    if temperature == 0:
        return scores
    gumbel = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
    return scores / temperature + gumbel
