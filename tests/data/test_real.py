"""A piece of real data: human demonstrations with an Adroit hand."""

import math
import shutil
from pathlib import Path

import pytest

from tests.conftest import scalars

FIXTURE = Path(__file__).parents[1] / "fixtures" / "door-human"
REFERENCE = (-56.512833, 2880.5693087298737)


def test_human_demonstrations_load_train_and_evaluate(command, minari_root, capsys):
    data = minari_root / "real" / "door" / "human-v0" / "data"
    data.mkdir(parents=True)
    for name in ("main_data.hdf5", "metadata.json"):
        shutil.copy(FIXTURE / name, data)
    folder = command("fit", "--trainer.max_steps=5", "--evaluation.num_episodes=1", dataset="real/door/human-v0")
    out = capsys.readouterr().out
    assert "446" in out  # steps on the data card
    assert "AdroitHandDoor-v1, 200 steps" in " ".join(out.split())
    assert "d4rl/infos.py" in out
    logged = scalars(folder)
    (score,) = (value for _, value in logged["evaluation/normalized_score"])
    (plain,) = (value for _, value in logged["evaluation/return"])
    assert score == pytest.approx(100 * (plain - REFERENCE[0]) / (REFERENCE[1] - REFERENCE[0]), rel=1e-4)
    assert logged["evaluation/episode_length"][0][1] == 200
    assert all(math.isfinite(value) for series in logged.values() for _, value in series)
