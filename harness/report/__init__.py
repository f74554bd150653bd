"""A study's tables, figures and page, from what lies on disk alone: no training, no MLflow, no Optuna storage.

    report = write(Path("results/mnist5k"))
    Console().print(closing_table(report))

`python -m harness.report --help` is the same as a program. A new figure is a line in `drawings.drawings`, a new part of
the page a function that yields blocks and its name in `page.SECTIONS`.
"""

from harness.report.build import write
from harness.report.closing import closing_table
from harness.report.findings import Report

__all__ = ["Report", "closing_table", "write"]
