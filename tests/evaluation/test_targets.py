"""Several target returns: every one is reported, one counts."""

from types import SimpleNamespace

import pytest
import torch

from edp_lightning.algorithms.decision_transformer import DecisionTransformer
from edp_lightning.evaluation.rollout import EpisodeResult
from edp_lightning.evaluation.targets import games, judge

ENVIRONMENT = SimpleNamespace(score_reference=None, success=False)
RETURNS = {(1, 10.0): 4.0, (2, 10.0): 6.0, (1, 5.0): 7.0, (2, 5.0): 8.0}


@pytest.mark.parametrize(("choice", "counts"), [("best", 5.0), ("first", 10.0)])
def test_the_target_that_counts_is_the_chosen_one(choice, counts):
    targets = [10.0, 5.0]
    module = DecisionTransformer(target_returns=targets, target_choice=choice)
    assert games([1, 2], targets) == list(RETURNS)
    results = [EpisodeResult(seed, value, 3, target_return=target) for (seed, target), value in RETURNS.items()]
    found = judge(torch.device("cpu"), ENVIRONMENT, results, module.target_returns, module.counting_target)
    means = {10.0: 5.0, 5.0: 7.5}
    assert found.scores["score"] == found.scores["return"] == means[counts]
    assert (found.scores["score_target_10"], found.scores["score_target_5"]) == (5.0, 7.5)
    assert found.scores["target_return"] == counts
    assert [r.episode_return for r in found.results] == [RETURNS[seed, counts] for seed in (1, 2)]
    record = found.record()["target_returns"]
    assert record["counts"] == counts
    assert [(each["target_return"], each["scores"]["score"]) for each in record["each"]] == list(means.items())


def test_without_targets_all_episodes_count_and_the_record_says_nothing_of_them():
    assert games([1, 2], ()) == [(1, None), (2, None)]
    found = judge(torch.device("cpu"), ENVIRONMENT, [EpisodeResult(1, 2.0, 3), EpisodeResult(2, 4.0, 3)], (), max)
    assert found.scores == {"return": 3.0, "episode_length": 3.0, "score": 3.0}
    assert found.record() == {}
