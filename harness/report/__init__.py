"""A study's tables, figures and page, from what lies on disk alone: no training, no MLflow, no Optuna storage.

    report = write(Path("results/mnist5k"))
    Console().print(front_table(report))

`python -m harness.report --help` is the same as a program. A new figure is a line in `build.drawings`, a new part of
the page a function that yields blocks and its name in `page.SECTIONS`.
"""

from harness.report.build import write
from harness.report.findings import Report
from harness.report.tables import front_table

__all__ = ["Report", "front_table", "write"]
