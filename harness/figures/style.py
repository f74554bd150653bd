"""How every figure looks: palette, marks, log ticks and the caption line.

Colours are Okabe and Ito's (safe for colour-blind readers), one hue a loss form. Markers tell widths
apart, or forms where an axis tells widths. Sizes are for one column of a paper: `COLUMN` inches wide.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from harness.figures import fitting
from harness.figures.fitting import ROOM
from harness.spec import PLAIN

COLUMN = 3.6
INK = "#222222"
MUTED = "#6b6b6b"
FAINT = "#d9d9d9"
OTHERS = "#b4b4b4"
PLAIN_COLOUR = "#222222"
HUES = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#882255", "#999933", "#B8A800", "#44AA99",
)  # fmt: skip
"""Okabe and Ito's, the yellow darkened to be seen on white, with three of Paul Tol's muted set for more forms."""
MANY = 1500
"""More marks than this stand as an image in PDF and SVG: as drawings they would be megabytes."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "d", "h", "8")
REST = "h"
"""The marker of loss forms beyond the palette."""


def paper() -> AbstractContextManager[None]:
    """The settings under which figures are drawn and saved."""
    return mpl.rc_context({
        "font.family": "DejaVu Sans", "font.size": 7.5, "axes.titlesize": 7.5, "axes.labelsize": 7.5,
        "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7, "axes.linewidth": 0.6, "axes.edgecolor": INK,
        "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "xtick.major.width": 0.6,
        "ytick.major.width": 0.6, "xtick.minor.width": 0.4, "ytick.minor.width": 0.4, "xtick.major.size": 3,
        "ytick.major.size": 3, "xtick.minor.size": 1.5, "ytick.minor.size": 1.5, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": False, "grid.color": "#ececec", "grid.linewidth": 0.5,
        "axes.axisbelow": True, "lines.linewidth": 1.2, "legend.frameon": False, "figure.dpi": 100, "savefig.dpi": 200,
        "figure.facecolor": "white", "savefig.facecolor": "white", "axes.titlelocation": "left",
        "svg.fonttype": "path", "svg.hashsalt": "figure",
    })  # fmt: skip


def blank(height: float, caption: str, width: float = COLUMN) -> Figure:
    """An empty figure with its note at the foot: how many trials and seeds it shows, and what its bars mean."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04))
    lines = textwrap.fill(caption, round(width * 22))
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=6, color=MUTED, linespacing=1.25)
    figure.set_label(caption)
    return figure


def note_of(figure: Figure) -> str:
    """What `blank` was given to stand at the foot."""
    return str(figure.get_label())


def without_note(figure: Figure) -> Bbox:
    """Hide the note at the foot, for a page that prints it beside the figure; gives the box of the rest, in inches."""
    width, height = figure.get_size_inches()
    foot = 0.0
    for text in figure.texts:
        if text.get_text() and text.get_text() == figure.get_supxlabel():
            foot = text.get_window_extent().y1 / figure.dpi
            text.set_visible(False)
    return Bbox.from_extents(0, foot, width, height)


def hues(forms: Sequence[str]) -> dict[str, str]:
    """One colour a loss form, by its place; those beyond the palette share a grey. Plain training is near-black."""
    named = dict.fromkeys(forms, OTHERS) | dict(zip(forms, HUES, strict=False))
    return named | {PLAIN: PLAIN_COLOUR}


def form_keys(forms: Iterable[str], colours: Mapping[str, str], marks: Mapping[str, str] | None = None) -> list[Line2D]:
    """A legend's entries for loss forms, with their marks where they have any; those that share the grey are one."""
    kept = list(forms)
    own = [form for form in kept if colours[form] != OTHERS]
    grey = [key(OTHERS, "other forms", REST if marks else "o")] if len(own) < len(kept) else []
    return [*(key(colours[form], fitting.name(form), marks[form] if marks else "o") for form in own), *grey]


def form_markers(forms: Sequence[str]) -> dict[str, str]:
    """A marker a loss form, by its place, where greyscale must tell them apart; those beyond the palette share one.

    Plain training's is a bar.
    """
    return dict.fromkeys(forms, REST) | dict(zip(forms, MARKERS[: len(HUES)], strict=False)) | {PLAIN: "_"}


def markers(widths: Sequence[int]) -> dict[int, str]:
    """One marker a width, narrow to wide."""
    return {width: MARKERS[index % len(MARKERS)] for index, width in enumerate(sorted(set(widths)))}


def short(number: float) -> str:
    """A size as 500, 1k, 1.5k, 2M."""
    for scale, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g}{suffix}"
    return f"{number:.3g}"


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between the bounds, at least three where there is room: 1-2-5, then finer, then coarser."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps: tuple[float, ...] = ()
    found: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
        found = [step * 10.0**d for d in decades for step in steps if low <= step * 10.0**d <= high]
        if len(found) >= 3:
            break
    return found


def log_axis(axes: Axes, which: str, low: float, high: float) -> None:
    """Make the x or y axis logarithmic from `low` to `high`, with round labelled ticks and no others."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def budget_lines(axes: Axes, budgets: Sequence[float]) -> list[float]:
    """Dotted verticals at the budgets that lie within an axis of sizes, each named over the axes; gives these."""
    low, high = axes.get_xlim()
    within = sorted(limit for limit in budgets if low < limit < high)
    said = [f"≤ {short(limit)}" for limit in within]
    gap = max((fitting.length(label, 6) for label in said), default=0.0) + 4
    places = spread([ROOM * fitting.fraction(axes, limit) for limit in within], gap, ROOM)
    for limit, label, place in zip(within, said, places, strict=True):
        axes.axvline(limit, color=MUTED, linestyle=(0, (1, 2)), linewidth=0.8, zorder=1)
        axes.annotate(label, (place / ROOM, 1), xycoords="axes fraction", xytext=(0, 1), textcoords="offset points",
                      ha="center", va="bottom", fontsize=6, color=MUTED)  # fmt: skip
    return within


def percent_axis(axes: Axes, which: str) -> None:
    """Label fractions as percentages."""
    (axes.xaxis if which == "x" else axes.yaxis).set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))


def key(colour: str, label: str, marker: str = "o") -> Line2D:
    """A legend's entry: a mark of one colour."""
    return Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=4, markeredgewidth=0, label=label)


def width_keys(marks: Mapping[int, str]) -> list[Line2D]:
    """A legend's entries for widths, of which the first says what the numbers are."""
    return [
        key(MUTED, f"{'' if place else 'width '}{width}", mark) for place, (width, mark) in enumerate(marks.items())
    ]


def legend_above(axes: Axes, handles: Sequence[Line2D], columns: int = 5, pad: float = 0.2) -> None:
    """A legend in rows over the axes, where it covers no data, in as many columns as the figure is wide.

    More than three rows make the figure higher. `pad`, in letters' heights, leaves room for what stands between.
    """
    across = _columns(handles, columns)
    axes.legend(
        handles=list(handles), loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=across,
        handletextpad=0.3, columnspacing=1.1, borderaxespad=pad, labelspacing=0.25, handlelength=1.3,
    )  # fmt: skip
    _grow(axes.figure, math.ceil(len(handles) / across) - 3)


def legend_outside(figure: Figure, handles: Sequence[Line2D], columns: int = 10) -> None:
    """A legend in rows at the head of a figure of several axes; more than one row makes it higher."""
    across = _columns(handles, columns)
    figure.legend(handles=list(handles), loc="outside upper left", ncols=across, handletextpad=0.1, columnspacing=1.0,
                  labelspacing=0.25, handlelength=1.3)  # fmt: skip
    _grow(figure, math.ceil(len(handles) / across) - 1)


def _grow(figure: FigureBase | None, rows: int) -> None:
    if isinstance(figure, Figure) and rows > 0:
        figure.set_figheight(figure.get_figheight() + 0.14 * rows)


def _columns(handles: Sequence[Line2D], most: int) -> int:
    """How many columns of a legend stand side by side within a column of a paper."""
    lengths = [fitting.length(str(handle.get_label())) for handle in handles]
    for count in range(min(most, len(lengths)), 1, -1):
        widest = [max(part) for part in np.array_split(lengths, count)]  # matplotlib fills a column at a time
        if sum(widest) + 20 * count <= 0.86 * COLUMN * 72:
            return count
    return 1


def spread(values: Sequence[float], gap: float, ceiling: float = math.inf, floor: float = -math.inf) -> list[float]:
    """The values moved so that neighbours stand at least `gap` apart and none above `ceiling`, in the given order.

    None is below `floor` either, which goes before the ceiling.
    """
    order = np.argsort(np.asarray(values, dtype=float), kind="stable")
    # Blocks of touching labels, each centred on the mean of what it wants: least squares under the gap.
    blocks: list[tuple[float, int]] = []  # the lowest label's place, and how many stand on it
    for index in order:
        want, count = float(values[int(index)]), 1
        while blocks and want < blocks[-1][0] + blocks[-1][1] * gap:
            low, size = blocks.pop()
            want = (low * size + (want - size * gap) * count) / (size + count)
            count += size
        blocks.append((want, count))
    placed = [low + step * gap for low, size in blocks for step in range(size)]
    for rank in reversed(range(len(placed))):
        placed[rank] = min(placed[rank], ceiling)
        ceiling = placed[rank] - gap
    for rank in range(len(placed)):
        placed[rank] = max(placed[rank], floor)
        floor = placed[rank] + gap
    result = [0.0] * len(placed)
    for place, index in zip(placed, order, strict=True):
        result[int(index)] = place
    return result


def nothing_to_show(axes: Axes, reason: str) -> None:
    """Say inside empty axes why they are empty."""
    axes.text(0.5, 0.5, textwrap.fill(reason, 48), transform=axes.transAxes, ha="center", va="center", color=MUTED)
    axes.set_xticks([])
    axes.set_yticks([])


def trials(count: int, kind: str = "") -> str:
    """`1 trial`, `2 finished trials`."""
    return f"{count} {kind + ' ' if kind else ''}trial{'' if count == 1 else 's'}"


def seeds_phrase(counts: Iterable[int]) -> str:
    """How many seeds stand behind each mark: `2 seeds each`, `1 to 3 seeds each`."""
    found = sorted({int(count) for count in counts})
    if not found:
        return "no seeds"
    few = f"{found[0]} to {found[-1]}" if len(found) > 1 else f"{found[0]}"
    return f"{few} seed{'' if found == [1] else 's'} each"
