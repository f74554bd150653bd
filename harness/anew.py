"""`--new`: what there is of a study is kept aside, and its name is free."""

from __future__ import annotations

from rich.console import Console

from harness import files
from harness.locks import driver_of
from harness.options import Options, searches_of
from harness.storage import set_aside


def begin_anew(options: Options, console: Console) -> None:
    """Keep what there is of all searches aside: the command that goes on does so with all of them. Raises `ValueError`
    where one of them is being run, before any is put aside."""
    every = searches_of(options.first or options)
    anew = [(each, was_there) for each in every if (was_there := each.study_dir.exists()) or each.storage]
    for each, _ in anew:  # of searches one of which is being run none is touched
        with driver_of(each.name, each.study_dir, each.storage):
            pass
    for each, was_there in anew:  # the lock has made it
        with driver_of(each.name, each.study_dir, each.storage):
            _set_aside(each, console, was_there=was_there)


def _set_aside(options: Options, console: Console, *, was_there: bool) -> None:
    """Keep what there is of the study aside, and its name free."""
    if options.storage:
        kept = set_aside(options.storage, options.name)
        if kept:
            console.print(f"the study that was in the storage is called {kept} now", soft_wrap=True)
    if was_there:
        files.put_aside(options.study_dir, f"study {options.name!r} begins anew, and there is an earlier one")
