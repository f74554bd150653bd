"""The views of the runs table that are kept with an experiment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

KNOBS = ("form", "width", "alpha", "temperature", "lr")


@dataclass(frozen=True)
class View:
    """A view of the runs table that is kept with the experiment: which runs, sorted by its first metric, highest first,
    and the columns that it shows."""

    filter: str
    metrics: tuple[str, ...]
    params: tuple[str, ...] = KNOBS
    tags: tuple[str, ...] = ("arm", "stage")


VIEWS: Mapping[str, View] = {
    "trials": View("tags.stage = 'search'", ("val_accuracy", "val_accuracy_sd", "num_params")),
    "confirmed": View(
        "tags.stage = 'confirm'", ("val_accuracy", "test_accuracy", "num_params", "test_agreement", "test_ece")
    ),
}
"""The views by name: what the search tried, and what was confirmed on fresh seeds."""


def state(view: View) -> str:
    """The UI's own form of a shared view."""
    columns = {"metrics": view.metrics, "params": view.params, "tags": view.tags}
    quoted = [f"{kind}.`{name}`" for kind, names in columns.items() for name in names]
    facets = {"searchFilter": view.filter, "orderByKey": quoted[0], "orderByAsc": False}
    return json.dumps({**facets, "selectedColumns": quoted})
