"""What a study says of itself: `study.json`, read and held against what its parts may be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.files import read_sealed
from harness.ledger import COUNT
from harness.space import SIZE_BUDGET, dimension_from_json
from harness.values import is_number

MANIFEST: Mapping[str, Any] = {
    "study": str, "identity": dict, "budget": dict, "size_budgets": list, "objectives": list, "widths": list,
    "seeds": list, "task": dict, "teacher": dict, "versions": dict, "started_ms": int, "seconds": int | float,
    "ended": bool, "at_least": bool, "searches": int, "first_seed": int,
}  # fmt: skip
"""What kind of thing each part of `study.json` is, where it is there."""


def manifest_at(path: Path) -> dict[str, Any]:
    """What a `study.json` says. Raises `FileNotFoundError` where there is none, `ValueError` where it is damaged."""
    found = read_sealed(path)
    if found is None:
        raise FileNotFoundError(f"no study at {path.parent}: it has no study.json")
    for name, kind in MANIFEST.items():
        if not isinstance(found.get(name), kind | None):
            raise ValueError(f"{path} is damaged: {name} is {found[name]!r:.80}; the study's sweep writes it anew")
    try:
        for name, data in ((found.get("identity") or {}).get("space") or {}).items():
            if problem := dimension_from_json(data).problem(name):
                raise ValueError(problem)
        if any(not isinstance(name, str) for name in found.get("objectives") or []):
            raise ValueError("an objective is no name")
        if not all(SIZE_BUDGET.admits(limit) for limit in found.get("size_budgets") or []):
            raise ValueError(f"a size budget is not {SIZE_BUDGET}")
        if not COUNT.admits(found.get("started_ms") or 0):
            raise ValueError("started_ms is no time")
        if not is_number(found.get("seconds") or 0):
            raise ValueError("seconds is no number")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error!r:.80}; the study's sweep writes it anew") from None
    return found
