"""What the programs share: one clear line and exit code 2 for bad input, and where things are kept."""

from __future__ import annotations

import atexit
import errno
import inspect
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.logging import RichHandler

from harness import files
from harness.files import keep_private
from harness.problems import one_line
from harness.stopping import be_deaf
from harness.study_files import NAME
from harness.urls import redact

STUDIES = (Path("studies"), Path(__file__).parents[1] / "studies")
"""Where a study's name is looked up: here first, then beside the package."""
OUT = Path("results")
DEFAULT_STUDY = "mnist5k"
F = TypeVar("F", bound=Callable[..., Any])
INTERRUPTED = 130
"""The exit code after a Ctrl-C."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
FULL = "; make room, or let it be written to, and give the same command"


def program() -> typer.Typer:
    """A program of one command, as all are."""
    names = {"help_option_names": ["-h", "--help"]}
    return typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings=names)


def command(app: typer.Typer) -> Callable[[F], F]:
    """The program's command. Its docstring is its help; the terminal fills the lines of what is not indented there."""

    def register(function: F) -> F:
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        filled = [text if text.startswith(" ") else " ".join(text.split()) for text in paragraphs]
        return app.command(help="\n\n".join(filled))(function)

    return register


def run(app: typer.Typer) -> NoReturn:
    """Run a program. Bad input is one line on standard error and exit code 2, never a traceback."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started it
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as the program
    _log_to_stderr()
    try:
        keep_private()
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        message = str(error.format_message()) if hasattr(error, "format_message") else str(error)
        fail(f"{message.rstrip('.')}, in: {' '.join(sys.argv[1:])}")
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error}{FULL}" if error.errno in NO_ROOM else str(error), 1 if error.errno in NO_ROOM else 2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    atexit.register(be_deaf)  # the last to be registered is called first
    sys.exit(code if isinstance(code, int) else 0)


def _log_to_stderr() -> None:
    """Show warnings: beside progress bars on a terminal, else a line each, as a log of days wants them."""
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False)
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    handler.addFilter(_without_secrets)
    logging.basicConfig(level="WARNING", format="%(message)s", handlers=[handler])


def _without_secrets(record: logging.LogRecord) -> bool:
    record.msg, record.args = redact(record.getMessage()), ()
    record.exc_info = record.exc_text = record.stack_info = None  # a line, also of what a library logs with its stack
    return True


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line, without passwords, and leave."""
    say_error(message)
    sys.exit(code)


def say_error(message: str) -> None:
    """Print one line, without passwords, to standard error."""
    line = redact(" ".join(message.split()))
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]error:[/] {_escaped(line)}")


def check_writable(out: Path) -> None:
    """Raise `ValueError` unless files can be made in `out`, which need not exist yet; leaves nothing behind."""
    place = out.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"--out {str(out)!r} is no folder: {place} is a file")
    try:
        tempfile.TemporaryFile(dir=place).close()  # permissions alone do not tell: root, read-only mounts
    except OSError as error:
        raise ValueError(f"--out {str(out)!r} cannot be written to ({error.strerror}); choose another folder") from None


def results_of(study: str, out: Path) -> Path:
    """The folder in `out` of a study that was swept, given its name or its `.py` file; never one outside of `out`.

    Raises `ValueError` where there is none.
    """
    name = Path(study).stem if study.endswith(".py") else study
    if not re.fullmatch(NAME, name) or not (out / name / "study.json").is_file():
        swept = (path.parent.name for path in out.glob("*/study.json"))
        known = sorted(each for each in swept if re.fullmatch(NAME, each))  # and none that was put aside
        choices = f"studies with results in {out} are {', '.join(known)}" if known else f"{out} holds no results yet"
        if re.fullmatch(NAME, name) and (out / name / "trials").is_dir():
            choices = "its study.json is gone, and the study's sweep writes it anew"
        raise ValueError(one_line(f"no results for study {study!r}; {choices}"))
    if study.endswith(".py") and (other := _made_by_another(Path(study), out / name / "study.json")):
        raise ValueError(one_line(f"the results of {name} in {out} are those of {other}, not of {study}"))
    return out / name


def _made_by_another(study: Path, manifest: Path) -> str:
    """The file of another study whose results these are; empty where it is this one, a copy of it, or not known."""
    try:  # reads and moves nothing: a damaged one is for whoever needs more of it to tell
        made_by = Path(str((files.read_sealed(manifest) or {}).get("file", "")))
        if not made_by.is_file() or study.resolve() == made_by.resolve():
            return ""
        return "" if study.is_file() and study.read_bytes() == made_by.read_bytes() else str(made_by)
    except (OSError, ValueError):
        return ""


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
