"""The benchmark's loop is a true equal of the harness, or its ratio would mean nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from harness import cli, cohort, tasks, teacher
from harness.bench import measure, plain, students
from harness.bench.__main__ import main, show
from harness.losses import LOSSES
from harness.models import num_params
from harness.report import build
from harness.space import Choice, Study, Value, load_study
from harness.spec import StudentSpec


def student(**knobs: Any) -> StudentSpec:
    common: dict[str, Any] = {"task": "digits", "family": "mlp", "width": 16, "seed": 1, "form": "kl", "alpha": 0.3}
    return StudentSpec(**{**common, "temperature": 4.0, "epochs": 8, **knobs})


@pytest.mark.parametrize("family", ["cnn", "mlp"])
@pytest.mark.parametrize("task_name", ["digits", "mnist5k"])
def test_a_plain_network_has_exactly_as_many_parameters_as_the_familys(family: str, task_name: str) -> None:
    task = tasks.load(task_name)
    for width in (1, 2, 3, 8):
        net = students.network(family, width, task.input_shape, task.num_classes)
        wanted = num_params(task.families[family], width, task.input_shape, task.num_classes)
        assert sum(param.numel() for param in net.parameters()) == wanted


def test_a_plain_network_pads_images_that_are_not_whole_patches() -> None:
    net = students.network("cnn", 2, (1, 9, 15), 10)
    found = sum(param.numel() for param in net.parameters())
    assert found == num_params(tasks.load("digits").families["cnn"], 2, (1, 9, 15), 10)
    assert net(torch.zeros(3, 1, 9, 15)).shape == (3, 10)


@pytest.mark.parametrize("form", students.FORMS)
def test_a_plain_loss_is_the_harnesss(form: str) -> None:
    noise = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 64, 10, generator=noise).double()
    knobs = {"temperature": torch.tensor(4.0)} if LOSSES[form].knobs else {}
    spec = student(form=form, temperature=4.0 if knobs else None)
    wanted = LOSSES[form].function(logits, targets, **knobs)
    torch.testing.assert_close(students.distillation(spec, logits, targets), wanted)


@pytest.mark.parametrize("family", ["cnn", "mlp"])
def test_the_loop_learns_what_the_harness_learns(family: str, digits_cache: Path, tmp_path: Path) -> None:
    task = tasks.load("digits")
    specs = [student(family=family, seed=seed) for seed in (1, 2, 3)]
    records = cohort.train(specs, cache=digits_cache)
    weights = teacher.load_weights(task, digits_cache)
    loop = plain.Loop(load_study("digits", cli.STUDIES)[2], task, digits_cache, tmp_path)
    results = [loop.train(spec, weights, plain.Clock(), log=False) for spec in specs]
    ours = sum(record.metrics["val_accuracy"] for record in records) / len(specs)
    theirs = sum(result["val_accuracy"] for result in results) / len(specs)
    assert abs(ours - theirs) < 0.04
    assert min(ours, theirs) > 0.85
    assert results[0]["num_params"] == records[0].num_params


def test_the_loops_rate_is_that_of_the_harnesss_mix_of_arms() -> None:
    def trial(control: bool, seconds: float, taught: float) -> plain.PlainTrial:
        return plain.PlainTrial(control, seconds, 100, 0.9, {"step": seconds - taught, "teacher": taught})

    side = measure.summarise([trial(False, 9, 6), trial(True, 1, 0), trial(False, 11, 8)], 0.75, 30.0)
    assert side.per_hour == pytest.approx(3600 / (0.25 * 10 + 0.75 * 1))
    assert side.per_hour_cached == pytest.approx(3600 / (0.25 * 3 + 0.75 * 1))
    assert side.us_step == pytest.approx(1e6 * 3.25 / 100)


def test_the_plain_loop_refuses_in_one_line_what_it_cannot_do() -> None:
    study, task = load_study("digits", cli.STUDIES)[2], tasks.load("digits")
    with pytest.raises(ValueError, match="no network of family 'conv'; it has cnn, mlp"):
        plain.check(replace(study, family="conv"), task)
    with pytest.raises(ValueError, match="does not measure 'val_kl'"):
        plain.check(replace(study, objectives=("val_kl",)), task)
    changes: dict[str, Value] = {"teacher": "online", "dropout": 0.5, "patience": 2, "warmup": 0.1, "clip_norm": 1.0}
    for knob, value in changes.items():
        with pytest.raises(ValueError, match=rf"^the plain loop has no {knob}; a study with {knob} .* be compared$"):
            plain.check(replace(study, fixed={**study.fixed, knob: value}), task)
    other = Study(task="digits", family="mlp", space={"width": Choice(4)}, fixed={"form": "dkd", "temperature": 4.0})
    with pytest.raises(ValueError, match=r"^the plain loop has no form 'dkd'; it has kl, soft_ce, mse, squared_norm$"):
        plain.check(other, task)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "--trials 0 is out of range"),
        ({"seconds": float("nan")}, "--seconds nan is out of range"),
        ({"repeats": 0}, "--repeats 0 is out of range"),
        ({"json": Path("no-such-folder/bench.json")}, "its folder must exist"),
    ],
)
def test_bad_input_is_refused_before_anything_is_run(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main("digits", **options)


TINY = """
from harness.space import Choice, Study
STUDY = Study(task="digits", family="mlp", space={"width": Choice(8, 16)}, seeds=1, trials=2, controls=1,
              fixed={"form": "mse", "alpha": 0.3, "epochs": 2})
"""


def test_one_run_measures_both_sides_and_the_file_has_every_figure(
    tmp_path: Path, digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    monkeypatch.setattr(build, "drawings", lambda _: ())  # figures take longer than both sides together
    monkeypatch.setattr(teacher, "ensure", lambda _, cache: cache.symlink_to(digits_cache))
    file = tmp_path / "bench.json"
    main(str(tmp_path / "tiny.py"), trials=2, seconds=0.01, repeats=1, jobs=1, json=file)
    data = json.loads(file.read_text())
    assert {"study", "machine", "plain", "harness", "ratio", "ratio_per_process", "repeats"} <= set(data)
    assert {"cores", "jobs", "threads_per_process", "torch"} <= set(data["machine"])
    for side in ("plain", "harness"):
        for figure in ("per_hour", "us_step", "us_all", "wall", "best_val_accuracy"):
            low, middle, high = (data[side][figure][name] for name in ("min", "median", "max"))
            assert 0 < low <= middle <= high
    assert data["repeats"][0]["harness"]["trials"] == 4
    assert data["repeats"][0]["plain"]["trials"] == measure.AT_LEAST
    assert data["ratio"]["median"] == pytest.approx(
        data["harness"]["per_hour"]["median"] / data["plain"]["per_hour"]["median"]
    )
    with Console(width=160, record=True, quiet=False) as console:
        show(console, data)
    assert "sanity check only" in " ".join(console.export_text().split())
