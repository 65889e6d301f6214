"""Learning rates of a gradient step."""

import pytest

from edp_lightning.algorithms.optimization import learning_rate
from edp_lightning.errors import UserError


def test_learning_rate_schedules():
    assert learning_rate(0.1, "constant", 500, -1) == 0.1
    assert learning_rate(0.1, "cosine", 0, 100) == pytest.approx(0.1)
    assert learning_rate(0.1, "cosine", 50, 100) == pytest.approx(0.05)
    assert learning_rate(0.1, "cosine", 100, 100) == pytest.approx(0, abs=1e-9)
    with pytest.raises(UserError, match="max_steps"):
        learning_rate(0.1, "cosine", 0, -1)
