"""What a study was given that is of no kind that a study takes: found before anything looks into it.

Whatever a study's file says, the answer is one line. What is of the right kind and out of range is `Study`'s own. What
a study's own code raises is told with the place in it.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sysconfig
import traceback
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.dimensions import Choice, Float
from harness.forms import TAKES, Form, Knob
from harness.values import Range, is_number

MOST_LENGTH = 2000
NOT_OWN = (Path(__file__).parent, *map(Path, {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}))
"""Code that is nobody's own, though it may lie in the folder of a study."""
PACKAGES = frozenset(("site-packages", "dist-packages"))


def one_line(text: str) -> str:
    """The text in one line, not endless."""
    line = " ".join(text.split())
    return line if len(line) <= MOST_LENGTH else f"{line[:MOST_LENGTH]} ..."


def place_of(error: BaseException, folders: Collection[Path]) -> str:
    """` (mine.py:31)`: the innermost line of an error's traceback that is in these folders of the user's; empty where
    none is. Folders are resolved."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        path = Path(frame.f_code.co_filename).resolve()
        inside = path.suffix == ".py" and any(path.is_relative_to(folder) for folder in folders)
        if inside and PACKAGES.isdisjoint(path.parts) and not any(path.is_relative_to(other) for other in NOT_OWN):
            return f" ({path.name}:{line})"
    return ""


def words_of(error: BaseException) -> str:
    """`ValueError: no such thing`: an error's kind and message; where a function was given an argument that it does not
    have, also what it has. Python says only which one it does not know."""
    message = str(error)[: 2 * MOST_LENGTH]  # a pattern may take hours over a message of a million characters
    said = f"{type(error).__name__}: {message}"
    unknown = re.search(r"([\w.]+)\(\) got an unexpected keyword argument '(\w+)'$", message)
    if not isinstance(error, TypeError) or unknown is None:
        return said
    path, argument = unknown.groups()
    called = _called(path.removesuffix(".__init__").rpartition(".")[2], error)
    try:
        given = inspect.signature(called).parameters.values() if called is not None else ()
    except (TypeError, ValueError):  # a built-in of Python's own
        return said
    known = [one.name for one in given if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    arguments = f"its arguments are {', '.join(known)}" if known else ""
    return "; ".join(filter(None, [said, did_you_mean(argument, known) or arguments]))


def did_you_mean(name: str, known: Collection[str], least: float = 0.6) -> str:
    """The question for a name that is not known; empty where no other is as like it, `least` of 1."""
    near = difflib.get_close_matches(name, known, 1, least)
    return f"did you mean {near[0]!r}?" if near else ""


def _called(name: str, error: BaseException) -> Any:
    """What is called `name` where an error was raised, in the innermost frame that has it; None where none has."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        spaces = [frame.f_locals, frame.f_globals]
        spaces += [vars(each) for space in tuple(spaces) for each in tuple(space.values()) if inspect.ismodule(each)]
        found = next((space[name] for space in spaces if callable(space.get(name))), None)
        if found is not None:
            return found
    return None


def kind_problems(study: Any) -> Iterator[str]:
    """What of a study's arguments is no text, mapping, tuple or number where it must be."""
    if not isinstance(study.task, str) and not (callable(study.task) and hasattr(study.task, "__name__")):
        yield f"task {study.task!r} must be a task's name, or a function of the study's file"
    for name in ("family", "sampler", "equal", "file"):
        if not isinstance(getattr(study, name), str):
            yield f"{name} {getattr(study, name)!r} must be text"
    for name in ("space", "fixed"):
        given = getattr(study, name)
        if not isinstance(given, Mapping) or not all(isinstance(knob, str) for knob in given):
            yield f"{name} {given!r} must be a mapping of knobs, as {{'width': ...}}"
    if not isinstance(study.objectives, tuple | list) or not all(isinstance(name, str) for name in study.objectives):
        yield f"objectives {study.objectives!r} must be a tuple of names, as ('val_accuracy', 'macs')"
    others = study.other_controls
    if not isinstance(others, tuple | list) or not all(isinstance(kind, str) for kind in others):
        yield f"other_controls {others!r} must be a tuple of kinds, as ('smoothing', 'self')"
    if not isinstance(study.size_budgets, tuple | list):
        yield f"size_budgets {study.size_budgets!r} must be a tuple of numbers of parameters, as (1_000, 2_000)"
    for knob, value in study.fixed.items():
        if not (isinstance(value, str | bool) or is_number(value) or (knob == "temperature" and value is None)):
            yield f"{knob}: fixed value {value!r} must be text or a number"
    for knob, dimension in study.space.items():
        if isinstance(dimension, Float | Choice) and (problem := condition_problem(dimension.when)):
            yield f"{knob}: {problem}"


def condition_problem(when: object) -> str | None:
    """What is wrong with a dimension's condition, or None."""
    if not isinstance(when, Mapping) or not all(isinstance(parent, str) for parent in when):
        return f"its condition {when!r} must be a mapping, as when={{'form': ('kl',)}}"
    for parent, options in when.items():
        if isinstance(options, str):
            return f"its condition on {parent!r} is {options!r}; write a tuple, ({options!r},)"
        if not isinstance(options, tuple | list | set | frozenset) or not all(_is_value(value) for value in options):
            return f"its condition on {parent!r} is {options!r}; write a tuple of options"
    return None


def form_problems(forms: object, built_in: Collection[str]) -> Iterator[str]:
    """What is wrong with a study's own forms."""
    if not isinstance(forms, Mapping):
        yield f"forms {forms!r} must be a mapping, as {{'my_form': Form(function)}}"
        return
    for name, form in forms.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name) or name in built_in:
            yield f"form {name!r} of the study: its name must be a word, and none of the built-in forms'"
        elif not isinstance(form, Form) or not callable(form.function):
            yield f"form {name!r} of the study is {form!r}; write Form(function, knobs={{...}})"
        elif not isinstance(form.knobs, Mapping) or not isinstance(form.learned, Mapping):
            yield f"form {name!r}: its knobs and learned numbers must be mappings"
        elif not isinstance(form.takes, tuple) or not all(what in TAKES for what in form.takes):
            yield f"form {name!r} takes {form.takes!r}; a form may take a tuple of {', '.join(TAKES)}"
        elif not Range(1, whole=True).admits(form.min_classes):
            yield f"form {name!r}: min_classes {form.min_classes!r} must be {Range(1, whole=True)}"
        else:
            yield from _knob_problems(name, form)


def _knob_problems(name: str, form: Form) -> Iterator[str]:
    for knob, what in form.knobs.items():
        if not isinstance(knob, str) or not re.fullmatch(r"\w+", knob):
            yield f"form {name!r}: the name of its knob {knob!r} must be a word"
        elif not isinstance(what, Knob) or not isinstance(what.allowed, Range) or not isinstance(what.log, bool):
            yield f"form {name!r}: its knob {knob!r} must be a Knob(default, low, high)"
        elif not all(is_number(bound) or bound == Range(0).high for bound in (what.allowed.low, what.allowed.high)):
            yield f"form {name!r}: what its knob {knob!r} allows is no range of numbers"
        elif not all(what.allowed.admits(value) for value in (what.default, what.low, what.high)):
            yield f"{name}.{knob} {what.default!r}, {what.low!r}, {what.high!r}: each must be {what.allowed}"
    for learned, start in form.learned.items():
        if not isinstance(learned, str) or learned in form.knobs or not is_number(start):
            yield f"form {name!r}: learned {learned!r} is {start!r}; it must be a number, and no knob's name"


def _is_value(value: object) -> bool:
    return isinstance(value, str | bool) or is_number(value)
