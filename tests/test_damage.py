"""Damaged files: never a traceback, never a lost trial, never a number that was not measured."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import ledger, tries
from harness.analysis.load import load
from harness.driver import Driver
from harness.files import write_json
from harness.kept import Asked
from harness.ledger import TrialSpec, read_spec, trial_dir
from harness.space import Choice
from tests import damage
from tests.damage import Harm
from tests.fake_study import FakeStudy, write_fake_study
from tests.fakes import STUDY, FakeRuns, fake_record, make_driver
from tests.test_ledger import records, trial

LITTLE = replace(STUDY, space={**STUDY.space, "width": Choice(2)}, trials=4, controls=0)
thousand = settings(
    max_examples=1000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of files need not survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder of which thousands can be made and deleted: in memory where the system has such a place."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=place if place.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with trials that are complete, pruned, failed and running."""
    fake = FakeStudy(
        name="fake", forms=("kl",), widths=(2,), trials=4, controls=1, seeds=2, epochs=3, pruned=(1,), failed=(2,),
        running=(3,), diverged=(4,),
    )  # fmt: skip
    return write_fake_study(tmp_path_factory.mktemp("studied"), fake)


@dataclass
class ToldTwiceError(Exception):
    """A trial was told twice."""

    number: int


@dataclass
class MemorySampler:
    """A sampler in memory, whose proposals follow from the trial's number."""

    trials_by_state: dict[str, dict[int, Asked]] = field(
        default_factory=lambda: {"running": {}, "complete": {}, "failed": {}, "pruned": {}}
    )
    values: dict[int, list[float]] = field(default_factory=dict)

    def trials(self, state: str) -> list[Asked]:
        return list(self.trials_by_state[state].values())

    def count(self, arm: str, *states: str) -> int:
        return sum(asked.arm == arm for state in states for asked in self.trials(state))

    def ask(self, arm: str, _: int = 0) -> Asked:
        number = sum(map(len, self.trials_by_state.values()))
        params: dict[str, Any] = {"width": 2, "form": "kl", "alpha": 0.1 * number, "temperature": 4.0}
        self.trials_by_state["running"][number] = Asked(number, arm, params)
        return self.trials_by_state["running"][number]

    def take_twins(self) -> list[Asked]:
        return []

    def tell(self, asked: Asked, told: Sequence[float]) -> None:
        self._move(asked, "complete")
        self.values[asked.number] = list(told)

    def fail(self, asked: Asked) -> None:
        self._move(asked, "failed")

    def _move(self, asked: Asked, state: str) -> None:
        if self.trials_by_state["running"].pop(asked.number, None) is None:
            raise ToldTwiceError(asked.number)
        self.trials_by_state[state][asked.number] = asked


def driver_of(folder: Path, sampler: MemorySampler, runs: FakeRuns, like: Driver) -> Driver:
    made = replace(like, plan=replace(like.plan, study_dir=folder), sampler=sampler, tracker=runs)  # type: ignore[arg-type]
    made._open, made._recovered, made._ready, made._lost = {}, set(), [], set()
    return made


@dataclass(frozen=True)
class Begun:
    """A sweep that was killed with trials told, trained, begun and not asked for; and what it comes to undisturbed."""

    folder: Path
    sampler: MemorySampler
    like: Driver
    values: Mapping[int, list[float]]
    files: tuple[str, ...]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begun]:
    whole, folder = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("begun")
    like = make_driver(tmp_path_factory.mktemp("like"), FakeRuns(), study=LITTLE)
    undisturbed = MemorySampler()
    assert driver_of(whole, undisturbed, FakeRuns(), like).run(set()) == "complete"
    sampler = MemorySampler()
    for number, asked in sorted(undisturbed.trials_by_state["complete"].items()):
        if number == 3:
            continue  # not asked for
        shutil.copytree(trial_dir(whole, number), trial_dir(folder, number))
        if number == 0:
            sampler.trials_by_state["complete"][number] = asked
            sampler.values[number] = undisturbed.values[number]
        else:
            sampler.trials_by_state["running"][number] = asked
        place = trial_dir(folder, number)
        write_json(place / "attempts.json", 1)
        if number == 2:
            (place / "result.json").unlink()
            known = read_spec(place)
            assert known is not None
            ledger.publish_student(place, known, 0, fake_record(known.specs[0]))
    files = tuple(str(path.relative_to(folder)) for path in folder.rglob("*.json"))
    yield Begun(folder, sampler, like, undisturbed.values, files)


def go_on(begun: Begun, harms: Mapping[str, Harm], folder: Path, lines: list[str]) -> None:
    """Damage files of the sweep and run it to its end: nothing is lost, doubled or changed, and each file put aside
    is told of once."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(begun.folder, folder, copy_function=shutil.copyfile)
    for name, harm in harms.items():
        if (folder / name).is_file():
            harm(folder / name)
    sampler, runs = copy.deepcopy(begun.sampler), FakeRuns(["fake/0"])
    lines.clear()
    assert driver_of(folder, sampler, runs, begun.like).run({"fake/0"}) == "complete"
    assert sampler.values == begun.values
    assert set(sampler.trials_by_state["complete"]) == set(begun.values)
    assert sorted(runs.runs) == ["fake/0", "fake/1", "fake/2", "fake/3"]
    kept = [path.name for path in folder.rglob("*.aside-*") if path.parent.name != path.name]
    assert sorted(kept) == sorted(line.rpartition(" ")[2] for line in lines)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is warned of; `caplog` keeps thousands."""
    found: list[str] = []
    monkeypatch.setattr(logging.getLogger("harness.files"), "warning", lambda text, *of: found.append(text % of))
    return found


@thousand
@given(data=st.data())
def test_a_sweep_that_finds_damaged_files_ends_as_one_that_was_not_disturbed(
    data: st.DataObject, begun: Begun, lines: list[str], memory: Path
) -> None:
    harm = damage.sealed | st.sampled_from([damage.file_for_the_folder, damage.no_folder])
    harms = data.draw(st.dictionaries(st.sampled_from(begun.files), harm, min_size=1, max_size=4))
    go_on(begun, harms, memory / "damaged", lines)


READERS: Mapping[str, Callable[[Path, TrialSpec], object]] = {
    "spec.json": lambda folder, _: ledger.find_spec(folder),
    "result.json": ledger.read_result,
    "failed.json": ledger.read_failure,
    "rung-1.json": lambda folder, of: ledger.read_rung(folder, of, 1),
    "student-0.json": lambda folder, of: ledger.read_student(folder, of, 0),
    "attempts.json": lambda folder, _: tries.attempts(folder),
}
"""What reads each file of a trial."""


@settings(thousand, max_examples=500)
@given(name=st.sampled_from(sorted(READERS)), harm=damage.any_harm, seal=damage.sealed)
def test_a_damaged_file_is_read_as_it_was_or_put_aside(
    name: str, harm: Harm, seal: Harm, lines: list[str], memory: Path
) -> None:
    for own in (harm, seal):
        shutil.rmtree(memory / "trials", ignore_errors=True)
        folder, of = ledger.write_spec(memory, trial()), trial()
        ledger.publish(folder, of, records(of))
        ledger.publish_failure(folder, of, "killed")
        ledger.publish_rung(folder, of, 1, records(of))
        ledger.publish_student(folder, of, 0, records(of)[0])
        tries.count_attempt(folder)
        known = READERS[name](folder, of)
        own(folder / name)
        left = Path(folder / name)
        content = left.read_bytes() if left.is_file() else None
        lines.clear()
        found = READERS[name](folder, of)
        aside = list(folder.glob("*.aside-*"))
        assert len(lines) == len(aside) <= 1
        if aside:
            assert not found and lines[0].endswith(f"it is kept as {aside[0].name}") and "\n" not in lines[0]
            assert content is None or aside[0].read_bytes() == content
        if own is seal and name != "attempts.json":
            assert not found or found == known


@settings(thousand, max_examples=100)
@given(harms=st.lists(st.tuples(st.integers(0, 99), damage.any_harm), min_size=8, max_size=8), alone=damage.any_harm)
def test_a_study_of_damaged_files_is_loaded_or_refused_in_one_line(
    harms: list[tuple[int, Harm]], alone: Harm, studied: Path, memory: Path
) -> None:
    """Eight damaged files a case, beside the manifest."""
    folder = memory / "study"
    shutil.copytree(studied, folder, copy_function=shutil.copyfile)
    names = sorted(path for path in (folder / "trials").rglob("*.json"))
    for path, harm in {names[place % len(names)]: harm for place, harm in harms}.items():
        harm(path)
    before = sorted(folder.rglob("*"))
    numbers = list(load(folder).trials["number"])
    assert numbers == sorted(set(numbers)) and set(numbers) <= {0, 1, 2, 3, 4}
    alone(folder / "study.json")
    try:
        found = load(folder)
        assert isinstance(found.space, dict) and isinstance(found.forms, tuple)
    except (ValueError, FileNotFoundError) as error:
        assert "study.json" in str(error) and "\n" not in str(error)
    assert sorted(folder.rglob("*")) == sorted({*before, *(folder / "study.json").glob("inside")})
    shutil.rmtree(folder)
