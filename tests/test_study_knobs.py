"""Knobs that belong to a form, a feature form or a kind of teacher: when they mean something, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from harness import losses
from harness.arms import control, control_arms, search_arms, targets
from harness.dimensions import Dimension
from harness.forms import FEATURE_KNOBS, FEATURE_WEIGHTS, KNOBS, Form, Knob
from harness.losses import FEATURES, LOSSES
from harness.sampler import Sampler
from harness.space import Choice, Float, Study, Value, active, feature_space, form_space
from harness.spec import NONE, PLAIN, TEACHERS, StudentSpec, spec_from_json
from harness.study_files import load_study
from harness.values import to_json

WIDTH: dict[str, Dimension] = {"width": Choice(4, 8)}


def study(space: dict[str, Dimension], **changed: Any) -> Study:
    return Study(**{"task": "digits", "family": "mlp", "space": {**WIDTH, **space}, **changed})


def only(found: Study, **params: Any) -> StudentSpec:
    return found.specs({"width": 4, **params}, plain=False, task="digits")[0]


def test_the_table_without_torch_and_the_functions_name_the_same_forms_and_knobs() -> None:
    assert list(KNOBS) == list(LOSSES)
    assert list(FEATURE_KNOBS) == list(FEATURES) == list(FEATURE_WEIGHTS)
    assert all(form.knobs is KNOBS[name] for name, form in LOSSES.items())
    assert all(form.knobs is FEATURE_KNOBS[name] for name, form in FEATURES.items())


@pytest.mark.parametrize("table", [KNOBS, FEATURE_KNOBS])
def test_every_default_and_every_range_to_search_is_allowed(table: Any) -> None:
    for knobs in table.values():
        for knob in knobs.values():
            assert all(knob.allowed.admits(value) for value in (knob.default, knob.low, knob.high))
            assert knob.low < knob.high
            assert knob.low > 0 or not knob.log


def test_a_choice_of_forms_brings_the_dimensions_of_each_and_no_others() -> None:
    found = study(form_space("kl", "mse", "dkd", "gjsd"))
    expected = {"form", "temperature", "dkd.target", "dkd.rest", "dkd.warmup", "gjsd.beta", "width"}
    assert set(found.space) == expected
    for form, own in (("kl", {"temperature"}), ("mse", set()), ("gjsd", {"temperature", "gjsd.beta"})):
        params: dict[str, Value] = {"width": 4, "form": form}
        live = {name for name, dimension in found.space.items() if active(dimension, params)}
        assert live == {"width", "form"} | own
    assert set(form_space()) == {"form", "temperature"} | {
        f"{form}.{knob}" for form, knobs in KNOBS.items() for knob in knobs if knob != "temperature"
    }


def test_what_a_study_does_not_name_has_the_forms_default() -> None:
    found = only(study({"form": Choice(*KNOBS)}), form="dkd")
    assert found.temperature == 4.0
    assert dict(found.knobs) == {"dkd.target": 1.0, "dkd.rest": 8.0, "dkd.warmup": 20 / 240}
    for form in KNOBS:
        losses.check(only(study({"form": Choice(*KNOBS)}), form=form))
    assert only(study({"form": Choice("kl", "reverse_kl")}), form="reverse_kl").temperature == 1.0


def test_a_fixed_knob_reaches_only_the_trials_that_it_means_something_to() -> None:
    found = study(
        {"form": Choice("kl", "mse", "dkd"), "feature": Choice("none", "rkd")},
        fixed={"temperature": 3.0, "dkd.rest": 2.0, "feature_weight": 0.5, "rkd.angle": 9.0},
    )
    assert only(found, form="mse", feature="none").temperature is None
    assert only(found, form="mse", feature="none").knobs == ()
    assert only(found, form="mse", feature="none").feature_weight == 0
    assert only(found, form="kl", feature="none").temperature == 3.0
    both = only(found, form="dkd", feature="rkd")
    assert dict(both.knobs) == {
        "dkd.rest": 2.0, "dkd.target": 1.0, "dkd.warmup": 20 / 240, "rkd.angle": 9.0, "rkd.distance": 25.0,
    }  # fmt: skip
    assert both.feature_weight == 0.5
    losses.check(both)


def test_knobs_of_the_teacher_are_sampled_only_for_the_teachers_that_have_them() -> None:
    found = study({
        "form": Choice("kl"), "teacher": Choice(*TEACHERS), "assistants": Choice("16", "16>8"),
        "teacher_width": Choice(0, 8), "teacher_epochs": Choice(0, 2),
    })  # fmt: skip

    def live(teacher: str) -> set[str]:
        params: dict[str, Value] = {"width": 4, "form": "kl", "teacher": teacher}
        return {name for name, dimension in found.space.items() if active(dimension, params)} - set(params)

    assert live("offline") == live("shuffled") == {"teacher_width", "teacher_epochs"}
    assert live("online") == {"teacher_width"}
    assert live("assistant") == {"teacher_width", "teacher_epochs", "assistants"}
    assert live("self") == live("uniform") == set()
    for probe in found.probes("digits"):
        losses.check(probe)


def test_a_feature_form_brings_its_weight_and_none_has_none() -> None:
    found = study({"form": Choice("kl"), **feature_space("none", "hint", "rkd")})
    assert set(found.space) == {"width", "form", "feature", "feature_weight", "rkd.distance", "rkd.angle"}
    assert only(found, form="kl", feature="none").feature_weight == 0
    assert not active(found.space["feature_weight"], {"feature": "none"})
    assert active(found.space["feature_weight"], {"feature": "hint"})
    assert set(feature_space()["feature"].options) == {NONE, *FEATURE_KNOBS}  # type: ignore[union-attr]


def test_plain_training_has_none_of_the_teachers_knobs() -> None:
    space: dict[str, Dimension] = {**form_space(), **feature_space()}
    space |= {"teacher": Choice(*TEACHERS), "lr": Float(0.001, 0.1, log=True)}
    found = study({**space, "dropout": Choice(0.0, 0.5)}, fixed={"loss_scale": 2.0, "label_smoothing": 0.1})
    assert set(found.plain_space()) == {"lr", "dropout"}
    [spec, *_] = found.specs({"width": 4, "lr": 0.01, "dropout": 0.5}, plain=True, task="digits")
    assert (spec.form, spec.loss_scale, spec.knobs, spec.feature) == (PLAIN, 1.0, (), NONE)
    assert (spec.dropout, spec.label_smoothing) == (0.5, 0.1)


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unknown knob of a form": (
        {"form": Choice("dkd"), "dkd.beta": Float(1, 2)}, {},
        r"unknown knob 'dkd\.beta'; knobs of dkd are dkd\.target, dkd\.rest, dkd\.warmup",
    ),
    "knob of no form": (
        {"form": Choice("kl"), "klx.beta": Float(1, 2)}, {}, r"unknown knob 'klx\.beta'; knobs are width",
    ),
    "negative weight": (
        {"form": Choice("dkd"), "dkd.rest": Float(-1, 2)}, {},
        r"dkd\.rest -1 is out of range; it must be a number of at least 0",
    ),
    "beta outside its range": (
        {"form": Choice("gjsd")}, {"gjsd.beta": 0.05},
        r"gjsd\.beta 0\.05 is out of range; it must be a number from 0\.1 to 0\.9",
    ),
    "unknown form": ({"form": Choice("kl", "kll")}, {}, r"unknown form 'kll'; forms are kl, .*, or ce for plain"),
    "unknown feature": (
        {"form": Choice("kl"), "feature": Choice("crd")}, {}, r"unknown feature 'crd'; features are hint, attention",
    ),
    "unknown teacher": (
        {"form": Choice("kl"), "teacher": Choice("oracle")}, {}, r"unknown teacher 'oracle'; teachers are offline",
    ),
    "knob before its form": (
        {"dkd.rest": Float(1, 2), "form": Choice("kl", "dkd")}, {},
        r"dkd\.rest: its condition names 'form', which must stand before it",
    ),
    "equal names no choice": ({"form": Choice("kl")}, {"lr": 0.1}, r"equal 'lr' must name a Choice of the space"),
    "dropout": ({"form": Choice("kl"), "dropout": Choice(1.0)}, {}, r"dropout 1\.0 is out of range"),
    "label_smoothing": ({"form": Choice("kl")}, {"label_smoothing": 1}, r"label_smoothing 1 is out of range"),
    "feature_weight": (
        {"form": Choice("kl"), "feature": Choice("hint")}, {"feature_weight": -1.0},
        r"feature_weight -1\.0 is out of range",
    ),
    "a weight without a feature": (
        {"form": Choice("kl")}, {"feature_weight": 1.0}, r"feature_weight: no feature of this study takes it",
    ),
    "a knob of a form that is not there": (
        {"form": Choice("kl", "mse"), "dkd.rest": Float(1, 2)}, {}, r"dkd\.rest: no form of this study takes it",
    ),
    "a temperature that no form takes": (
        {"form": Choice("mse"), "temperature": Float(1, 2)}, {}, r"temperature: no form of this study takes it",
    ),
    "assistants of no assistant": (
        {"form": Choice("kl")}, {"assistants": "8"}, r"assistants: no teacher of this study takes it",
    ),
    "a list in a choice": ({"form": Choice(["kl"])}, {}, r"form: option \['kl'\] must be text or a number"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_knob_that_cannot_be_is_refused_in_one_line(case: str) -> None:
    space, fixed, message = BAD[case]
    with pytest.raises(ValueError, match=message) as caught:
        study(space, fixed=fixed, equal="lr" if case.startswith("equal") else "")
    assert "\n" not in str(caught.value)


SPEC = StudentSpec("digits", "mlp", 4, 1, "kl", temperature=4.0)
CONTRADICTIONS = [
    ({"feature": "hint"}, "feature 'hint' with feature_weight 0: one needs the other"),
    ({"feature_weight": 1.0}, "feature 'none' with feature_weight 1"),
    ({"teacher": "assistant"}, "teacher 'assistant' with assistants 'none'"),
    ({"assistants": "8"}, "teacher 'offline' with assistants '8'"),
    ({"teacher": "assistant", "assistants": "8>x"}, "assistants '8>x' must be widths parted by '>'"),
    ({"teacher": "assistant", "assistants": "0"}, "assistants '0' must be widths"),
    ({"teacher": "self", "teacher_width": 4}, "teacher 'self' takes no teacher_width"),
    ({"teacher": "online", "teacher_epochs": 4}, "teacher 'online' takes no teacher_epochs"),
    ({"teacher": "online", "feature": "hint", "feature_weight": 1.0}, "needs a network trained beforehand"),
    ({"transform": "shift"}, "transform 'shift' with views 1: a transform needs at least 2 views"),
    ({"views": 3}, "transform 'none' with views 3"),
    ({"form": PLAIN, "alpha": 1.0, "temperature": None, "teacher": "self"}, "it takes no teacher"),
]


@pytest.mark.parametrize(("changed", "message"), CONTRADICTIONS)
def test_a_student_whose_knobs_contradict_each_other_is_refused_in_one_line(
    changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(SPEC, **changed)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_knobs_come_back_from_json_as_they_were() -> None:
    spec = only(study({"form": Choice("dkd")}), form="dkd")
    assert spec_from_json(to_json(spec)) == spec


def test_too_many_combinations_are_probed_in_pairs() -> None:
    many = {f: Choice(*range(1, 5)) for f in ("views", "patience", "epochs", "batch_size", "teacher_epochs")}
    space: dict[str, Dimension] = {"form": Choice("kl", "mse"), **many, "transform": Choice("shift")}
    space["views"] = Choice(2, 3, 4, 5)
    probes = study(space).probes("digits")
    assert len(probes) < 500
    pairs = {(probe.form, probe.epochs, probe.batch_size) for probe in probes}
    assert {(form, epochs) for form, epochs, _ in pairs} == {(f, e) for f in ("kl", "mse") for e in range(1, 5)}


def equal_study(**changed: Any) -> Study:
    space: dict[str, Dimension] = {
        "form": Choice("kl", "mse", "dkd"), "alpha": Float(0, 1), "temperature": Float(1, 20)
    }  # fmt: skip
    return study(space, equal="form", trials=10, **changed)


def test_options_that_share_trials_equally_have_an_arm_each() -> None:
    found = equal_study()
    assert search_arms(found) == {"search-kl": "kl", "search-mse": "mse", "search-dkd": "dkd"}
    searched = {"search-kl": 4, "search-mse": 4, "search-dkd": 4}
    assert targets(found, 10) == {**searched, **dict.fromkeys(control_arms(found), 2)}
    plain = study({"form": Choice("kl")}, other_controls=())
    assert targets(plain, 10) == {"search": 10, "control-4": 5, "control-8": 5}


def test_an_arm_of_an_option_proposes_only_that_option_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    found, asked = equal_study(objectives=("val_accuracy",)), []
    for part in range(2):
        sampler = Sampler(f"sqlite:///{tmp_path / 'study.db'}", "fake", found, "c0ffee", shared=False)
        for arm in (*search_arms(found), control(4)):
            new = sampler.ask(arm)
            sampler.tell(new, [0.5 + part])
            asked.append(new)
    assert [trial.params.get("form") for trial in asked] == ["kl", "mse", "dkd", None] * 2
    assert ["temperature" in trial.params for trial in asked] == [True, False, True, False] * 2
    assert [trial.is_control for trial in asked] == [False, False, False, True] * 2
    assert sampler.trials("complete") == asked
    assert [sampler.count(arm, "complete") for arm in search_arms(found)] == [2, 2, 2]


OWN = """
from harness.space import Choice, Form, Knob, Study

def gap(student_logits, teacher_logits, *, power):
    return ((student_logits - teacher_logits).abs() ** POWER).mean((-1, -2))

STUDY = Study(task="digits", family="mlp", forms={"gap": Form(gap, knobs={"power": Knob(2.0, 1.0, 3.0)})},
              space={"form": Choice("gap", "mse"), "width": Choice(4)}, fixed={"gap.power": 1.5})
"""


def test_a_studys_own_form_has_its_knobs_and_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN.replace("POWER", "2"))
    _, path, found = load_study(str(tmp_path / "mine.py"), [])
    [spec] = found.specs({"form": "gap", "width": 4}, plain=False, task="digits")[:1]
    assert (spec.form, spec.knobs, spec.form_file) == ("gap", (("gap.power", 1.5),), str(path))
    losses.check(spec)
    [builtin] = found.specs({"form": "mse", "width": 4}, plain=False, task="digits")[:1]
    assert (builtin.knobs, builtin.form_file) == ((), "")
    with pytest.raises(ValueError, match=r"knob 'gap\.power' is missing"):
        losses.check(dataclasses.replace(spec, knobs=()))
    with pytest.raises(ValueError, match="unknown form 'gap'; forms are kl, soft_ce"):
        losses.check(dataclasses.replace(spec, form_file=""))


def test_an_edited_form_makes_another_study(tmp_path: Path) -> None:
    identities: list[dict[str, Any]] = []
    same, helper = OWN.replace("POWER", "2"), OWN.replace("POWER", "half(4)")
    texts = [
        same, same + "# a comment\n", same.replace("1.5}", "1.5}, trials=9"), same.replace("** 2", "** 3"),
        "def half(x): return x / 2\n" + helper, "def half(x): return x / 4\n" + helper,
    ]  # fmt: skip
    for text in texts:
        folder = tmp_path / str(len(identities))
        folder.mkdir()
        (folder / "mine.py").write_text(text)
        identities.append(load_study(str(folder / "mine.py"), [])[2].identity())
    assert identities[0] == identities[1] == identities[2]
    assert all(a != b for a, b in itertools.combinations(identities[2:], 2))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("nope(student_logits)", r"form 'gap' of .* cannot be computed: NameError: name 'nope' is not defined$"),
        ("raise SystemExit(3)", r"cannot be computed: SystemExit: 3$"),
        (
            "return (student_logits - teacher_logits).mean()",
            r"it gives a tensor \[\] for 2 students, not",
        ),
        ("return None", r"it gives NoneType for 2 students"),
        ("return student_logits.detach().mean((-1, -2))", r"with a gradient$"),
        (
            "kl = (student_logits - teacher_logits) ** 2\n"
            "    return (20 * kl if kl.mean() > 1000 else kl).mean((-1, -2))",
            r"cannot be computed: ValueError: it reads a number of a tensor, as if, float\(\) and item\(\) do; write",
        ),
        ("return (student_logits * float(teacher_logits.max())).mean((-1, -2))", r"it reads a number of a tensor"),
        ("return (student_logits * teacher_logits.max().item()).mean((-1, -2))", r"it reads a number of a tensor"),
        ("z = student_logits - student_logits.mean(); return (z * z).mean((-1, -2))", r"mixes students: one's value"),
        (
            "z = student_logits - teacher_logits\n"
            "    return (z * z).where(student_logits.sum() > 0, z.abs()).mean((-1, -2))",
            r"mixes students: one's value",
        ),
        ("return (student_logits - 9).log().mean((-1, -2))", r"gives a value or a gradient that is not finite$"),
        ("return (student_logits * 0).abs().sqrt().mean((-1, -2))", r"gives a value or a gradient that is not finite$"),
        (
            "return (student_logits.sign() * student_logits.detach()).mean((-1, -2))",
            r"teaches nothing: its gradient is 0",
        ),
    ],
)
def test_a_form_of_ones_own_is_tried_out_before_it_costs_a_trial(body: str, message: str, tmp_path: Path) -> None:
    text = OWN.replace("return ((student_logits - teacher_logits).abs() ** POWER).mean((-1, -2))", body)
    (tmp_path / "mine.py").write_text(text)
    found = load_study(str(tmp_path / "mine.py"), [])[2]
    with pytest.raises(ValueError, match=message) as caught:
        for probe in found.probes("digits"):
            losses.check(probe)
    assert "\n" not in str(caught.value)


def test_a_form_may_be_silent_for_a_part_of_the_training(tmp_path: Path) -> None:
    head, body = "def gap(student_logits, teacher_logits, *, power", "return ((student_logits - teacher_logits).abs()"
    begun = OWN.replace(head, head + ", progress").replace("POWER", "2").replace("3.0)}", "3.0)}, takes=('progress',)")
    for share in ("max(0.0, progress - 0.5)", "max(0.0, 0.5 - progress)"):
        folder = tmp_path / share[9:12].strip()
        folder.mkdir()
        (folder / "mine.py").write_text(begun.replace(body, f"return {share} * {body.removeprefix('return ')}"))
        losses.chosen.try_out(str(folder / "mine.py"), "gap", 10)
    (tmp_path / "mine.py").write_text(begun.replace(body, f"return 0.0 * {body.removeprefix('return ')}"))
    with pytest.raises(ValueError, match=r"teaches nothing: its gradient is 0 at every logit$"):
        losses.chosen.try_out(str(tmp_path / "mine.py"), "gap", 10)


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        ({"kl": Form(len)}, "form 'kl' of the study: its name must be a word, and none of the built-in forms'"),
        ({"my form": Form(len)}, "form 'my form' of the study: its name must be a word"),
        ({"mine": len}, r"form 'mine' of the study is <built-in function len>; write Form\("),
        (
            {"mine": Form(len, takes=("weights",))},
            r"form 'mine' takes \('weights',\); a form may take a tuple of labels, progress",
        ),
        ({"mine": Form(len, takes="labels")}, "form 'mine' takes 'labels'; a form may take a tuple"),  # type: ignore[arg-type]
        ({"mine": Form(len, learned={"theta": "a"})}, "learned 'theta' is 'a'; it must be a number"),  # type: ignore[dict-item]
        ({"mine": Form(len, {"a": Knob(1, 1, 2)}, learned={"a": 1.0})}, "and no knob's name"),
        ({"mine": Form(len, {"a": Knob("p", 1, 2)})}, r"mine\.a 'p', 1, 2: each must be a number"),  # type: ignore[arg-type]
        ([("mine", len)], r"forms \[.*\] must be a mapping"),
        ({"mine": Form(len, knobs={"a": 1.0})}, r"form 'mine': its knob 'a' must be a Knob\("),  # type: ignore[dict-item]
    ],
)
def test_a_form_of_ones_own_that_cannot_be_is_refused_in_one_line(forms: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study({"form": Choice("mse")}, forms=forms)


def test_a_knobs_own_range_holds_for_a_form_of_ones_own() -> None:
    mine = Form(len, knobs={"power": Knob(2.0, 1.0, 3.0)})
    with pytest.raises(ValueError, match=r"mine\.power -1 is out of range; it must be a number of at least 0"):
        study({"form": Choice("mine"), "mine.power": Float(-1, 2)}, forms={"mine": mine})
