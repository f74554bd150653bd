"""A user's own data: arrays, folders, parquet and CSV; whatever is wrong with it is one line."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from harness.tasks import Split, Task, csv_texts, image_folder, own_task, parquet
from tests.owned import RECIPE, clouds


def pure(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3))


def made(train: Any, **changed: Any) -> Task:
    return own_task("mine", train=train, **{"test": clouds(40, 2), "students": pure, "teacher": RECIPE, **changed})


def arrays(examples: int = 90) -> tuple[np.ndarray, np.ndarray]:
    inputs, labels = clouds(examples)
    return inputs.double().numpy(), labels.int().numpy()


def rows(inputs: torch.Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in inputs}


@pytest.mark.parametrize("kind", ["float64", "big_endian", "read_only", "strided", "list", "tensor"])
def test_arrays_of_any_make_give_the_same_task(kind: str) -> None:
    inputs, labels = arrays()
    given: Any = {
        "float64": (inputs, labels),
        "big_endian": (inputs.astype(">f8"), labels.astype(">i2")),
        "read_only": (np.frombuffer(inputs.tobytes()).reshape(inputs.shape), labels.astype(np.uint8)),
        "strided": (np.repeat(inputs, 2, axis=0)[::2], labels.astype(np.float64)),
        "list": (inputs.tolist(), labels.tolist()),
        "tensor": (torch.from_numpy(inputs).requires_grad_(), torch.from_numpy(labels)),
    }[kind]
    task, wanted = made(given), made(clouds(90))
    assert (task.train.hash, task.val.hash, task.num_classes) == (wanted.train.hash, wanted.val.hash, 3)
    assert task.train.inputs.dtype == torch.float32 and task.train.labels.dtype == torch.int64


def test_what_the_user_does_to_an_array_afterwards_changes_no_task() -> None:
    inputs, labels = arrays()
    task = made((inputs.astype(np.float32), labels), val=(kept := inputs.astype(np.float32) + 1, labels))
    before = task.val.inputs.clone()
    kept += 1
    assert torch.equal(task.val.inputs, before)


def test_val_is_held_out_by_class_whatever_the_order() -> None:
    inputs, labels = arrays(90)
    order = np.random.default_rng(0).permutation(90)
    one, other = made((inputs, labels)), made((inputs[order], labels[order]))
    assert rows(one.val.inputs) == rows(other.val.inputs) and rows(one.train.inputs) == rows(other.train.inputs)
    assert torch.bincount(one.val.labels).tolist() == [6] * 3 and len(one.train) == 72
    assert not rows(one.val.inputs) & rows(one.train.inputs)


def test_examples_without_a_label_stay_in_train() -> None:
    inputs, labels = clouds(90)
    labels[::2] = -1
    task = made((inputs, labels))
    assert task.train.labelled is not None and len(task.train.labelled) == 36 and len(task.val) == 9
    assert int((task.train.labels == -1).sum()) == 45 and (task.val.labels >= 0).all()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ((arrays()[0], arrays()[1].astype(float) + 0.5), "^train labels are real numbers, not classes from 0$"),
        (
            (arrays()[0], np.array(["a"] * 90)),
            "^train labels are an array of <U1, not of numbers; number them alike in all splits, as np.unique",
        ),
        ((np.array([[None]]), [0]), "^train inputs are an array of object, not of numbers$"),
        ((arrays()[0] * np.inf, arrays()[1]), "^train inputs have numbers that are not finite$"),
        (
            (arrays(3)[0], arrays(3)[1]),
            "^train has 3 examples with a label, too few to hold some out as val; give val$",
        ),
        ((arrays()[0], arrays()[1], 3), "^train is a tuple of 3, not of inputs and labels$"),
        ((arrays()[0], arrays()[1][:80]), "^train has 90 inputs and 80 labels$"),
    ],
    ids=["real", "words", "objects", "infinite", "few", "three", "lengths"],
)
def test_arrays_that_do_not_fit_are_one_line(train: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(train)


def picture(colour: tuple[int, int, int], form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(file, form)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, of three images and of one, and files and folders that are none."""
    for name, colours in {"b": [(255, 0, 0)], "a": [(0, 0, 255), (0, 51, 0), (0, 0, 0)]}.items():
        (tmp_path / "images" / name / "deep").mkdir(parents=True)
        for number, colour in enumerate(colours):
            (tmp_path / "images" / name / "deep" / f"{number}.PNG").write_bytes(picture(colour))
    (tmp_path / "images" / "notes.txt").write_text("no image")
    (tmp_path / "images" / ".cache").mkdir()
    return tmp_path / "images"


def test_a_folder_of_images_is_read_by_class_in_the_order_of_names(folder: Path) -> None:
    found = image_folder(folder, (2, 3))
    inputs, labels = found.inputs, found.labels
    assert found.classes == ("a", "b")
    assert inputs.shape == (4, 3, 2, 3) and labels.tolist() == [0, 0, 0, 1]
    assert inputs[:, :, 0, 0].tolist() == pytest.approx(np.array([[0, 0, 1], [0, 0.2, 0], [0, 0, 0], [1, 0, 0]]))
    assert image_folder(folder, (2, 3), grey=True).inputs.shape == (4, 1, 2, 3)


def test_classes_that_a_source_lacks_do_not_move_the_others(folder: Path, tmp_path: Path) -> None:
    assert image_folder(folder, (2, 3), classes=("a", "aa", "b")).labels.tolist() == [0, 0, 0, 2]
    with pytest.raises(ValueError, match=r"images has the class 'a'; classes are b, c$"):
        image_folder(folder, (2, 3), classes=("b", "c"))
    pd.DataFrame({"x": [1.0, 2.0], "y": ["b", "a"]}).to_parquet(tmp_path / "x.parquet")
    assert parquet(tmp_path / "x.parquet", label="y", classes=("a", "aa", "b")).labels.tolist() == [2, 0]


def test_a_folder_that_is_none_of_images_is_one_line(folder: Path, tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", folder / "a" / "deep"):
        with pytest.raises(ValueError, match=r"holds no images in subfolders; it should be .*/<class>/<image>\.png$"):
            image_folder(place, (2, 3))
    (folder / "aa").mkdir()
    with pytest.raises(ValueError, match=r"aa holds no images; every subfolder of .* is a class$"):
        image_folder(folder, (2, 3))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of PIL, on damaged metadata
def test_a_damaged_image_is_one_line_wherever_it_is_damaged(form: str, folder: Path) -> None:
    whole, rng = picture((9, 8, 7), form), np.random.default_rng(0)
    file = folder / "b" / "damaged.png"
    file.write_bytes(whole[:20])
    with pytest.raises(ValueError, match=r"damaged\.png is no image that can be read \("):
        image_folder(folder, (2, 3))
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[int(rng.integers(0, len(whole)))] = int(rng.integers(0, 256))
        file.write_bytes(damaged)
        try:
            image_folder(folder, (2, 3))
        except ValueError as error:
            assert "damaged.png is no image that can be read" in str(error) and "\n" not in str(error)


def test_parquet_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    frame = pd.DataFrame({"x": [1.5, 2.5, 3.5], "kind": ["dog", "cat", "dog"], "y": [1, 2, 3]})
    frame.to_parquet(path)
    found = parquet(path, label="kind")
    assert found.inputs.tolist() == [[1.5, 1], [2.5, 2], [3.5, 3]] and found.labels.tolist() == [1, 0, 1]
    assert found.classes == ("cat", "dog")
    found = parquet(path, label="y", columns=["x"])
    assert found.inputs.tolist() == [[1.5], [2.5], [3.5]] and found.labels.tolist() == [1, 2, 3]
    assert found.classes == ()


def test_the_index_of_a_table_is_no_input(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of rows that were sorted by class and then shuffled it would tell the label."""
    path = tmp_path / "x.parquet"
    frame = pd.DataFrame({"x": [1.5, 2.5, 3.5, 4.5], "id": [7, 5, 9, 10], "y": [0, 0, 1, 1]})
    frame.sample(frac=1, random_state=0).to_parquet(path)
    assert parquet(path, label="y", columns=["__index_level_0__"]).inputs.flatten().tolist() == [2, 3, 1, 0]
    assert not caplog.messages  # the columns were named
    assert parquet(path, label="y").inputs.shape == (4, 2)
    assert caplog.messages == [
        f"{path}: the inputs are its columns x, id; __index_level_0__ is pandas' index, and left out"
    ]
    frame.set_index("id").to_parquet(path)
    assert parquet(path, label="y").inputs.tolist() == [[1.5], [2.5], [3.5], [4.5]]
    assert caplog.messages[1] == f"{path}: the inputs are its columns x; id is pandas' index, and left out"
    frame.to_parquet(path)
    assert parquet(path, label="y").inputs.shape == (4, 2)
    assert caplog.messages[2] == f"{path}: the inputs are its columns x, id"
    frame[["id", "y"]].set_index("id").to_parquet(path)
    with pytest.raises(ValueError, match=r"has no column but 'y' and the index id, and so no inputs$"):
        parquet(path, label="y")


def test_whole_real_labels_of_parquet_are_classes_and_other_ones_are_one_line(tmp_path: Path) -> None:
    """A column that once had an empty cell is one of real numbers; as texts, 10.0 would come before 2.0."""
    path = tmp_path / "x.parquet"
    pd.DataFrame({"x": np.zeros(12), "y": np.arange(12.0)}).to_parquet(path)
    assert parquet(path, label="y").labels.tolist() == list(range(12))
    pd.DataFrame({"x": np.zeros(2), "y": [0.0, 0.5]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"x\.parquet has the label 0\.5, a real number, not a class$"):
        parquet(path, label="y")


def named(path: Path, animals: str, rows: int, start: float = 0.0) -> Split:
    frame = {
        "x": start + np.arange(float(rows)),
        "y": [animals.split()[row % len(animals.split())] for row in range(rows)],
    }
    pd.DataFrame(frame).to_parquet(path)
    return parquet(path, label="y")


def test_classes_that_a_test_file_lacks_are_matched_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    train, test = named(path, "eel cat dog", 60), named(path, "eel dog", 10, 100.0)
    assert set(test.labels.tolist()) == {0, 1}
    task = made(train, test=test)
    assert task.test.read("confirm").labels.tolist() == [2, 1] * 5 and task.num_classes == 3
    assert set(task.val.labels.tolist()) == {0, 1, 2} and task.val.classes == ("cat", "dog", "eel")
    with pytest.raises(ValueError, match=r"^val has the class 'fox', and train none of it; train's are cat, dog, eel$"):
        made(train, test=test, val=named(path, "fox cat", 10, 200.0))
    wide = Split(test.inputs, test.labels, ("fox", "dog", "eel"))  # a class of which there are no examples
    with pytest.raises(ValueError, match=r"^test has the class 'fox'"):
        made(train, test=wide)
    assert made(train, test=Split(test.inputs, test.labels + 1, wide.classes)).num_classes == 3


def table(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of three columns of categories, which repeat often, and labels that they say something of."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(0, 6, (rows, 3))
    return inputs, (inputs[:, 0] + rng.integers(0, 2, rows)) % 4


def test_repeated_rows_are_all_kept_and_each_on_one_side(caplog: pytest.LogCaptureFixture) -> None:
    inputs, labels = table(4000, 0)
    task = made((inputs, labels), test=table(200, 1))
    assert len(task.train) + len(task.val) == 4000 and 0.1 < len(task.val) / 4000 < 0.3
    assert set(task.train.labels.tolist()) == set(task.val.labels.tolist()) == {0, 1, 2, 3}
    assert not rows(task.train.inputs) & rows(task.val.inputs)
    assert "task mine: 200 of 200 examples of test are in train or val" in caplog.text
    order = np.random.default_rng(2).permutation(4000)
    assert rows(made((inputs[order], labels[order]), test=table(200, 1)).val.inputs) == rows(task.val.inputs)


def test_a_val_split_out_of_train_is_one_line_and_a_few_of_it_are_told(caplog: pytest.LogCaptureFixture) -> None:
    inputs, labels = clouds(90)
    with pytest.raises(ValueError, match=r"^task mine: 90 of 90 examples of val are in train; choose by others$"):
        made((inputs, labels), val=(inputs, labels))
    other = clouds(40, 3)
    made((inputs, labels), val=(torch.cat([inputs[:7], other[0]]), torch.cat([labels[:7], other[1]])))
    assert caplog.messages == ["task mine: 7 of 47 examples of val are in train"]


@pytest.mark.parametrize("what", ["val", "test"])
def test_a_split_of_one_example_is_refused(what: str) -> None:
    with pytest.raises(ValueError, match=f"^{what} has one example, over which an accuracy says nothing$"):
        made(clouds(90), **{what: clouds(1, 5)})


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"width": 0}, "the teacher's width 0 is out of range"),
        ({"width": 3.5}, r"the teacher's width 3\.5 is out of range"),
        ({"epochs": 0}, "the teacher's epochs 0 is out of range"),
        ({"epochs": 2.5}, "the teacher's epochs 2.5 is out of range"),
        ({"batch_size": 0}, "the teacher's batch_size 0 is out of range"),
        ({"lr": math.nan}, "the teacher's lr nan is out of range"),
        ({"shift": -1}, "the teacher's shift -1 is out of range"),
        ({"family": "mlp"}, "the teacher's family is 'mlp'; give one such as"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_where_it_is_written(changed: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        replace(RECIPE, **changed)


def test_only_images_are_shifted() -> None:
    with pytest.raises(ValueError, match=r"^task mine: the teacher's shift is of images, and inputs are \[5\] each$"):
        made(clouds(90), teacher=replace(RECIPE, shift=2))


@pytest.mark.parametrize("characters", [-1.0, math.nan])
def test_characters_a_label_are_a_number(characters: float) -> None:
    with pytest.raises(ValueError, match=r"characters_a_label .* must be"):
        replace(made(clouds(90)), characters_a_label=characters)


def test_a_test_split_out_of_train_is_one_line_and_a_few_of_it_are_told(caplog: pytest.LogCaptureFixture) -> None:
    inputs, labels = clouds(90)
    with pytest.raises(ValueError, match=r"^task mine: 30 of 30 examples of test are in train or val; test on others$"):
        made((inputs, labels), test=(inputs[:30], labels[:30]))
    other = clouds(40, 2)
    made((inputs, labels), test=(torch.cat([inputs[:7], other[0]]), torch.cat([labels[:7], other[1]])))
    assert caplog.messages == ["task mine: 7 of 47 examples of test are in train or val"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": "3"}, "^num_classes is '3', not a whole number; 0 is one more than the highest label$"),
        ({"num_classes": -1}, "^num_classes is -1, not a whole number"),
        ({"teacher": None}, r"^teacher is NoneType; give a TeacherRecipe, module_teacher\(\.\.\.\) or logits_teacher"),
        ({"students": {}}, r"^students is \{\}; give a function student\(width\) -> nn\.Module, or families by name$"),
        ({"students": None}, "^students is NoneType; give a function"),
        ({"students": nn.Linear(5, 3)}, "^students is Linear; give a function"),
        ({"students": {"own": pure}}, "^students is dict; give a function"),
        ({"train": (np.array(1.0), [0])}, "^train inputs are a single number, not one an example$"),
        ({"test": (arrays(3)[0], 1)}, "^test labels are a single number, not one an example$"),
        ({"train": ([], [])}, "^train has no examples$"),
        ({"train": []}, "^train has no examples$"),
        (
            {"train": (torch.zeros(9, 5, dtype=torch.complex64), [0] * 9)},
            "^train inputs are a tensor of torch.complex64",
        ),
        ({"train": (np.zeros((9, 5), complex), [0] * 9)}, "^train inputs are an array of complex128, not of numbers$"),
        ({"train": (clouds(90)[0], [0] * 89 + [10**6])}, "^train has the label 1000000 among 90; number the classes"),
    ],
)
def test_arguments_of_another_kind_are_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        made(**{"train": clouds(90), **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("numbering", "message"),
    [
        ([1, 2, 3], "^train has labels 1 to 3 and none of class 0; number classes from 0, or give num_classes$"),
        (
            [0, 10, 20],
            "^train has labels 0 to 20 and none of class 1 nor of 17 more; number classes from 0, or give num",
        ),
    ],
)
def test_a_numbering_with_a_class_of_no_examples_is_one_line_unless_the_number_of_classes_is_given(
    numbering: list[int], message: str
) -> None:
    (inputs, labels), (tested, answers) = clouds(90), clouds(40, 2)
    new = torch.tensor(numbering)
    parts: dict[str, Any] = {"train": (inputs, new[labels]), "test": (tested, new[answers])}
    with pytest.raises(ValueError, match=message):
        made(**parts)
    assert made(**parts, num_classes=40).num_classes == 40
    unlabelled = new[labels].clone()
    unlabelled[::2] = -1
    with pytest.raises(ValueError, match=message):
        made(**{**parts, "train": (inputs, unlabelled)})


def test_a_class_of_no_examples_is_allowed_where_classes_have_names_or_each_position_has_a_label() -> None:
    inputs, labels = clouds(90)
    names = ("a", "b", "c", "d")
    assert made(Split(inputs, labels + (labels > 0), names), test=clouds(40, 2)).num_classes == 4
    tokens = torch.arange(90)[:, None] % 7 * torch.tensor([1, 2])
    assert made((inputs, tokens), test=(clouds(40, 2)[0], tokens[:40])).num_classes == 13


def test_a_column_of_labels_is_one_line() -> None:
    inputs, labels = clouds(90)
    with pytest.raises(ValueError, match=r"^train labels are \[90, 1\]; for one label an example give labels\[:, 0\]"):
        made((inputs, labels[:, None]), test=(clouds(40, 2)[0], clouds(40, 2)[1][:, None]))


def test_more_classes_than_examples_are_allowed_where_the_user_says_so() -> None:
    inputs, labels = clouds(90)
    assert made((inputs, labels + 200), test=clouds(40, 2), num_classes=500).num_classes == 500


@pytest.mark.parametrize("size", [4, (4,), (0, 4), (4.5, 4)])
def test_a_size_that_is_none_is_named_in_one_line(size: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^size of the images in .* is .*4.*, not \(height, width\) in pixels$"):
        image_folder(folder, size)


def test_parquet_of_images_as_hugging_face_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    images = [{"bytes": picture((255, 0, 0)), "path": "a.png"}, {"bytes": picture((0, 255, 0)), "path": "b.png"}]
    pd.DataFrame({"image": images, "label": [0, 1]}).to_parquet(path)
    found = parquet(path, label="label", image="image", size=(2, 3))
    assert found.inputs.shape == (2, 3, 2, 3) and found.labels.tolist() == [0, 1]
    assert found.inputs[:, :, 0, 0].tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("frame", "arguments", "message"),
    [
        ({"x": [1.0], "y": [0]}, {"label": "z"}, "has no column 'z'; it has x, y$"),
        ({"x": [1.0], "y": [0]}, {"columns": ["u"]}, "has no column 'u'; it has x, y$"),
        ({"x": ["a"], "y": [0]}, {}, "^columns x of .* are an array of (object|str|<U1), not of numbers$"),
        ({"x": [1.0, 2.0], "y": [0, None]}, {}, "has no rows, or one without a 'y'$"),
        ({"y": [0]}, {}, "has no column but 'y', and so no inputs$"),
        ({"x": [], "y": []}, {}, "has no rows, or one without a 'y'$"),
        ({"x": [5], "y": [0]}, {"image": "x", "size": (2, 2)}, "^row 0 of .* has no image in 'x', but int$"),
        ({"x": [{"path": "a.png"}], "y": [0]}, {"image": "x", "size": (2, 2)}, "has no image in 'x', but NoneType$"),
        ({"x": [b"no image"], "y": [0]}, {"image": "x", "size": (2, 2)}, "^row 0 of .* is no image that can be read"),
        (
            {"x": [picture((0, 0, 0))], "y": [0]},
            {"image": "x"},
            r"^size of the images in .* is \(0, 0\), not \(height, width\)",
        ),
    ],
    ids=["label", "column", "words", "no_label", "alone", "empty", "number", "no_bytes", "no_image", "no_size"],
)
def test_parquet_that_does_not_fit_is_one_line(frame: Any, arguments: Any, message: str, tmp_path: Path) -> None:
    pd.DataFrame(frame).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=message) as caught:
        parquet(tmp_path / "x.parquet", **{"label": "y", **arguments})
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_parquet_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but nothing else PAR1")
    for name in ("x.parquet", "no.parquet"):
        with pytest.raises(ValueError, match=rf"^cannot read .*{name} \(") as caught:
            parquet(tmp_path / name, label="y")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_of_texts_is_read_whoever_wrote_it(encoding: str, tmp_path: Path) -> None:
    """A spreadsheet puts a mark before the first name."""
    (tmp_path / "x.csv").write_text('text,label\n"one, two\nlines",1\nthrée,b\n', encoding=encoding)
    assert csv_texts(tmp_path / "x.csv") == [("1", "one, two\nlines"), ("b", "thrée")]


def test_a_long_text_is_read_and_the_csv_modules_limit_is_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,label\n" + "a" * 200_000 + ",b\n")
    before = csv.field_size_limit()
    assert csv_texts(tmp_path / "x.csv") == [("b", "a" * 200_000)] and csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"text,class\na,b\n", "has no column 'label'; it has text, class$"),
        (b"", "has no column 'text'; it has $"),
        (b"text,label\na,b\nc\n", "^row 3 of .* has fewer columns than its header$"),
        (b"text,label\na,b\nc,\n", "^row 3 of .* has no 'label'$"),
        ("text,label\né,b\n".encode("latin-1"), r"^cannot read .*x\.csv \('utf-8' codec"),
    ],
    ids=["column", "empty", "short", "no_label", "not_utf8"],
)
def test_a_csv_that_does_not_fit_is_one_line(raw: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(raw)
    with pytest.raises(ValueError, match=message) as caught:
        csv_texts(tmp_path / "x.csv")
    assert "\n" not in str(caught.value)
