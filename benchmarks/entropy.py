"""What the entropy estimators measure, and what following them does, on action laws whose entropy is known.

One unconditional diffusion policy is trained per law (Gaussians and mixtures of 2 to 8 modes, one and two dimensions), all
together. Every estimate is then compared with the entropy over the laws, and each policy follows each estimator's gradient.

    python benchmarks/entropy.py [--quick] [--num-diffusion-steps 5]
"""

import argparse
import math
import platform
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.action_laws import Law, laws
from edp_lightning.diffusion import MeanRevertingSDE
from edp_lightning.networks.ensemble import EnsembleLinear
from edp_lightning.networks.mish import mish
from edp_lightning.policies.diffusion import DiffusionPolicy, entropy_draws

ESTIMATORS = ("path", "bridge", "reference", "knn")
COEF = 0.1
RUNS = (*ESTIMATORS, "path + behaviour loss", "knn + behaviour loss")
"""Gradients that are followed: an estimate alone, or COEF times it beside the behaviour loss, as in training."""

NEIGHBOUR = 3
RESOLUTION = 1e-3
"""Actions closer than this count as equal: samples piled up on a bound have little entropy, not minus infinity."""
INSIDE = 0.05
"""A policy stays in the box if at most this share of its last predictions, before they are clipped, lies outside."""


def nearest_neighbour_entropy(samples: Tensor, neighbour: int = NEIGHBOUR) -> Tensor:
    """Return the Kozachenko-Leonenko estimate of the entropy of samples (laws, rows, action_dim): (laws,), in nats.

    ``psi(n) - psi(k) + log(volume of the unit ball) + d E log(distance to the k-th neighbour)`` (Kraskov et al., 2004, eq. 20).
    """
    _, rows, dim = samples.shape
    squared = (samples.unsqueeze(2) - samples.unsqueeze(1)).square().sum(-1)
    nearest = squared.topk(neighbour + 1, dim=2, largest=False).values[..., neighbour]
    log_distance = 0.5 * (nearest + 1e-12).log()
    log_ball = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)
    constant = torch.digamma(torch.tensor(float(rows))) - torch.digamma(torch.tensor(float(neighbour)))
    return constant + log_ball + dim * log_distance.mean(1)


def smoothed_entropy(centres: Tensor, variance: float) -> Tensor:
    """Return the entropies (laws,), in nats, of equal Gaussians around ``centres`` (laws, rows, action_dim), by a grid."""
    grid = torch.linspace(-5, 5, 201)
    volume = float(grid[1] - grid[0]) ** centres.shape[2]
    found = []
    for law in centres:
        kernels = torch.exp(-((grid - law.unsqueeze(2)) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        density = kernels[:, 0].mean(0) if law.shape[1] == 1 else kernels[:, 0].T @ kernels[:, 1] / len(law)
        found.append(-torch.special.xlogy(density, density).sum() * volume)
    return torch.stack(found)


class StackedNetwork(nn.Module):
    """Unconditional noise networks of all laws; rows come law by law, as many for each.

    Args:
        count: Number of networks.
        action_dim: Width of an action.
        num_steps: Number of diffusion steps, whose number enters as one of so many flags.
        width: Units of the two hidden layers.
    """

    def __init__(self, count: int, action_dim: int, num_steps: int, width: int = 64) -> None:
        super().__init__()
        self.count = count
        self.num_steps = num_steps
        widths = (action_dim + num_steps, width, width, action_dim)
        self.layers = nn.ModuleList(EnsembleLinear(count, *w, bias_init=0.0) for w in pairwise(widths))

    def forward(self, noisy: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        """Return the predicted noise (count * rows, action_dim)."""
        x = torch.cat([noisy, F.one_hot(t - 1, self.num_steps)], dim=1).unflatten(0, (self.count, -1))
        for layer in self.layers[:-1]:
            x = mish(layer(x))
        return self.layers[-1](x).flatten(0, 1)


class Draws(NamedTuple):
    """Data actions (laws * rows, action_dim), their times and noise, and the noise of a chain beside each."""

    action: Tensor
    time: Tensor
    noise: Tensor
    chain: Tensor


class State(NamedTuple):
    """What the samples of the policies say, all (laws,)."""

    entropy: Tensor
    entropy_first: Tensor
    outside: Tensor


class Policies:
    """One policy per law, trained and measured together.

    Args:
        known: The laws, of one action_dim.
        num_steps: Number of diffusion steps T.
        pool_size: Data actions per law.
    """

    def __init__(self, known: list[Law], num_steps: int, pool_size: int = 10_000) -> None:
        self.laws = known
        self.pool = torch.stack([law.sample(pool_size) for law in known])
        self.count, _, self.dim = self.pool.shape
        network = StackedNetwork(self.count, self.dim, num_steps)
        self.policy = DiffusionPolicy(network, MeanRevertingSDE(num_steps))  # type: ignore[arg-type]

    def draw(self, rows: int) -> Draws:
        """Draw a batch of ``rows`` for every law."""
        index = torch.randint(self.pool.shape[1], (self.count, rows, 1)).expand(-1, -1, self.dim)
        total, steps = self.count * rows, self.policy.sde.num_steps
        return Draws(
            self.pool.gather(1, index).flatten(0, 1),
            torch.randint(1, steps + 1, (total,)),
            torch.randn(total, self.dim),
            torch.randn(steps, total, self.dim),
        )

    def behavior_loss(self, draws: Draws) -> Tensor:
        """Return the noise-matching loss summed over the laws; their weights are apart, so each is trained by its own."""
        noisy = self.policy.sde.diffuse(draws.action, draws.time, draws.noise)
        predicted = self.policy.network(noisy, draws.time, noisy)
        return self.count * self.policy.behavior_loss(draws.action, noisy, draws.time, draws.noise, predicted, "noise_matching")

    def estimate(self, name: str, draws: Draws) -> Tensor:
        """Return the estimates (laws,): as in training for the named ones, from samples of the policy for ``knn``."""
        if name == "knn":
            return nearest_neighbour_entropy(self.chain(draws.chain)[1].unflatten(0, (self.count, -1)))
        noisy = self.policy.sde.diffuse(draws.action, draws.time, draws.noise)
        clean = self.policy.sde.predict_clean(noisy, draws.time, self.policy.network(noisy, draws.time, noisy))
        used = entropy_draws(name, self.policy.sde.num_steps)  # type: ignore[arg-type]
        rows = self.policy.entropy(name, clean, noisy, draws.chain[:used])  # type: ignore[arg-type]
        return rows.unflatten(0, (self.count, -1)).mean(1)

    def chain(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Run the sampling chain.

        Returns:
            The mean of a^1 given a^2, and the last prediction before it is clipped, both (laws * rows, action_dim).
        """
        policy = self.policy
        current = mean = noise[0]
        for left in range(policy.sde.num_steps, 0, -1):
            t = torch.full((len(current),), left)
            predicted = policy.sde.predict_clean(current, t, policy.network(current, t, current))
            if left == 1:
                return mean, predicted
            reverse = policy.sde.posterior(current, t, predicted.clamp(-1, 1))
            mean = reverse.mean
            current = mean + reverse.variance.sqrt() * noise[policy.sde.num_steps - left + 1]
        raise AssertionError("unreachable: the chain always reaches t = 1")

    def descend(self, loss: Callable[[], Tensor], steps: int, lr: float, decay: bool = False) -> None:
        """Take Adam steps, at a constant rate or one that falls to zero."""
        optimizer = torch.optim.Adam(self.policy.parameters(), lr=lr)
        for step in range(steps):
            if decay:
                optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

    @torch.no_grad()
    def measure(self, rows: int) -> State:
        """Sample: k-NN entropy of executed actions, entropy of a^1 from its exact density given draws of a^2, share outside."""
        first, predicted = (x.unflatten(0, (self.count, -1)) for x in self.chain(self.draw(10 * rows).chain))
        executed = predicted[:, :rows].clamp(-1, 1)
        executed = executed + RESOLUTION * torch.randn_like(executed)
        return State(
            torch.cat([nearest_neighbour_entropy(law.unsqueeze(0)) for law in executed]),
            smoothed_entropy(first, float(self.policy.sde.posterior_std[2]) ** 2),
            (predicted.abs() > 1).any(-1).float().mean(1),
        )


def spearman(a: Tensor, b: Tensor) -> float:
    """Return the rank correlation of two vectors without ties."""
    ranks = torch.stack([x.argsort().argsort().double() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


class Findings(NamedTuple):
    """Results for the laws of one dimension."""

    law: Tensor
    before: State
    estimates: dict[str, Tensor]
    after: dict[str, State]


def examine(action_dim: int, args: argparse.Namespace) -> Findings:
    """Train one policy per law of this dimension, estimate, and follow each gradient from the trained weights."""
    train_steps, follow_steps, rows, samples = (300, 25, 32, 400) if args.quick else (2500, 500, 64, 2000)
    policies = Policies(laws(action_dim), args.num_diffusion_steps)
    policies.descend(lambda: policies.behavior_loss(policies.draw(rows)), train_steps, 3e-3, decay=True)
    trained = {name: value.clone() for name, value in policies.policy.state_dict().items()}
    before = policies.measure(samples)
    with torch.no_grad():
        estimates = {
            name: torch.stack([policies.estimate(name, policies.draw(5 * samples)) for _ in range(8)]).mean(0)
            for name in ESTIMATORS
            if name != "knn"
        }
    estimates["knn"] = before.entropy
    after = {}
    for run in RUNS:
        name, _, beside_behavior = run.partition(" + ")

        def loss(name: str = name, beside_behavior: str = beside_behavior) -> Tensor:
            draws = policies.draw(rows)
            if not beside_behavior:
                return -policies.estimate(name, draws).sum()
            return policies.behavior_loss(draws) - COEF * policies.estimate(name, draws).sum()

        policies.descend(loss, follow_steps, args.lr)
        after[run] = policies.measure(samples)
        policies.policy.load_state_dict(trained)
    law = torch.tensor([law.entropy() for law in policies.laws])
    return Findings(law, before, estimates, after)


def report(found: list[Findings], args: argparse.Namespace) -> None:
    """Print the two tables and the goals."""
    print(
        f"torch {torch.__version__}, python {platform.python_version()}, {platform.machine()}, T = {args.num_diffusion_steps}"
    )
    print(f"{sum(len(f.law) for f in found)} laws ({' + '.join(str(len(f.law)) for f in found)} of 1 + 2 dimensions)\n")
    print("| Spearman of estimate and entropy, 1-D / 2-D | of the policy's a^1 | of the policy's action | of the law |")
    print("|---|---|---|---|")
    for name in ESTIMATORS:
        cells = []
        for truth in ([f.before.entropy_first for f in found], [f.before.entropy for f in found], [f.law for f in found]):
            cells.append(" / ".join(f"{spearman(f.estimates[name], t):.2f}" for f, t in zip(found, truth, strict=True)))
        print(f"| {name} | {' | '.join(cells)} |")
    columns = ("action entropy raised", "change, median (least)", "a^1 raised", "outside the box, median (most)")
    print(f"\n| gradient followed, lr {args.lr:g} | {' | '.join(columns)} |")
    print("|---|---|---|---|---|")
    before = State(*(torch.cat(x) for x in zip(*(f.before for f in found), strict=True)))
    for run in RUNS:
        after = State(*(torch.cat(x) for x in zip(*(f.after[run] for f in found), strict=True)))
        gain, gain_first = after.entropy - before.entropy, after.entropy_first - before.entropy_first
        print(
            f"| {run} | {int((gain > 0).sum())} of {len(gain)} | {gain.median():+.2f} ({gain.min():+.2f}) | "
            f"{int((gain_first > 0).sum())} of {len(gain)} | {after.outside.median():.2f} ({after.outside.max():.2f}) |"
        )
        if run == "path":
            raised, outside = int((gain > 0).sum()), float(after.outside.max())
    print(f"\nbefore: outside the box {before.outside.max():.2f} at most")
    correlation = min(spearman(f.estimates["path"], f.before.entropy_first) for f in found)
    goal("path_correlation_with_entropy_of_a1", correlation, f">={0.95}", correlation >= 0.95)
    goal("path_raises_action_entropy_share", raised / len(before.entropy), ">=1", raised == len(before.entropy))
    goal("path_share_outside_box_most", outside, f"<={INSIDE}", outside <= INSIDE)


def goal(name: str, value: float, target: str, met: bool) -> None:
    print(f"goal {name} {value:.3f} {target} {'met' if met else 'missed'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps and samples; the numbers mean little")
    parser.add_argument("--num-diffusion-steps", type=int, default=5)
    parser.add_argument("--lr", type=float, default=3e-4, help="Adam rate of the steps along a gradient")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    start = time.perf_counter()
    found = [examine(dim, args) for dim in (1, 2)]
    report(found, args)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
