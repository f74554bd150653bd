"""kill -9 of drivers and workers at random moments, on real processes and real stores, until the study is done.

`python -m tests.torture --driver-kills 50 --worker-kills 200` is the long run (`make torture`); the suite has a short
one. With `--postgres` both stores are in a real PostgreSQL. The end is compared with an undisturbed `--deterministic`
run of the same study: every trial COMPLETE once, one MLflow run each, curves and values equal; and `harness.verify`
finds no fault in either.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import optuna
from rich.console import Console

from harness import ledger
from harness.attempts import ATTEMPTS
from tests.servers import postgres

ROOT = Path(__file__).parents[1]
TIMES = ("started", "finished")
STUDY = """
from harness.space import Choice, Float, Study
STUDY = Study(
    task="digits",
    family="mlp",
    space={{
        "width": Choice(4, 8),
        "form": Choice("kl", "mse"),
        "alpha": Float(0.0, 1.0),
        "temperature": Float(1.0, 10.0, when={{"form": ("kl",)}}),
        "lr": Float(1e-3, 1e-1, log=True),
    }},
    fixed={{"epochs": {epochs}, "dtype": "float64"}},  # of which rounding changes no prediction
    trials={trials},
    seeds=2,
    batch={batch},
    other_controls={others},
    confirm={confirm},
)
"""


@dataclass
class Kills:
    """How many of each are still to come, and how many there were."""

    drivers: int
    workers: int
    moments: random.Random
    done: Counter[str] = field(default_factory=Counter)

    def left(self) -> bool:
        return self.done["drivers"] < self.drivers or self.done["workers"] < self.workers

    def kill(self, kind: str, pid: int) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.done[kind] += 1


def write_study(
    folder: Path,
    trials: int,
    *,
    epochs: int = 20,
    batch: int = 8,
    others: tuple[str, ...] = ("self",),
    confirm: int = 3,
) -> Path:
    """A study of its own file, `torn`."""
    file = folder / "torn.py"
    file.write_text(STUDY.format(trials=trials, epochs=epochs, batch=batch, others=others, confirm=confirm))
    return file


Stores = tuple[str, str] | None
"""Optuna's and MLflow's; None for SQLite files of their own."""


def command(file: Path, out: Path, stores: Stores = None) -> list[str]:
    options = ["--out", str(out), "--deterministic", "--quiet", "--jobs", "2"]
    options += ["--storage", stores[0], "--tracking-uri", stores[1]] if stores else []
    return [sys.executable, "-m", "harness.sweep", str(file), *options]


def undisturbed(file: Path, out: Path, stores: Stores = None) -> None:
    subprocess.run(command(file, out, stores), cwd=ROOT, check=True)


Finish = Callable[[Path, Path, Stores], None]


def torture(
    file: Path, out: Path, kills: Kills, stores: Stores = None, longest: float = 12.0, finish: Finish = undisturbed
) -> None:
    """Run the study, killing as long as kills are left, and then `finish` it."""
    while kills.left():
        with file.with_suffix(".stderr").open("wb") as said:
            process = subprocess.Popen(command(file, out, stores), cwd=ROOT, stderr=said)
        wait_for_worker(process)
        end = time.monotonic() + kills.moments.uniform(1.0, longest)
        share = (kills.workers - kills.done["workers"]) / max(1, kills.drivers - kills.done["drivers"])
        killed = kills.done["workers"]
        for _ in range(max(0, round(share) - 2)):
            _wait(process, time.monotonic() + kills.moments.uniform(0.0, longest / 2))
            if workers := children(process.pid):
                kills.kill("workers", kills.moments.choice(workers))
        _wait(process, end)
        workers = children(process.pid)
        if process.poll() is None:
            kills.kill("drivers", process.pid)
        ended, before_death = process.wait() == 0, kills.done["workers"] - killed
        said_last = file.with_suffix(".stderr").read_text()
        assert "Traceback" not in said_last, said_last
        may_give_up = before_death >= ATTEMPTS  # it says so in a line: so often it lost the worker of one job
        assert process.returncode in (0, -signal.SIGKILL) or may_give_up, said_last
        for orphan in workers:
            if kills.moments.random() < 0.5:  # the others finish their cohort, and publish
                time.sleep(kills.moments.uniform(0.0, 0.5))
                kills.kill("workers", orphan)
        if ended:
            break
    finish(file, out, stores)


def wait_for_worker(process: subprocess.Popen[bytes]) -> None:
    """Wait until a driver has a worker: before, it imports, which takes seconds of which a kill shows nothing."""
    while process.poll() is None and not children(process.pid):
        time.sleep(0.2)


def _wait(process: subprocess.Popen[bytes], until: float) -> None:
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    listed = subprocess.run(["ps", "-A", "-o", "ppid=,pid="], capture_output=True, text=True, check=True).stdout
    pairs = [line.split() for line in listed.splitlines()]
    return [int(own) for parent, own in pairs if int(parent) == pid]


def outcome(out: Path, stores: Stores = None) -> Mapping[int, Any]:
    """Every trial's parameters, values and records, after checking it against its MLflow run and its states."""
    storage, tracking = stores or (f"sqlite:///{out / 'torn' / 'study.db'}", f"sqlite:///{out / 'mlflow.db'}")
    study = optuna.load_study(study_name="torn", storage=storage)
    states = Counter(trial.state.name for trial in study.trials)
    assert set(states) == {"COMPLETE"}, states
    assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
    client = mlflow.MlflowClient(tracking)
    experiment = client.get_experiment_by_name("torn")
    assert experiment is not None
    runs, token = [], None
    while True:
        page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
        runs += list(page)
        token = page.token
        if not token:
            break
    by_key = {run.data.tags["harness.key"]: run for run in runs}
    assert len(by_key) == len(runs) == len(study.trials) + 1, (len(by_key), len(runs), len(study.trials))
    assert {run.info.status for run in runs} == {"FINISHED"}
    found = {}
    for trial in study.trials:
        run = by_key[f"torn/{trial.number}"]
        assert abs(run.data.metrics["val_accuracy"] - trial.values[0]) < 1e-12
        folder = ledger.trial_dir(out / "torn", trial.number)
        spec = ledger.read_spec(folder)
        assert spec is not None
        records = ledger.read_result(folder, spec)
        assert records is not None
        points = client.get_metric_history(run.info.run_id, "val_loss")
        assert [point.step for point in points] == list(range(1, len(records[0].curve.val_loss) + 1))
        assert not list(folder.glob("student-*")), folder
        found[trial.number] = (dict(trial.params), trial.values, [(record.curve, record.metrics) for record in records])
    return found


def verify(out: Path, stores: Stores = None) -> str:
    """What `harness.verify` says, which finds no fault."""
    command = [sys.executable, "-m", "harness.verify", "torn", "--out", str(out)]
    command += ["--storage", stores[0], "--tracking-uri", stores[1]] if stores else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver-kills", type=int, default=50)
    parser.add_argument("--worker-kills", type=int, default=200)
    parser.add_argument("--trials", type=int, default=240, help="search trials; enough not to be done before the kills")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"), help="of the moments")
    parser.add_argument("--postgres", action="store_true", help="keep the study and its runs in PostgreSQL")
    asked = parser.parse_args()
    kills = Kills(asked.driver_kills, asked.worker_kills, random.Random(asked.seed))
    say = Console(soft_wrap=True).print
    say(f"moments from seed {asked.seed}")
    with tempfile.TemporaryDirectory() as folder, postgres() if asked.postgres else nullcontext() as server:
        stores = (server.make_database(), server.make_database()) if server else None
        file = write_study(Path(folder), asked.trials)
        started = time.monotonic()
        undisturbed(file, Path(folder) / "calm")
        say(f"undisturbed: {time.monotonic() - started:.0f} s")
        started = time.monotonic()
        torture(file, Path(folder) / "torn", kills, stores)
        say(f"tortured: {time.monotonic() - started:.0f} s, kills {json.dumps(kills.done)}")
        verify(Path(folder) / "calm")
        say(verify(Path(folder) / "torn", stores))
        calm, torn = outcome(Path(folder) / "calm"), outcome(Path(folder) / "torn", stores)
    assert not kills.left(), "the study was done before the kills were; give it more --trials"
    assert torn == calm, [number for number in calm if torn.get(number) != calm[number]]
    say(f"{len(torn)} trials, each COMPLETE once, with one run; curves and values equal those of the undisturbed run")


if __name__ == "__main__":
    main()
