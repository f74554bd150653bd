"""What a study's own code raises is told with the place in it: the user's file and line, no machine's path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import ledger, tasks
from harness.executors import worker
from harness.problems import MOST_LENGTH, place_of, words_of
from harness.study_files import load_module, load_study
from harness.values import to_json
from tests.inline import sweep_here

ROOT = Path(__file__).parents[1]
STUDY = """
import sys
from pathlib import Path

import torch
from torch import nn

from harness.models import MLP
from harness.space import Choice, Study
from harness.tasks import TeacherRecipe, own_task

sys.path.insert(0, str(Path(__file__).parent))
from {beside} import checked

class Net(nn.Linear):
    def forward(self, inputs):
        if torch.is_grad_enabled():
            {harm}
        return super().forward(inputs)

def task():
    labels = torch.arange(60) % 3
    inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) + labels[:, None]
    return own_task(
        "breaks", train=(inputs, labels), test=(inputs + 9, labels), students=make,
        teacher=TeacherRecipe(MLP, width=4, epochs=1, batch_size=8),
    )

def make(width):
    return nn.Sequential(nn.Linear(4, width), Net(width, 3))

STUDY = Study(
    task=task, family="own", space={{"width": Choice(2, 3)}}, fixed={{"form": "mse", "alpha": 0.5, "batch_size": 8}}
)
"""
HARMS = {
    "a name": ("missing_name", "NameError: name 'missing_name' is not defined (mine.py:18)"),
    "a value": ("raise ValueError('no such thing')", "no such thing (mine.py:18)"),
    "beside": ("checked(inputs)", "ZeroDivisionError: division by zero ({beside}.py:2)"),
    "in torch": ("inputs @ inputs[0, :1]", " (mine.py:18)"),
    "a file": ("open('/no/such')", "FileNotFoundError: [Errno 2] No such file or directory: '/no/such' (mine.py:18)"),
}


@pytest.mark.parametrize("kind", HARMS)
def test_an_error_of_a_students_own_code_names_the_users_line(kind: str, tmp_path: Path) -> None:
    harm, reason = HARMS[kind]
    beside = f"beside_{kind.replace(' ', '_')}"
    (tmp_path / f"{beside}.py").write_text("def checked(inputs):\n    return 1 / 0\n")
    (tmp_path / "mine.py").write_text(STUDY.format(harm=harm, beside=beside))
    try:
        event, data = cohort_of(tmp_path)
    finally:
        sys.path.remove(str(tmp_path))
        tasks.load.cache_clear()
    assert event == ("refused" if kind == "a value" else "failed")
    assert data["reason"].endswith(reason.format(beside=beside)) and str(tmp_path) not in data["reason"]


def cohort_of(folder: Path) -> tuple[str, dict[str, Any]]:
    """What a worker says of a trial of the study in `mine.py`."""
    _, file, study = load_study(str(folder / "mine.py"), [])
    probes = study.probes(str(file))
    cache = folder / "cache"
    event, data = worker.outcome("teacher", {"specs": [to_json(probe) for probe in probes]}, cache, "cpu", quiet)
    assert event == "done", data
    trial = ledger.TrialSpec("mine", 0, "search", {}, tuple(probes[:1]), "c0ffee", 1)
    own = ledger.write_spec(folder / "out", trial)
    return worker.outcome("cohort", {"folders": [str(own)], "how": {}}, cache, "cpu", quiet)


def quiet(*_: object) -> None:
    """Hear nothing."""


def test_a_study_that_does_not_load_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "typo.py").write_text("first = 1\nsecond = thrid\n")
    with pytest.raises(ValueError, match=r"typo\.py does not load: NameError: .* \(typo\.py:2\)$"):
        load_module(tmp_path / "typo.py")


ARGUMENTS = {
    "Study(control=1)": r"unexpected keyword argument 'control'; did you mean 'controls'\?",
    "Study(colour=1)": r"unexpected keyword argument 'colour'; its arguments are task, family, space, .*",
    "Float(0.0, 1.0, lg=True)": r"unexpected keyword argument 'lg'; did you mean 'log'\?",
    "space.Choice(1, 2, whn={})": r"unexpected keyword argument 'whn'; did you mean 'when'\?",
    "own_task(num_clases=4)": r"unexpected keyword argument 'num_clases'; did you mean 'num_classes'\?",
    "mine(wide=4)": r"unexpected keyword argument 'wide'; did you mean 'width'\?",
    "print(colour=4)": r".*'colour'.*",
}


@pytest.mark.parametrize("call", ARGUMENTS)
def test_an_argument_that_is_not_known_is_told_with_those_that_are(call: str, tmp_path: Path) -> None:
    head = "from harness import space\nfrom harness.space import Float, Study\nfrom harness.tasks import own_task\n"
    (tmp_path / "mine.py").write_text(f"{head}def mine(width): ...\n{call}\n")
    with pytest.raises(ValueError, match=rf"does not load: TypeError: .*{ARGUMENTS[call]} \(mine\.py:5\)$") as caught:
        load_module(tmp_path / "mine.py")
    assert "\n" not in str(caught.value)


def test_an_argument_of_a_function_in_a_task_is_told_too(tmp_path: Path) -> None:
    harm = "own_task(name='breaks', num_clases=4)"
    study = STUDY.format(harm="pass", beside="problems").replace("from problems import checked", "")
    (tmp_path / "mine.py").write_text(study.replace("    labels = torch", f"    {harm}\n    labels = torch", 1))
    _, file, found = load_study(str(tmp_path / "mine.py"), [])
    specs = [to_json(probe) for probe in found.probes(str(file))]
    event, data = worker.outcome("describe", {"specs": specs}, tmp_path, "cpu", quiet)
    assert event == "failed" and data["reason"].endswith("'num_clases'; did you mean 'num_classes'? (mine.py:22)")


def raised(path: Path, code: str) -> Exception:
    """The error of a module at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        exec(compile(code, str(path), "exec"), {})
    except Exception as error:
        return error
    raise AssertionError


def test_only_a_users_own_files_are_named(tmp_path: Path) -> None:
    places = {
        "mine.py": " (mine.py:2)",
        "nets/deep.py": " (deep.py:2)",
        ".venv/lib/python3.12/site-packages/torch/nn.py": "",
        "<string>": "",
    }
    for name, said in places.items():
        assert place_of(raised(tmp_path / name, "\n1 / 0"), [tmp_path]) == said
    assert place_of(raised(tmp_path / "mine.py", "1 / 0"), [tmp_path / "elsewhere"]) == ""
    assert place_of(ValueError("never raised"), [tmp_path]) == ""


def test_the_harness_and_the_standard_library_are_not_the_users() -> None:
    """Though the whole disk were the study's folder."""
    with pytest.raises(ValueError) as caught:
        load_study("no/such/study.py", [])
    assert place_of(caught.value, [Path("/")]).startswith(" (test_own_errors.py:")
    with pytest.raises(ValueError) as caught:
        __import__("json").loads("{")
    assert place_of(caught.value, [Path("/")]).startswith(" (test_own_errors.py:")


WHOLE = """
import sys
from pathlib import Path

import torch

from harness.models import MLP
from harness.space import Choice, Float, Study
from harness.tasks import TeacherRecipe, own_task

sys.path.insert(0, str(Path(__file__).parent))
from net_of_mine import Net

def task():
    labels = torch.arange(60) % 3
    inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) + labels[:, None]
    teacher = TeacherRecipe(MLP, width=4, epochs=1, batch_size=8)
    return own_task("breaks", train=(inputs, labels), test=(inputs + 9, labels), students=Net, teacher=teacher)

STUDY = Study(
    task=task, family="own", space={"width": Choice(2, 3), "alpha": Float(0, 1)},
    fixed={"form": "mse", "batch_size": 8, "epochs": 1}, trials=12, batch=6, seeds=1, other_controls=(), confirm=0,
)
"""
NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Linear(4, width), nn.Linear(width, 3))

    def forward(self, inputs):
        if inputs.shape[0] == 8:  # a batch of training, and of no check before
            {line}
        return super().forward(inputs)
"""


def test_a_module_that_only_breaks_in_training_stops_its_sweep_soon_and_goes_on_when_mended(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(WHOLE)
    (tmp_path / "net_of_mine.py").write_text(NET.format(line="missing_name"))
    places = [str(tmp_path / "mine.py"), "--out", str(tmp_path / "out"), "--jobs", "1", "--quiet"]
    command = [sys.executable, "-m", "harness.sweep", *places]
    broken = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    errors = [line for line in broken.stderr.splitlines() if line.startswith("error:")]
    said = "the reason is the same: NameError: name 'missing_name' is not defined (net_of_mine.py:10); mend it, and"
    assert broken.returncode == 1 and len(errors) == 1 and said in errors[0]
    failed = [path.parent.name for path in (tmp_path / "out").glob("mine/trials/*/failed.json")]
    assert 5 <= len(failed) <= 2 * 12  # rounds of six and as many controls; the next is asked for before one ends
    (tmp_path / "net_of_mine.py").write_text(NET.format(line="pass"))
    assert sweep_here(tmp_path / "mine.py", tmp_path / "out", jobs=1, quiet=True) == 0
    results = list((tmp_path / "out").glob("mine/trials/*/result.json"))
    assert len(results) >= 12 and not {path.parent.name for path in results} & set(failed)


def test_an_error_of_a_million_words_is_cut_short_at_once() -> None:
    for error in (RuntimeError("boom " + "x" * 2_000_000), TypeError("x." * 1_000_000)):
        assert len(words_of(error)) < 3 * MOST_LENGTH
