"""The benchmark's loop is a true equal of the harness, or its ratio would mean nothing."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from harness import cli, cohort, ledger, tasks, teacher
from harness.bench import driving, figure, floor, front, measure, plain, shares, steps, students, tables
from harness.bench.__main__ import main
from harness.cohort import calibration
from harness.cohort.calibration import cohort_of, timed_steps
from harness.cohort.data import load_inputs
from harness.losses import LOSSES
from harness.models import CNN1D, num_params
from harness.report import build
from harness.sampler import Sampler
from harness.space import Choice, Study, Value
from harness.spec import StudentSpec
from harness.study_files import load_study
from harness.tracking import Tracker
from tests.inline import jobs_here


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
        return plain.PlainTrial(control, 50, seconds, 100, 0.9, {"step": seconds - taught, "teacher": taught})

    side = measure.summarise([trial(False, 9, 6), trial(True, 1, 0), trial(False, 11, 8)], 0.75, 30.0)
    assert side.per_hour == pytest.approx(3600 / (0.25 * 10 + 0.75 * 1))
    assert side.per_hour_cached == pytest.approx(3600 / (0.25 * 3 + 0.75 * 1))
    assert side.us_step == pytest.approx(1e6 * 3.25 / 100)


@pytest.mark.parametrize("widths", [2, 5])
def test_a_plain_network_of_signals_is_the_familys(widths: int) -> None:
    """The same weights, laid out as a convolution's, give the same logits."""
    shape, family = (1, 40), CNN1D
    net = students.network("cnn1d", widths, shape, 10).double()
    params = {}
    modules = [layer for layer in net if isinstance(layer, torch.nn.Linear | torch.nn.Conv1d)]
    for name, layer in zip(("stem", "conv_1", "conv_2", "logits"), modules, strict=True):
        weight = layer.weight.detach()
        params[f"{name}.weight"] = weight.transpose(1, 2).flatten(1) if name.startswith("conv") else weight.flatten(1)
        params[f"{name}.bias"] = layer.bias.detach()[:, None]  # type: ignore[union-attr]
    assert {n: p.shape for n, p in params.items()} == {n: x.shape for n, x in family.layers(widths, shape, 10).items()}
    inputs = torch.randn(7, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(net(inputs), family.apply(params, family.prepare(inputs)))


def test_the_floor_is_the_products_of_a_step_and_no_more() -> None:
    """A linear layer of three students, forward and backward: two products; nothing else counts."""
    weight = torch.randn(3, 4, 5, requires_grad=True)
    inputs = torch.randn(3, 5, 6)

    def step() -> None:
        torch.autograd.grad((weight @ inputs).relu().sum(), weight)

    found = floor.record(step)
    assert [product.macs for product in found] == [3 * 4 * 5 * 6] * 2
    expanded = floor.record(lambda: torch.bmm(inputs[:1].expand(3, 5, 6), torch.ones(3, 6, 2)))
    assert expanded[0].args[0].stride() == (0, 6, 1)
    assert floor.replay([*found, *expanded]) > 0


def test_the_floor_of_a_step_of_the_mlp_is_that_of_its_layers() -> None:
    """Every layer once forward, once for its weights, and but for the first once for what it reads."""
    specs = steps.students("digits", "mlp", [16])
    data = load_inputs(specs[0], "cpu")
    group = cohort_of(specs, 8, data, "cpu", looped=False)
    found = floor.record(lambda: timed_steps(group, data, "cpu", 1))
    first, second, last = 64 * 16, 16 * 16, 16 * 10
    assert sum(product.macs for product in found) == 8 * 64 * (2 * first + 3 * second + 3 * last)


def test_rows_have_both_sides_and_a_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "WIDTHS", {("digits", "mlp"): {"mixed": (4, 8)}})
    monkeypatch.setattr(steps, "SECONDS", 0.01)
    monkeypatch.setattr(calibration, "SIZES", (1, 4))
    rows = [row.as_json() for row in steps.measure(1, tmp_path, lambda _: None, [("digits", "mlp")])]
    assert [row["cohort"] for row in rows] == ["1", "4", "auto"]
    for row in rows:
        assert row["ratio"]["median"] == pytest.approx(row["plain"]["median"] / row["harness"]["median"])
        assert (row["floor"] is None) == (row["cohort"] == "auto")
    assert min(row["times_floor"]["median"] for row in rows[:2]) > 0


def test_shares_and_the_front_are_those_of_real_sweeps(
    tmp_path: Path, digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    monkeypatch.setattr(build, "drawings", lambda _: ())
    monkeypatch.setattr(plain, "make_sampler", lambda _: None)
    monkeypatch.setattr(calibration, "SECONDS", 0.0)
    name, file, study = load_study(str(tmp_path / "tiny.py"), cli.STUDIES)
    question = measure.Question(name, file, study, tasks.load("digits"), trials=2, jobs=1, seconds=0.01)
    before = (Sampler.ask, Tracker.log, ledger.read_result)
    found = shares.measure(question, tmp_path, digits_cache, lambda _: None)
    assert (Sampler.ask, Tracker.log, ledger.read_result) == before
    assert all(seconds >= 0 for parts in found.values() for seconds in parts.values())
    assert min(found["phases"][part] for part in ("search", "confirm stage", "latency", "report")) > 0
    assert min(found["driver"][part] for part in shares.DRIVER) > 0
    assert min(found["workers"]["training"], found["job"]["step"]) > 0
    with jobs_here():
        reached = front.measure(question, 0.001, 1, tmp_path, digits_cache, lambda _: None)
    assert reached["repeats"][0]["loop_trials"] == measure.AT_LEAST
    assert reached["repeats"][0]["hypervolume"] >= 0


def test_the_front_of_points_by_hand() -> None:
    _, file, study = load_study("digits", cli.STUDIES)
    question = measure.Question("digits", file, study, tasks.load("digits"), trials=2, jobs=1, seconds=1)
    small, large, late = (0.6, 700), (0.8, 1200), (0.5, 800)
    areas = front.area([small, large, late], question)
    assert areas[0] > 0
    assert areas[2] == areas[1] > areas[0]
    lost = front.Reached(10.0, 3, 1.0, None, None, None, 0.5)
    won = front.Reached(10.0, 3, 0.4, 2.0, 3.0, 7, 0.5)
    assert front.as_json([won, lost])["seconds"] is None
    assert front.as_json([won, won])["seconds"] == {"median": 2.0, "min": 2.0, "max": 2.0}


def test_every_part_has_a_table_and_a_panel(tmp_path: Path) -> None:
    one = {"median": 2.0, "min": 1.0, "max": 3.0}
    side = dict.fromkeys(("per_hour", "per_hour_cached", "us_step", "us_all", "wall", "best_val_accuracy"), one)
    ratios = dict.fromkeys(("ratio", "ratio_per_process", "ratio_teacher_cached"), one)
    last = {"plain": {"parts": {"step": 1.0}, "trials": 3}, "harness": {"trials": 9}}
    sweep = {"study": "mine", "plain": side, "harness": side, "jobs": 2, "seeds": 3, "repeats": [last], **ratios}
    row = steps.Row("digits", "mlp", "narrow", "8", [1.0], [2.0], [0.5]).as_json()
    auto = steps.Row("digits", "mlp", "narrow", "auto", [1.0], [2.0], None).as_json()
    driven = dataclasses.asdict(driving.Driving(10, 10, 0.1, 0.2, 0.3, 0.4, 99.0))
    won = front.Reached(10.0, 3, 0.4, 2.0, 3.0, 7, 0.5)
    lost = front.Reached(10.0, 3, 1.0, None, None, None, 0.5)
    parts = {name: {"a": 1.0, "b": 3.0} for name in ("phases", "workers", "driver", "job")}
    data = {"sweep": sweep, "steps": [row, auto], "shares": parts, "driver": [driven]}
    data["machine"] = measure.machine("cpu")
    data["front"] = front.as_json([won, lost])
    assert set(data) - {"machine"} == set(tables.TABLES) == set(figure.PANELS)
    with Console(width=160, record=True, quiet=False) as console:
        tables.show(console, data)
    said = console.export_text()
    assert "never" in said and "75.0%" in said and "1,000.0" in said
    figure.save(data, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    assert len(figure.draw({"machine": data["machine"], "driver": [driven]}).axes) == 1


def test_the_plain_loop_refuses_in_one_line_what_it_cannot_do() -> None:
    study, task = load_study("digits", cli.STUDIES)[2], tasks.load("digits")
    with pytest.raises(ValueError, match="no network of family 'conv'; it has cnn, cnn1d, mlp"):
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
        ({"minutes": -1.0}, "--minutes -1 is out of range"),
        ({"parts": ["stepps"]}, "unknown part 'stepps'; parts are sweep, steps, shares, driver, front, all"),
        ({"counts": "10,7"}, "a count of 7 trials is no multiple of 10"),
        ({"counts": "ten"}, "--counts 'ten' must be whole numbers"),
        ({"figure_file": Path("bench.txt")}, "ends in none of .png, .pdf, .svg"),
        ({"study": "mnist1d"}, "unknown study"),
    ],
)
def test_bad_input_is_refused_before_anything_is_run(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(**{"study": "digits", **options})


TINY = """
from harness.space import Choice, Study
STUDY = Study(task="digits", family="mlp", space={"width": Choice(8, 16)}, seeds=1, trials=2, controls=1,
              fixed={"form": "mse", "alpha": 0.3, "epochs": 2})
"""


def test_one_run_measures_both_sides_and_the_file_has_every_figure(
    tmp_path: Path, digits_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    trained = SimpleNamespace(ensure=lambda _, cache: cache.symlink_to(digits_cache))
    monkeypatch.setattr(measure, "teacher", trained)
    file = tmp_path / "bench.json"
    with jobs_here():
        main(["sweep"], str(tmp_path / "tiny.py"), trials=2, seconds=0.01, repeats=1, jobs=1, json=file)
    whole = json.loads(file.read_text())
    data = whole["sweep"]
    assert {"study", "jobs", "plain", "harness", "ratio", "ratio_per_process", "repeats"} <= set(data)
    assert {"cores", "processor", "torch"} <= set(whole["machine"])
    for side in ("plain", "harness"):
        for name in ("per_hour", "us_step", "us_all", "wall", "best_val_accuracy"):
            low, middle, high = (data[side][name][kind] for kind in ("min", "median", "max"))
            assert 0 < low <= middle <= high
    assert data["repeats"][0]["harness"]["trials"] == 4
    assert data["repeats"][0]["plain"]["trials"] == measure.AT_LEAST
    assert data["ratio"]["median"] == pytest.approx(
        data["harness"]["per_hour"]["median"] / data["plain"]["per_hour"]["median"]
    )
    with Console(width=160, record=True, quiet=False) as console:
        tables.show(console, whole)
    assert "sanity check only" in " ".join(console.export_text().split())
