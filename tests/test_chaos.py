"""A run that is killed again and again ends as if nothing had happened."""

import pytest

from benchmarks.chaos import chaos


@pytest.mark.slow
def test_thirty_kills_change_nothing(tmp_path):
    damage = chaos(tmp_path, kills=30, steps=4000, seed=1)
    print(damage)
    assert damage.kills >= 25, "the run ended before it could be killed often enough"
    assert damage.bytes_lost == 0
    assert damage.different == []
    assert damage.curves_different == []
    assert damage.missing == damage.doubled == 0
    folders = [path for path in (tmp_path / "runs").glob("*/killed-seed0/checkpoints")]
    assert {path.name for path in folders[0].iterdir()} == {"last.ckpt", "best.ckpt"}
