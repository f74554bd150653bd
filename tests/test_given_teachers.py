"""A teacher that a user brings: from its checkpoint, or only what it said; and no file of theirs is run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness import teacher
from harness.tasks import GivenTeacher, Task, logits_teacher, module_teacher
from tests.owned import clouds, known, noise, spec_of, task_of, trained

PAIRS = {"train": clouds(96), "val": clouds(40, 1), "test": clouds(40, 2)}
SIZES = {name: len(labels) for name, (_, labels) in PAIRS.items()}


def made() -> nn.Module:
    """As a user's teacher is: batch norm and dropout, so that it must be asked in eval mode."""
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


class Tied(nn.Module):
    """Two names of one matrix, of which a `.safetensors` file holds one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Any:
        return self.head(self.second(self.first(inputs).relu()))


def learned(make: Callable[[], nn.Module] = made, seed: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make()
        module(noise(50, 5))
        return module.eval()


def pure(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3))


def task_with(given: GivenTeacher) -> Task:
    return task_of(pure, given)


class Gadget:
    """What a pickle runs when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("wrapped", ["", "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_module_with_its_checkpoint_teaches(
    suffix: str, wrapped: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, path = learned(), tmp_path / f"big{suffix}"
    if suffix == ".pt":
        torch.save({wrapped: module.state_dict(), "epoch": 3} if wrapped else module.state_dict(), path)
    else:
        save_file(module.state_dict(), path)
    state = torch.get_rng_state()
    task = known(task_with(module_teacher(made, path)), monkeypatch)
    facts = teacher.ensure(task, tmp_path / "cache")
    with torch.no_grad():
        wanted = module(PAIRS["train"][0])
    assert torch.allclose(teacher.load_logits(task, tmp_path / "cache").train, wanted, atol=1e-6)  # other batches
    assert facts["name"] == "big" and facts["num_params"] == 5 * 8 + 8 + 16 + 8 * 3 + 3
    assert torch.equal(torch.get_rng_state(), state)
    (record,) = trained([spec_of(task)], tmp_path / "cache")
    assert record.metrics["val_agreement"] > 0


def test_a_tied_matrix_may_be_in_a_checkpoint_once(tmp_path: Path) -> None:
    module = learned(Tied)
    weights = module.state_dict()
    del weights["second.weight"]
    save_file(weights, tmp_path / "tied.safetensors")
    said = module_teacher(Tied, tmp_path / "tied.safetensors").answer("val", PAIRS["val"][0])
    assert torch.allclose(said, module(PAIRS["val"][0]).detach(), atol=1e-6)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # which, as an error, would refuse the file too soon
@pytest.mark.parametrize("name", ["gadget.pt", "gadget.safetensors", "gadget.npy"])
@pytest.mark.parametrize("kind", ["pickle", "torch", "numpy"])
def test_a_file_that_would_run_something_is_refused_and_runs_nothing(kind: str, name: str, tmp_path: Path) -> None:
    trap, path = tmp_path / "ran", tmp_path / name
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Gadget(trap)))
    elif kind == "torch":
        torch.save({"0.weight": Gadget(trap)}, path)
    else:
        with path.open("wb") as file:
            np.save(file, np.array([Gadget(trap)], dtype=object), allow_pickle=True)
    gives: list[Callable[[], GivenTeacher]] = [
        lambda: module_teacher(made, path),
        lambda: logits_teacher(train=path, val=path, test=path),
    ]
    for give in gives:
        with pytest.raises(ValueError, match=r"cannot read|row of logits") as caught:
            give().answer("train", PAIRS["train"][0])
        assert not set("\n\x1b") & set(str(caught.value)) and "weights_only" not in str(caught.value)
    assert not trap.exists()
    if kind == "pickle":  # the trap is one
        pickle.loads(path.read_bytes())
        assert trap.exists()


def test_files_that_are_no_checkpoint_of_this_teacher_are_one_line(tmp_path: Path) -> None:
    weights = learned().state_dict()
    files = {
        name: tmp_path / name for name in ("cut.pt", "cut.safetensors", "other.pt", "list.pt", "names.pt", "no.pt")
    }
    torch.save(weights, files["cut.pt"])
    save_file(weights, files["cut.safetensors"])
    for name in ("cut.pt", "cut.safetensors"):
        files[name].write_bytes(files[name].read_bytes()[:-100])
    torch.save(nn.Linear(5, 3).state_dict(), files["other.pt"])
    torch.save([1, 2], files["list.pt"])
    torch.save({1: torch.zeros(2)}, files["names.pt"])
    wider = tmp_path / "wider.pt"
    torch.save({**weights, "0.weight": torch.zeros(9, 5)}, wider)
    for path in (*files.values(), wider, tmp_path):
        with pytest.raises(ValueError, match=rf"{path.name}.* (is not of this teacher|\()|holds no state") as caught:
            module_teacher(made, path).answer("val", PAIRS["val"][0])
        assert "\n" not in str(caught.value), path
    with pytest.raises(ValueError, match=r"^cannot read the teacher's file .*no\.pt \(No such file"):
        module_teacher(made, files["no.pt"]).key()


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"net": {"w": torch.zeros(1)}, "epoch": 3}, "no state dict, but keys net, epoch; save model"),
        ({"model": {}, "state_dict": {}}, "no state dict, but keys model, state_dict; save model"),
        ([1, 2], "no state dict, but a list; save model"),
        (nn.Linear(5, 3), r"\(it holds more than tensors, or is damaged\); save model"),
    ],
    ids=["net", "two", "list", "module"],
)
def test_a_file_without_a_state_dict_is_told_in_our_own_words(saved: Any, message: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=rf"checkpoint .*x\.pt .*{message}\.state_dict\(\)$") as caught:
        module_teacher(made, tmp_path / "x.pt").answer("val", PAIRS["val"][0])
    assert not set("\n\x1b") & set(str(caught.value))


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_a_file_of_logits_that_is_missing_cut_or_of_other_classes_is_known_at_once(
    suffix: str, split: str, tmp_path: Path
) -> None:
    """The test file's too, which is asked for only when the whole search is over."""
    files = written(tmp_path, suffix, np.arange(96), with_ids=False)
    files[split].write_bytes(files[split].read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"^cannot read the teacher's logits in .*{split}{suffix} \("):
        logits_teacher(**files)
    files[split].unlink()
    with pytest.raises(ValueError, match=rf"^cannot read the teacher's file .*{split}{suffix} \(No such file"):
        logits_teacher(**files)
    wide = written(tmp_path, suffix, np.arange(96), with_ids=False)[split]
    np.save(wide, np.zeros((96, 4))) if suffix == ".npy" else save_file({"logits": torch.zeros(96, 4)}, wide)
    with pytest.raises(ValueError, match=r" has logits of \d classes, and .*train.* of \d$"):
        logits_teacher(**files)


class Doubling(nn.Module):
    """Works in place on what it is given."""

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.head = nn.LeakyReLU(slope)

    def forward(self, inputs: Tensor) -> Any:
        return self.head(inputs.mul_(2.0))[:, :3]


def test_a_module_that_works_in_place_leaves_the_tasks_data_alone(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "x.pt")
    inputs, said = noise(9, 5), module_teacher(Doubling, tmp_path / "x.pt")
    assert torch.equal(said.answer("val", inputs), 2 * noise(9, 5)[:, :3]) and torch.equal(inputs, noise(9, 5))


def test_another_module_or_name_with_the_same_file_is_another_teacher(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({}, path)
    keys = [
        given.key()
        for given in (
            module_teacher(Doubling, path),
            module_teacher(Doubling, path),
            module_teacher(lambda: Doubling(0.5), path),
            module_teacher(nn.Identity, path),
            module_teacher(Doubling, path, name="second"),
        )
    ]
    assert keys[0] == keys[1] and len(set(keys)) == 4


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_damaged_checkpoint_is_one_line_wherever_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(learned().state_dict(), path, _use_new_zipfile_serialization=False)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[int(rng.integers(0, 900))] = int(rng.integers(0, 256))
        path.write_bytes(damaged)
        try:
            module_teacher(made, path).answer("val", PAIRS["val"][0])
        except ValueError as error:
            assert "\n" not in str(error)  # where there is none, a weight's digit was flipped


def written(folder: Path, suffix: str, order: np.ndarray, *, with_ids: bool = True) -> dict[str, Any]:
    """What a teacher said of each split, its rows in this order over ids 100, 101, ..."""
    found: dict[str, Any] = {}
    for place, (name, count) in enumerate(SIZES.items()):
        logits, own = noise(count, 3, seed=place).numpy(), order[order < count]
        found[name] = folder / f"{name}{suffix}"
        if suffix == ".npy":
            np.save(found[name], logits[own])
            if with_ids:
                np.save(folder / f"{name}.ids.npy", 100 + own)
        else:
            ids = {"ids": torch.from_numpy(100 + own)} if with_ids else {}
            save_file({"logits": torch.from_numpy(logits[own]), **ids}, found[name])
    return found


IDS = {name: np.arange(100, 100 + count) for name, count in SIZES.items()}


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_rows_are_matched_by_id_in_any_order(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = np.random.default_rng(1).permutation(96)
    given = logits_teacher(**written(tmp_path, suffix, order), ids=IDS)
    for place, (name, (inputs, _)) in enumerate(PAIRS.items()):
        assert torch.equal(given.answer(name, inputs), noise(SIZES[name], 3, seed=place))
    task = known(task_with(given), monkeypatch)
    (record,) = trained([spec_of(task)], tmp_path / "cache")
    assert 0 < record.metrics["val_agreement"] < 1


def test_without_ids_there_is_one_row_an_example(tmp_path: Path) -> None:
    given = logits_teacher(**written(tmp_path, ".npy", np.arange(96), with_ids=False))
    assert torch.equal(given.answer("val", PAIRS["val"][0]), noise(40, 3, seed=1))
    with pytest.raises(ValueError, match=r"val\.npy has 40 rows and no ids, and val 30 examples$"):
        given.answer("val", PAIRS["val"][0][:30])
    with pytest.raises(ValueError, match=r"^give val too: teacher 'logits' knows examples by their places"):
        task_of(pure, given, val=None)


def changed(logits: Any, ids: Any) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        np.save(folder / "train.npy", logits)
        np.save(folder / "train.ids.npy", ids)
        return {"train": folder / "train.npy"}

    return write


RIGHT = np.zeros((96, 3), np.float32)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (changed(RIGHT[:90], np.arange(90)), r"says nothing of 6 of 96 examples, first 90$"),
        (changed(RIGHT, np.arange(96) % 95), r"says several things of one example$"),
        (changed(RIGHT, np.arange(95)), "has 96 rows of logits, and ids that are not one whole number a row"),
        (changed(RIGHT, np.arange(96.0)), "ids that are not one whole number a row"),
        (changed(RIGHT[:, :2], np.arange(96)), r"val\.npy has logits of 3 classes, and .*train\.npy of 2$"),
        (changed(np.zeros((96, 2, 3)), np.arange(96)), r"gives \[96, 2, 3\] for train, not \[96, 3\]$"),
        (changed(RIGHT + np.nan, np.arange(96)), "gives logits for train that are no finite numbers"),
        (changed(np.zeros(()), np.arange(96)), "does not hold one row of logits an example"),
        (changed(np.full((96, 3), "a"), np.arange(96)), "does not hold one row of logits an example"),
        (lambda _: {"ids": {"train": [0.5] * 96}}, "the ids of train are not one whole number an example"),
        (lambda _: {"ids": {"val": range(40)}}, "the ids of train are not one whole number an example"),
        (lambda _: {"ids": {"train": range(95), "val": range(40)}}, "train has 96 examples and 95 ids"),
        (lambda folder: {"train": folder / "no.npy"}, r"cannot read the teacher's file .*no\.npy \(No such file"),
    ],
    ids=["missing", "doubled", "fewer_ids", "real_ids", "classes", "positions", "nan", "number", "words", "own_real",
         "no_own", "own_fewer", "no_file"],
)  # fmt: skip
def test_logits_that_do_not_fit_are_one_line(write: Any, message: str, tmp_path: Path) -> None:
    files: dict[str, Any] = written(tmp_path, ".npy", np.arange(96), with_ids=False)
    with pytest.raises(ValueError, match=message) as caught:
        teacher.ensure(task_with(logits_teacher(**{**files, **write(tmp_path)})), tmp_path / "cache")
    assert "\n" not in str(caught.value)
