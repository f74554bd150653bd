"""`python -m harness.report`: make the report of a study that has been swept, as often as you like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness import cli

app = cli.program()


@cli.command(app)
def main(
    study: Annotated[str, typer.Argument(help="A study's name, or the path of its .py file.")] = cli.DEFAULT_STUDY,
    out: Annotated[Path, typer.Option(help="The folder that holds the results of all studies.")] = cli.OUT,
) -> None:
    """Write the tables, figures and page of a study from what its sweep left on disk.

    Nothing is trained and no trial is touched, so it is safe while a sweep runs; what is unfinished is counted as such.
    It writes into OUT/STUDY: report.html (start there; summary.md is the same as Markdown), confirmed.csv,
    comparisons.csv, recommended.csv, trials.csv, pareto.csv and other tables, figures/ (PNG, PDF and SVG) and tables/
    (LaTeX). The same trials give the same bytes. HARNESS_FIGURES=none leaves the figures out.

    Examples:

      python -m harness.report

      python -m harness.report mnist5k --out results

      python -m harness.report studies/my_study.py
    """
    # These take a second to import: a Ctrl-C meanwhile is for `cli.run` to catch.
    from harness.report.build import write
    from harness.report.closing import closing_table

    folder = cli.results_of(study, out)
    report = write(folder)
    console = Console()
    console.print(closing_table(report))
    page = f"The page: {folder / 'report.html'}, the same as summary.md"
    console.print(page, soft_wrap=True, highlight=False, markup=False)
    tables = f"{folder}/*.csv and tables/*.tex"
    console.print(f"Figures: {folder / 'figures'}; tables: {tables}", soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    cli.run(app)
