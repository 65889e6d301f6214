import pytest
import torch

from edp_lightning.evaluation.metrics import EpisodeReturn, NormalizedScore, SuccessRate


def test_means_over_several_updates():
    metric = EpisodeReturn()
    metric.update(torch.tensor([1.0, 2.0]))
    metric.update(torch.tensor([6.0]))
    assert metric.compute().item() == 3


def test_success_rate_takes_booleans():
    metric = SuccessRate()
    metric.update(torch.tensor([True, False, False, True]))
    assert metric.compute().item() == 0.5


def test_normalised_score_is_zero_for_random_and_hundred_for_expert():
    metric = NormalizedScore(minimum=-20.0, maximum=180.0)
    metric.update(torch.tensor([-20.0, 180.0, 80.0]))
    assert metric.compute().item() == 50
    with pytest.raises(ValueError, match="minimum < maximum"):
        NormalizedScore(1.0, 1.0)
