"""A figure as files: the same bytes for the same data, whatever the day."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from harness import figures
from harness.report.findings import Drawn

DPI = 200
SVG = {"Creator": None, "Date": None, "Format": None, "Type": None}


@dataclass(frozen=True)
class Drawing:
    """A figure to be: its file's stem, its caption on the page, and how to draw it."""

    stem: str
    caption: str
    draw: Callable[[], Figure]


Rendered = tuple[dict[str, bytes], Drawn]
"""A figure as PNG, PDF and SVG, by kind, and for the page."""


def rendered(drawing: Drawing) -> Rendered:
    """The figure's files, without the dates that would make two runs differ."""
    with figures.paper():
        figure = drawing.draw()
        figure.set_dpi(DPI)
        _arrange(figure)
        files = {"png": _saved(figure, "png", {"Software": None})}
        files |= {"pdf": _saved(figure, "pdf", {"CreationDate": None}), "svg": _saved(figure, "svg", SVG)}
        rest = figures.without_note(figure)
        return files, Drawn(drawing.caption, figures.note_of(figure), _saved(figure, "svg", SVG, rest))


def _arrange(figure: Figure) -> None:
    """Solve the layout once, for all kinds of file: a figure that still has an engine is drawn twice for each."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


def _saved(figure: Figure, kind: str, metadata: dict[str, None], box: Bbox | None = None) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata, bbox_inches=box)
    return buffer.getvalue()
