"""Whether text has room in a figure, and where: short names, lengths, ticks on end, labels in rows."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

LONGEST = 14
"""The letters of a name that a figure shows; tables show all of them."""
ROOM = 215.0
"""Points that axes as wide as a column have between their y axis and the figure's edge, about."""


def name(said: object) -> str:
    """A name as a figure has room for it: of a long one the beginning and the end, by which like names differ."""
    whole = str(said)
    return whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 6]}…{whole[-5:]}"


@functools.lru_cache(maxsize=4096)
def length(said: str, size: float = 7) -> float:
    """How long one line of text is, in points."""
    return float(
        text_to_path.get_text_width_height_descent(said, FontProperties(family="DejaVu Sans", size=size), False)[0]
    )


def fits(labels: Iterable[str], size: float, room: float = ROOM) -> bool:
    """Whether labels stand side by side on an axis of `room` points, each amid an equal part of it."""
    lengths = [length(label, size) for label in labels]
    return max(lengths, default=0.0) + 2 <= room / max(len(lengths), 1)


def place_ticks(axes: Axes, labels: Sequence[str], size: float = 7, room: float = ROOM) -> bool:
    """Name the places 0, 1, ... of an x axis, on end where they would run into each other; gives whether they do."""
    upright = fits([max(label.split("\n"), key=len) for label in labels], size, room)
    said = labels if upright else [label.replace("\n", " ") for label in labels]
    axes.set_xticks(range(len(said)), said, fontsize=size, rotation=0 if upright else 90)
    return not upright


def fraction(axes: Axes, place: float) -> float:
    """Where a place stands on the x axis: 0 at its left end, 1 at its right."""
    low, high = (axes.transScale.transform((end, 1))[0] for end in axes.get_xlim())
    return float((axes.transScale.transform((place, 1))[0] - low) / (high - low))


def stacked(places: Sequence[float], lengths: Sequence[float]) -> list[int]:
    """A row for each label about its place, the first in which it touches none: from left to right, rows from 0."""
    ends: list[float] = []  # of each row
    rows = [0] * len(places)
    for index in sorted(range(len(places)), key=lambda index: places[index] - lengths[index] / 2):
        begin = places[index] - lengths[index] / 2
        row = next((row for row, end in enumerate(ends) if end <= begin), len(ends))
        ends[row : row + 1] = [begin + lengths[index]]
        rows[index] = row
    return rows
