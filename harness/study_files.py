"""How a study's file is found and run, and where in it an error was raised.

A study file is Python and defines `STUDY = Study(...)`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.problems import one_line, place_of, words_of
from harness.space import Study

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
"""What a study may be called; its name is that of a folder."""
TAKEN = ("plans", "teachers", "mlartifacts")
"""Folders beside those of the studies."""
MODULE = "study_"
"""What the name of a study's file begins with as a module."""


def load_study(name_or_path: str, folders: Sequence[Path]) -> tuple[str, Path, Study]:
    """The study's name, its file and its `STUDY`, given a name in one of `folders` or a path to a `.py` file.

    Raises `ValueError` in one line for a study that is not there, does not load, or defines no `STUDY`.
    """
    path = Path(name_or_path)
    if re.fullmatch(NAME, name_or_path):
        path = next((p for f in folders if _is_file(p := f / f"{name_or_path}.py")), path)
    if path.suffix != ".py" or not _is_file(path):
        what = "there is no file" if path.suffix == ".py" else "unknown study"
        known = ", ".join(sorted({p.stem for folder in folders for p in folder.glob("*.py")}))
        raise ValueError(one_line(f"{what} {name_or_path!r}; studies are {known}, or give a path to a .py file"))
    if not re.fullmatch(NAME, path.stem):
        raise ValueError(f"study name {path.stem!r} may hold letters, digits, '-' and '_' only, 100 at most")
    if path.stem in TAKEN:
        raise ValueError(f"study name {path.stem!r} is taken: results has a folder of that name; rename the file")
    study = vars(load_module(path)).get("STUDY")
    if not isinstance(study, Study):
        raise ValueError(f"{path} defines no STUDY; write STUDY = Study(...)")
    return path.stem, path.resolve(), dataclasses.replace(study, file=str(path.resolve()))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def load_module(path: Path) -> Any:
    """Run a study file and return it as a module; `ValueError` in one line, with the place, when it does not run.

    It is compiled anew each time: Python's own cache takes an edit of the same second and length for the file before.
    """
    spec = importlib.util.spec_from_file_location(f"{MODULE}{path.stem}", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and typing look a class's module up by its name
    here = Path.cwd()
    try:
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), vars(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's own code raises is the user's to see, in one line
        line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else None
        said = f", line {line}: {error.msg}" if line and isinstance(error, SyntaxError) else _said(error)
        raise ValueError(one_line(f"{path}{said}") + place_in_study(error)) from None
    if (there := Path.cwd()) != here:
        os.chdir(here)
        raise ValueError(
            one_line(f"{path} changes the working directory to {there}, which moves where results go; ")
            + "name its files by Path(__file__).parent instead"
        )
    return module


def place_in_study(error: BaseException) -> str:
    """Where in a study's file, or in a module beside it, an error was raised (see `harness.problems.place_of`)."""
    specs = [getattr(module, "__spec__", None) for name, module in list(sys.modules.items()) if name.startswith(MODULE)]
    return place_of(error, {Path(spec.origin).resolve().parent for spec in specs if spec is not None and spec.origin})


def _said(error: BaseException) -> str:
    try:
        return f" does not load: {words_of(error)}"
    except Exception:  # a class of the user's own, whose message is one more error
        return f" does not load: {type(error).__name__}"
