"""The command of a claim: `python -m studies.literature.<name>`; the modules of the claims end with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness import cli
from studies.literature.claim import Claim

LEAST, MOST = 2, 40
"""Seeds: one gives no interval, and the exact statistics take forty."""


def program(claim: Claim) -> typer.Typer:
    """A typer program with the one command that puts the claim to the test."""
    app = cli.program()
    text = (
        f"{claim.paper}.\n\nThe paper says: {claim.says}\n\nHere: {claim.setup}\n\nWrites summary.md, verdict.json and "
        f"the figure into OUT/literature/{claim.name}. Kill it at any moment: the same command goes on.\n\n"
        f"[b]Example[/]\n\n  python -m {claim.module} --seeds {claim.seeds}"
    )

    @app.command(help=text)
    def main(
        seeds: Annotated[
            int, typer.Option(help=f"Pipelines that test the claim, {LEAST} to {MOST}; others tune it.")
        ] = claim.seeds,
        out: Annotated[Path, typer.Option(help="The folder that holds the results of all studies.")] = cli.OUT,
    ) -> None:
        put_to_test(claim, seeds, out, Console())

    return app


def put_to_test(claim: Claim, seeds: int, out: Path, console: Console) -> None:
    """Train, judge, write, and print the verdict. Raises `ValueError` for a number of seeds that is none."""
    if not LEAST <= seeds <= MOST:
        raise ValueError(f"--seeds {seeds} is out of range; it must be a whole number from {LEAST} to {MOST}")
    cli.check_writable(out)
    from studies.literature import page, training  # here, not above: they load torch, and --help needs none

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not console.is_terminal) as progress:
        bar = progress.add_task(claim.name, total=training.num_students(claim, seeds))

        def tell(what: str, students: int) -> None:
            progress.update(bar, advance=students, description=f"{claim.name}, {what}")

        results = training.run(claim, out, seeds, tell)
    folder = out / "literature" / claim.name
    for finding in page.write(results, folder):
        effect = finding.effect
        said = f"{effect.mean:+.3g} [{effect.low:.3g}, {effect.high:.3g}] {finding.part.unit}"
        line = (
            f"{finding.part.name}: {finding.verdict}, d = {said}, delta {finding.part.delta:g}, n = {effect.num_seeds}"
        )
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(f"The page: {folder / 'summary.md'}", soft_wrap=True, highlight=False, markup=False)
