"""Ask and tell: the same proposals after a restart, arms that do not sway each other, databases that are not ours."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages._rdb import storage as rdb_storage

from harness import sampler as sampler_module
from harness.arms import SEARCH, control
from harness.importances import importances
from harness.kept import Asked
from harness.rungs import Halving
from harness.sampler import Sampler, best
from harness.space import SAMPLERS, Choice, Dimension, Float, Study, Value
from harness.urls import redact
from tests.fakes import STUDY


def opened(folder: Path, study: Study = STUDY, config_hash: str = "c0ffee", *, shared: bool = False) -> Sampler:
    return Sampler(f"sqlite:///{folder / 'study.db'}", "fake", study, config_hash, shared=shared)


def quality(asked: Asked) -> list[float]:
    """A surface with its best at alpha .3, and sizes that differ."""
    alpha, width = float(asked.params.get("alpha", 1.0)), float(asked.params.get("width", 2))
    return [0.9 - (alpha - 0.3) ** 2 + 0.01 * width, 100 * width]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_restart_proposes_what_an_undisturbed_run_would(kind: str, tmp_path: Path) -> None:
    study, parts = replace(STUDY, sampler=kind), (5, 5, 1) if kind == "gp" else (5, 5, 4)  # gp's model from the 11th on
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = opened(tmp_path / "a", study)
    for _ in range(sum(parts)):
        asked = whole.ask(SEARCH)
        whole.tell(asked, quality(asked))
    for part in parts:
        again = opened(tmp_path / "b", study)
        for _ in range(part):
            asked = again.ask(SEARCH)
            again.tell(asked, quality(asked))
    assert again.trials("complete") == whole.trials("complete")


@pytest.mark.parametrize(
    ("kind", "objectives"),
    [*((kind, ("val_accuracy", "num_params")) for kind in SAMPLERS), ("tpe", ("val_accuracy",))],
)
def test_pruned_trials_are_counted_and_a_restart_proposes_the_same(
    kind: str, objectives: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly all are pruned, so that TPE has fewer complete ones than it would call good; its past is bounded early."""
    for name, value in (("HISTORY", 12), ("BEST", 4), ("STEP", 4)):
        monkeypatch.setattr(sampler_module, name, value)
    study, num_trials = replace(STUDY, sampler=kind, objectives=objectives), 26
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    def go_on(sampler: Sampler, count: int) -> None:
        for _ in range(count):
            asked = sampler.ask(SEARCH, 1 + asked_in(sampler) // 8)
            if asked.number % 13 == 12:
                sampler.tell(asked, quality(asked)[: len(objectives)])
            else:
                sampler.prune(asked)

    def asked_in(sampler: Sampler) -> int:
        return sampler.count(SEARCH, "complete", "pruned")

    whole = opened(tmp_path / "a", study)
    go_on(whole, num_trials)
    for part in (9, 9, 8):
        again = opened(tmp_path / "b", study)
        go_on(again, part)
    assert whole.count(SEARCH, "pruned") == 24 and whole.count(SEARCH, "complete") == 2
    for state in ("complete", "pruned"):
        assert again.trials(state) == whole.trials(state)
    assert [asked.round for asked in again.trials("pruned")][::9] == [1, 2, 3]


def test_at_which_rung_a_trial_was_pruned_is_kept_with_it_and_has_to_be_one(tmp_path: Path) -> None:
    study = replace(STUDY, pruning=Halving(rungs=(2, 5)))
    sampler = opened(tmp_path, study)
    asked = replace(sampler.ask(SEARCH, 1), pruned_at=5)
    sampler.prune(asked)
    assert opened(tmp_path, study).trials("pruned") == [asked]
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection, connection:
        connection.execute("UPDATE trial_user_attributes SET value_json = '4' WHERE key = 'pruned_at'")
    with pytest.raises(ValueError, match="it was pruned at 4, and rungs are 2, 5"):
        opened(tmp_path, study)


def test_controls_do_not_sway_the_search(tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    mixed, pure = opened(tmp_path / "with"), opened(tmp_path / "without")
    for index in range(14):
        for sampler in (mixed, pure):
            asked = sampler.ask(SEARCH)
            sampler.tell(asked, quality(asked))
        plain = mixed.ask(control(STUDY.widths[index % 3]))
        mixed.tell(plain, [0.99, 200.0])
    search = [asked.params for asked in mixed.trials("complete") if not asked.is_control]
    assert search == [asked.params for asked in pure.trials("complete")]


def test_a_control_has_its_width_and_no_teacher_knobs(tmp_path: Path) -> None:
    asked = opened(tmp_path).ask(control(4))
    assert asked.is_control and asked.params["width"] == 4
    assert set(asked.params) == {"width", "lr"}


def test_a_form_without_a_temperature_gets_none(tmp_path: Path) -> None:
    sampler = opened(tmp_path)
    asked = [sampler.ask(SEARCH) for _ in range(30)]
    assert {a.params["form"] for a in asked} == {"kl", "soft_ce", "mse"}
    assert all(("temperature" in a.params) == (a.params["form"] != "mse") for a in asked)


def test_trials_asked_together_differ(tmp_path: Path) -> None:
    sampler = opened(tmp_path)
    assert len({sampler.ask(SEARCH).params["lr"] for _ in range(8)}) == 8


def test_seeds_of_studies_differ(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    first = opened(tmp_path / "0").ask(SEARCH)
    assert first.params != opened(tmp_path / "1", replace(STUDY, seed=1)).ask(SEARCH).params


def test_a_single_objective_study_works(tmp_path: Path) -> None:
    sampler = opened(tmp_path, replace(STUDY, objectives=("val_loss",)))
    asked = sampler.ask(SEARCH)
    sampler.tell(asked, [0.5])
    assert sampler.trials("complete") == [asked]


def test_what_is_on_disk_is_an_ordinary_optuna_study(tmp_path: Path) -> None:
    sampler = opened(tmp_path)
    asked = sampler.ask(SEARCH)
    sampler.tell(asked, quality(asked))
    study = optuna.load_study(study_name="fake", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.trials[0].values == quality(asked)
    assert study.trials[0].params == dict(asked.params)


def test_the_database_survives_a_kill_in_its_write_ahead_log(tmp_path: Path) -> None:
    opened(tmp_path)
    with sqlite3.connect(tmp_path / "study.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_failed_trial_is_counted_and_does_not_stop_the_next(tmp_path: Path) -> None:
    sampler = opened(tmp_path)
    asked = sampler.ask(SEARCH)
    sampler.fail(asked)
    assert sampler.trials("failed") == [asked]
    assert opened(tmp_path).count(SEARCH, "failed") == 1
    assert opened(tmp_path).ask(SEARCH).number == 1


def test_a_study_that_has_changed_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).ask(SEARCH)
    with pytest.raises(ValueError, match=r"holds another study called 'fake'"):
        opened(tmp_path, config_hash="other")


def test_one_that_came_to_no_trial_makes_room_for_what_it_was_changed_to(tmp_path: Path) -> None:
    before = opened(tmp_path).study_id
    sampler = opened(tmp_path, replace(STUDY, objectives=("val_loss",)), config_hash="other")
    assert sampler.study_id != before and sampler.study_id.startswith("other-")
    asked = sampler.ask(SEARCH)
    sampler.tell(asked, [0.5])
    assert opened(tmp_path, replace(STUDY, objectives=("val_loss",)), config_hash="other").trials("complete") == [asked]


def test_the_database_of_another_study_is_refused_unless_it_is_shared(tmp_path: Path) -> None:
    opened(tmp_path)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    with pytest.raises(ValueError, match="is the database of study 'fake', not 'mine'"):
        Sampler(url, "mine", STUDY, "c0ffee", shared=False)
    assert Sampler(url, "mine", STUDY, "c0ffee", shared=True).trials("complete") == []


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("DELETE FROM trials WHERE number = 1", "trial 1 is gone from the storage sqlite:.*; put an"),
        ("UPDATE trials SET number = 0 WHERE number = 1", "trial 0 is twice in the storage"),
        (
            "UPDATE trials SET state = 'FAIL' WHERE number = 1",
            "Optuna refuses trial 1 of the storage .* an earlier copy",
        ),
        ("DELETE FROM trial_values", "Optuna refuses trial 0 of the storage .* put an earlier copy"),
    ],
)
def test_a_storage_that_has_lost_something_is_refused_before_anything_is_written(
    damage: str, complaint: str, tmp_path: Path
) -> None:
    sampler = opened(tmp_path)
    for _ in range(3):
        asked = sampler.ask("search")
        sampler.tell(asked, quality(asked))
    del sampler
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection, connection:
        connection.execute(damage)
        before = connection.execute("SELECT * FROM trials").fetchall()
    with pytest.raises(ValueError, match=complaint) as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection:
        assert connection.execute("SELECT * FROM trials").fetchall() == before


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////no/such/folder/study.db",
        "postgresql://user:secret@127.0.0.1:1/none",
        "nonsense",
        "mysql+nothing://user:secret@host/db",
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(ValueError, match="cannot open the storage") as error:
        Sampler(url, "fake", STUDY, "c0ffee")
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"a letter to the editor" * 100)
    with pytest.raises(ValueError, match="cannot open the storage"):
        opened(tmp_path)
    assert (tmp_path / "study.db").read_bytes() == b"a letter to the editor" * 100


def test_passwords_are_left_out_of_urls() -> None:
    assert redact("postgresql://ann:s3cret@db:5432/x") == "postgresql://ann:***@db:5432/x"
    assert redact("sqlite:////tmp/study.db") == "sqlite:////tmp/study.db"


def test_importance_finds_the_knob_that_matters_also_when_it_is_conditional() -> None:
    space: dict[str, Dimension] = {
        "form": Choice("kl", "mse"),
        "alpha": Float(0, 1),
        "noise": Float(0, 1),
        "temperature": Float(1, 20, log=True, when={"form": ("kl",)}),
    }
    draw = np.random.default_rng(0)
    rows: list[tuple[dict[str, Value], float]] = []
    for index in range(120):
        params: dict[str, Value] = {"form": ("kl", "mse")[index % 2], "alpha": draw.random(), "noise": draw.random()}
        bonus = 0.0
        if params["form"] == "kl":
            params["temperature"] = float(np.exp(draw.uniform(0, np.log(20))))
            bonus = 0.3 * float(params["temperature"]) / 20
        rows.append((params, float(params["alpha"]) + bonus))
    found = importances(space, rows)
    assert set(found) == {"fANOVA", "PED-ANOVA"}
    for shares in found.values():
        assert set(shares) == set(space)
        assert shares["alpha"] > 3 * shares["noise"]
        assert shares["temperature"] > shares["noise"]


def test_importance_of_too_few_trials_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 trials, not 2"):
        importances({"alpha": Float(0, 1)}, [({"alpha": 0.1}, 0.5), ({"alpha": 0.2}, 0.6)])


def test_a_study_that_a_kill_left_without_its_marks_is_begun(tmp_path: Path) -> None:
    optuna.create_study(
        storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="fake", directions=["maximize", "minimize"]
    )
    assert opened(tmp_path).ask(SEARCH).number == 0
    assert opened(tmp_path).trials("running")


def test_tpe_that_forgets_proposes_the_same_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In rounds that are told out of order and in part, as workers do."""
    for name, value in (("HISTORY", 12), ("BEST", 4), ("STEP", 5)):
        monkeypatch.setattr(sampler_module, name, value)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, waiting = opened(tmp_path / "a"), list[Asked]()
    for turn in range(9):
        again = opened(tmp_path / "b")
        asked = [whole.ask(SEARCH) for _ in range(4)]
        assert asked == [again.ask(SEARCH) for _ in range(4)]
        waiting = [*waiting, *asked][::-1]
        for _ in range(3 if turn else 2):
            trial = waiting.pop()
            for each in (whole, again):
                each.tell(trial, quality(trial))
    assert again.trials("complete") == whole.trials("complete")
    assert whole.count(SEARCH, "complete") == 26


def test_what_tpe_is_shown_is_bounded_and_has_the_best_and_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("HISTORY", 12), ("BEST", 4), ("STEP", 5)):
        monkeypatch.setattr(sampler_module, name, value)
    shown: list[list[tuple[str, list[float] | None]]] = []
    made = sampler_module.Sampler._make_sampler

    def spy(self: Sampler, arm: str, number: int) -> optuna.samplers.BaseSampler:
        shown.append([(t.state.name, t.values) for t in self._arms[arm].study.get_trials(deepcopy=False)])
        return made(self, arm, number)

    monkeypatch.setattr(sampler_module.Sampler, "_make_sampler", spy)
    sampler = opened(tmp_path)
    running = sampler.ask(SEARCH)
    for index in range(30):
        asked = sampler.ask(SEARCH)
        sampler.tell(asked, [1.0 - 0.01 * index, 100.0])
    sampler.ask(SEARCH)
    assert running.number == 0 and shown[-1][0] == ("RUNNING", None)
    values = [values[0] for state, values in shown[-1] if state == "COMPLETE" and values]
    assert values == pytest.approx([1.0, 0.99, 0.98, 0.97, *(1.0 - 0.01 * index for index in range(22, 30))])
    assert max(len(trials) for trials in shown) == 1 + 12 + 4  # running, chosen, and told since


@given(
    st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), max_size=25),
    st.integers(1, 3),
    st.integers(1, 8),
)
def test_the_best_are_by_front_and_the_latest_first(
    rows: list[tuple[float, float, float]], columns: int, count: int
) -> None:
    losses = np.array([row[:columns] for row in rows]).reshape(-1, columns)

    def beaten(row: int, among: list[int]) -> bool:
        return any((losses[o] <= losses[row]).all() and (losses[o] < losses[row]).any() for o in among)

    wanted: list[int] = []
    left = list(range(len(losses)))
    while left:
        front = [row for row in left if not beaten(row, left)]
        wanted += front[::-1]
        left = [row for row in left if row not in front]
    assert best(losses, count) == wanted[:count]


def test_counts_are_kept_by_arm_and_state(tmp_path: Path) -> None:
    sampler = opened(tmp_path)
    first, second, third = (sampler.ask(SEARCH) for _ in range(3))
    plain = sampler.ask(control(4))
    sampler.tell(first, quality(first))
    sampler.fail(second)
    for each in (sampler, opened(tmp_path)):
        assert [each.count(SEARCH, state) for state in ("complete", "failed", "running")] == [1, 1, 1]
        assert each.count(SEARCH, "complete", "failed", "running") == 3
        assert each.count(plain.arm, "running") == 1 and each.count(control(2), "running") == 0
    assert sampler.trials("running") == [third, plain]


def test_a_trial_that_another_sweep_has_told_is_said_so(tmp_path: Path) -> None:
    sampler = opened(tmp_path)
    asked = sampler.ask(SEARCH)
    opened(tmp_path).tell(asked, quality(asked))
    with pytest.raises(ValueError, match="trial 0 is over already"):
        sampler.tell(asked, quality(asked))


def test_what_was_told_in_which_order_is_known_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is set back an hour at every telling."""
    for name, value in (("HISTORY", 8), ("BEST", 2), ("STEP", 5)):
        monkeypatch.setattr(sampler_module, name, value)

    class Clock(datetime):
        hours = 0

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            cls.hours -= 1
            return datetime.now(tz) + timedelta(hours=cls.hours)

    monkeypatch.setattr(rdb_storage, "datetime", Clock)
    whole = opened(tmp_path)
    for _ in range(6):
        asked = [whole.ask(SEARCH) for _ in range(3)]
        for one in (asked[1], asked[2], asked[0]):
            whole.tell(one, quality(one))
    last = whole.ask(SEARCH)
    again = opened(tmp_path)
    order = [whole._arms[SEARCH].told, again._arms[SEARCH].told]
    assert order[0] == order[1] != sorted(order[0])
    assert again.trials("running") == [last]


@pytest.mark.parametrize(
    ("alpha", "least"), [({}, {"alpha": 1.0}), ({"mixing": "additive"}, {"alpha": 0.0}), ({"alpha": 0.5}, {})]
)
def test_a_control_with_a_teacher_tries_to_ignore_it(alpha: dict[str, Value], least: dict[str, Value]) -> None:
    space: dict[str, Dimension] = {"width": Choice(3, 6), "lr": Float(0.01, 0.1)}
    space |= {} if "alpha" in alpha else {"alpha": Float(0.0, 1.0)}
    study = Study(task="digits", family="mlp", space=space, fixed={"form": "mse", **alpha})
    sampler = Sampler("sqlite://", "mine", study, "hash")
    for kind, every in (("self", least), ("shuffled", least), ("control", {}), ("search", {})):
        arm = kind if kind == "search" else f"{kind}-3"
        asked = [sampler.ask(arm).params for _ in range(6)]
        for place, params in enumerate(asked):
            assert params.items() >= (every if place % 4 == 0 else {}).items()
        assert len({params["lr"] for params in asked}) == 6
        if every:
            ignoring = [params["alpha"] == every["alpha"] for params in asked]
            assert ignoring == [True, False, False, False, True, False]
