"""The package from Python: its public names and the example in its documentation."""

import re
import textwrap

import lightning as L
import numpy as np
import pytest
import torch

import edp_lightning
from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy


def test_public_names_are_what_they_say():
    assert set(edp_lightning.__all__) <= set(dir(edp_lightning))
    assert edp_lightning.EntropyDiffusionPolicy is EntropyDiffusionPolicy
    assert issubclass(edp_lightning.OfflineDataModule, L.LightningDataModule)
    assert issubclass(edp_lightning.callbacks.TargetNetworkUpdate, L.Callback)
    assert callable(edp_lightning.load_policy)
    with pytest.raises(AttributeError, match="no attribute 'Polciy'"):
        _ = edp_lightning.Polciy


def test_the_example_in_the_documentation_trains_on_arrays_and_acts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", edp_lightning.__doc__)
    torch.manual_seed(0)  # of the networks' first weights
    names: dict = {}
    exec(textwrap.dedent(example), names)
    assert names["trainer"].global_step == names["trainer"].max_steps
    states = np.array([[-0.5], [0.0], [0.5]])
    actions = np.mean([names["policy"].act(states, seed=seed) for seed in range(20)], axis=0)
    np.testing.assert_allclose(actions, states, atol=0.2)  # the best action is the observation; the data's are uniform
