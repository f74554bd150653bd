"""What is asked of Ray: options that cannot be, and clusters that are not there or refuse, are one line."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from harness.executors import ray_cluster
from harness.executors.ray import Ray
from harness.executors.ray_cluster import connect, wanted


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"adress": "auto"}, "unknown option 'adress' of --executor ray; options are address, cpus, gpus, memory, "
                             "resources.<name>, retries"),
        ({"cpus": "many"}, "option cpus=many must be a number at least 0"),
        ({"gpus": "2"}, "option gpus=2 must be a number from 0 to 1"),
        ({"cpus": "0.00001"}, "option cpus=0.00001 must be 0 or at least 0.0001"),
        ({"gpus": "1e-5"}, "option gpus=1e-5 must be 0 or at least 0.0001"),
        ({"resources.big": "1e-9"}, "option resources.big=1e-9 must be 0 or at least 0.0001"),
        ({"memory": "4 bananas"}, "option memory=4 bananas must be a size such as 500MiB, 4GiB or 4GB"),
        ({"retries": "-1"}, "option retries=-1 must be a whole number of at least 0"),
        ({"memory": f"{400 * '9'}GB"}, f"option memory={400 * '9'}GB must be a size such as 500MiB, 4GiB or 4GB"),
        ({"memory": "0.4"}, "option memory=0.4 must be a size such as 500MiB, 4GiB or 4GB"),
        ({"retries": 5000 * "9"}, f"option retries={5000 * '9'} must be a whole number of at least 0"),
        ({"resources.": "1"}, "option resources. is no resource of a cluster's own; use cpus, gpus and memory"),
        ({"resources.CPU": "1"}, "option resources.CPU is no resource of a cluster's own; use cpus, gpus and memory"),
        ({"resources.big": "nan"}, "option resources.big=nan must be a number at least 0"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_in_a_line(said: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match="option") as raised:
        wanted(said)
    assert str(raised.value) == complaint


def test_options_say_what_a_task_has() -> None:
    found = wanted({"cpus": "2", "gpus": "0.25", "memory": "4GiB", "resources.big": "1"})
    assert found.demand == {"CPU": 2, "GPU": 0.25, "memory": 4 * 2**30, "big": 1}
    assert found.a_node() == 4
    assert wanted({}).demand == {"CPU": 1}


def test_cuda_without_a_gpu_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--option gpus=1"):
        Ray(1, tmp_path, "cuda", tmp_path / "worker.log", {})


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "host:port"])
def test_a_cluster_that_is_not_there_is_said_soon(address: str, tmp_path: Path) -> None:
    executor, started = Ray(1, tmp_path, "cpu", tmp_path / "worker.log", {"address": address}), time.monotonic()
    with pytest.raises(ValueError, match=address) as raised:
        executor.submit("describe", {"specs": []})
    assert "\n" not in str(raised.value)
    assert time.monotonic() - started < 10
    executor.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", [b"HTTP/1.0 400 Bad Request\r\n\r\n", b""])
def test_who_listens_and_is_not_ray_is_found_out_at_once(answer: bytes) -> None:
    def serve() -> None:
        line, _ = listening.accept()
        with line:
            line.recv(100)
            line.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        Thread(target=serve, daemon=True).start()
        with pytest.raises(ValueError, match=r"cannot reach a Ray cluster at 127.*: what listens there is not Ray"):
            connect(f"127.0.0.1:{listening.getsockname()[1]}", 1)


@pytest.mark.parametrize(("mode", "hint"), [(None, "; if a token guards it, set RAY_AUTH_MODE=token"), ("token", "")])
def test_a_cluster_that_refuses_is_one_line_with_a_hint_at_its_token(
    mode: str | None, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def init(**_: Any) -> None:
        raise ConnectionError("Failed to connect\nto it")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray_cluster, "reach", lambda _: None)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(ValueError, match="cannot use a Ray cluster") as caught:
        connect("head:6379", 1)
    assert str(caught.value) == f"cannot use a Ray cluster at head:6379: ConnectionError: Failed to connect{hint}"
