"""The kinds of files a decision is written as, each with what runs it for a check."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from edp_lightning.errors import UserError
from edp_lightning.export.check import Run
from edp_lightning.export.decision import Decision

Format = Literal["onnx", "torch"]
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}

MISSING = "--format onnx needs onnx, onnxscript and onnxruntime: pip install 'edp_lightning[export]'"


class Encoded(NamedTuple):
    """A decision as a file.

    Attributes:
        content: The file's bytes.
        run: Runs these bytes.
        versions: Packages that made them, and what a reader must understand.
    """

    content: bytes
    run: Run
    versions: dict[str, str]


def check_packages(format: Format) -> None:
    """Raise if what a format needs is not installed.

    Raises:
        UserError: Naming the extra.
    """
    if format == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise UserError(f"{MISSING} ({error})") from error


def encode(format: Format, decision: Decision, program: torch.export.ExportedProgram) -> Encoded:
    """Return a traced decision as the bytes of a file."""
    names = ["observation", *(extra.name for extra in decision.extras)]
    if format == "torch":
        return _torch(program, names)
    return _onnx(program, names, decision.output_names)


def _torch(program: torch.export.ExportedProgram, names: list[str]) -> Encoded:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    loaded: Any = torch.export.load(io.BytesIO(buffer.getvalue())).module()

    @torch.no_grad()
    def run(inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        tensors = [torch.from_numpy(inputs[name]) for name in names]
        outputs = loaded(tensors[0], tensors[1:])
        return {name: value.numpy() for name, value in outputs.items()}

    return Encoded(buffer.getvalue(), run, {"torch": torch.__version__})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter says about packages that play no part here, and about its own deprecated calls, to itself."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _onnx(program: torch.export.ExportedProgram, names: list[str], outputs: list[str]) -> Encoded:
    import onnx
    import onnxruntime

    with _quiet():
        exported: Any = torch.onnx.export(
            program, dynamo=True, input_names=names, output_names=outputs, external_data=False, verbose=False
        )
    model = exported.model_proto
    content: bytes = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        return dict(zip(outputs, session.run(outputs, dict(inputs)), strict=True))

    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "onnx opset": str(opset)}
    return Encoded(content, run, {"torch": torch.__version__} | versions)
