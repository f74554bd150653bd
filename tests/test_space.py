"""What a study may say, and how it is told in one line what it may not."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from harness import losses
from harness.space import (
    SAMPLERS,
    TEMPERATURE_FORMS,
    Choice,
    Dimension,
    Float,
    Study,
    Value,
    active,
    dimension_from_json,
    direction,
)
from harness.spec import PLAIN
from harness.study_files import load_study
from harness.values import digest

SPACE: dict[str, Dimension] = {
    "width": Choice(4, 2, 8),
    "form": Choice("kl", "mse"),
    "alpha": Float(0.0, 1.0),
    "temperature": Float(1.0, 20.0, log=True, when={"form": TEMPERATURE_FORMS}),
    "lr": Float(1e-3, 1e-1, log=True),
}


def study(**changed: Any) -> Study:
    return Study(**{"task": "digits", "family": "mlp", "space": SPACE, "fixed": {"epochs": 3}, **changed})


def with_dimension(name: str, dimension: Any) -> dict[str, Any]:
    return {"space": {**SPACE, name: dimension}}


def with_fixed(**knobs: Any) -> dict[str, Any]:
    return {"fixed": knobs}


BAD = {
    "low_above_high": (with_dimension("lr", Float(1.0, 0.1)), r"lr: low 1\.0 is above high 0\.1"),
    "log_of_zero": (with_dimension("lr", Float(0.0, 0.1, log=True)), r"lr: low 0\.0 must be above 0 on a log scale"),
    "infinite": (with_dimension("lr", Float(0.1, math.inf)), r"lr: bounds 0\.1 and inf must be finite"),
    "nan": (with_dimension("lr", Float(math.nan, 1.0)), r"lr: bounds nan and 1\.0 must be finite"),
    "text_bound": (with_dimension("lr", Float("1e-3", 0.1)), r"lr: bounds '1e-3' and 0\.1 must be "),  # type: ignore[arg-type]
    "alpha_below_0": (
        with_dimension("alpha", Float(-0.1, 1)),
        r"alpha -0\.1 is out of range; it must be a number from 0 to 1",
    ),
    "alpha_above_1": (with_dimension("alpha", Float(0, 1.5)), r"alpha 1\.5 is out of range"),
    "alpha_choice": (with_dimension("alpha", Choice(0.1, 2)), r"alpha 2 is out of range"),
    "alpha_fixed": (
        {"space": {k: v for k, v in SPACE.items() if k != "alpha"}, **with_fixed(alpha=3)},
        "alpha 3 is out",
    ),
    "cold": (
        with_dimension("temperature", Float(0.0, 4.0)),
        r"temperature 0\.0 is out of range; it must be a number above 0",
    ),
    "colder": (with_dimension("temperature", Choice(-1.0)), r"temperature -1\.0 is out of range"),
    "no_width": (
        with_dimension("width", Choice(0, 2)),
        "width 0 is out of range; it must be a whole number of at least 1",
    ),
    "half_a_width": (with_dimension("width", Choice(2.5)), r"width 2\.5 is out of range"),
    "float_width": (with_dimension("width", Float(2, 8)), r"width: it takes a whole number; use Choice\(2, 4, 8\)"),
    "float_epochs": ({**with_dimension("epochs", Float(2, 8)), "fixed": {}}, "epochs: .*whole number; use Choice"),
    "float_batch": (with_dimension("batch_size", Float(16, 64)), "batch_size: .*whole number; use Choice"),
    "fixed_width_out": (
        {"space": {k: v for k, v in SPACE.items() if k != "width"}, **with_fixed(width=0)},
        "width 0 is out of range",
    ),
    "text_width": (with_dimension("width", Choice("4")), "width '4' is out of range"),
    "no_lr": (with_dimension("lr", Choice(0.0, 0.1)), r"lr 0\.0 is out of range"),
    "negative_decay": (with_fixed(weight_decay=-1.0), r"weight_decay -1\.0 is out of range"),
    "no_epochs": (with_fixed(epochs=0), "epochs 0 is out of range"),
    "unknown_knob": (
        with_dimension("learning_rate", Float(0, 1)),
        "unknown knob 'learning_rate'; did you mean 'lr'. knobs are width, form, alpha",
    ),
    "misspelled": (with_fixed(epoch=4), "unknown knob 'epoch'; did you mean 'epochs'. knobs are width, form, alpha"),
    "unknown_fixed": (with_fixed(gain=4), "unknown knob 'gain'; knobs are width, form, alpha"),
    "the_seed_is_no_knob": (with_dimension("seed", Choice(1, 2)), "unknown knob 'seed'; knobs are width"),
    "the_family_is_no_knob": (with_fixed(family="cnn"), "unknown knob 'family'; knobs are width"),
    "not_a_dimension": (with_dimension("lr", 0.1), r"lr: 0\.1 is not a dimension; use Float\(low, high\) or Choice"),
    "no_options": (with_dimension("form", Choice()), "form: a Choice needs at least one option"),
    "twice": (with_dimension("form", Choice("kl", "kl")), r"form: an option of \('kl', 'kl'\) is given twice"),
    "both": (with_fixed(lr=0.1), "'lr' is both in the space and fixed; keep one"),
    "without_width": ({"space": {k: v for k, v in SPACE.items() if k != "width"}}, "the study sets no width"),
    "without_form": ({"space": {"width": Choice(2)}}, "the study sets no form"),
    "missing_parent": (
        with_dimension("lr", Float(0.1, 1, when={"optimiser": ("sgd",)})),
        "lr: its condition names 'optimiser', which must stand before it in the space",
    ),
    "parent_after": (
        {"space": {"alpha": Float(0, 1, when={"form": ("kl",)}), "form": Choice("kl", "mse"), "width": Choice(2)}},
        "alpha: its condition names 'form', which must stand before it",
    ),
    "own_parent": (
        with_dimension("form", Choice("kl", when={"form": ("kl",)})),
        "form: its condition names 'form', which must stand before it",
    ),
    "text_condition": (
        with_dimension("temperature", Float(1, 20, when={"form": "kl"})),
        r"temperature: .*condition on 'form'.*'kl'",
    ),
    "no_trials": ({"trials": 0}, "trials 0 is out of range; it must be a whole number of at least 1"),
    "no_seeds": ({"seeds": 0}, "seeds 0 is out of range"),
    "no_batch": ({"batch": 0}, "batch 0 is out of range"),
    "text_trials": ({"trials": "64"}, "trials '64' is out of range"),
    "half_a_trial": ({"trials": 2.5}, r"trials 2\.5 is out of range"),
    "negative_controls": ({"controls": -1}, "controls -1 is out of range; it must be a whole number of at least 0"),
    "negative_seed": ({"seed": -1}, r"seed -1 is out of range; it must be a whole number from 0 to 1e\+15"),
    "a_seed_too_great": ({"seed": 10**15 + 1}, "seed 1000000000000001 is out of range"),
    "unknown_sampler": ({"sampler": "bayes"}, "unknown sampler 'bayes'; samplers are tpe, gp, nsga2, random"),
    "no_objective": ({"objectives": ()}, "objectives .* must be one or more different names"),
    "same_objective": ({"objectives": ("val_loss", "val_loss")}, "objectives .* must be one or more different names"),
    "on_the_test_split": (
        {"objectives": ("test_accuracy",)},
        "objective 'test_accuracy' is not allowed; a study selects on val_accuracy, val_loss, .*num_params, macs",
    ),
    "objective_of_no_such_metric": ({"objectives": ("val_nope",)}, "objective 'val_nope' is not allowed"),
    "on_the_train_split": ({"objectives": ("val_loss", "train_loss")}, "objective 'train_loss' is not allowed"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line_that_names_the_value_and_the_choices(case: str) -> None:
    changed, message = BAD[case]
    with pytest.raises(ValueError, match=message) as caught:
        study(**changed)
    assert "\n" not in str(caught.value)


def test_the_values_at_the_ends_are_allowed() -> None:
    space = {
        "width": Choice(1),
        "form": Choice("kl"),
        "alpha": Float(0, 1),
        "temperature": Float(1e-3, 1e-3),
        "weight_decay": Float(0, 0),
    }
    made = study(space=space, trials=1, seeds=1, batch=1, controls=0, seed=0, objectives=("macs",))
    assert made.widths == (1,)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_is_allowed(sampler: str) -> None:
    assert study(sampler=sampler).sampler == sampler


def test_a_condition_may_name_a_fixed_knob() -> None:
    space = {"width": Choice(2), "temperature": Float(1, 20, when={"form": ("kl",)})}
    assert study(space=space, fixed={"form": "kl"}).widths == (2,)


def test_widths_are_sorted_and_options_are_those_of_the_space_the_fixed_knobs_or_the_defaults() -> None:
    made = study()
    assert made.widths == (2, 4, 8)
    assert made.options("form") == ("kl", "mse")
    assert made.options("alpha") == (0.0, 1.0)
    assert made.options("epochs") == (3,)
    assert made.options("optimiser") == ("adamw",)
    assert study(space={"width": Choice(2)}, fixed={"form": "mse"}).options("temperature") == ()


def test_a_conditional_dimension_is_active_only_where_its_condition_holds() -> None:
    temperature = SPACE["temperature"]
    assert active(temperature, {"form": "kl"})
    assert active(temperature, {"form": "soft_ce", "width": 2})
    assert not active(temperature, {"form": "mse"})
    assert not active(temperature, {})
    both = Float(0, 1, when={"form": ("kl",), "width": (2, 4)})
    assert [active(both, {"form": f, "width": w}) for f, w in (("kl", 2), ("kl", 8), ("mse", 2))] == [
        True,
        False,
        False,
    ]
    assert active(Float(0, 1), {})


def test_the_students_of_every_trial_have_the_same_seeds_whatever_the_budget() -> None:
    made = study(seeds=3, seed=2)
    assert made.student_seeds() == (2001, 2002, 2003)
    trials: list[dict[str, Value]] = [
        {"width": 2, "form": "mse", "alpha": 0.1, "lr": 0.01},
        {"width": 8, "form": "mse", "alpha": 0.9, "lr": 0.1},
    ]
    for params in trials:
        for plain in (False, True):
            assert tuple(s.seed for s in made.specs(params, plain=plain, task="digits")) == made.student_seeds()
    assert study(seeds=5, seed=2).student_seeds()[:3] == made.student_seeds()
    assert not set(study(seeds=3, seed=3).student_seeds()) & set(made.student_seeds())


def test_specs_take_the_parameters_over_the_fixed_knobs_and_the_defaults() -> None:
    params: dict[str, Value] = {"width": 2, "form": "kl", "alpha": 0.25, "temperature": 3.0, "lr": 0.05}
    (spec,) = study(seeds=1).specs(params, plain=False, task="digits")
    assert (spec.task, spec.family, spec.width, spec.form) == ("digits", "mlp", 2, "kl")
    assert (spec.alpha, spec.temperature, spec.lr, spec.epochs) == (0.25, 3.0, 0.05, 3)
    assert (spec.optimiser, spec.batch_size) == ("adamw", 64)


def test_a_control_has_every_knob_of_its_trial_but_the_teachers() -> None:
    fixed = {"mixing": "additive", "epochs": 3}
    params: dict[str, Value] = {"width": 2, "form": "kl", "alpha": 0.25, "temperature": 3.0, "lr": 0.05}
    (spec,) = study(seeds=1, fixed=fixed).specs(params, plain=True, task="digits")
    assert (spec.form, spec.alpha, spec.temperature, spec.mixing) == (PLAIN, 1.0, None, "convex")
    assert (spec.width, spec.lr, spec.epochs) == (2, 0.05, 3)
    losses.check(spec)
    assert set(study().plain_space()) == {"lr"}


def test_plain_training_as_one_of_the_forms_ignores_alpha() -> None:
    made = study(space={**SPACE, "form": Choice("kl", PLAIN)}, seeds=1)
    (spec,) = made.specs({"width": 2, "form": PLAIN, "alpha": 0.25, "lr": 0.05}, plain=False, task="digits")
    assert (spec.form, spec.alpha) == (PLAIN, 1.0)


@pytest.mark.parametrize(
    ("controls", "trials", "wanted"), [(None, 9, 3), (None, 10, 4), (None, 1, 1), (5, 9, 5), (0, 9, 0)]
)
def test_each_width_gets_its_share_of_controls(controls: int | None, trials: int, wanted: int) -> None:
    assert study(controls=controls).num_controls(trials) == wanted


def test_probes_are_one_student_for_every_combination_of_choices() -> None:
    probes = study().probes("digits")
    assert sorted((p.width, p.form, p.temperature) for p in probes if p.form == "kl") == [
        (2, "kl", 1.0), (4, "kl", 1.0), (8, "kl", 1.0),
    ]  # fmt: skip
    assert sorted((p.width, p.temperature) for p in probes if p.form == "mse") == [(2, None), (4, None), (8, None)]
    assert len(probes) == 6
    for probe in probes:
        losses.check(probe)


def test_probes_find_a_form_whose_knobs_do_not_fit() -> None:
    forced = Float(1, 20, when={"form": ("kl", "mse")})
    with pytest.raises(ValueError, match="form 'mse' takes no temperature"):
        for probe in study(space={**SPACE, "temperature": forced}).probes("digits"):
            losses.check(probe)


def test_a_temperature_needs_no_condition_and_no_dimension() -> None:
    for temperature in ({"temperature": Float(1, 20)}, {}):
        others = {name: dim for name, dim in SPACE.items() if name != "temperature"}
        probes = study(space={**others, **temperature}).probes("digits")
        for probe in probes:
            losses.check(probe)
        assert {probe.temperature is None for probe in probes if probe.form == "mse"} == {True}
        assert {probe.temperature for probe in probes if probe.form == "kl"} == {1 if temperature else 4}


def test_probes_skip_what_hangs_from_an_inactive_dimension() -> None:
    space = {
        "width": Choice(2),
        "optimiser": Choice("sgd", "adamw"),
        "momentum": Choice(0.5, 0.9, when={"optimiser": ("sgd",)}),
    }
    probes = study(space=space, fixed={"form": "mse"}).probes("digits")
    assert sorted((p.optimiser, p.momentum) for p in probes) == [("adamw", 0.9), ("sgd", 0.5), ("sgd", 0.9)]


@pytest.mark.parametrize(
    "changed",
    [
        {"task": "mnist5k"},
        {"family": "cnn"},
        {"space": {**SPACE, "alpha": Float(0.0, 0.9)}},
        {"space": {**SPACE, "lr": Float(1e-3, 1e-1)}},
        {"space": {**SPACE, "form": Choice("mse", "kl")}},
        {"space": {**SPACE, "temperature": Float(1.0, 20.0, log=True, when={"form": ("kl",)})}},
        {"fixed": {"epochs": 4}},
        {"seeds": 3},
        {"seed": 1},
        {"sampler": "random"},
        {"objectives": ("val_loss", "num_params")},
    ],
    ids=["task", "family", "bound", "log", "order", "when", "fixed", "seeds", "seed", "sampler", "objectives"],
)
def test_identity_changes_with_what_is_asked(changed: dict[str, Any]) -> None:
    assert digest(study(**changed).identity()) != digest(study().identity())


@pytest.mark.parametrize("changed", [{"trials": 5}, {"controls": 7}, {"batch": 3}], ids=str)
def test_identity_does_not_change_with_the_budget(changed: dict[str, Any]) -> None:
    assert digest(study(**changed).identity()) == digest(study().identity())


def test_identity_is_json_and_gives_the_dimensions_back() -> None:
    identity = json.loads(json.dumps(study().identity(), allow_nan=False))
    found = {name: dimension_from_json(data) for name, data in identity["space"].items()}
    again = study(space=found)
    assert digest(again.identity()) == digest(study().identity())
    assert [type(dimension) for dimension in found.values()] == [Choice, Choice, Float, Float, Float]


def test_a_task_function_is_known_by_its_name() -> None:
    def own_task() -> None: ...

    assert study(task=own_task).identity()["task"] == "function own_task"


@pytest.mark.parametrize(
    ("objective", "wanted"),
    [
        ("val_accuracy", "maximize"), ("val_agreement", "maximize"), ("val_loss", "minimize"),
        ("val_kl", "minimize"), ("num_params", "minimize"), ("macs", "minimize"),
    ],
)  # fmt: skip
def test_accuracy_and_agreement_are_better_up_and_the_rest_down(objective: str, wanted: str) -> None:
    assert direction(objective) == wanted


def test_dimensions_and_studies_are_values() -> None:
    assert Choice(1, 2) == Choice(1, 2) != Choice(2, 1)
    assert Float(0, 1) == Float(0.0, 1.0)
    assert study() == study()
    with pytest.raises(dataclasses.FrozenInstanceError):
        study().trials = 3  # type: ignore[misc]


SOURCE = """
from harness.space import Choice, Study
STUDY = Study(task="digits", family="mlp", space={"width": Choice(2)}, fixed={"form": "mse"})
"""


def test_a_study_is_found_by_name_in_the_folders_or_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine-1.py"
    path.write_text(SOURCE)
    for name_or_path in ("mine-1", str(path)):
        name, found, made = load_study(name_or_path, [tmp_path / "nowhere", tmp_path])
        assert (name, found, made.widths) == ("mine-1", path.resolve(), (2,))


def test_a_study_that_is_not_there_is_refused_with_the_choices(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.py").write_text(SOURCE)
    for missing, what in (("c", "unknown study"), ("c.py", "there is no file"), (str(tmp_path), "unknown study")):
        with pytest.raises(ValueError, match=rf"^{what} .*; studies are a, b, or give a path to a \.py file") as caught:
            load_study(missing, [tmp_path])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("wrong", "x = 1\ny = = 2\n", r"wrong\.py, line 2: invalid syntax"),
        ("indent", "if True:\nx = 1\n", r"indent\.py, line 2: expected an indented block"),
        ("binary", "\0", r"binary\.py"),
        ("empty", "", r"empty\.py defines no STUDY; write STUDY = Study\(\.\.\.\)"),
        ("other", "STUDY = {}", r"other\.py defines no STUDY"),
        ("raises", "raise RuntimeError('boom')", r"raises\.py does not load: RuntimeError: boom"),
        ("lines", "raise RuntimeError('one\\ntwo')", r"lines\.py does not load: RuntimeError: one"),
        ("imports", "import no_such_module", r"imports\.py does not load: ModuleNotFoundError: No module named"),
        ("bad", SOURCE.replace("Choice(2)", "Choice(0)"), r"bad\.py does not load: ValueError: width 0 is out of"),
        ("typo", SOURCE.replace("family", "famly"), r"typo\.py does not load: TypeError: .*famly"),
        ("my study", SOURCE, r"study name 'my study' may hold letters, digits, '-' and '_' only"),
        ("-x", SOURCE, r"study name '-x' may hold letters"),
        ("é", SOURCE, r"study name 'é' may hold letters"),
    ],
)  # fmt: skip
def test_a_study_file_that_does_not_load_is_told_in_one_line(
    name: str, source: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        load_study(str(tmp_path / f"{name}.py"), [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["digits", "mnist5k"])
def test_the_studies_of_the_repository_load_and_their_students_fit(name: str) -> None:
    _, _, made = load_study(name, [Path(__file__).parents[1] / "studies"])
    for probe in made.probes(str(made.task)):
        losses.check(probe)
