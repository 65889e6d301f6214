"""The overlays in configs/ that name an algorithm: each states every option of it, and its options exist."""

import inspect
from pathlib import Path
from typing import Any

import jsonargparse
import lightning as L
import pytest
import yaml

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.registry import algorithm_class
from edp_lightning.callbacks import EnvironmentEvaluation, TargetNetworkUpdate
from edp_lightning.cli import main
from edp_lightning.data.datamodule import OfflineDataModule
from tests.algorithms.tiny import options_of

CONFIGS = Path(__file__).parents[2] / "configs"
SECTIONS = {
    "trainer": L.Trainer,
    "data": OfflineDataModule,
    "target_update": TargetNetworkUpdate,
    "evaluation": EnvironmentEvaluation,
}


def named(path: Path) -> str | None:
    """Return the algorithm that a config names."""
    model = yaml.safe_load(path.read_text()).get("model")
    return model.get("class_path") if isinstance(model, dict) else None


OVERLAYS = {path: name for path in sorted(CONFIGS.glob("*/*.yaml")) if (name := named(path)) is not None}
FAMILIES = ("gym", "antmaze", "adroit", "kitchen", "pointmaze")
OWN = ("IQL", "BehaviorCloning", "CQL", "ReBRAC", "FQL", "DiffusionQL", "MSG", "IDQL", "EfficientDiffusionIQL")
OWN += ("DecisionTransformer",)


@pytest.mark.parametrize("name", sorted(set(OVERLAYS.values())))
def test_every_overlay_states_all_options_of_its_algorithm(name):
    algorithm = algorithm_class(name)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--run_name", type=str)
    parser.add_class_arguments(algorithm, "model")
    for section, constructor in SECTIONS.items():
        parser.add_class_arguments(constructor, section)
    base = options_of(OfflineAlgorithm) - {"gradient_clip_val"}
    for path in (path for path, owner in OVERLAYS.items() if owner == name):
        config: dict[str, Any] = yaml.safe_load(path.read_text())
        config["model"].pop("class_path")
        config["model"] |= config["model"].pop("init_args", {})
        parsed = parser.parse_object(config | {"data": config.get("data", {}) | {"dataset": "any"}})
        assert parsed.model.as_dict().items() >= config["model"].items(), path
        own = set(inspect.signature(algorithm.__init__).parameters) - {"self", "kwargs"} - base
        if name in OWN:
            assert config["model"].keys() >= own, path
        algorithm(**config["model"])


@pytest.mark.parametrize("name", OWN)
def test_every_family_has_an_overlay(name):
    found = {path.stem for path, owner in OVERLAYS.items() if owner == name}
    assert found >= set(FAMILIES)


def test_an_overlay_goes_on_top_of_a_dataset_and_turns_nothing_else(capsys):
    overlays = [CONFIGS / "reference" / "gym" / "d4rl-hopper-medium-v2.yaml", CONFIGS / "iql" / "gym.yaml"]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *(f"--config={path}" for path in overlays), "--print_config"])
    assert stop.value.code == 0
    parsed = yaml.safe_load(capsys.readouterr().out)
    wanted = yaml.safe_load(overlays[1].read_text())
    assert parsed["data"]["dataset"] == "d4rl:hopper-medium-v2"
    assert parsed["model"].items() >= wanted["model"].items()
    assert "eta" not in parsed["model"]
