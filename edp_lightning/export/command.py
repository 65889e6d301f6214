"""The ``export`` command: a trained policy as one file for other programs, and a JSON that says what is in it."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.registry import algorithm_name, algorithm_of
from edp_lightning.errors import UserError
from edp_lightning.evaluation.results import versions
from edp_lightning.export.check import Check, check, example_of, tolerance_of
from edp_lightning.export.decision import Decision, traced
from edp_lightning.export.episodes import check_episodes
from edp_lightning.export.formats import ENDINGS, Format, check_packages, encode
from edp_lightning.policies.memory import ActsFromMemory
from edp_lightning.runs.checkpoint_io import read_checkpoint

FORMAT_KEY = "edp_lightning_export"
FORMAT_VERSION = 1
"""Layout of the JSON; ``runtime`` has the same two, because it may be copied by itself."""


def export(ckpt_path: str, format: Format = "onnx", output: str | None = None, dynamic_batch: bool = False) -> Path:
    """Write a whole decision as one file, and ``FILE.json`` beside it, after checking that it decides as the package does.

    Args:
        ckpt_path: Checkpoint file.
        format: ``onnx``, or ``torch``: what ``torch.export.load`` reads.
        output: File to write; the checkpoint's with another ending when not given.
        dynamic_batch: Whether the file takes any number of observations at once; otherwise it takes one.

    Returns:
        The file's path.

    Raises:
        UserError: If the checkpoint cannot be read, its policy cannot be exported, or the file decides differently; then
            nothing is written.
    """
    check_packages(format)
    path = Path(ckpt_path).with_suffix(ENDINGS[format]) if output is None else Path(output)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give --output the name of a file")
    saved = read_checkpoint(ckpt_path)
    decision = Decision(load(ckpt_path, saved), dynamic_batch)
    program = traced(decision)
    encoded = encode(format, decision, program)
    reference = load(ckpt_path, saved)
    if decision.memory:
        found, example = check_episodes(encoded.run, reference, decision)
    else:
        choice = None if decision.chooser is None else decision.chooser.choice
        found = check(encoded.run, reference, decision.draws, choice, dynamic_batch)
        example = example_of(encoded.run, reference, decision.draws)
    outputs = encoded.run(example.inputs)
    facts = {
        **describe(saved, reference, decision, format),
        "outputs": [{"name": name, "shape": ["batch" if dynamic_batch else 1, *v.shape[1:]]} for name, v in outputs.items()],
        "checked": found._asdict() | {"tolerance": tolerance_of(reference)},
        "versions": versions() | encoded.versions,
        "example": {name: value.tolist() for name, value in (example.inputs | {"action": example.action}).items()},
    }
    write(path, encoded.content, facts)
    print(f"{path}: {len(encoded.content) / 1e6:.1f} MB, {told(found)}")
    return path


def load(path: str, saved: Mapping[str, Any]) -> OfflineAlgorithm:
    """Return the algorithm of a checkpoint on the CPU, in float32 and not compiled."""
    wanted: dict[str, Any] = {"hidden_precision": "float32", "compile": False}
    options: dict[str, Any] = {name: value for name, value in wanted.items() if name in saved["hyper_parameters"]}
    algorithm: OfflineAlgorithm = algorithm_of(saved).load_from_checkpoint(
        path, map_location="cpu", weights_only=True, **options
    )
    return algorithm.eval()


def describe(saved: Mapping[str, Any], algorithm: OfflineAlgorithm, decision: Decision, format: Format) -> dict[str, Any]:
    """Return what a program must know to use the file, and a person to know where it comes from."""
    data = saved.get("datamodule_hyper_parameters", {})
    batch: Any = "batch" if decision.dynamic else 1
    inputs: list[dict[str, Any]] = [{"name": "observation", "kind": "observation", "shape": [batch, algorithm.observation_dim]}]
    for extra in decision.extras:
        inputs.append({"name": extra.name, "kind": extra.kind, "shape": [batch, *extra.shape]})
        if extra.name in decision.memory:
            inputs[-1]["initial"] = decision.memory[extra.name].tolist()
    limit = {"longest_episode": algorithm.longest_episode} if isinstance(algorithm, ActsFromMemory) else {}
    return {
        FORMAT_KEY: FORMAT_VERSION,
        "format": format,
        "algorithm": algorithm_name(type(algorithm)),
        "dataset": data.get("dataset"),
        "view": saved.get("OfflineDataModule", {}).get("view", data.get("view")),
        "action_chunk": data.get("action_chunk", 1),
        "gradient_steps": int(saved["global_step"]),
        "decision": algorithm.decision_facts(),
        "dynamic_batch": decision.dynamic,
        "inputs": inputs,
        **limit,
        "action_low": algorithm.action_scaler.low.tolist(),
        "action_high": algorithm.action_scaler.high.tolist(),
    }


def told(found: Check) -> str:
    """Return in words what the check found."""
    ties = f", {found.near_ties} near ties" if found.near_ties else ""
    return f"{found.decisions} random decisions at most {found.largest_difference:.0e} off the package's{ties}"


def write(path: Path, content: bytes, facts: Mapping[str, Any]) -> None:
    """Write the file and its JSON; what was there before stays until both are whole.

    Raises:
        UserError: If they cannot be written.
    """
    beside = Path(f"{path}.json")
    waiting = {target: target.parent / f".{target.name}.writing" for target in (path, beside)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        waiting[path].write_bytes(content)
        waiting[beside].write_text(json.dumps(facts, indent=1) + "\n")
        for target, temporary in waiting.items():
            os.replace(temporary, target)
    except OSError as error:
        for temporary in waiting.values():
            with suppress(OSError):
                temporary.unlink()
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another --output") from error
