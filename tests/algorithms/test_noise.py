"""Every draw of a step follows from seed and step number, whatever the number of ranks."""

import torch

from edp_lightning.algorithms.noise import NoiseSource


def test_noise_of_a_step_is_shared_out_over_ranks_and_repeats():
    source = NoiseSource(0, 5, 2, 3, 1, torch.device("cpu"))
    whole = source.draw(7, 8)
    parts = [source.draw(7, 4, rank, 2) for rank in range(2)]
    torch.testing.assert_close(torch.stack([p.action for p in parts], 1).flatten(0, 1), whole.action)
    torch.testing.assert_close(torch.stack([p.time for p in parts], 1).flatten(), whole.time)
    merged = torch.stack([p.next_action.view(5, 4, 3, 2) for p in parts], 2).flatten(1, 2)
    torch.testing.assert_close(merged.flatten(1, 2), whole.next_action)
    assert not torch.equal(source.draw(8, 8).action, whole.action)
    few = NoiseSource(0, 5, 2, 3, 4, torch.device("cpu"), entropy_states=3)
    shares = [few.draw(7, 4, rank, 2).entropy for rank in range(2)]
    few.entropy_states = 6
    torch.testing.assert_close(torch.stack(shares, 2).flatten(1, 2), few.draw(7, 8).entropy)
    torch.testing.assert_close(few.draw(7, 8).action, whole.action)
    assert whole.time.min() >= 1
    assert whole.time.max() <= 5
