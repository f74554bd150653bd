"""Sweeps on Ray: real clusters, real workers, made-up training (`tests.elsewhere`)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness import driver as driver_module
from harness import ledger
from harness.driver import Driver
from harness.executors import Event, ray_cluster, worker
from harness.executors import ray as ray_module
from harness.executors.ray import Ray
from harness.executors.ray_cluster import Head, connect
from harness.stopping import Halt
from tests import elsewhere
from tests.fakes import STUDY, FakeRuns, make_driver

ROOT = Path(__file__).parents[1]
NODE = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
SMALL = replace(STUDY, trials=8, batch=4, controls=0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node with two CPUs, to which this process is connected."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray
        from ray.cluster_utils import Cluster

        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1, **NODE})
        connect(found.address, 1)
        yield found
        ray.shutdown()
        found.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ray_module, "run_job", elsewhere.run_on_ray)
    elsewhere.arrange(tmp_path / "cache")
    return tmp_path / "cache"


def sweep(
    driver: Driver, cache: Path, num_workers: int = 2, meanwhile: Callable[[Ray], None] = lambda _: None, **options: str
) -> str:
    """Run a driver's study on Ray; gives why it stopped."""
    executor = Ray(num_workers, cache, "cpu", driver.plan.study_dir / "worker.log", options)
    try:
        return replace(driver, executor=executor, watch=lambda _: meanwhile(executor)).run(set())
    finally:
        executor.close()


def test_a_share_of_a_gpu_is_a_share_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the GPU that Ray has given, counted among those that the process sees."""
    import ray

    said: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *own: said.append(own))
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: ["5"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert worker.share_gpu(ray_module._own_gpu(), 0.25) == "cuda:1"
    assert said == [(0.25, 1)]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(ValueError, match=r"torch sees 2 GPUs on .*, so none to use as 5"):
        worker.share_gpu(ray_module._own_gpu(), 1.0)


@pytest.mark.usefixtures("cluster")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_only_ray_knows_of_is_refused(tmp_path: Path, cache: Path) -> None:
    executor = Ray(1, cache, "auto", tmp_path / "worker.log", {"gpus": "0.5"})
    executor.submit("describe", {"specs": []})
    events: list[Event] = []
    while executor.num_pending:
        events += executor.poll(1.0)
    executor.close()
    assert events[0].kind == "refused" and "torch sees 0 GPUs" in events[0].data["reason"]


@pytest.mark.usefixtures("cluster")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize(("share", "at_once"), [("0.5", 2), ("1", 1)])
def test_as_many_train_on_a_gpu_as_have_room_there_and_each_is_told_its_share(
    share: str, at_once: int, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_module, "run_job", elsewhere.run_on_a_pretended_gpu)
    executor = Ray(3, cache, "cuda", tmp_path / "worker.log", {"gpus": share, "cpus": "0.1"})
    for _ in range(3):
        executor.submit("describe", {"specs": []})
    events: list[Event] = []
    while executor.num_pending:
        events += executor.poll(1.0)
    executor.close()
    said = [event.data for event in events]
    assert [event.kind for event in events] == ["done"] * 3
    assert {own["device"] for own in said} == {"cuda:0"} and [own["told"] for own in said] == [[float(share), 0]] * 3
    assert max(sum(own["begun"] <= at["begun"] < own["ended"] for own in said) for at in said) == at_once


@pytest.mark.usefixtures("cluster")
def test_a_study_is_run_to_its_end_by_two_workers(tmp_path: Path, cache: Path) -> None:
    elsewhere.arrange(cache, seconds=0.2)
    driver = make_driver(tmp_path / "fake", FakeRuns(), study=replace(SMALL, trials=10), deterministic=False)
    assert sweep(driver, cache) == "complete"
    assert len(driver.sampler.trials("complete")) == 10
    assert len(set(elsewhere.trained(cache))) == 2
    assert [path.name for path in (tmp_path / "fake").glob("worker-*.log")]
    assert not (tmp_path / "fake" / "jobs").exists()


HARMS = {
    "killed": "worker died; see worker-{node}.log",
    "hung": "hung: not done after 2 seconds; worker-{node}.log has where it was",
    "raises": "MemoryError: no room",
}


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("harm", HARMS)
def test_a_worker_that_is_lost_costs_the_guilty_trial_and_no_other(
    harm: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "ATTEMPTS", 1)
    runs = FakeRuns()
    study = replace(SMALL, trials=2, batch=2) if harm == "hung" else SMALL  # of which each waits for the limit
    driver = make_driver(tmp_path / "fake", runs, study=study)
    guilty = driver.sampler.ask("search").params["lr"]  # asked, and then the driver died
    elsewhere.arrange(cache, harm=harm, guilty=float(guilty))
    driver = make_driver(tmp_path / "fake", runs, study=study)
    driver = replace(driver, plan=replace(driver.plan, limit=2.0 if harm == "hung" else 60.0))
    assert sweep(driver, cache) == "complete"
    assert [asked.number for asked in driver.sampler.trials("failed")] == [0]
    assert runs.failures == {"fake/0": HARMS[harm].format(node=os.uname().nodename)}
    assert len(driver.sampler.trials("complete")) == study.trials
    if harm == "hung":
        [said] = (tmp_path / "fake").glob("worker-*.log")
        assert "train_each" in said.read_text()


@pytest.mark.usefixtures("cluster")
def test_a_node_that_does_not_see_the_folder_stops_the_sweep_and_fails_no_trial(tmp_path: Path, cache: Path) -> None:
    elsewhere.arrange(cache, harm="blind")
    driver = make_driver(tmp_path / "fake", FakeRuns(), study=SMALL)
    with pytest.raises(ValueError, match=r"node .* does not see .*fake; --out must be a folder"):
        sweep(driver, cache)
    assert not driver.sampler.trials("failed")
    elsewhere.arrange(cache)
    assert sweep(make_driver(tmp_path / "fake", FakeRuns(), study=SMALL), cache) == "complete"


def test_a_node_that_is_lost_costs_nothing(cluster: Any, tmp_path: Path, cache: Path) -> None:
    elsewhere.arrange(cache, held=True)
    node = cluster.add_node(num_cpus=2, **NODE)
    runs = FakeRuns()
    driver = make_driver(tmp_path / "fake", runs, study=replace(SMALL, trials=10), deterministic=False)
    lost: list[int] = []

    def kill_once(executor: Ray) -> None:
        begun = [track.job.id for track in executor._running.values() if track.node]
        if len(begun) == 4 and not lost:  # two on either node
            lost.extend(begun)
            cluster.remove_node(node, allow_graceful=False)  # kill -9 of all that the node runs
            elsewhere.let_go(cache)

    assert sweep(driver, cache, num_workers=4, meanwhile=kill_once) == "complete"
    assert lost and runs.failures == {}
    assert len(driver.sampler.trials("complete")) == 10


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
from harness.executors import ray
from tests import elsewhere
from tests.fakes import STUDY, FakeRuns, make_driver

ray.run_job = elsewhere.run_on_ray
folder, study = Path(sys.argv[1]), replace(STUDY, trials=8, batch=4, controls=0)
driver = make_driver(folder / "fake", FakeRuns(), study=study, deterministic=False)
executor = ray.Ray(2, folder / "cache", "cpu", folder / "fake" / "worker.log", {"address": sys.argv[2]})
replace(driver, executor=executor).run(set())
"""


def test_a_driver_that_is_killed_loses_nothing(cluster: Any, tmp_path: Path, cache: Path) -> None:
    elsewhere.arrange(cache, seconds=0.5)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path), cluster.address]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while not elsewhere.trained(cache):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    driver = make_driver(tmp_path / "fake", FakeRuns(), study=SMALL)
    assert driver.sampler.trials("running")
    assert sweep(driver, cache) == "complete"
    numbers = [asked.number for asked in driver.sampler.trials("complete")]
    assert Counter(numbers) == Counter(range(SMALL.trials)) == Counter(ledger.numbers(tmp_path / "fake"))
    assert not driver.sampler.trials("failed") and not driver.sampler.trials("running")


@pytest.mark.usefixtures("cluster")
def test_a_ray_that_died_here_stops_the_sweep_and_is_held_against_no_trial(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.exceptions import LocalRayletDiedError

    def get(_: object) -> None:
        raise LocalRayletDiedError

    driver = make_driver(tmp_path / "fake", FakeRuns(), study=SMALL)
    with (
        monkeypatch.context() as patch,
        pytest.raises(Halt, match="Ray died on this machine, which is held"),
    ):
        patch.setattr(ray, "get", get)
        sweep(driver, cache)
    assert not driver.sampler.trials("failed") and not list((tmp_path / "fake").rglob("attempts*"))
    assert sweep(make_driver(tmp_path / "fake", FakeRuns(), study=SMALL), cache) == "complete"


def test_a_head_is_away_when_nobody_has_listened_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr(ray_cluster, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    listener = socket.create_server(("127.0.0.1", 0))
    head = Head(f"127.0.0.1:{listener.getsockname()[1]}")
    assert not any(head.is_away() for _ in range(20))
    listener.close()
    for _ in range(20):
        next(clock)  # it is not asked for long, and then missed once
    assert [head.is_away() for _ in range(8)] == [False] * 7 + [True]  # more than 30 seconds after it was missed
    assert not any(Head("").is_away() for _ in range(20))


@pytest.mark.usefixtures("cluster")
def test_a_head_that_is_away_stops_the_sweep_and_nothing_more_is_asked_of_ray(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(Head, "is_away", lambda head: bool(str(head)))
    driver = make_driver(tmp_path / "fake", FakeRuns(), study=SMALL)
    with monkeypatch.context() as patch, pytest.raises(Halt, match=r"head node \d+.*:\d+ is away, which is held"):
        patch.setattr(ray, "cancel", lambda *_, **__: pytest.fail("Ray was asked"))
        patch.setattr(ray, "shutdown", lambda: pytest.fail("Ray was asked"))
        sweep(driver, cache)
    assert not driver.sampler.trials("failed") and not list((tmp_path / "fake").rglob("attempts*"))
    monkeypatch.undo()
    monkeypatch.setattr(ray_module, "run_job", elsewhere.run_on_ray)
    assert sweep(make_driver(tmp_path / "fake", FakeRuns(), study=SMALL), cache) == "complete"


def test_signals_stay_the_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray puts a handler of its own for SIGTERM, which would end a sweep in the midst of a commit."""
    import ray

    before, meanwhile = signal.getsignal(signal.SIGTERM), []

    def init(**_: Any) -> None:
        ray._private.utils.set_sigterm_handler(signal.SIG_IGN)  # type: ignore[no-untyped-call]  # long before it is done
        meanwhile.append(signal.getsignal(signal.SIGTERM))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    monkeypatch.setattr(ray, "init", init)
    connect("auto", 1)
    assert meanwhile == [before] and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("cluster")
def test_a_second_signal_does_not_wait_for_ray(tmp_path: Path, cache: Path) -> None:
    """`close` from a signal's handler, in the midst of a call of Ray: nothing of Ray is called."""
    elsewhere.arrange(cache, held=True)
    executor = Ray(1, cache, "cpu", tmp_path / "worker.log", {})
    executor.submit("teacher", {"specs": []})

    def stop(*_: Any) -> None:
        executor.close()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            executor.poll(30.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        elsewhere.let_go(cache)
    assert executor.num_pending == 1  # left as it was
