"""The tasks: data, a teacher's recipe and student families. Add one by writing its file and its line in `TASKS`.

A study may also bring its own: `Study(task=function)` with a function of the study's file that returns a `Task`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from harness.study_files import load_module
from harness.tasks import cifar, digits, fashion_mnist, mnist1d, mnist5k, orange, pydoc, snippets
from harness.tasks.answers import logits_teacher
from harness.tasks.given import module_teacher
from harness.tasks.own import own_task
from harness.tasks.readers import csv_texts, image_folder, parquet
from harness.tasks.stream import Inputs, Stream, in_parts
from harness.tasks.task import UNLABELLED, GivenTeacher, LockedSplit, Scale, Split, Task, TeacherRecipe
from harness.tasks.text import Texts, text_task

__all__ = [
    "TASKS",
    "UNLABELLED",
    "GivenTeacher",
    "Inputs",
    "LockedSplit",
    "Scale",
    "Split",
    "Stream",
    "Task",
    "TeacherRecipe",
    "Texts",
    "csv_texts",
    "image_folder",
    "in_parts",
    "load",
    "logits_teacher",
    "module_teacher",
    "own_task",
    "parquet",
    "text_task",
]

TASKS: Mapping[str, Callable[[], Task]] = {
    "mnist5k": mnist5k.load,
    "digits": digits.load,
    "mnist1d": mnist1d.load,
    "newsgroups": orange.load_newsgroups,
    "reuters8": orange.load_reuters8,
    "snippets": snippets.load,
    "pydoc_chars": pydoc.load_characters,
    "pydoc_pieces": pydoc.load_pieces,
    "fashion_mnist10k": fashion_mnist.load_10k,
    "fashion_mnist": fashion_mnist.load,
    "cifar10": cifar.load_10,
    "cifar100": cifar.load_100,
}


@cache
def load(name: str) -> Task:
    """The task called `name`, or the one that the study file at path `name` makes. Raises `ValueError` for neither."""
    if name in TASKS:
        return TASKS[name]()
    if not name.endswith(".py"):
        raise ValueError(f"unknown task {name!r}; tasks are {', '.join(TASKS)}")
    make = getattr(getattr(load_module(Path(name)), "STUDY", None), "task", None)
    if not callable(make):
        raise ValueError(f"{name} makes no task of its own; give its Study a function that returns a Task")
    task = make()
    if not isinstance(task, Task):
        raise ValueError(f"the task function of {name} returned {type(task).__name__}, not a Task")
    return task
