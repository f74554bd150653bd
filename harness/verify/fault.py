"""What may be wrong, and what `--repair` can do about it."""

from __future__ import annotations

from dataclasses import dataclass

MENDS = {
    "finish": ("--repair logs and tells it", "logged and told"),
    "log": ("--repair logs it from the ledger", "logged from the ledger"),
    "replace": ("--repair deletes it and logs another", "deleted, and logged anew"),
    "restore": ("--repair restores it", "restored"),
    "delete": ("--repair deletes all but one", "all but one deleted"),
    "parent": ("--repair makes one", "made"),
    "stop": ("--repair sets it KILLED", "set KILLED"),
    "aside": ("--repair puts the file aside", "put aside"),
}
"""What can be done: what it promises, and what is said once it is done."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: with a trial, or with the study where `number` is None.

    `mend` is a key of `MENDS`, or empty where nothing mends it; then `todo` says what there is to do, if anything.
    `runs` are the ids of the runs that are to be deleted or restored.
    """

    number: int | None
    what: str
    todo: str = ""
    mend: str = ""
    runs: tuple[str, ...] = ()

    def line(self, *, mended: bool = False) -> str:
        """The fault in one line."""
        todo = MENDS[self.mend][mended] if self.mend else self.todo
        where = "study" if self.number is None else f"trial {self.number}"
        return " ".join(f"{where}: {self.what}{'; ' if todo else ''}{todo}".split())
