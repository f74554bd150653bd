"""Whatever a study's arguments and its file are: a study, or one line that says what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import cli
from harness.files import write_sealed
from harness.space import Choice, Float, Form, Halving, Knob, Study
from harness.study_files import load_study
from harness.values import Range, digest
from tests.damage import odd_numbers, odd_values
from tests.test_space import SOURCE, SPACE

ROOT = Path(__file__).parents[1]
thousand = settings(
    max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)


class Loud:
    """An object whose name has several lines."""

    def __repr__(self) -> str:
        return "one\ntwo"


odd = odd_values | st.binary(max_size=3) | st.sampled_from([Loud(), object, print, ..., {1}, (1,), range(3), b"", 1j])
words = st.sampled_from(["kl", "mse", "ce", "none", "offline", "adamw", "digits", "mlp", "", "width", "form"])
knobs = st.sampled_from([
    "width", "form", "alpha", "temperature", "lr", "epochs", "optimiser", "feature", "feature_weight", "teacher",
    "seed", "assistants", "transform", "views", "dkd.rest", "rkd.angle", "mine.knob", "mine.", "dtype", "patience",
    "task", "x\ny",
])  # fmt: skip
values = words | odd_numbers | st.integers(1, 8) | st.floats(0, 1) | odd
conditions = st.dictionaries(knobs | odd.filter(lambda key: not isinstance(key, list | dict | set)), values, max_size=2)
whens = st.none() | conditions | st.dictionaries(knobs, st.lists(values, max_size=2).map(tuple), max_size=2) | odd
dimensions = st.one_of(
    st.builds(lambda options, when: Choice(*options, when=when), st.lists(values, max_size=3), whens),
    st.builds(Float, values, values, log=st.booleans() | odd, when=whens.map(lambda when: when or {})),
    st.builds(lambda low, more: Float(low, low + more), st.floats(0, 0.4), st.floats(0, 0.5)),
    values,
)
ranges = st.builds(Range, values, values, whole=st.booleans()) | values
knob = st.builds(Knob, values, values, values, log=st.booleans() | odd, allowed=ranges | st.just(Range(0)))
forms = st.builds(
    Form, st.just(print) | values, knobs=st.dictionaries(knobs | words, knob | values, max_size=2) | odd,
    takes=st.lists(values, max_size=2).map(tuple) | odd, learned=st.dictionaries(words, values, max_size=2) | odd,
    min_classes=st.integers(1, 3) | values,
)  # fmt: skip


def _halving(rungs: Any, factor: Any) -> Any:
    try:
        return Halving(rungs, factor)
    except ValueError:
        return rungs


BASE: dict[str, Any] = {"task": "digits", "family": "mlp", "space": SPACE, "fixed": {"epochs": 3}}
WILD: dict[str, st.SearchStrategy[Any]] = {
    "task": values, "family": values, "trials": values, "seeds": values, "controls": values, "batch": values,
    "seed": values, "sampler": values | st.sampled_from(["tpe", "gp"]), "equal": knobs | values,
    "objectives": st.lists(values, max_size=3).map(tuple) | values, "file": values,
    "space": st.dictionaries(knobs, dimensions, max_size=4).map(lambda own: {**SPACE, **own})
    | st.dictionaries(knobs | st.integers(), dimensions, max_size=4) | odd,
    "fixed": st.dictionaries(knobs, values, max_size=4) | odd,
    "forms": st.dictionaries(words | st.just("mine"), forms | values, max_size=2) | odd,
    "pruning": st.builds(_halving, st.lists(st.integers(1, 4) | values, max_size=2).map(tuple), values) | values,
}  # fmt: skip


def one_line(error: ValueError) -> bool:
    return bool(str(error)) and len(str(error).splitlines()) == 1


@thousand
@given(data=st.data(), names=st.lists(st.sampled_from(sorted(WILD)), min_size=1, max_size=3, unique=True))
def test_whatever_a_study_is_given_it_is_a_study_or_refused_in_one_line(data: st.DataObject, names: list[str]) -> None:
    given_ = {**BASE, **{name: data.draw(WILD[name], label=name) for name in names}}
    try:
        made = Study(**given_)
        probes = made.probes("digits")
    except ValueError as error:
        assert one_line(error)
        return
    assert probes
    assert made.widths and made.student_seeds()[-1] < 2**63
    if not made.file:
        assert digest(json.loads(json.dumps(made.identity())))


RAISED = ["SystemExit(3)", "SystemExit", "RecursionError()", "BaseException('x')", "GeneratorExit", "MemoryError",
          "SyntaxError", "SyntaxError(7)", "UnicodeError", "Exception(b'\\xff', 3)", "Exception('a\\nb')",
          "StopIteration", "type('E', (Exception,), {'__str__': lambda self: 1 / 0})()", "OSError(28, '')"]  # fmt: skip
OTHER = ["None", "3", "Study", "object()", "__import__('sys')", "[Study]", "lambda: Study"]
whole_files = st.sampled_from([
    SOURCE, (ROOT / "studies" / "digits.py").read_text(), (ROOT / "studies" / "mnist5k.py").read_text()
]).map(str.encode)  # fmt: skip
texts = st.one_of(
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")), st.binary(max_size=60),
    st.tuples(whole_files, st.floats(0, 1)).map(lambda cut: cut[0][: int(cut[1] * len(cut[0]))]),
    st.tuples(whole_files, st.floats(0, 1), st.binary(min_size=1, max_size=3)).map(
        lambda put: put[0][: int(put[1] * len(put[0]))] + put[2] + put[0][int(put[1] * len(put[0])) :]
    ),
    st.sampled_from(RAISED).map(lambda what: f"raise {what}".encode()),
    st.sampled_from(OTHER).map(lambda what: f"{SOURCE}\nSTUDY = {what}".encode()),
    st.sampled_from([b"# coding: nowhere\n", b"\xef\xbb\xbf" + SOURCE.encode(), b"-" * 20_000 + b"1", b"(" * 5000,
                     b"def __getattr__(name): raise KeyError(name)", b"x = 'a\nb", b"\0" + SOURCE.encode()]),
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@thousand
@given(content=texts)
def test_whatever_a_study_file_holds_it_is_a_study_or_refused_in_one_line(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "mine.py"
    path.write_bytes(content)
    try:
        assert isinstance(load_study(str(path), [])[2], Study)
    except ValueError as error:
        assert one_line(error) and str(path) in str(error)


names = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["..", ".", "", "-x", "/etc/passwd", "a" * 5000, "a\0b", "~", "con", "plans", "x.py/"]),
    st.lists(st.sampled_from(["..", "a", "/", "mine", ".py", "\0", " "]), max_size=6).map("".join),
)  # fmt: skip


@thousand
@given(name=names | st.text().map(lambda text: f"{text}.py"))
def test_whatever_a_study_is_called_it_has_a_folder_of_its_own_or_is_refused_in_one_line(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(SOURCE)
    try:
        found, _, _ = load_study(name, [tmp_path])
        assert found == "mine"
    except ValueError as error:
        assert one_line(error)
    try:
        cli.results_of(name, tmp_path)
    except ValueError as error:
        assert one_line(error)
    else:
        raise AssertionError("there are no results")


def test_a_study_that_changes_the_working_directory_is_refused_and_it_stays(tmp_path: Path) -> None:
    here = Path.cwd()
    (tmp_path / "mine.py").write_text(f"import os\nos.chdir({str(tmp_path)!r})\n{SOURCE}")
    with pytest.raises(ValueError, match=r"mine.py changes the working directory to .*, which moves where results go"):
        load_study(str(tmp_path / "mine.py"), [])
    assert Path.cwd() == here


def test_a_path_is_not_taken_for_another_of_the_same_name(tmp_path: Path) -> None:
    made, other = tmp_path / "mine.py", tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    for path in (made, other):
        path.write_text(SOURCE + ("" if path == made else "\nMORE = 1\n"))
    (tmp_path / "out" / "mine").mkdir(parents=True)
    write_sealed(tmp_path / "out" / "mine" / "study.json", {"file": str(made)})
    out = tmp_path / "out"
    assert cli.results_of("mine", out) == cli.results_of(str(made), out) == out / "mine"
    for path in (other, tmp_path / "none" / "mine.py"):
        with pytest.raises(ValueError, match=f"the results of mine in .* are those of {made}, not of {path}"):
            cli.results_of(str(path), out)
    copy = tmp_path / "copy" / "mine.py"
    copy.parent.mkdir()
    copy.write_text(SOURCE)
    other.write_text(f"{SOURCE}\nMORE = 1\n")
    assert cli.results_of(str(copy), out) == out / "mine"
    with pytest.raises(ValueError, match="are those of"):
        cli.results_of(str(other), out)
    (out / "mine" / "study.json").write_text('{"x":')
    assert cli.results_of(str(other), out) == out / "mine"
    assert [path.name for path in (out / "mine").iterdir()] == ["study.json"]  # who reads on tells of the damage
    write_sealed(out / "mine" / "study.json", {"file": str(made)})
    made.unlink()  # as where all was moved
    assert cli.results_of(str(other), out) == out / "mine"


def test_a_study_may_not_be_called_as_a_folder_beside_it(tmp_path: Path) -> None:
    for name in ("plans", "teachers", "mlartifacts"):
        (tmp_path / f"{name}.py").write_text(SOURCE)
        with pytest.raises(ValueError, match=f"study name '{name}' is taken"):
            load_study(name, [tmp_path])


def test_results_are_looked_for_in_the_folder_of_results_alone(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "out", tmp_path / "out" / "mine"):
        folder.mkdir(exist_ok=True)
        (folder / "study.json").write_text("{}")
    out = tmp_path / "out"
    assert cli.results_of("mine", out) == cli.results_of("studies/mine.py", out) == out / "mine"
    for name in ("..", ".", "", "../out/mine", str(out / "mine"), "mine/", "mine/../mine", "other"):
        with pytest.raises(ValueError, match=f"no results for study {name!r}; studies with results in .* are mine"):
            cli.results_of(name, out)


@pytest.mark.parametrize(
    ("program", "argument", "content"),
    [
        ("sweep", "mine.py", b"raise BaseException('one\\ntwo')"),
        ("sweep", "../../etc", b""),
        ("report", "..", b""),
    ],
    ids=["raises", "outside", "report above"],
)
def test_the_programs_say_it_in_one_line_and_write_nothing(
    program: str, argument: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_bytes(content)
    (tmp_path / "study.json").write_text("{}")
    command = [sys.executable, "-m", f"harness.{program}", argument, "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py", "study.json"]
