"""What a sweep and a report print in the end."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from harness.analysis.confirmed import BETTER, NOT_SHOWN, WORSE
from harness.analysis.load import rows_of
from harness.report.blocks import NONE
from harness.report.findings import Report
from harness.report.tables import fresh, front_table, knobs, points
from harness.report.unconfirmed import unconfirmed

SHORT: Mapping[str, str] = {BETTER: "better", WORSE: "worse", NOT_SHOWN: "no difference"}


def closing_table(report: Report) -> RichTable:
    """For a terminal of 80 columns: what was confirmed at each width, or the search's front where nothing was."""
    found = report.confirmed
    main = found.trials[found.trials["role"] == "distilled"]
    if main.empty:
        return front_table(report)
    gains = {row["width"]: row for row in rows_of(found.comparisons) if row["control"] == "ce"}
    said = (
        f"On the test split, mean over {fresh(found)}; gain: the best distilled less the best plain "
        "configuration, both chosen on validation [95% over seeds and test examples, of this row alone]; shown: after "
        f"Holm's correction for {found.num_tests} comparisons, and of a size that the seeds can tell. Every control: "
        "summary.md."
    ) + unconfirmed(report.data)
    table = RichTable(title=f"{report.data.name}: confirmed", title_justify="left", caption=said, box=box.SIMPLE_HEAD,
                      caption_justify="left", show_edge=False, pad_edge=False, collapse_padding=True)  # fmt: skip
    for name in ("width", "params", "form", "alpha", "T", "test (%)", "gain (points)", "shown"):
        table.add_column(name, justify="left" if name in ("form", "shown") else "right", overflow="fold")
    for row in rows_of(main):
        gain = gains.get(row["width"])
        cells = (NONE, NONE) if gain is None else (
            points(gain["gain"], gain["crossed_low"], gain["crossed_high"]), SHORT[gain["verdict"]]
        )  # fmt: skip
        alpha, temperature, _ = knobs(row)
        size = f"{row['num_params']:,}"
        table.add_row(str(row["width"]), size, Text(str(row["form"])), alpha, temperature,
                      f"{100 * row['test_accuracy']:.2f}", *(Text(cell) for cell in cells))  # fmt: skip
    return table
