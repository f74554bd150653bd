"""The teacher: trained once, cached by sample index, and refused when anything does not fit."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harness import cohort, tasks, teacher
from harness.models import MLP
from harness.spec import StudentSpec
from harness.tasks import Split, Task, TeacherRecipe
from harness.tasks.transforms import shifted


def quick(*, width: int = 8, epochs: int = 1, shift: int = 0, seed: int = 0, label_smoothing: float = 0.0) -> Task:
    """The digits with a teacher that trains in a moment."""
    recipe = TeacherRecipe(MLP, width, epochs, shift=shift, seed=seed, label_smoothing=label_smoothing)
    return dataclasses.replace(tasks.load("digits"), teacher=recipe)


def only_folder(cache: Path) -> Path:
    (folder,) = cache.iterdir()
    return folder


def test_a_teacher_is_trained_once(tmp_path: Path) -> None:
    epochs: list[tuple[int, int]] = []
    task = quick(epochs=2)
    facts = teacher.ensure(task, tmp_path, progress=lambda epoch, of, _: epochs.append((epoch, of)))
    assert epochs == [(1, 2), (2, 2)]
    before = {path.name: path.stat().st_mtime_ns for path in only_folder(tmp_path).iterdir() if path.name != "lock"}
    assert teacher.ensure(task, tmp_path, progress=lambda *_: pytest.fail("trained again")) == facts
    after = {path.name: path.stat().st_mtime_ns for path in only_folder(tmp_path).iterdir() if path.name != "lock"}
    assert before == after


def test_a_teacher_is_the_same_in_another_cache_whatever_the_global_seed(tmp_path: Path) -> None:
    task = quick(shift=1)
    for seed in (1, 2):
        torch.manual_seed(seed)
        teacher.ensure(task, tmp_path / str(seed))
    assert torch.equal(*(teacher.load_logits(task, tmp_path / str(seed)).val for seed in (1, 2)))


def test_training_a_teacher_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    teacher.ensure(quick(shift=1), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"width": 9}, {"epochs": 2}, {"shift": 1}, {"label_smoothing": 0.1}])
def test_another_recipe_is_another_folder(changed: dict[str, Any], tmp_path: Path) -> None:
    keys = {teacher.ensure(task, tmp_path)["key"] for task in (quick(), quick(**changed))}
    assert len(keys) == 2
    assert {path.name for path in tmp_path.iterdir()} == keys


def test_a_teacher_of_before_label_smoothing_is_still_the_same_one() -> None:
    """The key of the digits' teacher, as it was written before its recipe had that field."""
    assert teacher.key(tasks.load("digits")) == "digits-b459f31075d53b13"


def test_a_teacher_of_smoothed_labels_is_less_sure(tmp_path: Path) -> None:
    sure = []
    for share in (0.0, 0.3):
        task = quick(width=32, epochs=10, label_smoothing=share)
        teacher.ensure(task, tmp_path)
        sure.append(teacher.load_logits(task, tmp_path).train.softmax(-1).amax(-1).mean().item())
    assert sure[0] > sure[1] + 0.1


def test_a_share_of_smoothing_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing 1.5 is out of range; it must be a number from 0 to"):
        quick(label_smoothing=1.5)


def test_other_data_is_another_folder(tmp_path: Path) -> None:
    task = quick()
    flipped = Split(task.train.inputs.flip(-1), task.train.labels)
    other = dataclasses.replace(task, train=flipped)
    assert teacher.ensure(task, tmp_path)["key"] != teacher.ensure(other, tmp_path)["key"]


def test_the_cached_logits_are_the_networks_output_on_that_very_sample(digits_cache: Path) -> None:
    task = tasks.load("digits")
    logits, weights = teacher.load_logits(task, digits_cache), teacher.load_weights(task, digits_cache)
    family = task.recipe.family
    for split, cached in ((task.train, logits.train), (task.val, logits.val)):
        for index in (0, 1, 17, len(split) - 1):
            own = family.apply(weights, family.prepare(split.inputs[index : index + 1]))[0]
            assert torch.allclose(own, cached[index], rtol=1e-4, atol=1e-4)
            assert not torch.allclose(own, cached[index - 1], rtol=1e-2, atol=1e-2)


def test_what_is_said_of_a_teacher_is_what_its_logits_say(digits_cache: Path) -> None:
    task = tasks.load("digits")
    facts, logits = teacher.ensure(task, digits_cache), teacher.load_logits(task, digits_cache)
    right = (logits.val.argmax(-1) == task.val.labels).sum().item()
    assert facts["val_accuracy"] == pytest.approx(right / len(task.val), abs=1e-6)
    loss = torch.nn.functional.cross_entropy(logits.val, task.val.labels).item()
    assert facts["val_loss"] == pytest.approx(loss, rel=1e-5)
    weights = teacher.load_weights(task, digits_cache).values()
    assert facts["num_params"] == sum(weight.numel() for weight in weights)


def test_no_pickle_is_kept(digits_cache: Path) -> None:
    """A pickle runs code when it is read; a safetensors file is a length, a JSON header and numbers."""
    folder = only_folder(digits_cache)
    assert {path.name for path in folder.iterdir()} == {
        "lock", "teacher.json", "weights.safetensors", "logits.safetensors",
    }  # fmt: skip
    for path in folder.glob("*.safetensors"):
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        assert 8 + size + max(ends) == len(data)


def cut_logits(folder: Path) -> None:
    path = folder / "logits.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def scramble_logits(folder: Path) -> None:
    (folder / "logits.safetensors").write_bytes(b"not tensors at all")


def lose_logits(folder: Path) -> None:
    (folder / "logits.safetensors").unlink()


def lose_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def exchange_weights(folder: Path) -> None:
    path = folder / "weights.safetensors"
    save_file({name: weight + 1 for name, weight in load_file(path).items()}, path)


def forge_key(folder: Path) -> None:
    path = folder / "logits.safetensors"
    save_file(load_file(path), path, metadata={"key": "0" * 16})


def drop_key(folder: Path) -> None:
    path = folder / "logits.safetensors"
    save_file(load_file(path), path)


def change_logits(folder: Path, **changed: torch.Tensor | None) -> None:
    """Other logits under the key of the right ones."""
    path = folder / "logits.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    parts = {**load_file(path), **changed}
    save_file({name: part for name, part in parts.items() if part is not None}, path, metadata=metadata)


def drop_a_train_row(folder: Path) -> None:
    change_logits(folder, train=load_file(folder / "logits.safetensors")["train"][1:].contiguous())


def drop_a_val_row(folder: Path) -> None:
    change_logits(folder, val=load_file(folder / "logits.safetensors")["val"][1:].contiguous())


def drop_val(folder: Path) -> None:
    change_logits(folder, val=None)


def flip_a_bit(folder: Path) -> None:
    path = folder / "logits.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def lengthen_the_header(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(b"\xff" * 7 + b"\x7f" + path.read_bytes()[8:])


def change_facts(folder: Path) -> None:
    path = folder / "teacher.json"
    path.write_text(path.read_text().replace('"width":8', '"width":9'))


def damage_facts(folder: Path) -> None:
    (folder / "teacher.json").write_text('{"name": "conv", "wid')


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("sound")
    teacher.ensure(quick(), cache)
    return cache


@pytest.mark.parametrize(
    "harm",
    [
        cut_logits, scramble_logits, lose_logits, lose_weights, exchange_weights,
        forge_key, drop_key, drop_a_train_row, drop_a_val_row, drop_val, damage_facts,
        flip_a_bit, lengthen_the_header, change_facts,
    ],
    ids=lambda harm: harm.__name__,
)  # fmt: skip
def test_a_cache_that_does_not_fit_is_put_aside_and_made_anew_with_one_line(
    harm: Callable[[Path], None], sound: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(sound, cache)
    folder = only_folder(cache)
    harm(folder)
    facts = teacher.ensure(quick(), cache)
    timed = {name: facts[name] for name in ("seconds", "logits_seconds")}
    assert facts == {**teacher.ensure(quick(), sound), **timed}
    assert torch.equal(teacher.load_logits(quick(), cache).train, teacher.load_logits(quick(), sound).train)
    [line], [aside] = caplog.messages, list(folder.glob("aside-*"))
    assert str(folder) in line and line.endswith(f"the teacher is made again, what was there is kept in {aside}")
    assert (aside / "teacher.json").exists()
    teacher.ensure(quick(), cache, progress=lambda *_: pytest.fail("trained again"))


def test_a_whole_cache_is_only_read(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in ((Path, "mkdir"), (teacher, "FileLock"), (teacher, "write_sealed")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("it was written to"))
    teacher.ensure(quick(), sound)


def test_a_full_disk_leaves_no_part_of_a_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*weights\.safetensors'"):
            teacher.ensure(quick(), tmp_path)
    assert {path.name for path in only_folder(tmp_path).iterdir()} == {"lock"}
    assert teacher.ensure(quick(), tmp_path)["name"]


def test_logits_of_a_teacher_that_was_never_trained_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read the teacher's logits"):
        teacher.load_logits(quick(), tmp_path)


def test_a_teacher_whose_training_was_cut_off_is_trained_anew(sound: Path, tmp_path: Path) -> None:
    """`teacher.json` is written last, so a folder without it is not yet a teacher."""
    cache = tmp_path / "cache"
    shutil.copytree(sound, cache)
    (only_folder(cache) / "teacher.json").unlink()
    cut_logits(only_folder(cache))
    epochs: list[int] = []
    teacher.ensure(quick(), cache, progress=lambda epoch, *_: epochs.append(epoch))
    assert epochs == [1]


def test_shifted_images_are_moved_and_nothing_else() -> None:
    images = torch.randn(40, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    moved = shifted(images, 1, torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    seen = set()
    for image, whole in zip(moved, padded, strict=True):
        places = [(r, c) for r in range(3) for c in range(3) if torch.equal(image, whole[:, r : r + 6, c : c + 5])]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 9


def test_the_digits_teacher_is_clearly_better_than_the_widest_student(digits_cache: Path) -> None:
    plain = [
        StudentSpec("digits", "mlp", 16, seed, "ce", alpha=1.0, lr=1e-2, weight_decay=1e-2, epochs=20)
        for seed in (1, 2, 3, 4)
    ]
    students = [record.metrics["val_accuracy"] for record in cohort.train(plain, cache=digits_cache)]
    assert min(students) > 0.94
    teachers = teacher.ensure(tasks.load("digits"), digits_cache)["val_accuracy"]
    assert teachers >= sum(students) / len(students) + 0.01
