"""Behaviour cloning against an independent calculation; the best share of the episodes."""

import numpy as np
import pytest
import torch

from edp_lightning.algorithms.behavior_cloning import BehaviorCloning
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError
from tests.algorithms.bare import BareSteps, built, rows
from tests.algorithms.plain import assert_gradients, flat, plain


def test_one_step_equals_an_independent_calculation():
    module, batch = built(BehaviorCloning, hidden_dims=[16, 16]), rows()
    actor = plain(module.actor.network)
    optimizer = torch.optim.Adam(actor.parameters(), lr=3e-4)
    error = torch.tanh(actor(batch.observation.double())) - batch.action.double()
    loss = (error**2).sum() / error.numel()
    loss.backward()
    gradient = flat(p.grad for p in actor.parameters())
    optimizer.step()
    outputs = BareSteps(module).step(batch)
    assert outputs["watched"]["actor/loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    assert_gradients(module.actor, gradient)
    torch.testing.assert_close(flat(module.actor.parameters()), flat(actor.parameters()), rtol=0, atol=1e-6)
    assert module.discount is None
    assert module.critics is None


def arrays():
    """Ten episodes of three steps; the rewards of episode e are e, but for the last one's, which come late."""
    rewards = np.repeat(np.arange(10.0), 3)
    rewards[-3:] = [0, 0, 27.2]  # undiscounted more than episode 8's 24, discounted (0.5) less
    ends = np.tile([False, False, True], 10)
    episode, step = np.repeat(np.arange(10.0), 3), np.tile(np.arange(3.0), 10)
    return {
        "observations": np.stack([episode, step], axis=1),
        "next_observations": np.stack([episode, step + 1], axis=1),
        "actions": np.zeros((30, 1)),
        "rewards": rewards,
        "terminated": np.zeros(30, dtype=bool),
        "truncated": ends,
    }


def test_the_best_share_keeps_the_episodes_of_highest_discounted_return():
    def kept(**options):
        data = OfflineDataModule.from_arrays(arrays(), **options)
        data.setup("fit")
        return data, sorted(set(data.transitions.observation[:, 0].tolist()))

    assert kept(best_share=0.29, discount=0.5)[1] == [7.0, 8.0]
    assert kept(best_share=0.29, discount=1.0)[1] == [8.0, 9.0]
    data, episodes = kept(best_share=0.01, discount=1.0)
    assert episodes == [9.0]
    assert data.facts.episodes == 1
    assert len(kept()[1]) == 10
    clock = arrays()
    clock["observations"][:, 1] += 1.7e9
    clock["next_observations"][:, 1] += 1.7e9
    data = OfflineDataModule.from_arrays(clock, best_share=0.1)
    with pytest.warns(UserWarning, match="observation columns 1 .* change by less than float32 can tell"):
        data.setup("fit")  # what the file says of itself came with its first episode, which is not kept
    with pytest.raises(UserError, match="best_share"):
        OfflineDataModule.from_arrays(arrays(), best_share=0.0)
    with pytest.raises(UserError, match="mixture"):
        OfflineDataModule("a", best_share=0.5, mixture={"b": 0.5})
