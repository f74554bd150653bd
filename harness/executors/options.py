"""What `--option name=value` says to an executor: numbers and sizes, or a refusal in one line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def known(options: Mapping[str, str], names: Iterable[str], where: str) -> None:
    """Raise `ValueError` for an option that is not among `names`; a name that ends in `.` stands for all it begins."""
    names = list(names)
    for option in options:
        if not any(option == name or (name.endswith(".") and option.startswith(name)) for name in names):
            said = ", ".join(f"{name}<name>" if name.endswith(".") else name for name in names)
            raise ValueError(f"unknown option {option!r} of --executor {where}; options are {said}")


def number(
    options: Mapping[str, str], name: str, default: float, most: float = math.inf, smallest: float = 0.0
) -> float:
    """A number from 0 to `most`, and where it is not 0 at least `smallest`. Raises `ValueError` for anything else."""
    said = options.get(name, str(default))
    try:
        value = float(said)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most or value == math.inf:
        room = "at least 0" if most == math.inf else f"from 0 to {most:g}"
        raise ValueError(f"option {name}={said} must be a number {room}")
    if 0 < value < smallest:
        raise ValueError(f"option {name}={said} must be 0 or at least {smallest:g}")
    return value


def count(options: Mapping[str, str], name: str, default: int, least: int = 0) -> int:
    """A whole number of `least` and more. Raises `ValueError` for anything else."""
    said = options.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", said) or int(said) < least:
        raise ValueError(f"option {name}={said} must be a whole number of at least {least}")
    return int(said)


def size(options: Mapping[str, str], name: str) -> int | None:
    """Bytes, said as `500MiB` or `4GB`; None where nothing is said. Raises `ValueError` for anything else."""
    if name not in options:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", options[name].strip())
    found = float(match[1]) * UNITS.get(match[2].upper(), 0) if match else 0.0
    if not 1 <= found <= 2**62:
        raise ValueError(f"option {name}={options[name]} must be a size such as 500MiB, 4GiB or 4GB")
    return int(found)
