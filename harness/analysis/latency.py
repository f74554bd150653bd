"""What was measured of the students of each width: milliseconds and bytes, from `latency.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.files import read_sealed
from harness.values import is_number

FILE = "latency.json"
COLUMNS = (
    "latency_ms", "latency_p95_ms", "latency_64_ms", "latency_64_p95_ms", "energy_mj", "energy_64_mj", "size_kib",
)  # fmt: skip
"""Median and 95th percentile of a call, at batch 1 and 64, in milliseconds; millijoules an example, NaN where they
cannot be measured; the weights' file in KiB."""


def read_latency(study_dir: Path) -> pd.DataFrame:
    """`COLUMNS` by width (the index); empty where nothing was measured or the file is damaged."""
    try:
        data = read_sealed(study_dir / FILE) or {}
        rows = {int(width): _row(found) for width, found in data.get("widths", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        rows = {}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS)).astype(float)


def measured_on(study_dir: Path) -> str:
    """The machine that it was measured on; empty where nothing was."""
    try:
        found = (read_sealed(study_dir / FILE) or {}).get("widths", {})
        return str(next(iter(found.values()))["machine"]) if found else ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _row(found: Mapping[str, Any]) -> list[float]:
    timings = {timing["batch"]: timing for timing in found["timings"]}
    values = [
        timings[batch][name] if batch in timings else np.nan for batch in (1, 64) for name in ("p50_ms", "p95_ms")
    ]
    energy = [timings.get(batch, {}).get("energy_mj") for batch in (1, 64)]
    values += [np.nan if value is None else value for value in energy]
    values.append(found["size_bytes"] / 1024)
    if not all(is_number(value) or np.isnan(value) for value in values):
        raise ValueError("a latency is no number")
    return [float(value) for value in values]
