"""`python -m harness.sweep`: run a study to its end, or on from where it was.

study file -> space -> sampler.ask -> trial -> student specs -> executor -> cohort.train -> records on disk
-> tracking (MLflow) -> sampler.tell -> analysis -> figures -> report
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from harness import cli

app = cli.program()


@cli.command(app)
def main(
    study: Annotated[
        str, typer.Argument(help="A study's name in [b]studies/[/], or a path to a .py file that defines STUDY.")
    ] = cli.DEFAULT_STUDY,
    trials: Annotated[
        int | None,
        typer.Option(help="Search trials to reach, not to add: the same command again resumes, or does nothing."),
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Worker processes. Default: one a core.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the study: of its sampler and of its students.")] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Stop after this many seconds; the same command goes on.")
    ] = None,
    limit: Annotated[
        float, typer.Option(help="Minutes after which a cohort counts as hung: it is stopped, and tried in halves.")
    ] = 60.0,
    out: Annotated[Path, typer.Option(help="Folder of results; a study has a folder of its own in it.")] = cli.OUT,
    storage: Annotated[
        str | None,
        typer.Option(envvar="OPTUNA_STORAGE", help="Optuna storage URL. Default: sqlite in the study's folder."),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow server or database. Default: sqlite in --out."),
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Ask, wait and tell in rounds: the same trials whatever finishes first."),
    ] = False,
    device: Annotated[str, typer.Option(help="Where students are trained: auto, cpu or cuda.")] = "auto",
    executor: Annotated[
        str, typer.Option(help="What runs the workers: local processes, ray, or slurm; see docs/operations.md.")
    ] = "local",
    option: Annotated[
        list[str] | None, typer.Option(help="A setting of the executor, as address=auto; may be given again.")
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Begin anew though the study has changed; what there was is kept aside.")
    ] = False,
    confirm: Annotated[
        int | None,
        typer.Option(
            help="Fresh seeds on which each width's best and the best of every control are trained in the end, for "
            "the test split; 0 reads no test split. Default: the study's, 10."
        ),
    ] = None,
    searches: Annotated[
        int,
        typer.Option(
            help="How often the study is searched, each time under another seed and in a folder of its own; the report "
            "then says what holds over all of them. Three are the least that can show anything; set their number "
            "before you look."
        ),
    ] = 1,
    no_confirm: Annotated[bool, typer.Option("--no-confirm", help="The same as --confirm 0.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Measure what a step costs, print the cohorts that follow, and end.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but warnings and errors.")] = False,
) -> int:
    """Search alpha, temperature, loss form and student width for the best students of every size.

    Trains the task's teacher once, then many students at a time, beside plain-training controls at every width. Every
    trial is an MLflow run. What validation chose is then confirmed: trained again on fresh seeds, beside the best of
    every control, and measured on the test split, by which nothing is chosen. Tables and figures are written at the
    end. Kill it at any moment: the same command goes on.

    [b]Examples[/]

      python -m harness.sweep
          the default study, on 5,000 real digits

      python -m harness.sweep digits --trials 16
          a smoke test in seconds

      python -m harness.sweep my_study.py --jobs 8
          your own question

      python -m harness.sweep my_study.py --executor ray --option address=auto
          on a running cluster; --option gpus=0.25 shares its GPUs

      python -m harness.sweep --searches 10
          what holds for the study, not for one search of it

      python -m harness.sweep --plan
          how many students are trained together here, and why
    """
    # These take a second to import: a Ctrl-C meanwhile is for `cli.run` to catch.
    from harness import session
    from harness.machine import cores
    from harness.options import Options, check, settings
    from harness.study_files import load_study

    name, file, found = load_study(study, cli.STUDIES)
    if seed is not None:
        found = replace(found, seed=seed)
    if no_confirm and confirm:
        raise ValueError(f"--confirm {confirm} and --no-confirm contradict each other; give one of them")
    confirm = 0 if no_confirm else confirm
    if confirm is not None:
        found = replace(found, confirm=confirm)
    options = Options(
        name,
        file,
        found,
        trials if trials is not None else found.trials,
        jobs if jobs is not None else cores(),
        out,
        storage,
        tracking_uri,
        deterministic,
        device,
        timeout,
        quiet,
        plan,
        limit,
        executor,
        settings(option or []),
        new,
        confirm,
        searches,
    )
    check(options)
    return session.sweep(options) if searches == 1 or plan else session.sweeps(options)


if __name__ == "__main__":
    cli.run(app)
