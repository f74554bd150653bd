"""The contract of every task, the lock on the test split, and tasks that a study brings itself."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import tasks
from harness.models import MLP
from harness.tasks import TASKS, UNLABELLED, LockedSplit, Split, Task, TeacherRecipe, mnist1d
from harness.tasks.packaged import table
from harness.tasks.task import stratified
from harness.tasks.transforms import noisy, shifted, shifted_along

every_task = pytest.mark.parametrize("name", TASKS)

PINNED = {
    "mnist5k": (
        (3000, "e2178d6c053e6d2cd7f0ad93955fa642f9fb24c850199f8b28944bd99fafb1e0"),
        (1000, "9d88041e2e07a31a607b3feb1d3d8bb158ec655f8b001c86184a3ffbfaff47f1"),
        (1000, "97d44c3a0f8fb82563dd6218c46be0da3a5aa159d8faf4448a49eb57096da421"),
    ),
    "mnist1d": (
        (3001, "ec768ae49e4f3ccee0a442a9b38440a5f590eec61770ad9a97fc2390b9d1ebea"),
        (999, "97632008a54f85375a51dff9bef981d34c7273ab46f3599cce9b2049c423ae80"),
        (1000, "96dca2a34f10604549549dab7adaa0c79c9a20121b14542e3820ccf89e3aeb6c"),
    ),
    "digits": (
        (1078, "c63b882f535179ec13bef9a41c6e4c3816fb0e05546cc6aea537071b27252bc6"),
        (359, "476bf42c93068e55c6cc8c43a1e3e69d74aa9fe0bb6ae1ebe305949810aa8ce0"),
        (360, "545925b04684faf2b7bb8ace8da41bbfdfb4c9bb546c5b74804afd4f33b87b9b"),
    ),
    "fashion_mnist": (
        (50_000, "b2ba11899c5644094160a392bf65aff1659ea41c92d26caace04275d29ee6aa3"),
        (10_000, "1d6de3103dca7cdd8d261d205a20ad53d67de120d1a0d3b87e9a3512abb68832"),
        (10_000, "c9a689f99f138dbd0933fba83c31c9e0dec22a528c3bacf8d0822c6f9d153e0a"),
    ),
    "fashion_mnist10k": (
        (8_000, "63e26b0a3111a6e07091d78a0408e93df3529ac08e08fd0c80b3f9fdba7b50e0"),
        (2_000, "8d8f5ce27e7e763062c6dc0a80c4c20b7322410326866be8066d61434300b684"),
        (10_000, "c70952c0c244e45a9ccc672bfa6c9523730246162612c9d6c5187488df7cd3c4"),
    ),
    "newsgroups": (
        (9002, "c4c9df1b3bb1f315fc3ba556942f5be2d67e06995f7b7c9e9ca3e70f85eb7d1e"),
        (2251, "6448238d46f522ce7bb393146cfaafcc51975b344de53b5273bc4a01604f6f05"),
        (7515, "b342f4239a169a933df44d659688408c59659b193526c05076bb0a9bac652451"),
    ),
    "reuters8": (
        (4327, "d9d14de8bf9d287434e25777d0086296d312595e6b51d01c635950830d79edf1"),
        (1077, "5ece02241ab7c3c5a13e9039fe005e76f74de180f595e73bb0a690a0ef544ec2"),
        (2170, "722c4d9a7124fe16e22e079b388c143fcc706c36ed68cf8415d3def2b9f151f9"),
    ),
    "snippets": (
        (7407, "e98e2e89466a48bf3a76630e18bd4a99dd70bbedbfd7a6877a01cd3a9328817c"),
        (1060, "1e6c91e60fd7f1e3b4622534b539b4348ea9e16773dad9d333d7034254a15721"),
        (2120, "ec59119cecd3c0275de66938a8ec1661c60336f00e57f972ed6c5bd4ea14c07d"),
    ),
}
"""Examples and SHA-256 of train, val and test: numbers made with other data cannot be compared with ours."""
EXAMPLES = {"mnist5k": 5000, "mnist1d": 5000, "digits": 1797, "fashion_mnist": 70_000, "fashion_mnist10k": 20_000}
EXAMPLES |= {"newsgroups": 18_768, "reuters8": 7_574, "snippets": 10_587}
PYDOC = ("pydoc_chars", "pydoc_pieces")
"""Made of the manual of the Python at hand, so that nothing of them is pinned."""
TOKENS = ("newsgroups", "reuters8", "snippets", *PYDOC)
"""The tasks whose inputs are numbers of words or characters."""
IMAGES = tuple(name for name in TASKS if name not in TOKENS)
"""The others: images, and the signals that are treated as such."""


SHIPPED = ("mnist5k", "digits", "mnist1d", *PYDOC)
"""The tasks whose data comes with Python or the packages that the harness needs: these may not be skipped."""


def there(name: str) -> Task:
    """A task; where its data is one that a user brings and has not, the test is skipped with the line that says so."""
    try:
        return tasks.load(name)
    except ValueError as missing:
        if name in SHIPPED or " is missing: " not in str(missing):
            raise
        pytest.skip(str(missing))


def splits(task: Task) -> tuple[Split, Split, Split]:
    return task.train, task.val, task.test.read("confirm")


@every_task
def test_the_splits_are_the_pinned_ones_and_hold_every_example_once(name: str) -> None:
    found = there(name)
    if name in EXAMPLES:
        assert tuple((len(s), s.hash) for s in (found.train, found.val, found.test)) == PINNED[name]
        assert sum(len(split) for split in splits(found)) == EXAMPLES[name]
    elif name in PYDOC:
        assert 0.75 < len(found.train) / sum(len(split) for split in splits(found)) < 0.85
    else:  # nobody who wrote a test had the data: its files' own checksums stand for it
        assert 58_000 < sum(len(split) for split in splits(found)) <= 60_000 and len(found.test) == 10_000


@every_task
def test_labels_are_in_range_and_every_class_is_in_every_split(name: str) -> None:
    task = there(name)
    for split in splits(task):
        assert split.labels.dtype == torch.int64
        own, every = set(split.labels.flatten().tolist()), set(range(task.num_classes))
        if name in PYDOC:  # a rare character may be in one stretch alone
            assert own <= every and len(own) > 0.8 * task.num_classes
        elif name == "snippets" and split is task.train:
            assert own == every | {UNLABELLED}
        else:
            assert own == every
        assert split.inputs.shape[1:] == task.input_shape


@every_task
def test_no_example_of_the_test_split_is_in_another_and_none_is_twice_in_train_and_val(name: str) -> None:
    train, val, test = ([hash_of(example) for example in split.inputs] for split in splits(there(name)))
    assert len({*train, *val}) == len(train) + len(val)
    assert not {*train, *val} & set(test)
    if name in SHIPPED:  # what others have split is taken as it is
        assert len(set(test)) == len(test)


def hash_of(example: torch.Tensor) -> bytes:
    return hashlib.sha256(example.numpy().tobytes()).digest()


@pytest.mark.parametrize("name", IMAGES)
def test_the_train_split_has_mean_zero_and_unit_variance(name: str) -> None:
    values = there(name).train.inputs.double()
    assert values.mean().item() == pytest.approx(0, abs=1e-6)
    assert values.std().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", TOKENS)
def test_inputs_that_are_tokens_are_within_the_table_of_every_family(name: str) -> None:
    task = there(name)
    for split in splits(task):
        assert isinstance(split.inputs, torch.Tensor) and split.inputs.dtype == torch.int64
        low, high = int(split.inputs.min()), int(split.inputs.max())
        for family in task.families.values():
            table = family.layers(2, task.input_shape, task.num_classes)["table"].shape[0]
            assert low >= 0 and high < table, family.name
            if name in PYDOC:
                assert table == task.num_classes


@pytest.mark.parametrize("name", PYDOC)
def test_a_label_of_a_language_task_is_the_token_that_comes_next(name: str) -> None:
    task = there(name)
    for split in splits(task):
        assert isinstance(split.inputs, torch.Tensor)
        assert torch.equal(split.inputs[:, 1:], split.labels[:, :-1])
    assert (task.characters_a_label == 1) is (name == "pydoc_chars")
    assert 1 <= task.characters_a_label < 4


@every_task
def test_a_task_is_loaded_once_and_made_the_same_each_time(name: str) -> None:
    assert there(name) is tasks.load(name)
    assert TASKS[name]().val.hash == there(name).val.hash


@every_task
@pytest.mark.parametrize("stage", ["search", "", "CONFIRM"])
def test_the_test_split_cannot_be_read_outside_the_confirm_stage(name: str, stage: str) -> None:
    task = there(name)
    with pytest.raises(PermissionError, match=f"stage 'confirm' only, not in '{stage}'"):
        task.test.read(stage)
    assert len(task.test.read("confirm")) == len(task.test)


def test_an_unknown_task_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"^unknown task 'mnist'; tasks are mnist5k, digits, mnist1d, .*, cifar100$"):
        tasks.load("mnist")


def test_a_split_by_class_does_not_depend_on_the_order_of_the_file_and_keeps_duplicates_once() -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.integers(0, 9, (60, 16)), np.repeat([0, 1, 2], 20)
    rows[5] = rows[4]
    parts = stratified(rows, labels, (60, 20, 20))
    assert [len(part) for part in parts] == [35, 12, 12]
    order = rng.permutation(60)
    for part, shuffled in zip(parts, stratified(rows[order], labels[order], (60, 20, 20)), strict=True):
        assert {rows[i].tobytes() for i in part} == {rows[order[i]].tobytes() for i in shuffled}


@pytest.mark.parametrize(
    ("package", "inside", "sha256", "message"),
    [
        ("sklearn", "datasets/data/digits.csv.gz", "0" * 64, "is not the file that this task was made with; reinstall"),
        ("no_such_package", "x.csv.gz", "0" * 64, "inside the package no_such_package, which is not installed"),
        ("sklearn", "no/such.csv.gz", "0" * 64, "cannot read .*reinstall the package sklearn"),
        ("sklearn", "__init__.py", "0" * 64, "cannot read .*reinstall the package sklearn"),
    ],
    ids=["another_file", "no_package", "no_file", "not_gzip"],
)
def test_a_data_error_is_one_line_that_says_what_to_do(package: str, inside: str, sha256: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        table(package, inside, sha256, columns=65)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_data_file_is_one_line_that_says_what_to_do(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"damaged_{damage}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    whole = bytearray(gzip.compress(np.random.default_rng(0).bytes(2000)))
    if damage == "flipped":
        whole[10] ^= 0xFF
    (tmp_path / package / "data.csv.gz").write_bytes(whole[:1000] if damage == "cut" else whole)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=f"cannot read .*reinstall the package {package}") as caught:
        table(package, "data.csv.gz", "0" * 64, columns=65)
    assert "\n" not in str(caught.value)


def make_fewer_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    from mnist1d import data

    fewer = data.get_dataset_args()
    fewer.num_samples = 50
    monkeypatch.setattr(data, "get_dataset_args", lambda: fewer)


def test_other_signals_than_the_pinned_ones_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    make_fewer_signals(monkeypatch)
    with pytest.raises(ValueError, match=r"^mnist1d made other data .*; install mnist1d==0\.0\.2\.post1 and numpy 2$"):
        mnist1d.load()


def test_a_missing_generator_of_signals_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mnist1d", None)
    with pytest.raises(ValueError, match=r"made by the package mnist1d, which is not installed$"):
        mnist1d.load()


def test_making_signals_leaves_the_global_random_numbers_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    make_fewer_signals(monkeypatch)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global state is what is tested
    wanted = random.random(), np.random.rand()  # noqa: NPY002
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    with pytest.raises(ValueError, match="other data"):
        mnist1d.load()
    assert (random.random(), np.random.rand()) == wanted  # noqa: NPY002


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("transform", ["shift", "noise"])
def test_a_transform_changes_inputs_by_its_generator_alone_and_keeps_their_form(name: str, transform: str) -> None:
    task = there(name)
    inputs, state = task.train.inputs[:50].clone(), torch.get_rng_state()
    changed = task.transforms[transform](inputs, seeded())
    assert (changed.shape, changed.dtype) == (inputs.shape, inputs.dtype)
    assert torch.equal(inputs, task.train.inputs[:50])
    assert not torch.equal(changed, inputs)
    assert torch.equal(changed, task.transforms[transform](inputs, seeded()))
    assert not torch.equal(changed, task.transforms[transform](inputs, seeded(1)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "most"), [("mnist5k", 2), ("digits", 1), ("mnist1d", 2), ("fashion_mnist10k", 2), ("cifar10", 4)]
)
def test_a_task_shifts_by_what_suits_its_size(name: str, most: int) -> None:
    task = there(name)
    places = torch.arange(float(task.input_shape[-1])).expand(400, *task.input_shape)
    moved = task.transforms["shift"](places, seeded()) - places
    assert set(moved[..., 3:-3].flatten().tolist()) == set(range(-most, most + 1))


def test_a_shifted_signal_is_moved_whole_and_its_edge_repeats() -> None:
    signals = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]).expand(60, 2, 4)
    moved = shifted_along(signals, 2, seeded())
    wanted = {
        (1, 1, 1, 2, 5, 5, 5, 6),
        (1, 1, 2, 3, 5, 5, 6, 7),
        (1, 2, 3, 4, 5, 6, 7, 8),
        (2, 3, 4, 4, 6, 7, 8, 8),
        (3, 4, 4, 4, 7, 8, 8, 8),
    }
    assert {tuple(row) for row in moved.flatten(1).int().tolist()} == wanted


def test_a_shifted_image_is_moved_along_both_axes_and_its_edge_repeats() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3)
    moved = shifted(image.expand(200, 1, 3, 3), 1, seeded())
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
    wanted = {tuple(padded[0, 0, i : i + 3, j : j + 3].flatten().tolist()) for i in range(3) for j in range(3)}
    assert {tuple(row) for row in moved.flatten(1).tolist()} == wanted


def test_noise_has_a_tenth_of_the_inputs_deviation() -> None:
    added = noisy(torch.zeros(100, 200, dtype=torch.float64), seeded())
    assert added.mean().item() == pytest.approx(0, abs=0.003)
    assert added.std().item() == pytest.approx(0.1, rel=0.02)


OWN_TASK = """
import torch
from harness.models import MLP
from harness.space import Choice, Study
from harness.tasks import LockedSplit, Split, Task, TeacherRecipe

def made() -> Task:
    parts = [Split(torch.randn(n, 3), torch.arange(n) % 2) for n in (20, 10, 10)]
    return Task("own", "made up", 2, parts[0], parts[1], LockedSplit(parts[2]), {"mlp": MLP}, TeacherRecipe(MLP, 4, 1))

STUDY = Study(task=made, family="mlp", space={"width": Choice(2)}, fixed={"form": "mse"})
"""


def test_a_task_of_a_study_file_loads_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN_TASK)
    task = tasks.load(str(path))
    assert (task.name, task.input_shape, len(task.val)) == ("own", (3,), 10)
    assert tasks.load(str(path)) is task


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "/x", "a b", "a\0", "x" * 300])
@pytest.mark.parametrize("whose", ["name", "families", "transforms"])
def test_names_that_files_are_called_by_are_words(whose: str, name: str) -> None:
    known = tasks.load("digits")
    changed = {
        "name": name, "families": {**known.families, name: MLP}, "transforms": {name: noisy},
    }  # fmt: skip
    with pytest.raises(ValueError, match="must be a word: files are called by it"):
        dataclasses.replace(known, **{whose: changed[whose]})  # type: ignore[arg-type]


def test_a_task_function_that_returns_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.py"
    path.write_text(OWN_TASK.replace("return Task(", "return parts\n    return Task("))
    with pytest.raises(ValueError, match="returned list, not a Task"):
        tasks.load(str(path))


def made_of(train: Split, val: Split, test: Split, num_classes: int = 2) -> Task:
    return Task("own", "made up", num_classes, train, val, LockedSplit(test), {"mlp": MLP}, TeacherRecipe(MLP, 4, 1))


def split(examples: int = 6, *, labels: int | None = None, features: int = 3, top: int = 1) -> Split:
    return Split(torch.zeros(examples, features), torch.arange(labels or examples) % (top + 1))


def test_splits_that_fit_make_a_task_which_needs_no_transforms() -> None:
    made = made_of(split(), split(4), split(5))
    assert (made.input_shape, made.transforms) == ((3,), {})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (split(6, labels=5), "has 6 inputs, 5 labels"),
        (Split(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)), "has 0 inputs, 0 labels"),
        (split(features=4), r"inputs are \[4\] each, not as train"),
        (Split(torch.zeros(6, 3), torch.zeros(6)), "labels are torch.float32, not int64"),
        (split(top=2), r"labels span 0\.\.2, classes 2"),
        (Split(torch.zeros(6, 3), torch.full((6,), -1)), r"labels span -1\.\.-1, classes 2"),
        (Split(torch.zeros(6, 3), torch.zeros(6, 4, dtype=torch.int64)), r"labels are \[4\] each, not as train"),
    ],
    ids=["lengths", "empty", "shape", "dtype", "too_high", "negative", "label_shape"],
)
@pytest.mark.parametrize("where", ["val", "test"])
def test_splits_that_do_not_fit_are_refused(bad: Split, message: str, where: str) -> None:
    with pytest.raises(ValueError, match=f"task own: {where} {message}"):
        made_of(split(), *((bad, split()) if where == "val" else (split(), bad)))


def test_the_train_split_itself_is_held_to_the_number_of_classes() -> None:
    with pytest.raises(ValueError, match=r"task own: train labels span 0\.\.1, classes 1"):
        made_of(split(), split(), split(), num_classes=1)


def test_a_study_file_that_makes_no_task_is_refused_as_one(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text("STUDY = None\n")
    with pytest.raises(ValueError, match="makes no task of its own"):
        tasks.load(str(tmp_path / "bare.py"))
