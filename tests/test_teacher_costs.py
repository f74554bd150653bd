"""What teachers and their logits cost: measured when they are made, kept with them, and shown in the budget."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harness import keyed, ledger, tasks, teacher
from harness.files import write_sealed
from harness.keyed import UNKNOWN, Spent
from harness.report.findings import judge
from harness.report.page import page
from harness.spec import PLAIN, by_lesson
from harness.targets import prepare
from harness.tasks import logits_teacher
from harness.teacher import Source
from tests.fake_study import FakeStudy, write_fake_study
from tests.inline import sweep_here
from tests.students import student

DIGITS = tasks.load("digits")
COUNT = len(DIGITS.train)
VIEWS: dict[str, Any] = {"transform": "shift", "views": 3}


def quiet(*_: object) -> None:
    """Hear nothing."""


@pytest.fixture
def cache(digits_cache: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_cache, tmp_path / "cache"))


def as_of_an_earlier_version(cache: Path) -> None:
    """Take what was spent out of every file."""
    since = ("digest", *teacher.LOGITS_COST)
    for path in cache.rglob("teacher.json"):
        data = json.loads(path.read_text())
        write_sealed(path, {name: value for name, value in data.items() if name not in since})
    for path in [*cache.rglob("views-*.safetensors"), *cache.rglob("online-*.safetensors")]:
        with safe_open(path, framework="pt") as file:
            said = file.metadata()
        assert {"seconds", "flops"} < set(said)
        save_file(load_file(path), path, metadata={name: said[name] for name in ("key", "sum")})


def test_logits_cost_two_flops_a_multiply_accumulate_and_example(tmp_path: Path) -> None:
    facts = teacher.ensure(DIGITS, tmp_path)
    assert facts["logits_flops"] == 2 * facts["macs"] * (len(DIGITS.train) + len(DIGITS.val))
    assert facts["logits_seconds"] > 0


def test_other_teachers_views_features_and_online_paths_are_counted_once(cache: Path) -> None:
    taught: list[dict[str, Any]] = [
        VIEWS, {"teacher": "shuffled", **VIEWS}, {"feature": "similarity"}, {"teacher_width": 4, "teacher_epochs": 1},
        {"teacher": "online", "teacher_width": 4}, {"teacher": "online", "teacher_width": 4, "width": 8},
        {"teacher": "uniform"}, {"teacher": "self"},
    ]  # fmt: skip
    specs = [student(**changed) for changed in taught] + [student(PLAIN, seed=9)]
    spent = prepare(specs, cache, "cpu", quiet)["spent"]
    own, narrow = teacher.ensure(DIGITS, cache), teacher.ensure(DIGITS, cache, source=Source(4, 1))
    online = 6.0 * narrow["macs"] * 2 * (COUNT // 128 * 128)
    assert spent["others"]["count"] == 2 and spent["others"]["seconds"] > narrow["seconds"]
    assert spent["others"]["flops"] == narrow["train_flops"] + online
    more = 2.0 * own["macs"] * (3 * COUNT + COUNT)  # views, and features of the plain ones
    assert spent["logits"]["flops"] == own["logits_flops"] + narrow["logits_flops"] + more
    assert spent["logits"]["count"] == 4
    assert prepare(specs, cache, "cpu", quiet)["spent"] == spent


def test_a_cache_of_an_earlier_version_is_read_and_says_nothing_of_what_it_cost(cache: Path) -> None:
    specs = [student(**VIEWS), student(teacher="online")]
    before = prepare(specs, cache, "cpu", quiet)
    as_of_an_earlier_version(cache)
    teacher.load_logits.cache_clear()
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    after = prepare(specs, cache, "cpu", quiet)
    assert files == {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    assert after["spent"] == {
        "others": {"count": 1, "seconds": None, "flops": None}, "logits": {"count": 2, "seconds": None, "flops": None},
    }  # fmt: skip
    assert {n: v for n, v in after.items() if n != "spent"} == {
        name: value for name, value in before.items() if name not in ("spent", *teacher.LOGITS_COST)
    }


def test_of_a_cost_that_is_no_number_nothing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "views.safetensors"
    keyed.save({}, path, "key", Spent(1.5, None))
    assert keyed.spent_on(path) == Spent(1.5, None)
    save_file({}, path, metadata={"seconds": "many"})
    assert keyed.spent_on(path) == UNKNOWN


def test_of_a_given_teacher_only_the_seconds_of_its_answers_are_known(tmp_path: Path) -> None:
    for name, split in (("train", DIGITS.train), ("val", DIGITS.val)):
        np.save(tmp_path / f"{name}.npy", np.zeros((len(split), 10), np.float32))
    shutil.copy(tmp_path / "val.npy", tmp_path / "test.npy")
    given = logits_teacher(train=tmp_path / "train.npy", val=tmp_path / "val.npy", test=tmp_path / "test.npy")
    facts = teacher.ensure(dataclasses.replace(DIGITS, teacher=given), tmp_path / "cache")
    assert facts["seconds"] == facts["train_flops"] == 0.0
    assert facts["logits_seconds"] > 0 and "logits_flops" not in facts
    earlier = {**facts, "seconds": 2.5}
    del earlier["logits_seconds"]
    assert teacher.spent_on_logits(earlier) == Spent(2.5, None)


def test_students_that_share_what_is_made_for_them_are_one_lesson() -> None:
    assisted = student(teacher="assistant", assistants="8")
    assert len(by_lesson([student(), student(seed=3), student("mse", teacher="shuffled"), assisted])) == 1
    assert len(by_lesson([student(teacher="online"), student(teacher="online", seed=3)])) == 2
    assert not by_lesson([student(PLAIN), student(teacher="uniform"), student(teacher="self")])


def rows_of(folder: Path, teacher_says: dict[str, Any] | None) -> tuple[dict[str, list[str]], str]:
    """The budget's rows by label, and the whole page, of a fake study whose manifest says this of its teacher too."""
    path = write_fake_study(folder, FakeStudy(trials=9, controls=1)) / "study.json"
    manifest = json.loads(path.read_text())
    manifest["teacher"] = {**manifest["teacher"], **(teacher_says or {})}
    path.write_text(json.dumps(manifest))
    said = page(judge(path.parent))
    cells = (line.strip("|").split("|") for line in said.splitlines() if line.startswith("|"))
    return {row[0].strip(): [cell.strip() for cell in row[-2:]] for row in cells}, said


def test_the_budget_has_rows_for_teachers_and_for_what_they_say(tmp_path: Path) -> None:
    spent = {
        "others": {"count": 3, "seconds": 4.0, "flops": 5e11}, "logits": {"count": 4, "seconds": 0.25, "flops": 8e9},
    }  # fmt: skip
    rows, said = rows_of(tmp_path, {"spent": spent})
    assert rows["teacher"] == ["9.1", "1.00e+12"]
    assert rows["other teachers (3)"] == ["4.0", "5.00e+11"]
    assert rows["teachers' logits"] == ["0.2", "8.00e+09"]
    assert "two per multiply-accumulate and example" in said


def test_of_a_sweep_of_an_earlier_version_the_budget_says_nothing_of_logits(tmp_path: Path) -> None:
    rows, _ = rows_of(tmp_path, None)
    assert rows["teacher"] == ["9.1", "1.00e+12"]
    assert len(set(rows["teacher's logits"])) == 1 and not rows["teacher's logits"][0].strip("–-—")
    assert not any(label.startswith("other teachers") for label in rows)


def test_the_training_of_a_given_teacher_is_not_said_to_have_been_free(tmp_path: Path) -> None:
    logits = {"count": 1, "seconds": 2.0, "flops": None}
    given = {"width": 0, "seconds": 0.0, "train_flops": 0.0, "spent": {"others": {"count": 0}, "logits": logits}}
    rows, said = rows_of(tmp_path, given)
    unknown = rows["teacher"][0]
    assert rows["teacher"] == [unknown, unknown] and rows["teacher's logits"] == ["2.0", unknown]
    assert "its own training not counted" in said


def test_trials_that_were_not_chosen_are_a_row(tmp_path: Path) -> None:
    folder = write_fake_study(tmp_path, FakeStudy(trials=9, controls=1))
    found = judge(folder)
    trials = found.data.trials
    left = trials[(trials["arm"] == "search") & ~trials["number"].isin(found.front["number"])]
    assert f"| of the search, not on the front | {len(left)} |" in page(found)
    assert f"| {left['seconds'].sum():.1f} |" in page(found)


STUDY = """
from harness.space import Choice, Float, Study
STUDY = Study(
    task="digits", family="mlp", space={"width": Choice(3, 6), "lr": Float(5e-3, 5e-2, log=True)},
    fixed={"form": "mse", "alpha": 0.5, "epochs": 1, "teacher": "online", "teacher_width": 4},
    trials=3, seeds=1, controls=1, other_controls=(), confirm=2,
)
"""


def test_online_teachers_of_the_fresh_seeds_are_counted(digits_cache: Path, tmp_path: Path) -> None:
    """No probe of the study meets them: cohorts of the confirm stage have them trained."""
    (tmp_path / "mine.py").write_text(STUDY)
    shutil.copytree(digits_cache, tmp_path / "out" / "teachers")
    assert sweep_here(tmp_path / "mine.py", tmp_path / "out", deterministic=True, quiet=True) == 0
    folder = tmp_path / "out" / "mine"
    trials = [ledger.read_spec(ledger.trial_dir(folder, number)) for number in ledger.numbers(folder)]
    lessons = by_lesson(spec for trial in trials if trial is not None for spec in trial.specs)
    assert len(lessons) == 3  # of the search's seed, and of two fresh ones
    assert ledger.read_manifest(folder)["teacher"]["spent"]["others"]["count"] == 3
    found = judge(folder)
    left = set(found.data.trials["number"]) - set(found.data.confirmed.trials["source"])
    said = page(found)
    assert f"| of these, not confirmed | {len(left)} |" in said and "| other teachers (3) |" in said
    assert "Every worker that confirms computes logits of the test split" in said
