"""The confirm stage: what is chosen, under which seeds, who reads the test split, and what a kill leaves of it."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file

from harness import files, ledger, manifest, tasks
from harness.analysis.answers import read_answers
from harness.analysis.chosen import ROLES, chosen, confirmed_in_roles
from harness.analysis.load import is_teacherless, load, rows_of
from harness.arms import FRESH_SEED, read_arm
from harness.cohort import checkpoint
from harness.executors import worker
from harness.kept import read_study
from harness.report.build import write
from harness.tasks import LockedSplit, Split
from harness.values import digest, to_json
from harness.verify.check import Place, check
from tests.confirming import SEEDS, swept

KINDS = {"search", "control", "smoothing", "self", "shuffled"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, digits_cache: Path) -> Path:
    """The results of a small study that was confirmed."""
    folder = tmp_path_factory.mktemp("home")
    assert swept(folder, digits_cache) == 0
    return folder / "out"


def trials_of(out: Path) -> dict[int, ledger.TrialSpec]:
    found = {n: ledger.read_spec(ledger.trial_dir(out / "mine", n)) for n in ledger.numbers(out / "mine")}
    return {number: trial for number, trial in found.items() if trial is not None}


def results_of(out: Path, stage: str) -> dict[int, Any]:
    trials = {n: t for n, t in trials_of(out).items() if t.stage == stage}
    return {n: [record.metrics for record in found[0]] for n, trial in trials.items()
            if (found := ledger.result_of(ledger.trial_dir(out / "mine", n), trial))}  # fmt: skip


def faults(out: Path) -> list[str]:
    place = Place(out / "mine", f"sqlite:///{out / 'mine' / 'study.db'}", f"sqlite:///{out / 'mlflow.db'}", "")
    return [fault.line() for fault in check(place, lambda *_: None).faults]


def test_every_control_is_tuned_with_as_many_trials_as_plain_training(home: Path) -> None:
    searched = Counter((t.arm, t.specs[0].width) for t in trials_of(home).values() if t.stage == "search")
    assert {key: count for key, count in searched.items() if key[0] != "search"} == {
        (kind, width): 2 for kind in KINDS - {"search"} for width in (3, 6)
    }
    for trial in trials_of(home).values():
        for spec in trial.specs:
            assert (spec.form == "ce") == (trial.arm in ("control", "smoothing"))
            assert (spec.label_smoothing > 0) == (trial.arm == "smoothing")
            assert spec.teacher == (trial.arm if trial.arm in ("self", "shuffled") else "offline")


def test_the_front_and_the_best_of_every_control_are_confirmed_at_its_widths(home: Path) -> None:
    data = load(home / "mine")
    table = confirmed_in_roles(data).trials
    widths = set(chosen(data)["width"])
    assert set(zip(table["width"], table["role"], strict=True)) >= {(w, role) for w in widths for role in ROLES}
    assert set(table.loc[table["on_front"], "source"]) and (table["num_seeds"] == SEEDS).all()
    every = pd.concat([data.trials, data.others.trials])
    silent = every["form"] == "ce"
    plain = silent & (every["arm"] != "smoothing")
    for row in rows_of(table):
        rivals = {
            "distilled": ~plain & (every["arm"] == "search"), "ce": plain, "smoothing": every["arm"] == "smoothing",
        }.get(row["role"], plain | (every["arm"] == row["role"]))  # fmt: skip
        best = every.loc[rivals & (every["width"] == row["width"]), "val_accuracy"].max()
        assert every.loc[every["number"] == row["source"], "val_accuracy"].item() == best
        assert (row["form"] == "ce") == (row["source"] in set(every.loc[silent, "number"]))


def test_a_teacher_that_is_given_no_weight_is_none(home: Path) -> None:
    convex = {"form": "kl", "mixing": "convex", "feature": "none", "alpha": 1.0}
    additive = {**convex, "mixing": "additive", "alpha": 0.0}
    assert is_teacherless(convex, labelled=True) and is_teacherless(additive, labelled=True)
    assert is_teacherless(additive, labelled=False) and not is_teacherless(convex, labelled=False)
    for other in ({**convex, "alpha": 0.99}, {**additive, "alpha": 1.0}, {**convex, "feature": "hint"}):
        assert not is_teacherless(other, labelled=True)
    data = load(home / "mine")
    idle = data.trials[data.trials["arm"].isin(["self", "shuffled"])]
    assert len(idle) == 4 and (idle["form"] == "ce").all() and idle["temperature"].isna().all()
    asked = {number: trial.specs[0] for number, trial in trials_of(home).items() if number in set(idle["number"])}
    assert {(spec.alpha, spec.form == "ce") for spec in asked.values()} == {(1.0, False)}
    path = home / "mine" / "study.json"
    kept = path.read_bytes()
    said = {name: value for name, value in json.loads(kept).items() if name != "digest"}
    for task in ({"unlabelled": 3}, {}):  # the teacher alone teaches those, if there are any
        others = {name: value for name, value in said["task"].items() if name != "unlabelled"}
        files.write_sealed(path, {**said, "task": {**others, **task}})
        assert not load(home / "mine").trials["arm"].isin(["self", "shuffled"]).any()
    path.write_bytes(kept)


def test_a_control_whose_space_holds_plain_training_is_never_less_and_may_be_that(home: Path) -> None:
    data = load(home / "mine")
    number = int(data.trials.loc[data.trials["arm"] == "shuffled", "number"].iloc[0])
    width = int(data.trials.loc[data.trials["number"] == number, "width"].item())
    best = data.trials.assign(val_accuracy=data.trials["val_accuracy"].mask(data.trials["number"] == number, 2.0))

    def roles(trials: pd.DataFrame) -> set[str]:
        table = chosen(replace(data, trials=trials))
        return set(table.loc[table["source"] == number, "role"])

    assert roles(best) == {"ce", "self", "shuffled"}
    held = ~((best["arm"] == "self") & (best["width"] == width))  # no self-teacher was plain training there
    assert roles(best[held]) == {"ce", "shuffled"}


def test_a_configuration_is_trained_again_with_nothing_changed_but_its_seeds(home: Path) -> None:
    trials = trials_of(home)
    searched = {spec.seed for trial in trials.values() if trial.stage == "search" for spec in trial.specs}
    for trial in trials.values():
        if trial.stage == "confirm":
            [first, *_] = trials[trial.source].specs
            assert trial.params == trials[trial.source].params and trial.arm == trials[trial.source].arm
            assert [spec.seed for spec in trial.specs] == [FRESH_SEED + 1, FRESH_SEED + 2, FRESH_SEED + 3]
            assert {digest([to_json(spec) | {"seed": first.seed}]) for spec in trial.specs} == {
                digest([to_json(first)])
            }
    assert max(searched) < FRESH_SEED


def test_test_metrics_are_of_the_confirm_stage_alone(home: Path) -> None:
    for stage in ("search", "confirm"):
        results = results_of(home, stage)
        assert results
        for records in results.values():
            for metrics in records:
                assert any(name.startswith("test_") for name in metrics) == (stage == "confirm")
                assert {"val_ece", "val_brier"} <= set(metrics)
    curves = load(home / "mine")
    assert curves.curves["test_accuracy"].isna().all() and curves.confirmed.curves["test_accuracy"].notna().all()


def test_the_test_split_is_opened_by_the_confirm_stage_alone(
    tmp_path: Path, digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, stages = LockedSplit.read, []

    def noted(self: LockedSplit, stage: str) -> Split:
        stages.append(stage)
        return read(self, stage)

    monkeypatch.setattr(LockedSplit, "read", noted)
    small: dict[str, Any] = {"confirm": 1, "more": "other_controls=()"}
    assert swept(tmp_path, digits_cache, **small, no_confirm=True) == 0
    assert stages == [] and load(tmp_path / "out" / "mine").confirmed.trials.empty
    assert swept(tmp_path, digits_cache, **small) == 0
    assert set(stages) == {"confirm"}


def test_what_a_student_answered_is_what_its_network_says(home: Path) -> None:
    task = tasks.load("digits")
    test, family = task.test.read("confirm"), task.families["mlp"]
    number, trial = next((n, t) for n, t in trials_of(home).items() if t.stage == "confirm")
    folder = ledger.trial_dir(home / "mine", number)
    answers = read_answers(home / "mine", [number])[0][number]
    records, _ = ledger.result_of(folder, trial) or ((), {})
    states = checkpoint.load(ledger.confirmed_file(folder), trial.hash)
    assert states is not None and len(states) == len(records) == SEEDS
    assert (answers.labels == test.labels.numpy()).all()
    for place, (state, record) in enumerate(zip(states, records, strict=True)):
        layers = family.layers(record.spec.width, task.input_shape, task.num_classes)
        parts = torch.split(state.tensors["network"], [int(np.prod(layer.shape)) for layer in layers.values()])
        params = {name: part.view(layer.shape) for (name, layer), part in zip(layers.items(), parts, strict=True)}
        logits = family.apply(params, family.prepare(test.inputs))
        chances = logits.double().softmax(-1)
        assert (logits.argmax(-1).numpy() == answers.predicted[place]).all()
        assert np.allclose(chances.amax(-1).numpy(), answers.confidence[place], atol=1e-5)
        assert answers.correct[place].mean() == pytest.approx(record.metrics["test_accuracy"], abs=1e-12)
        truth = torch.nn.functional.one_hot(test.labels, task.num_classes)
        assert (chances - truth).square().sum(-1).mean().item() == pytest.approx(record.metrics["test_brier"], abs=1e-6)
        loss = torch.nn.functional.cross_entropy(logits, test.labels).item()
        assert loss == pytest.approx(record.metrics["test_loss"], abs=1e-5)


def test_confirmed_runs_stand_under_the_sweep_and_can_be_filtered(home: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'confirm'", max_results=1000)
    [parent] = client.search_runs([experiment.experiment_id], "tags.`harness.key` = 'mine/sweep'")
    trials = {n: trial for n, trial in trials_of(home).items() if trial.stage == "confirm"}
    assert {run.data.tags["harness.key"] for run in runs} == {trial.key for trial in trials.values()}
    for run in runs:
        tags = run.data.tags
        assert tags["mlflow.parentRunId"] == parent.info.run_id and tags["test_reads"] == "3 students"
        assert int(tags["confirms"]) in trials_of(home) and tags["arm"] in KINDS
        assert f"confirms #{tags['confirms']}" in run.info.run_name and "test_accuracy" in run.data.metrics


def test_the_three_stores_agree_on_what_was_confirmed(home: Path) -> None:
    assert faults(home) == []
    study = read_study(f"sqlite:///{home / 'mine' / 'study.db'}", "mine")
    stages = Counter(read_arm(kept.asked.arm).stage for kept in study.trials)
    assert stages["confirm"] == len(results_of(home, "confirm")) > 5


def test_the_same_command_again_confirms_nothing_again(home: Path, tmp_path: Path, digits_cache: Path) -> None:
    shutil.copytree(home, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("mine/trials/*/result.json")}
    assert swept(tmp_path, digits_cache) == 0
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("mine/trials/*/result.json")} == before


def test_a_sweep_that_dies_while_it_confirms_goes_on_and_ends_the_same(
    home: Path, tmp_path: Path, digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    work = worker.work

    def dies(kind: str, body: Mapping[str, Any], *rest: Any) -> dict[str, Any]:
        if body.get("stage") == "confirm":
            if done:
                raise OSError("the disk is gone")
            done.append(kind)
        return work(kind, body, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(worker, "work", dies)
        assert swept(tmp_path, digits_cache) == 1
    assert swept(tmp_path, digits_cache) == 0
    assert results_of(tmp_path / "out", "confirm") == results_of(home, "confirm")
    assert faults(tmp_path / "out") == []


def test_the_seconds_of_a_session_that_was_killed_are_counted_as_far_as_they_are_known(
    home: Path, tmp_path: Path, digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, note = worker.work, manifest.Elapsed.note

    def dies(kind: str, body: Mapping[str, Any], *rest: Any) -> dict[str, Any]:
        if body.get("stage") == "confirm":
            raise OSError("the disk is gone")
        return work(kind, body, *rest)

    def killed(self: manifest.Elapsed, *, ended: bool = False) -> None:
        if not ended:
            note(self)

    with monkeypatch.context() as patched:
        patched.setattr(worker, "work", dies)
        patched.setattr(manifest, "EVERY", 0.0)
        patched.setattr(manifest.Elapsed, "note", killed)
        assert swept(tmp_path, digits_cache) == 1
    folder = tmp_path / "out" / "mine"
    first = ledger.read_manifest(folder)
    assert first["seconds"] > 0.5 and not first["ended"]
    write(folder)
    assert f"The whole sweep took at least {first['seconds']:.1f} seconds." in (folder / "summary.md").read_text()
    assert swept(tmp_path, digits_cache) == 0
    last = ledger.read_manifest(folder)
    assert last["seconds"] > first["seconds"] and last["ended"] and last["at_least"]
    assert "The whole sweep took at least" in (folder / "summary.md").read_text()
    assert re.search(r"The whole sweep took \d+\.\d seconds", (home / "mine" / "summary.md").read_text())


def test_one_that_is_given_up_is_tried_again_by_the_next_sweep_and_not_before(
    tmp_path: Path, digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = worker.work

    def refuses(kind: str, body: Mapping[str, Any], *rest: Any) -> dict[str, Any]:
        if body.get("stage") == "confirm":
            raise ValueError("not today")
        return work(kind, body, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(worker, "work", refuses)
        assert swept(tmp_path, digits_cache, more="other_controls=()") == 0
    data = load(tmp_path / "out" / "mine")
    assert (data.confirmed.trials["state"] == "failed").all() and len(data.confirmed.trials) == len(
        set(chosen(data)["source"])
    )
    assert swept(tmp_path, digits_cache, more="other_controls=()") == 0
    states = Counter(load(tmp_path / "out" / "mine").confirmed.trials["state"])
    assert states["complete"] == states["failed"] == len(data.confirmed.trials)
    assert faults(tmp_path / "out") == []


def damaged(path: Path, how: str) -> None:
    """Lose a file, cut it short, or change what is in the middle of it."""
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif how == "the network":
        path.write_bytes(content[:-400] + bytes(400))
    else:
        first = content.index(b"{")
        header = int.from_bytes(content[:first], "little")
        start = first + header + json.loads(content[first : first + header])["0/predicted"]["data_offsets"][0]
        path.write_bytes(content[:start] + bytes(200) + content[start + 200 :])


@pytest.mark.parametrize("how", ["missing", "cut short", "the network", "the answers"])
def test_answers_that_are_lost_of_a_confirmed_trial_are_told_and_made_again_the_same(
    how: str, home: Path, tmp_path: Path, digits_cache: Path
) -> None:
    shutil.copytree(home, tmp_path / "out")
    [first, *_] = sorted((tmp_path / "out").glob("mine/trials/*/confirmed.safetensors"))
    answers, number = first.read_bytes(), int(first.parent.name)
    damaged(first, how)
    [fault] = faults(tmp_path / "out")
    what = "missing" if how == "missing" else "damaged: .+"
    assert re.fullmatch(
        rf"trial {number}: its answers on the test split are {what}; the next sweep trains it .*", fault
    )
    assert swept(tmp_path, digits_cache) == 0
    assert first.read_bytes()[-2000:] == answers[-2000:]  # the tensors; the head has how long it took
    assert results_of(tmp_path / "out", "confirm") == results_of(home, "confirm") and faults(tmp_path / "out") == []


def test_answers_without_a_digest_are_believed_as_far_as_they_agree_with_the_record(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "mine", tmp_path / "mine")
    [first, *_] = sorted(tmp_path.glob("mine/trials/*/confirmed.safetensors"))
    number, tensors = int(first.parent.name), load_file(first)
    save_file(tensors, first)
    assert number in read_answers(tmp_path / "mine", [number])[0]
    tensors["1/predicted"][:9] = (tensors["1/predicted"][:9] + 1) % 10
    save_file(tensors, first)
    found, lost = read_answers(tmp_path / "mine", [number])
    assert not found and "its record says" in lost[number]


def test_more_seeds_and_more_controls_later_are_no_other_study(home: Path, tmp_path: Path, digits_cache: Path) -> None:
    shutil.copytree(home, tmp_path / "out")
    before = results_of(tmp_path / "out", "confirm")
    assert swept(tmp_path, digits_cache, confirm=4, more="other_controls=('self',)") == 0
    after = results_of(tmp_path / "out", "confirm")
    assert {number: after[number] for number in before} == before
    table = confirmed_in_roles(load(tmp_path / "out" / "mine")).trials
    assert (table["num_seeds"] == 4).all()
    assert not table.duplicated(["role", "width"]).any()


def test_what_a_pruned_study_chose_is_confirmed_and_not_pruned(tmp_path: Path, digits_cache: Path) -> None:
    assert swept(tmp_path, digits_cache, more="other_controls=('self',), pruning=Halving(rungs=(1, 2))") == 0
    data = load(tmp_path / "out" / "mine")
    assert (data.trials["state"] == "pruned").any() and (data.confirmed.trials["state"] == "complete").all()
    assert faults(tmp_path / "out") == []
    assert not list((tmp_path / "out").glob("mine/trials/*/rung-*.safetensors"))
