"""A small entropy-regularised diffusion policy, a batch for it and the noise of a step."""

import torch

from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.algorithms.noise import NoiseSource
from edp_lightning.data.transitions import Batch


def build(**kwargs):
    torch.manual_seed(0)
    options = {"observation_dim": 3, "action_dim": 2, "hidden_dims": [32, 32], "num_critics": 4, "entropy": "none"} | kwargs
    module = EntropyDiffusionPolicy(**options)
    module.configure_model()
    return module


def batch(rows=16):
    generator = torch.Generator().manual_seed(1)
    observation, following = (torch.randn(rows, 3, generator=generator) for _ in range(2))
    action = torch.rand(rows, 2, generator=generator) * 2 - 1
    return Batch(observation, action, torch.randn(rows, generator=generator), following, torch.zeros(rows), torch.ones(rows))


def noise(module, rows=16, draws=0, step=0):
    source = NoiseSource(
        0,
        module.actor.sde.num_steps,
        2,
        module.num_backup_actions,
        draws,
        torch.device("cpu"),
        chain_draws=module.actor.num_draws,
    )
    return source.draw(step, rows)


def relative_error(ours, exact):
    ours, exact = (torch.cat([g.flatten() for g in gradients]) for gradients in (ours, exact))
    return ((ours - exact).norm() / exact.norm()).item()
