"""A user's own data: arrays, folders, parquet and CSV; whatever is wrong with it is one line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from harness.tasks import Task, csv_texts, image_folder, own_task, parquet
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
    task = made((inputs.astype(np.float32), labels), val=(kept := inputs.astype(np.float32), labels))
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
        ((arrays()[0], np.array(["a"] * 90)), "^train labels are an array of <U1, not of numbers$"),
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
    inputs, labels = image_folder(folder, (2, 3))
    assert inputs.shape == (4, 3, 2, 3) and labels.tolist() == [0, 0, 0, 1]
    assert inputs[:, :, 0, 0].tolist() == pytest.approx(np.array([[0, 0, 1], [0, 0.2, 0], [0, 0, 0], [1, 0, 0]]))
    assert image_folder(folder, (2, 3), grey=True)[0].shape == (4, 1, 2, 3)


def test_classes_that_a_source_lacks_do_not_move_the_others(folder: Path, tmp_path: Path) -> None:
    assert image_folder(folder, (2, 3), classes=("a", "aa", "b"))[1].tolist() == [0, 0, 0, 2]
    with pytest.raises(ValueError, match=r"images has the class 'a'; classes are b, c$"):
        image_folder(folder, (2, 3), classes=("b", "c"))
    pd.DataFrame({"x": [1.0, 2.0], "y": ["b", "a"]}).to_parquet(tmp_path / "x.parquet")
    assert parquet(tmp_path / "x.parquet", label="y", classes=("a", "aa", "b"))[1].tolist() == [2, 0]


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
    inputs, labels = parquet(path, label="kind")
    assert inputs.tolist() == [[1.5, 1], [2.5, 2], [3.5, 3]] and labels.tolist() == [1, 0, 1]
    inputs, labels = parquet(path, label="y", columns=["x"])
    assert inputs.tolist() == [[1.5], [2.5], [3.5]] and labels.tolist() == [1, 2, 3]


def test_parquet_of_images_as_hugging_face_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    images = [{"bytes": picture((255, 0, 0)), "path": "a.png"}, {"bytes": picture((0, 255, 0)), "path": "b.png"}]
    pd.DataFrame({"image": images, "label": [0, 1]}).to_parquet(path)
    inputs, labels = parquet(path, label="label", image="image", size=(2, 3))
    assert inputs.shape == (2, 3, 2, 3) and labels.tolist() == [0, 1]
    assert inputs[:, :, 0, 0].tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("frame", "arguments", "message"),
    [
        ({"x": [1.0], "y": [0]}, {"label": "z"}, "has no column 'z'; it has x, y$"),
        ({"x": [1.0], "y": [0]}, {"columns": ["u"]}, "has no column 'u'; it has x, y$"),
        ({"x": ["a"], "y": [0]}, {}, "^columns x of .* are an array of (object|str|<U1), not of numbers$"),
        ({"x": [1.0, 2.0], "y": [0, None]}, {}, "has no rows, or one without a 'y'$"),
        ({"x": [], "y": []}, {}, "has no rows, or one without a 'y'$"),
        ({"x": [5], "y": [0]}, {"image": "x", "size": (2, 2)}, "^row 0 of .* has no image in 'x', but int$"),
        ({"x": [{"path": "a.png"}], "y": [0]}, {"image": "x", "size": (2, 2)}, "has no image in 'x', but NoneType$"),
        ({"x": [b"no image"], "y": [0]}, {"image": "x", "size": (2, 2)}, "^row 0 of .* is no image that can be read"),
        ({"x": [picture((0, 0, 0))], "y": [0]}, {"image": "x"}, "^give the size of the images"),
    ],
    ids=["label", "column", "words", "no_label", "empty", "number", "no_bytes", "no_image", "no_size"],
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


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"text,class\na,b\n", "has no column 'label'; it has text, class$"),
        (b"", "has no column 'text'; it has $"),
        (b"text,label\na,b\nc\n", "^row 3 of .* has fewer columns than its header$"),
        ("text,label\né,b\n".encode("latin-1"), r"^cannot read .*x\.csv \('utf-8' codec"),
        (b"text,label\n" + b"a" * 200_000 + b",b\n", r"^cannot read .*x\.csv \(field larger than field limit"),
    ],
    ids=["column", "empty", "short", "not_utf8", "long"],
)
def test_a_csv_that_does_not_fit_is_one_line(raw: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(raw)
    with pytest.raises(ValueError, match=message) as caught:
        csv_texts(tmp_path / "x.csv")
    assert "\n" not in str(caught.value)
