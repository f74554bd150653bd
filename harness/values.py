"""Numbers with a range, and values as JSON data and as a digest of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from dataclasses import dataclass
from typing import Any, TypeGuard


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether the value is a finite number that a float can hold; a truth value is none."""
    if type(value) is float:  # almost always, and ten thousand trials have millions
        return math.isfinite(value)
    most = sys.float_info.max
    return not isinstance(value, bool) and isinstance(value, int | float) and -most <= value <= most


@dataclass(frozen=True)
class Range:
    """The values a number may take: `low` and `high` are included unless `open_low`."""

    low: float
    high: float = math.inf
    open_low: bool = False
    whole: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.high < math.inf:
            return f"{kind} from {self.low:g} to {self.high:g}"
        return f"{kind} {'above' if self.open_low else 'of at least'} {self.low:g}"

    def admits(self, value: object) -> bool:
        if not is_number(value) or (self.whole and (not isinstance(value, int) or value >= 2**63)):
            return False
        return (value > self.low if self.open_low else value >= self.low) and value <= self.high


def to_json(value: Any) -> dict[str, Any]:
    """A dataclass as plain JSON data."""
    found = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {name: to_json(part) if dataclasses.is_dataclass(part) else part for name, part in found.items()}


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that stand for a piece of JSON data, the same on every machine and run."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
