"""Data that is read as it is needed gives what the same data in memory gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from harness import cohort, teacher
from harness.models import MLP
from harness.tasks import Stream, own_task
from tests.owned import RECIPE, clouds, known, spec_of, task_of, trained
from tests.students import but_for_cost

Make = Callable[[int], nn.Module]


class Kept(Dataset[Any]):
    """Examples in memory that are given one by one, as arrays or tensors, and their labels with them."""

    def __init__(self, pairs: tuple[Tensor, Tensor], *, arrays: bool = False) -> None:
        self.inputs, self.labels, self.arrays, self.read = *pairs, arrays, 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> Any:
        self.read += 1
        example, label = self.inputs[place], int(self.labels[place])
        return (example.double().numpy(), np.int32(label)) if self.arrays else (example, label)


class Known(Kept):
    """The same with its labels in `targets`."""

    @property
    def targets(self) -> list[int]:
        return self.labels.tolist()


def normed(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))


def pure(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3))


def streamed(make: Any, kind: type[Kept], workers: int = 0, **changed: Any) -> Any:
    sources = {name: kind(pairs) for name, pairs in PAIRS.items()}
    return task_of(make, **{**sources, "workers": workers, **changed})


PAIRS = {"train": clouds(96), "val": clouds(40, 1), "test": clouds(40, 2)}


@pytest.mark.parametrize("micro_batch", [0, 4])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", [normed, pure, {"own": MLP}], ids=["alone", "fused", "mlp"])
def test_a_dataset_gives_the_records_of_the_same_tensors(
    make: Any, workers: int, micro_batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher too, and to the bit: the same numbers come to the same steps."""
    kept, read = known(task_of(make), monkeypatch), known(streamed(make, Known, workers), monkeypatch)
    assert teacher.ensure(kept, tmp_path)["val_loss"] == teacher.ensure(read, tmp_path)["val_loss"]
    dropout = 0.2 if isinstance(make, dict) else 0.0
    seeds = (1, 2) if workers == 0 else (1,)
    wanted, found = (
        trained(
            [spec_of(task, dtype="float32", seed=seed, micro_batch=micro_batch, dropout=dropout) for seed in seeds],
            tmp_path,
        )
        for task in (kept, read)
    )
    for one, other in zip(wanted, found, strict=True):
        assert but_for_cost(one).metrics == other.metrics and one.curve == other.curve


def test_labels_are_read_where_a_dataset_does_not_say_them() -> None:
    told, read = Known(PAIRS["train"]), Kept(PAIRS["train"], arrays=True)
    tasks = [own_task("one", train=source, val=PAIRS["val"], test=PAIRS["test"], students=pure, teacher=RECIPE)
             for source in (told, read)]  # fmt: skip
    assert torch.equal(tasks[0].train.labels, tasks[1].train.labels) and told.read <= 65 < read.read
    assert tasks[0].train.hash == tasks[1].train.hash  # float64 arrays become float32


class Turned(Known):
    """What a `target_transform` does: the examples give other labels than `targets`."""

    def __getitem__(self, place: int) -> Any:
        example, label = super().__getitem__(place)
        return example, 2 - label


def test_targets_that_are_not_what_the_examples_give_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"^train\[0\] gives the label 2 and its targets 0; let them agree, or hide"):
        streamed(pure, Known, train=Turned(PAIRS["train"]))
    with pytest.raises(ValueError, match=r"^test has 40 examples and targets of \[39\]$"):
        streamed(pure, Known, test=Short(PAIRS["test"]))


class Short(Known):
    """A label is missing."""

    @property
    def targets(self) -> list[int]:
        return super().targets[1:]


class Foldered(Known):
    """As torchvision's `ImageFolder`, which numbers the classes of each folder anew."""

    def __init__(self, pairs: tuple[Tensor, Tensor], classes: list[str]) -> None:
        super().__init__(pairs)
        self.classes = classes


def test_classes_of_a_dataset_are_matched_by_their_names() -> None:
    inputs, labels = PAIRS["test"]
    tested = Foldered((inputs[labels < 2], labels[labels < 2]), ["dog", "eel"])
    whole = Foldered(PAIRS["train"], ["cat", "dog", "eel"])
    for train in (whole, Subset(whole, range(90))):
        task = streamed(pure, Known, train=train, test=tested)
        assert torch.equal(task.test.read("confirm").labels, labels[labels < 2] + 1)


def test_val_is_held_out_of_a_dataset_by_class() -> None:
    task = own_task("held", train=Kept(clouds(90)), test=PAIRS["test"], students=pure, teacher=RECIPE)
    assert isinstance(task.train.inputs, Stream) and isinstance(task.val.inputs, Stream)
    assert torch.bincount(task.train.labels).tolist() == [24] * 3
    assert torch.bincount(task.val.labels).tolist() == [6] * 3
    both = torch.cat([task.train.inputs[:], task.val.inputs[:]])
    assert torch.equal(both.sort(0).values, clouds(90)[0].sort(0).values)


def test_the_hash_of_a_streamed_split_changes_with_its_inputs_and_with_its_labels() -> None:
    inputs, labels = clouds(90)
    other, moved = inputs.clone(), labels.clone()
    other[17, 2] += 1e-3
    moved[17] = (moved[17] + 1) % 3
    hashes = [
        streamed(pure, Known, train=Known(pairs)).train.hash
        for pairs in ((inputs, labels), (inputs.clone(), labels), (other, labels), (inputs, moved))
    ]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


def test_a_transform_of_streamed_inputs_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(streamed(pure, Known), transforms={"noise": lambda inputs, _: inputs})
    spec = spec_of(known(task, monkeypatch), transform="noise", views=2)
    with pytest.raises(
        ValueError, match=rf"^transform 'noise': the inputs of {task.name} are streamed; change them in"
    ):
        cohort.check(spec)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_example_that_is_no_number_is_named_wherever_it_is_read(workers: int, bad: float, tmp_path: Path) -> None:
    """Beyond the examples that a split's hash is made of too, and by its place in the user's own dataset."""
    inputs, labels = clouds(600)
    inputs[401, 3] = inputs[402, 0] = bad  # a trained teacher reads them in an order of its own
    message = r"^example 40[12] of the Known has numbers that are not finite$"
    read = Stream(Known((inputs, labels)), workers=workers)
    for call in (lambda: read[400:], lambda: list(read.batches([[3], [7, 401, 402]]))):
        with pytest.raises(ValueError, match=message):
            call()
    task = streamed(pure, Known, workers, train=Known((inputs, labels)))
    held = own_task("held", train=Known((inputs, labels)), test=PAIRS["test"], students=pure, teacher=RECIPE)
    for one in (task, held):
        with pytest.raises(ValueError, match=message):
            teacher.ensure(one, tmp_path)


def test_reading_ahead_leaves_the_global_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    read = list(Stream(Kept(PAIRS["train"]), workers=1).batches([[0, 1], [2]]))
    assert [len(part) for part in read] == [2, 1] and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (clouds(9)[0], "train is Tensor; give inputs and labels, a Split or a map-style Dataset"),
        (np.zeros((9, 5)), "train is ndarray; give"),
        ([{"image": 1}], "example 0 of train is dict, not a pair of an input and a label"),
        ([torch.zeros(5)], "example 0 of train is Tensor, not a pair of an input and a label"),
        ([(torch.zeros(5), "cat")], "train labels are an array of <U3, not of numbers"),
        ([(torch.zeros(5), 0.5)], "train labels are real numbers, not classes from 0"),
    ],
    ids=["tensor", "array", "mapping", "no_pair", "word", "real"],
)
def test_what_is_no_dataset_of_pairs_is_refused_in_one_line(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        own_task("no", train=source, test=PAIRS["test"], students=pure, teacher=RECIPE)
    assert "\n" not in str(caught.value)
