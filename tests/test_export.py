"""Handing a student out: every family in every format says what the student says, and nothing else is put in place."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from harness import export
from harness.export import Student, formats, network
from harness.export.card import BUILT_IN
from harness.export.write import FILES, FORMATS
from harness.files import read_json
from harness.models import CNN, CNN1D, CONV, CONV1D, MLP, RESIDUAL, Family
from harness.models.family import Layer
from tests.handed import made_task, noise, trained

CASES: tuple[tuple[Family, tuple[int, ...]], ...] = (
    (MLP, (2, 5, 3)),
    (CNN, (3, 9, 10)),
    (CONV, (1, 9, 10)),
    (CNN1D, (2, 17)),
    (CONV1D, (2, 17)),
    *((family, (2, 9, 10)) for family in RESIDUAL.values()),
)
reads_archives = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


def small(width: int = 3, seed: int = 0) -> Student:
    return trained(made_task(MLP, (4,)), MLP, width, seed)


@pytest.fixture
def without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the packages are not installed; it is quicker too."""
    monkeypatch.setattr(formats, "PACKAGES", ("no_such_package",))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of images in all formats."""
    folder = tmp_path_factory.mktemp("export") / "student"
    export.write(trained(made_task(CNN, (1, 8, 8)), CNN), folder)
    return folder


def test_every_built_in_family_is_among_the_cases() -> None:
    assert [family for family, _ in CASES] == list(BUILT_IN)


@reads_archives
@pytest.mark.parametrize(("family", "shape"), CASES, ids=[family.name for family, _ in CASES])
def test_every_format_says_what_the_student_says_at_any_batch_size(
    family: Family, shape: tuple[int, ...], tmp_path: Path
) -> None:
    student = trained(made_task(family, shape), family)
    found = export.write(student, tmp_path / "out")
    assert found.notes == () and list(found.differences) == list(FORMATS)
    assert all(difference.relative <= 2e-6 and difference.ties == 0 for difference in found.differences.values())
    runs = {
        "program": formats.run_program(tmp_path / "out" / "model.pt2"),
        "onnx": formats.run_onnx(tmp_path / "out" / "model.onnx"),
    }
    for batch in (1, 2, 7, 100):
        inputs = noise(batch, *shape, seed=batch)
        wanted = network(student)(inputs)
        for name, run in runs.items():
            logits = run(inputs)
            assert logits.shape == (batch, 3), name
            assert (logits - wanted).abs().max().item() < 1e-5, name
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


LOOKUP = Family(  # words are looked up in a table; each gets logits of its own
    "lookup",
    lambda width, _, classes: {"table": Layer((50, width), 1), "logits.weight": Layer((classes, width), width)},
    lambda inputs: inputs,
    lambda params, inputs: params["table"][inputs] @ params["logits.weight"].mT,
    lambda width, shape, classes: shape[0] * width * classes,
)


def test_a_family_of_ones_own_of_whole_numbers_and_many_labels_is_exported_too(tmp_path: Path) -> None:
    words = torch.randint(0, 50, (60, 6), generator=torch.Generator().manual_seed(0))
    task = made_task(LOOKUP, (6,), words)
    student = Student(task, LOOKUP, 4, {"table": noise(50, 4), "logits.weight": noise(3, 4)})
    found = export.write(student, tmp_path / "out")
    assert found.notes == () and list(found.differences) == list(FORMATS)
    assert load_file(tmp_path / "out" / "sample.safetensors")["logits"].shape == (8, 6, 3)
    assert read_json(tmp_path / "out" / "architecture.json")["input_dtype"] == "int64"
    assert "`lookup` is the study's own" in (tmp_path / "out" / "README.md").read_text()


def test_the_folder_says_what_is_in_it(done: Path) -> None:
    assert {path.name for path in done.iterdir()} == set(FILES)
    said = read_json(done / "architecture.json")
    weights = load_file(done / "model.safetensors")
    assert said["layers"] == {name: list(values.shape) for name, values in weights.items()}
    assert (said["family"], said["width"], said["input_shape"], said["num_classes"]) == ("cnn", 3, [1, 8, 8], 3)
    assert said["scale"] == {"mean": 0.5, "sd": 2.0}
    assert done.stat().st_mode & 0o777 == 0o755  # as a folder made here: the umask is 022


def test_the_weights_are_those_of_the_student_to_the_bit(done: Path) -> None:
    wanted = trained(made_task(CNN, (1, 8, 8)), CNN).params
    weights = load_file(done / "model.safetensors")
    assert all(torch.equal(weights[name], values) for name, values in wanted.items())
    assert export.weights_size(trained(made_task(CNN, (1, 8, 8)), CNN)) == (done / "model.safetensors").stat().st_size


def test_the_onnx_file_has_named_ends_and_a_free_batch_size(done: Path) -> None:
    graph = onnx.load(str(done / "model.onnx")).graph
    ends = [(end.name, end.type.tensor_type.shape.dim[0].dim_param) for end in (*graph.input, *graph.output)]
    assert ends == [("inputs", "batch"), ("logits", "batch")]


def test_no_file_holds_a_pickle_or_a_path_of_this_machine(done: Path) -> None:
    for name in FILES:
        assert str(Path(export.__file__).parent).encode() not in (done / name).read_bytes(), name
    with zipfile.ZipFile(done / "model.pt2") as archive:
        for part in archive.infolist():
            inside = archive.read(part)
            assert b".py" not in inside and b'"use_pickle": true' not in inside, part.filename
            assert not part.filename.endswith(".pt") or part.file_size == 0, part.filename
            assert not inside.startswith((b"PK", b"\x80")), part.filename


@reads_archives
def test_the_snippets_of_the_card_run_as_they_stand(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (done / "README.md").read_text(), flags=re.DOTALL)
    assert len(snippets) == len(FORMATS)
    monkeypatch.chdir(done)
    for snippet in snippets:
        exec(snippet, {})


@reads_archives
def test_a_folder_is_verified_by_its_sample(done: Path) -> None:
    assert list(export.verify(done, CNN)) == ["model.safetensors", "model.onnx"]
    assert list(export.verify(done, CNN, program=True)) == list(FORMATS)
    with pytest.raises(ValueError, match="a student of family 'cnn', not 'mlp'"):
        export.verify(done, MLP)


@pytest.mark.usefixtures("without_onnx")
def test_a_folder_that_was_changed_is_found_out(tmp_path: Path) -> None:
    export.write(small(), tmp_path)
    card = tmp_path / "README.md"
    card.write_text(card.read_text().replace("0.9412", "0.9912"))
    with pytest.raises(ValueError, match=r"README\.md is not as it was written"):
        export.verify(tmp_path, MLP)
    card.unlink()
    with pytest.raises(ValueError, match=r"has no README\.md any more"):
        export.verify(tmp_path, MLP)
    with pytest.raises(ValueError, match="is not an exported student"):
        export.verify(tmp_path / "elsewhere", MLP)


@pytest.mark.usefixtures("without_onnx")
def test_without_the_packages_for_onnx_the_rest_is_there_and_one_line_says_so(tmp_path: Path) -> None:
    found = export.write(small(), tmp_path / "out")
    assert list(found.differences) == ["model.safetensors", "model.pt2"]
    [line] = found.notes
    assert line.endswith("no_such_package not installed; pip install -e '.[export]'")
    assert line in (tmp_path / "out" / "README.md").read_text()


def test_a_family_that_cannot_be_traced_is_exported_as_weights(tmp_path: Path) -> None:
    def fixed(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return MLP.apply(params, inputs.view(len(inputs), -1))  # len() is a number, not a symbol

    found = export.write(replace(small(), family=replace(MLP, apply=fixed)), tmp_path / "out")
    assert list(found.differences) == ["model.safetensors"]
    [line] = found.notes
    assert "cannot be traced with a free batch size" in line and "\n" not in line


@pytest.mark.usefixtures("without_onnx")
@pytest.mark.parametrize("which", ["run_weights", "run_program"])
def test_a_file_that_says_anything_else_is_an_error_and_nothing_is_left(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = network(small())
    monkeypatch.setattr(formats, which, lambda *_: lambda inputs: other(inputs) + 1e-3)
    with pytest.raises(ValueError, match=r"is not the student: logits differ by up to 0\.001"):
        export.write(small(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits.bias": None}, "has parameters hidden_1.weight, .*, not "),
        ({"logits.bias": noise(4, 1)}, r"has logits.bias \[3, 1\] float32, not \[4, 1\] float32"),
        ({"logits.bias": noise(3, 1).double()}, r"has logits.bias \[3, 1\] float32, not \[3, 1\] float64"),
        ({"logits.bias": torch.full((3, 1), float("nan"))}, "has a number in logits.bias that is not finite"),
    ],
)
def test_a_student_with_other_parameters_than_its_familys_is_refused(
    change: Mapping[str, Tensor | None], message: str
) -> None:
    changed = {**small().params, **change}
    with pytest.raises(ValueError, match=f"a student of family mlp and width 3 {message}"):
        replace(small(), params={name: values for name, values in changed.items() if values is not None})
