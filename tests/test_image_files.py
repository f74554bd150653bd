"""Image sets that a user brings: where they are looked for, how they are split, and Fashion-MNIST's files."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.models import MLP
from harness.tasks import TASKS, fashion_mnist, places
from harness.tasks.images import Labelled, official_task
from harness.tasks.task import Split, Task, TeacherRecipe
from harness.tasks.transforms import flipped
from tests.image_files import idx, pictures, refused, write_fashion

COUNTS = {"train": 60, "t10k": 20}
IMAGES, LABELS = "fashion-mnist/train-images-idx3-ubyte.gz", "fashion-mnist/train-labels-idx1-ubyte.gz"


def fashion_parts() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {part: pictures(count, (28, 28), 10, seed=count) for part, count in COUNTS.items()}


@pytest.mark.parametrize("name", ["fashion_mnist", "fashion_mnist10k", "cifar10", "cifar100"])
def test_a_missing_set_is_one_line_that_says_how_to_get_it(name: str, data_root: Path) -> None:
    how = "apt-get install dataset-fashion-mnist" if "mnist" in name else f"hf download uoft-cs/{name} "
    known = name.removesuffix("10k")
    refused(
        TASKS[name],
        rf"^the data of the task {known} is missing: no .* in .*sets \(set HARNESS_DATA\).*{how}",
        data_root,
    )


def test_data_is_looked_for_in_the_users_folder_then_here_then_in_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, system = tmp_path / "here", tmp_path / "system"
    for folder in (tmp_path / "own", here / "data", system):
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "x").touch()
    (system / "first").touch()
    monkeypatch.chdir(here)

    def found() -> Path:
        return places.find(["first", "a/x"], system=(system,), get="get it", task="own").resolve()

    monkeypatch.delenv(places.VARIABLE, raising=False)
    assert found() == here / "data" / "a" / "x"
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "own"))
    assert found() == tmp_path / "own" / "a" / "x"
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "none"))
    assert found() == system / "first"


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_fashion_mnist_is_read_to_the_bit_packed_or_not(packed: bool, data_root: Path) -> None:
    parts = fashion_parts()
    sums = write_fashion(data_root, parts, packed)
    for part, (images, labels) in parts.items():
        found = fashion_mnist.read(part, COUNTS, sums)
        assert np.array_equal(found.images, images[:, None]) and np.array_equal(found.labels, labels)
        assert [str(array.dtype) for array in (found.images, found.labels)] == ["uint8", "int64"]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (IMAGES, lambda whole: whole[:-30], "cut short: 47,026 bytes of 47,056$|cannot read .*ended"),
        (IMAGES, lambda whole: whole + b"\0", r"has more than its 47,056$"),
        (IMAGES, lambda whole: whole[:0], "is no IDX file of unsigned bytes in 3 axes: it begins with nothing$"),
        (IMAGES, lambda whole: b"PK\3\4" + whole, "is no IDX file of .* in 3 axes: it begins with 504b0304$"),
        (IMAGES, lambda whole: b"\0\0\x0d" + whole[3:], "it begins with 00000d03$"),
        (IMAGES, lambda whole: whole[:7], r"says that its sizes are \[0, 0, 0\], not \[60, 28, 28\]$"),
        (IMAGES, lambda whole: whole[:-1] + bytes((whole[-1] ^ 1,)), "is not the file that this task was made with"),
        (LABELS, lambda _: idx(np.zeros((60, 28, 28))), "unsigned bytes in 1 axes: it begins with 00000803$"),
        (LABELS, lambda _: idx(np.zeros(20)), r"says that its sizes are \[20\], not \[60\]$"),
    ],
    ids=["short", "long", "empty", "zip", "dtype", "header", "bit", "images_for_labels", "labels_of_the_other_part"],
)  # fmt: skip
@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_a_wrong_idx_file_is_refused_in_one_line(
    packed: bool, name: str, damage: Callable[[bytes], bytes], message: str, data_root: Path
) -> None:
    sums = write_fashion(data_root, fashion_parts())
    path = data_root / name
    changed = damage(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(changed) if packed else changed)  # whatever the name says
    refused(lambda: fashion_mnist.read("train", COUNTS, sums), f"{path.name}.*({message})", data_root)


@pytest.mark.parametrize("damage", ["cut", "flipped", "folder"])
def test_a_damaged_archive_is_refused_in_one_line(damage: str, data_root: Path) -> None:
    sums = write_fashion(data_root, fashion_parts())
    whole = bytearray((data_root / IMAGES).read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    (data_root / IMAGES).write_bytes(whole if damage == "flipped" else whole[: len(whole) // 2])
    if damage == "folder":
        (data_root / IMAGES).unlink()
        (data_root / IMAGES).mkdir()
    message = "cannot read .*train-images.*; get it again$|train-images.* not the file that this task was made with"
    refused(lambda: fashion_mnist.read("train", COUNTS, sums), message, data_root)


@pytest.mark.parametrize(
    ("label", "message"), [(10, r"span 0\.\.10, classes 10$"), (9, "5 to 7 labels of a class, where all have equally")]
)
def test_labels_that_are_not_the_images_own_are_refused_whatever_the_hash(
    label: int, message: str, data_root: Path
) -> None:
    parts = fashion_parts()
    parts["train"][1][0] = label
    sums = write_fashion(data_root, parts)
    refused(lambda: fashion_mnist.read("train", COUNTS, sums), f"train-labels.* is mislabelled: .*{message}", data_root)


def task_on(own: Labelled, test: Labelled, each: tuple[int, int]) -> Task:
    recipe = TeacherRecipe(MLP, 4, 1)
    return official_task(
        name="own", source="made up", own=own, test=test, each=each,
        families={"mlp": MLP}, teacher=recipe, transforms={},
    )  # fmt: skip


def rows(split: Split, task: Task) -> list[bytes]:
    """Each example's pixels as they were."""
    assert task.scale is not None
    raw = (split.inputs.double() * task.scale.sd + task.scale.mean).round().to(torch.uint8).numpy()
    return [image.tobytes() for image in raw]


def test_a_picture_of_the_official_test_part_is_in_no_other_split_and_a_doubled_one_once() -> None:
    own, test = (Labelled(*pictures(n, (1, 4, 4), 2, seed=n)) for n in (40, 10))
    own.images[[3, 8, 9]] = test.images[[0, 4, 4]]
    own.images[20] = own.images[30] = own.images[31]
    task = task_on(own, test, (20, 4))
    train, val, official = (rows(split, task) for split in (task.train, task.val, task.test.read("confirm")))
    assert (len(train), len(val), len(official)) == (40 - 3 - 2 - 8, 8, 10)
    assert len({*train, *val, *official}) == len(train) + len(val) + len(official)
    assert sorted(official) == sorted(image.tobytes() for image in test.images)


def test_a_smaller_task_is_inside_a_larger_one_and_the_files_order_does_not_matter() -> None:
    own, test = (Labelled(*pictures(n, (1, 4, 4), 2, seed=n)) for n in (40, 10))
    large, less = task_on(own, test, (15, 5)), task_on(own, test, (4, 2))
    assert set(rows(less.train, less)) < set(rows(large.train, large))
    assert set(rows(less.val, less)) < set(rows(large.val, large))
    assert (len(less.train), len(less.val), less.test.hash == large.test.hash) == (8, 4, False)  # another scale
    order, other = (np.random.default_rng(0).permutation(n) for n in (40, 10))
    again = task_on(
        Labelled(own.images[order], own.labels[order]), Labelled(test.images[other], test.labels[other]), (15, 5)
    )
    for split, same in ((large.train, again.train), (large.val, again.val), (large.test, again.test)):
        assert split.hash == same.hash
    assert large.train.labels[:6].tolist() == [0, 1] * 3  # every beginning of a split is of all classes


def test_a_flipped_picture_is_mirrored_left_to_right_in_half_of_the_cases() -> None:
    image = torch.arange(12.0).view(1, 2, 2, 3)
    found = flipped(image.expand(1000, 2, 2, 3), torch.Generator().manual_seed(0))
    mirrored = torch.tensor([torch.equal(one, image[0].flip(-1)) for one in found])
    assert all(torch.equal(one, image[0]) for one in found[~mirrored])
    assert 450 < mirrored.sum().item() < 550
