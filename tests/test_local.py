"""Worker processes: what they are given, and what they cost when they are lost."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from harness import driver as driver_module
from harness import ledger, tries
from harness.driver import Driver
from harness.errands import result
from harness.executors import Event, local
from harness.executors.local import Local, keep_memory
from harness.outages import Owed
from harness.runs import Sweep
from harness.stopping import Halt
from harness.study_files import load_study
from harness.tracking import Tracker
from harness.values import to_json
from tests.fakes import STUDY, FakeRuns, make_driver


@pytest.mark.parametrize(
    ("library", "threshold"),
    [(("glibc", "2.36"), 2**32), (("glibc", "2.31"), 2**25), (("glibc", "2"), 2**25), (("", ""), None)],
)
def test_an_allocator_is_told_only_what_it_takes(
    library: tuple[str, str], threshold: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: library)
    said = keep_memory()
    assert said.get("MALLOC_MMAP_THRESHOLD_") == (None if threshold is None else str(threshold))


WARNS = """
from harness.models import MLP
from harness.space import Choice, Study

def task():
    import torch
    from harness.tasks import TeacherRecipe, own_task

    labels = torch.arange(90) % 3
    inputs = torch.randn(90, 4, generator=torch.Generator().manual_seed(0)) + labels[:, None]
    test = torch.cat([inputs[:3], inputs + 9]), torch.cat([labels[:3], labels])
    teacher = TeacherRecipe(MLP, width=4, epochs=1, batch_size=8)
    val = inputs[labels < 2] + 5, labels[labels < 2]
    return own_task("twice", train=(inputs, labels), val=val, test=test, students={"mlp": MLP}, teacher=teacher)

STUDY = Study(task=task, family="mlp", space={"width": Choice(2, 4)}, fixed={"form": "mse", "batch_size": 8})
"""


def test_what_a_study_is_warned_of_where_it_is_checked_is_told_to_the_driver(tmp_path: Path) -> None:
    """A worker's own output is read by nobody before anything is begun."""
    (tmp_path / "mine.py").write_text(WARNS)
    _, file, study = load_study(str(tmp_path / "mine.py"), [])
    executor = Local(1, tmp_path, "cpu", tmp_path / "worker.log")
    try:
        told = result(executor, "describe", {"specs": [to_json(probe) for probe in study.probes(str(file))]})
    finally:
        executor.close()
    assert told["warned"] == [
        "task twice: 3 of 93 examples of test are in train or val",
        "val has no example of 1 of the 3 classes of train (the first: 2): it chooses without them",
    ]


def test_a_worker_that_cannot_even_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('no room for torch, password=s3cret')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    executor = Local(1, tmp_path, "cpu", tmp_path / "worker.log")
    try:
        with pytest.raises(ValueError, match=r"worker left with code 1: OSError: no room for torch, password=\*\*\*$"):
            result(executor, "describe", {"specs": []})
    finally:
        executor.close()


def test_what_a_worker_printed_as_it_started_is_not_why_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; print('a warning', file=sys.stderr)")
    (tmp_path / "mine.py").write_text(WARNS.replace("import torch\n", "import os, torch; os._exit(3)\n", 1))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    _, file, study = load_study(str(tmp_path / "mine.py"), [])
    executor = Local(1, tmp_path, "cpu", tmp_path / "worker.log")
    executor.submit("describe", {"specs": [to_json(probe) for probe in study.probes(str(file))]})
    try:
        while not (events := executor.poll(0.5)):
            pass
    finally:
        executor.close()
    assert [(event.kind, event.data["reason"]) for event in events] == [("failed", "worker left with code 3")]


FAILING = """
import fcntl, os, sys

with open({count!r}, "a+") as starts:
    fcntl.flock(starts, fcntl.LOCK_EX)
    starts.seek(0)
    nth = len(starts.read())
    starts.write("x")
if {fails}:
    sys.exit("ImportError: libtorch.so: cannot open shared object file")
"""


def failing(folder: Path, fails: str, harm: str = "pass") -> Driver:
    """A sweep by two workers that leave before they are ready where `fails`, of the `nth` start from 0."""
    before = FAILING.replace("{count!r}", repr(str(folder / "count"))).replace("{fails}", fails)
    (folder / "worker.py").write_text(before + SCRIPT.replace("{harm}", harm))
    executor = Local(2, folder, "cpu", folder / "worker.log")
    study = replace(STUDY, trials=24, batch=8, controls=0)
    driver = make_driver(folder / "mine", FakeRuns(), study=study)
    first = driver.sampler.ask("search").params["lr"]  # asked, and then the driver died
    driver = make_driver(folder / "mine", FakeRuns(), study=study)
    executor._command = [sys.executable, str(folder / "worker.py"), *executor._command[3:], repr(first)]
    return replace(driver, executor=executor)


@pytest.fixture
def beside_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


@pytest.mark.usefixtures("beside_harness")
def test_a_worker_that_cannot_start_costs_nothing_while_another_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver = failing(tmp_path, "nth")
    try:
        assert driver.run(set()) == "complete"
    finally:
        driver.executor.close()
    assert not driver.sampler.trials("failed") and len(driver.sampler.trials("complete")) == 24
    assert len((tmp_path / "count").read_text()) <= 3  # it is not tried again and again
    said = (
        "a worker could not start (worker left with code 1: ImportError: libtorch.so: cannot open shared object file)"
    )
    assert [line for line in caplog.messages if "worker" in line] in ([], [f"{said}; it is tried again"])


@pytest.mark.usefixtures("beside_harness")
def test_a_sweep_whose_workers_cannot_be_replaced_stops_and_fails_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a package was removed, or a disk unmounted, in mid-sweep."""
    monkeypatch.setattr(local, "PAUSE", 0.1)
    driver = failing(tmp_path, "nth > 1", "os.kill(os.getpid(), signal.SIGKILL)")
    try:
        with pytest.raises(
            Halt, match="5 times one after the other no worker could start: worker left with code 1: Import"
        ):
            driver.run(set())
    finally:
        driver.executor.close()
    assert not driver.sampler.trials("failed")
    driver = failing(tmp_path, "False")
    try:
        assert driver.run(set()) == "complete"
    finally:
        driver.executor.close()
    assert not driver.sampler.trials("failed") and len(driver.sampler.trials("complete")) == 24


LONG = os.environ.get("HARNESS_LONG")  # `make torture` sets it
READ = """
import sys, time, mlflow
client = mlflow.MlflowClient(sys.argv[1])
while True:
    runs = client.search_runs(["1"], max_results=50)
    for run in runs[:3]:
        client.get_metric_history(run.info.run_id, "val_loss")
    print(len(runs), flush=True)
"""


def test_many_trials_of_two_workers_meet_no_locked_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real workers, real stores, and somebody who looks at the runs all the time, as an open UI does."""
    (tmp_path / "worker.py").write_text(SCRIPT.replace("{harm}", "pass"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    study = replace(STUDY, trials=500 if LONG else 60, batch=8, controls=0)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    owed = Owed(Tracker(uri, "fake", tmp_path / "files"))
    owed.store.begin(Sweep("fake", "id", {"name": "digits", "digest": "d", "source": "s"}, {}, "fake.py"), {})
    executor = Local(2, tmp_path, "cpu", tmp_path / "worker.log")
    executor._command = [sys.executable, str(tmp_path / "worker.py"), *executor._command[3:], "nan"]
    driver = make_driver(tmp_path / "mine", owed, study=study, deterministic=False)
    driver = replace(driver, executor=executor)
    with subprocess.Popen([sys.executable, "-c", READ, uri], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        try:
            assert driver.run(set()) == "complete"
            assert reader.poll() is None
        finally:
            executor.close()
            reader.kill()
    assert len(owed) == 0
    assert [asked.number for asked in driver.sampler.trials("complete")] == list(range(study.trials))
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs(["1"], "attributes.status = 'FINISHED'", max_results=1000)
    assert {run.data.tags["harness.key"] for run in runs} == {f"fake/{number}" for number in range(study.trials)}
    assert len(runs) == study.trials


SCRIPT = """
import os, signal, sys, time
from harness.executors import worker
from tests.fakes import fake_train

def train_each(specs, **_):
    if any(spec.lr == float(sys.argv[4]) for spec in specs):
        {harm}
    yield fake_train(specs), []

worker.targets.prepare = lambda *_: None
worker.cohort.train_each = train_each
worker.main()
"""
FORKED = """
        import multiprocessing
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)).start()
        os.kill(os.getpid(), signal.SIGKILL)
"""
HARMS = {
    "killed beside a child of its own": (FORKED.strip(), "worker killed by SIGKILL"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "worker killed by SIGKILL"),
    "hung": ("time.sleep(1000)", "hung: not done after 1 seconds; worker.log has where it was"),
    "stopped": ("os.kill(os.getpid(), signal.SIGSTOP)", "hung: not done after 1 seconds; worker.log has where it was"),
    "raises": ("raise MemoryError('no room')", "MemoryError: no room"),
}


@pytest.mark.parametrize("kind", HARMS)
def test_a_worker_that_is_lost_costs_the_guilty_trial_and_no_other(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm, reason = HARMS[kind]
    (tmp_path / "worker.py").write_text(SCRIPT.replace("{harm}", harm))
    monkeypatch.setattr(local, "PATIENCE", 1.0)
    monkeypatch.setattr(driver_module, "ATTEMPTS", 1)
    study = replace(STUDY, trials=8, batch=8, controls=0)
    runs = FakeRuns()
    driver = make_driver(tmp_path / "mine", runs, study=study)
    driver = replace(driver, plan=replace(driver.plan, limit=1.0))
    guilty = driver.sampler.ask("search").params["lr"]  # asked, and then the driver died
    driver = make_driver(tmp_path / "mine", runs, study=study)
    driver = replace(driver, plan=replace(driver.plan, limit=1.0))
    executor = Local(2, tmp_path, "cpu", tmp_path / "worker.log")
    executor._command = [sys.executable, str(tmp_path / "worker.py"), *executor._command[3:], repr(guilty)]
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    driver = replace(driver, executor=executor)
    try:
        assert driver.run(set()) == "complete"
    finally:
        executor.close()
    assert [asked.number for asked in driver.sampler.trials("failed")] == [0]
    assert runs.failures == {"fake/0": reason}
    assert len(driver.sampler.trials("complete")) == 8
    if kind == "hung":
        assert "train_each" in (tmp_path / "worker.log").read_text()


def test_a_signal_for_all_of_a_services_processes_does_not_end_a_worker_but_what_it_has_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm = """
        import multiprocessing
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
        child.terminate()
        child.join(30)
        assert child.exitcode == -signal.SIGTERM, child.exitcode
        os.kill(os.getpid(), signal.SIGTERM)
"""
    (tmp_path / "worker.py").write_text(SCRIPT.replace("{harm}", harm.strip()))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    runs = FakeRuns()
    driver = make_driver(tmp_path / "mine", runs, study=replace(STUDY, trials=1, controls=0))
    harmed = driver.sampler.ask("search").params["lr"]
    driver = make_driver(tmp_path / "mine", runs, study=replace(STUDY, trials=1, controls=0))
    executor = Local(1, tmp_path, "cpu", tmp_path / "worker.log")
    executor._command = [sys.executable, str(tmp_path / "worker.py"), *executor._command[3:], repr(harmed)]
    driver = replace(driver, executor=executor)
    try:
        assert driver.run(set()) == "complete"
    finally:
        executor.close()
    assert not runs.failures and len(driver.sampler.trials("complete")) == 1
    assert tries.attempts(ledger.trial_dir(tmp_path / "mine", 0)) == 0


def test_a_close_that_is_interrupted_is_done_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "worker.py").write_text("import time; time.sleep(600)")
    executor = Local(3, tmp_path, "cpu", tmp_path / "worker.log")
    executor._command = [sys.executable, str(tmp_path / "worker.py")]
    executor.submit("cohort", {})
    workers, stop = list(executor._workers), local._Worker.stop

    def interrupted(worker: local._Worker) -> None:
        if worker is workers[1]:
            raise KeyboardInterrupt
        stop(worker)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(local._Worker, "stop", interrupted)
        executor.close()
    executor.close()
    assert [worker.process.poll() for worker in workers] == [-signal.SIGKILL] * 3


def heard_of(folder: Path) -> list[Event]:
    """The first news of a job that was given to the worker which is written in a folder."""
    executor = Local(1, folder, "cpu", folder / "worker.log")
    executor._command = [sys.executable, str(folder / "worker.py")]
    executor.submit("cohort", {})
    events: list[Event] = []
    while not events:
        events += executor.poll(1.0)
    executor.close()
    return events


@pytest.mark.parametrize("line", ["5", "null", "[]", "{}", '{"event": "ready"}', "not json"])
def test_what_somebody_prints_is_no_news(line: str, tmp_path: Path) -> None:
    ready, done = ('{"id": 0, "event": "ready", "data": {}}', '{"id": 1, "event": "done", "data": {"said": 7}}')
    (tmp_path / "worker.py").write_text(f"print({line!r}); print({ready!r}, flush=True); input(); print({done!r})")
    events = heard_of(tmp_path)
    assert [(event.kind, event.data) for event in events] == [("done", {"said": 7})]


def test_a_worker_that_is_killed_by_a_signal_without_a_name_is_lost_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text("import os; os.kill(os.getpid(), 40)")
    events = heard_of(tmp_path)
    assert [event.data["reason"] for event in events] == ["worker killed by signal 40"]


def test_a_kill_in_the_midst_of_a_close_waits_for_nothing(tmp_path: Path) -> None:
    """A second signal comes in the thread that waits for the first one's workers, and `Popen` holds its lock."""
    (tmp_path / "worker.py").write_text("import time; time.sleep(600)")
    executor = Local(2, tmp_path, "cpu", tmp_path / "worker.log")
    executor._command = [sys.executable, str(tmp_path / "worker.py")]
    executor.submit("cohort", {})
    workers = list(executor._workers)
    with workers[0].process._waitpid_lock:  # type: ignore[attr-defined]
        executor.kill()
    assert [worker.process.wait(30) for worker in workers] == [-signal.SIGKILL] * 2
    executor.close()


def test_half_a_line_of_a_worker_that_was_killed_is_no_news(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text('print(\'{"id": 1, "event": "do\', end=\'\')')
    events = heard_of(tmp_path)
    assert [event.kind for event in events] == ["failed"]


SIGNALLED = """
import os, signal, sys, time
from harness.executors.signals import leave_stopping_to_the_driver
leave_stopping_to_the_driver()
{before}
os.kill({whom}, signal.SIGTERM)
{after}
sys.exit(0)
"""


@pytest.mark.parametrize(
    ("before", "whom", "after", "code"),
    [
        ("", "os.getpid()", "", 0),
        ("os.getppid = lambda: 1", "os.getpid()", "time.sleep(60)", 143),  # an orphan
        ("child = os.fork() or time.sleep(60)", "child", "assert os.waitpid(child, 0)[1] == signal.SIGTERM", 0),
        (
            "signal.signal(signal.SIGTERM, lambda *_: os._exit(7)); child = os.fork() or time.sleep(60); time.sleep(1)",
            "child",
            "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7",  # a handler of the study's own
            0,
        ),
        (
            "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); os.fork() or os._exit(0)",
            "os.getpid()",
            "assert signal.SIGTERM in signal.sigpending()",  # and a mask
            0,
        ),
    ],
    ids=["worker", "orphan", "child", "own-handler", "own-mask"],
)
def test_sigterm_ends_an_orphan_and_a_child_but_no_worker_with_a_driver(
    before: str, whom: str, after: str, code: int
) -> None:
    text = SIGNALLED.format(before=before, whom=whom, after=after)
    ended = subprocess.run([sys.executable, "-c", text], cwd=Path(__file__).parents[1], timeout=50, check=False)
    assert ended.returncode == code
