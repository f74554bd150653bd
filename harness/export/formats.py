"""The formats: how each is written, and how it is run again. ONNX needs the packages of the extra `export`."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from harness.export.compare import Run
from harness.export.student import Network
from harness.models import Family

if TYPE_CHECKING:
    from torch.export import ExportedProgram

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 20
"""Of ONNX; every runtime since the end of 2023 has it."""


def missing() -> str:
    """One line on what ONNX needs and is not installed; empty where it is."""
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not absent:
        return ""
    return f"model.onnx is not written: {', '.join(absent)} not installed; pip install -e '.[export]'"


def program(module: Network, inputs: Tensor) -> ExportedProgram:
    """The module as a graph with a free batch size; `inputs` `[batch, ...]` are an example of several.

    Raises `ValueError` in one line for a family whose functions cannot be traced so.
    """
    with _noise_off(), torch.no_grad():
        try:
            made = torch.export.export(module, (inputs,), dynamic_shapes={"inputs": {0: torch.export.Dim("batch")}})
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise ValueError(f"its family cannot be traced with a free batch size: {_first_line(error)}") from error
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)  # this machine's paths and lines
    made._example_inputs = None  # would be kept as a pickle
    return made


def write_program(made: ExportedProgram, path: Path) -> None:
    """The graph as PyTorch's own archive: JSON and raw numbers, no pickle."""
    with _noise_off():
        torch.export.save(made, path)


def write_onnx(made: ExportedProgram, path: Path) -> None:
    """The graph as ONNX: `inputs` `[batch, ...]` -> `logits` `[batch, ..., classes]`.

    Raises `ValueError` in one line for a graph that has no ONNX.
    """
    import onnx

    with _noise_off():
        try:
            found = torch.onnx.export(
                made, input_names=["inputs"], output_names=["logits"], opset_version=OPSET, dynamo=True, verbose=False
            )
        except RuntimeError as error:
            raise ValueError(f"its family has no ONNX: {_first_line(error.__cause__ or error)}") from error
    assert found is not None
    proto = found.model_proto
    _clean(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save_model(proto, str(path))


def run_weights(path: Path, family: Family) -> Run:
    """The family's functions with the weights of a safetensors file."""
    try:
        return Network(family, load_file(path)).eval()
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot read {path} ({error})") from None


def run_program(path: Path) -> Run:
    """PyTorch's archive. Reading one may run what is in it: only for files that come from here."""
    with _noise_off():
        module = torch.export.load(path).module()

    def run(inputs: Tensor) -> Tensor:
        found: Tensor = module(inputs)
        return found

    return run


def run_onnx(path: Path) -> Run:
    """The ONNX file by onnxruntime, on the CPU, one thread. Raises `ValueError` for one that cannot be run."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (errors.Fail, errors.InvalidProtobuf, errors.InvalidGraph, errors.NotImplemented) as error:
        raise ValueError(f"cannot run {path} ({_first_line(error)})") from None

    def run(inputs: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"inputs": inputs.numpy()})
        return torch.from_numpy(logits)

    return run


def _clean(proto: Any) -> None:
    """Take this machine's paths out of an ONNX model, and name its free size."""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.value_info[:]
    del proto.graph.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


@contextmanager
def _noise_off() -> Iterator[None]:
    """Without what the exporters say of packages that they do not find and functions that they still use."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        log.setLevel(level)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
