"""What a result file says of the evaluations of a run."""

import json

import pytest

from edp_lightning.evaluation.history import EvaluationHistory


def test_the_mean_is_that_of_the_last_three_and_repeats_replace():
    history = EvaluationHistory()
    assert history.facts() is None
    for step, score in ((100, 0.9), (200, 0.1), (300, 0.2)):
        history.add(step, score)
    resumed = EvaluationHistory()
    resumed.load(json.loads(json.dumps(history.state())))
    resumed.add(300, 0.3)  # a run that is resumed before an evaluation repeats it
    resumed.add(400, 0.5)
    assert resumed.facts() == {
        "gradient_steps": [100, 200, 300, 400],
        "scores": [0.9, 0.1, 0.3, 0.5],
        "last": 0.5,
        "mean_of_last_three": pytest.approx(0.3),
    }


def test_two_evaluations_have_no_mean_of_three():
    history = EvaluationHistory()
    history.add(1, 1.0)
    history.add(2, 0.0)
    assert history.facts()["mean_of_last_three"] is None
