"""Writing a student's folder, and checking one:

model.safetensors  the weights           architecture.json  what they are the weights of, and what is in the files
model.pt2          PyTorch's archive     README.md          the model card
model.onnx         ONNX                  sample.safetensors a few inputs and their logits
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from harness import __version__
from harness.export import formats
from harness.export.card import card
from harness.export.compare import Difference, Run, answers, compare
from harness.export.place import refuse, whole_folder
from harness.export.student import Student, network, real_inputs, weights_bytes
from harness.files import read_sealed, write_sealed
from harness.models import Family

KIND = "distilled student 1"
"""The format of `architecture.json`; another number is another set of files."""
SAID_BY = "architecture.json"
FORMATS = ("model.safetensors", "model.pt2", "model.onnx")
FILES = (*FORMATS, "sample.safetensors", SAID_BY, "README.md")
NUM_CHECKED = 256
NUM_SAMPLE = 8


@dataclass(frozen=True)
class Exported:
    """A folder that was written. `differences` are the largest found, by file; `notes` say in a line what is not there.

    `size_bytes` is that of the weights' file.
    """

    folder: Path
    differences: Mapping[str, Difference]
    size_bytes: int
    notes: tuple[str, ...] = ()


def check_folder(folder: Path) -> None:
    """Raise `ValueError` in one line for a folder that `write` would refuse."""
    refuse(folder.resolve(), FILES, SAID_BY, KIND)


def write(student: Student, folder: Path) -> Exported:
    """Export the student into a folder, whole or not at all; an earlier export there is replaced.

    Raises `ValueError` in one line where the folder is not empty and holds anything else, and where a file's logits on
    real inputs are not the student's. Without the packages for ONNX, or for a family that has none, the rest is there.
    """
    with whole_folder(folder, FILES, SAID_BY, KIND) as fresh:
        notes = _write_models(student, fresh)
        inputs = real_inputs(student.task, NUM_CHECKED)
        wanted = answers(network(student), inputs)
        runs = _runs(fresh, student.family, program=True)
        differences = {name: compare(name, answers(run, inputs), wanted) for name, run in runs.items()}
        _write_sample(student, fresh)
        (fresh / "README.md").write_text(card(student, differences, notes), encoding="utf-8")
        write_sealed(fresh / SAID_BY, _architecture(student, fresh, differences))
        size = (fresh / "model.safetensors").stat().st_size
    return Exported(folder.resolve(), differences, size, notes)


def verify(folder: Path, family: Family, *, program: bool = False) -> dict[str, Difference]:
    """Check an exported folder against what it says of itself, and its files against its sample; by file.

    `program` also runs `model.pt2`: only for exports of one's own, for reading one may run what is in it. Raises
    `ValueError` in one line for a file that is missing, changed or says anything else.
    """
    said = read_architecture(folder)
    if said["family"] != family.name:
        raise ValueError(f"{folder} is a student of family {said['family']!r}, not {family.name!r}")
    for name, digest in said["sha256"].items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name} any more")
        if _sha256(folder / name) != digest:
            raise ValueError(f"{folder / name} is not as it was written")
    sample = _read_sample(folder / "sample.safetensors")
    _check_layers(said, family, folder)
    runs = _runs(folder, family, program=program)
    return {name: compare(name, answers(run, sample["inputs"]), sample["logits"]) for name, run in runs.items()}


def _check_layers(said: Mapping[str, Any], family: Family, folder: Path) -> None:
    """Raise `ValueError` in one line where the family's networks have other parameters than the folder says."""
    own = family.layers(said["width"], tuple(said["input_shape"]), said["num_classes"])
    if {name: list(layer.shape) for name, layer in own.items()} != said["layers"]:
        raise ValueError(f"{folder} holds other parameters than family {family.name!r} of width {said['width']} has")


def read_architecture(folder: Path) -> dict[str, Any]:
    """What `architecture.json` of an exported folder says. Raises `ValueError` in one line for any other folder."""
    said = read_sealed(folder / SAID_BY)
    if said is None or said.get("format") != KIND:
        raise ValueError(f"{folder} is not an exported student")
    files = said.get("sha256")
    whole = isinstance(files, dict) and {"model.safetensors", "sample.safetensors"} <= set(files) <= set(FILES)
    if not whole or not isinstance(said.get("family"), str):
        raise ValueError(f"{folder / SAID_BY} does not say what is in the files")
    return said


def _write_models(student: Student, folder: Path) -> tuple[str, ...]:
    """Write the formats there are; gives a line for each that is not."""
    (folder / "model.safetensors").write_bytes(weights_bytes(student))
    try:
        made = formats.program(network(student), real_inputs(student.task, NUM_SAMPLE))
    except ValueError as error:
        return (f"model.pt2 and model.onnx are not written: {error}",)
    formats.write_program(made, folder / "model.pt2")
    if absent := formats.missing():
        return (absent,)
    try:
        formats.write_onnx(made, folder / "model.onnx")
    except ValueError as error:
        return (f"model.onnx is not written: {error}",)
    return ()


def _runs(folder: Path, family: Family, *, program: bool) -> dict[str, Run]:
    """The files that are there, and can be run here, ready to be."""
    makers: dict[str, Callable[[Path], Run]] = {
        "model.safetensors": lambda path: formats.run_weights(path, family),
        **({"model.pt2": formats.run_program} if program else {}),
        **({} if formats.missing() else {"model.onnx": formats.run_onnx}),
    }
    return {name: make(folder / name) for name, make in makers.items() if (folder / name).exists()}


def _write_sample(student: Student, folder: Path) -> None:
    inputs = real_inputs(student.task, NUM_SAMPLE)
    sample: dict[str, Tensor] = {"inputs": inputs, "logits": answers(network(student), inputs)}
    plain = {name: values.contiguous() for name, values in sample.items()}
    (folder / "sample.safetensors").write_bytes(to_bytes(plain))


def _read_sample(path: Path) -> dict[str, Tensor]:
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot read {path} ({error})") from None
    if set(found) != {"inputs", "logits"}:
        raise ValueError(f"{path} does not hold inputs and logits")
    return found


def _architecture(student: Student, folder: Path, differences: Mapping[str, Difference]) -> dict[str, Any]:
    task = student.task
    layers = student.family.layers(student.width, task.input_shape, task.num_classes)
    return {
        "format": KIND,
        "harness": __version__,
        "task": task.name,
        "family": student.family.name,
        "width": student.width,
        "input_shape": list(task.input_shape),
        "input_dtype": str(real_inputs(task, 1).dtype).removeprefix("torch."),
        "num_classes": task.num_classes,
        "classes": list(task.train.classes),
        "tokens": list(task.words or task.vocabulary),
        "layers": {name: list(layer.shape) for name, layer in layers.items()},
        "scale": asdict(task.scale) if task.scale else None,
        "inputs": "those of the task, which are (raw - scale.mean) / scale.sd where a scale is given; model.onnx and "
        "model.pt2 take them as they are, the family's apply takes what its prepare makes of them; "
        "a text is the places of its tokens in tokens, filled up with 0",
        "sha256": {name: _sha256(folder / name) for name in FILES if (folder / name).exists() and name != SAID_BY},
        "differences": {name: asdict(found) for name, found in differences.items()},
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
