"""Training in parts: stopped at an epoch, kept in a file, and gone on with in other company, a student is the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from harness import cohort, targets
from harness.cohort import State, checkpoint
from harness.records import Record
from harness.spec import StudentSpec
from tests.students import assert_same, pairwise, student, train

TASK = """
from harness import tasks
from harness.models import CONV, MLP
from harness.space import Choice, Study
from harness.tasks import Task, TeacherRecipe

def small():
    digits = tasks.load("digits")
    return Task(
        name="small", source="the digits", num_classes=10, train=digits.train, val=digits.val, test=digits.test,
        families={"conv": CONV, "mlp": MLP}, teacher=TeacherRecipe(CONV, width=4, epochs=1, lr=1e-2),
    )

STUDY = Study(task=small, family="mlp", space={"width": Choice(2)}, fixed={"form": "kl"})
"""


def through_files(specs: Sequence[StudentSpec], states: Sequence[State], folder: Path) -> dict[StudentSpec, State]:
    """What is read of the states once they were written, one file a student."""
    found = {}
    for place, (spec, state) in enumerate(zip(specs, states, strict=True)):
        checkpoint.save(folder / f"{place}.safetensors", "key", [state])
        loaded = checkpoint.load(folder / f"{place}.safetensors", "key")
        assert loaded is not None
        [found[spec]] = loaded
    return found


def in_parts(
    specs: Sequence[StudentSpec], ends: Sequence[int | None], cache: Path, folder: Path, company: int
) -> list[Record]:
    """The students trained in parts, in each of them in other company: `company` students a cohort."""
    records: dict[StudentSpec, Record] = {}
    states: dict[StudentSpec, State] = {}
    for turn, until in enumerate(ends):
        left: dict[StudentSpec, State] = {}
        order = [*specs[turn:], *specs[:turn]][:: -1 if turn % 2 else 1]
        for start in range(0, len(order), company):
            members = order[start : start + company]
            found, after = cohort.train_part(members, cache=cache, device="cpu", until=until, states=states)
            records |= {record.spec: record for record in found}
            left |= through_files(members, after, folder) if after else {}
        states = left
    return [records[spec] for spec in specs]


def assert_parts_are_the_whole(
    specs: Sequence[StudentSpec], cache: Path, folder: Path, tolerance: float = 0.0, rungs: Sequence[int] = (1, 3)
) -> None:
    """In the same company to the bit; in other company as much as the tolerance of those who share a cohort."""
    whole = train(specs, cache)
    for company, near in ((len(specs), 0.0), (3, tolerance)):
        parts = in_parts(specs, (*rungs, None), cache, folder, company)
        for one, other in zip(parts, whole, strict=True):
            taught = other.spec.teacher in ("self", "assistant")  # their teachers are made again, and counted
            assert (one.cost.train_flops > other.cost.train_flops) == taught
            assert one.cost.seconds > 0
            assert_same(replace(one, cost=other.cost), other, near)


MIXED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("kl", {"width": 2, "clip_norm": 0.5}),
    ("mse", {"width": 3, "mixing": "additive"}),
    ("dist", {"width": 6, "warmup": 0.4}),
    ("ctkd", {"width": 4}),
    ("kl", {"width": 9, "teacher": "self"}),
    ("kl", {"width": 5, "teacher": "assistant", "assistants": "7"}),
    ("kl", {"width": 7, "teacher": "online"}),
    ("ce", {"width": 12, "label_smoothing": 0.1}),
)


@pairwise(0)
def test_training_in_parts_and_other_company_is_training_at_once(
    family: str, optimiser: str, dtype: str, tolerance: float, full_cache: Path, tmp_path: Path
) -> None:
    common = {"family": family, "optimiser": optimiser, "dtype": dtype, "epochs": 5}
    specs = [student(form, seed=1 + place % 2, **own, **common) for place, (form, own) in enumerate(MIXED)]
    assert_parts_are_the_whole(specs, full_cache, tmp_path, tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_patient_students_stop_where_they_would(dtype: str, full_cache: Path, tmp_path: Path) -> None:
    """Some before the first rung, some between rungs, some never; each is given back its best epoch."""
    common = {"dtype": dtype, "epochs": 9}
    specs = [
        student("kl", width=width, lr=lr, patience=patience, seed=seed, **common)
        for (lr, patience), width in zip(
            [(2.0, 1), (0.3, 2), (0.1, 1), (0.03, 3), (0.01, 0)], (3, 4, 6, 8, 5), strict=True
        )
        for seed in (1, 2)
    ]
    lengths = {len(record.curve.val_loss) for record in train(specs, full_cache)}
    assert len(lengths) >= 3 and min(lengths) <= 3 and 9 in lengths
    assert_parts_are_the_whole(specs, full_cache, tmp_path, 1e-4 if dtype == "float32" else 1e-10, (3, 6))


@pytest.mark.parametrize(("family", "dtype"), [("mlp", "float64"), ("cnn", "float32")])
def test_dropout_features_and_views_go_on_as_they_were(
    family: str, dtype: str, full_cache: Path, tmp_path: Path
) -> None:
    common: dict[str, Any] = {"family": family, "dtype": dtype, "epochs": 3, "batch_size": 64}
    specs = [student(seed=seed, dropout=rate, **common) for seed in (1, 2) for rate in (0.1, 0.4)]
    specs += [student(seed=seed, feature="hint", lr=3e-3, **common) for seed in (1, 2)]
    specs += [student("mse", seed=3, feature="hint", dropout=0.3, teacher="self", **common)]
    specs += [student(seed=seed, transform="shift", views=3, width=5 + seed, **common) for seed in (1, 2)]
    assert_parts_are_the_whole(specs, full_cache, tmp_path, 1e-5 if dtype == "float32" else 1e-12, (1, 2))


def test_a_family_that_neither_pads_nor_stacks_goes_on_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "small.py"
    file.write_text(TASK)
    common = {"task": str(file), "family": "conv", "epochs": 3, "batch_size": 512}
    specs = [student(form, width=width, **common) for form in ("kl", "ce") for width in (2, 3)]
    assert_parts_are_the_whole(specs, tmp_path / "cache", tmp_path, 1e-12, (1, 2))


def test_a_task_of_signals_goes_on_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "signals.py"
    signals = TASK.replace("CONV, MLP", "CNN1D, CONV1D").replace('"conv": CONV, "mlp": MLP', '"cnn1d": CNN1D')
    signals = signals.replace("TeacherRecipe(CONV,", "TeacherRecipe(CONV1D,").replace('family="mlp"', 'family="cnn1d"')
    signals = signals.replace(
        "train=digits.train, val=digits.val", "train=flat(digits.train), val=flat(digits.val)"
    ).replace("digits.test", "LockedSplit(flat(digits.test._split))")
    signals = signals.replace(
        "def small", "def flat(split):\n    return Split(split.inputs.flatten(2), split.labels)\n\ndef small"
    )
    file.write_text(signals.replace("import Task,", "import LockedSplit, Split, Task,"))
    common = {"task": str(file), "family": "cnn1d", "epochs": 3, "batch_size": 512, "dtype": "float32"}
    specs = [student(form, width=width, **common) for form in ("kl", "ce") for width in (2, 3, 6)]
    assert_parts_are_the_whole(specs, tmp_path / "cache", tmp_path, 1e-5, (1, 2))


def test_a_part_gives_the_record_as_it_stands(full_cache: Path) -> None:
    """At a rung the curve is the start of the whole one, and the metrics are those of its last epoch."""
    spec = student(epochs=5)
    [whole] = train([spec], full_cache)
    [part], [state] = cohort.train_part([spec], cache=full_cache, device="cpu", until=2, states={})
    assert part.curve.val_accuracy == whole.curve.val_accuracy[:2]
    assert part.metrics["val_accuracy"] == part.curve.val_accuracy[-1]
    assert part.balance.kd_ratio[0] == whole.balance.kd_ratio[0] and part.balance.kd_ratio[1:] == (None, None)
    assert part.cost.train_flops == pytest.approx(whole.cost.train_flops * 2 / 5)
    assert state.epoch == 2


def test_a_diverged_student_goes_on_as_one(full_cache: Path, tmp_path: Path) -> None:
    specs = [student("mse", optimiser="sgd", lr=1e9, epochs=4), student("mse", optimiser="sgd", epochs=4, width=7)]
    whole, parts = train(specs, full_cache), in_parts(specs, (2, None), full_cache, tmp_path, 1)
    assert [record.status for record in whole] == ["diverged", "ok"]
    for one, other in zip(parts, whole, strict=True):
        assert_same(one, other, 1e-12)


def test_students_of_several_epochs_in_one_call_are_trained_each_from_its_own(full_cache: Path) -> None:
    specs = [student(epochs=4, seed=seed) for seed in (1, 2, 3)]
    _, [first] = cohort.train_part(specs[:1], cache=full_cache, device="cpu", until=1, states={})
    _, [second] = cohort.train_part(specs[1:2], cache=full_cache, device="cpu", until=3, states={})
    states = {specs[0]: first, specs[1]: second}
    records, left = cohort.train_part(specs, cache=full_cache, device="cpu", until=None, states=states)
    assert left == []
    for one, other in zip(records, train(specs, full_cache), strict=True):
        assert_same(one, other, 1e-12)


def test_a_state_holds_a_student_at_its_own_width(full_cache: Path) -> None:
    specs = [student(width=width, epochs=2) for width in (3, 16)]
    records, states = cohort.train_part(specs, cache=full_cache, device="cpu", until=1, states={})
    for record, state in zip(records, states, strict=True):
        assert {state.tensors[name].shape for name in ("network", "first", "second")} == {(record.num_params,)}


def test_a_file_that_is_damaged_or_another_trials_is_put_aside_with_one_line(
    full_cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    targets.prepare([student()], full_cache, "cpu", lambda *_: None)
    _, states = cohort.train_part([student()], cache=full_cache, device="cpu", until=1, states={})
    path = tmp_path / "rung-1.safetensors"
    assert checkpoint.load(path, "key") is None and not caplog.messages
    checkpoint.save(path, "key", states)
    whole = path.read_bytes()
    flipped = bytes([*whole[:-1], whole[-1] ^ 1])
    oversized = b"\xff" * 7 + b"\x7f" + whole[8:]
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    foreign = (tmp_path / "foreign").read_bytes()
    damaged = (whole[:-9], whole[:40], b"", b"{}", flipped, oversized, foreign)
    for kept, (content, key) in enumerate([*((content, "key") for content in damaged), (whole, "other")], 1):
        path.write_bytes(content)
        assert checkpoint.load(path, key) is None
        asides = sorted(tmp_path.glob("rung-1.safetensors.aside-*"))
        assert len(asides) == len(caplog.messages) == kept
        assert caplog.messages[-1].endswith(f"it is kept as {asides[-1].name}")
        assert asides[-1].read_bytes() == content
    path.mkdir()
    assert checkpoint.load(path, "key") is None
    checkpoint.save(path, "key", states)
    assert checkpoint.load(path, "key") is not None


@settings(max_examples=1000)
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_a_checkpoint_of_which_anything_changed_is_never_used(
    place: int, bit: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = State(2, {"network": torch.arange(9.0), "curve": torch.zeros(2, 5), "pulls": torch.zeros(3, 3)}, 1.5)
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        checkpoint.save(path, "key", [state])
    whole = path.read_bytes()
    place %= len(whole)
    path.write_bytes(whole[:place] if cut else bytes([*whole[:place], whole[place] ^ (1 << bit), *whole[place + 1 :]]))
    found = checkpoint.load(path, "key")
    assert found is None or (found[0].epoch, found[0].seconds) == (2, 1.5)
    assert found is None or all(torch.equal(found[0].tensors[name], own) for name, own in state.tensors.items())
    for aside in path.parent.glob("changed.safetensors.aside-*"):
        aside.unlink()
