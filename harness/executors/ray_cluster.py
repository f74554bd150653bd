"""A Ray cluster: what a cohort is to have of it, and how it is reached or started."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.executors import options
from harness.urls import redact

OPTIONS = ("address", "cpus", "gpus", "memory", "resources.", "retries")
SMALLEST = 0.0001
"""The least part of a resource that Ray counts in."""
OWN = "local"
"""The address that stands for a cluster of our own on this machine."""
REACHED_WITHIN = 5.0
"""Seconds that a cluster has to answer."""
ASKED_EVERY, AWAY = 4.0, 30.0
"""Seconds between two looks whether a head node listens, and after which one that does not is away."""
SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""HTTP/2's first frame, with nothing in it; its fourth byte says what it is."""
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS
STORE = 100 * 2**20
"""Bytes of a cluster of our own for passing objects; jobs pass next to nothing."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What the options ask for; resources are those of one task, `memory` in bytes."""

    address: str
    cpus: float
    gpus: float
    memory: int | None
    resources: Mapping[str, float]
    retries: int

    @property
    def demand(self) -> dict[str, float]:
        """What a node must have, by Ray's names."""
        found = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory or 0), **self.resources}
        return {name: amount for name, amount in found.items() if amount}

    @property
    def of_ray(self) -> dict[str, Any]:
        """The same as Ray takes it."""
        own = {"num_cpus": self.cpus, "num_gpus": self.gpus, "resources": dict(self.resources)}
        return own | ({"memory": self.memory} if self.memory else {})

    def a_node(self) -> int:
        """How many tasks share this machine's cores, or a GPU where they have one."""
        if self.gpus:
            return int(1 / self.gpus)
        return max(1, int((os.cpu_count() or 1) / self.cpus)) if self.cpus else 1


def wanted(said: Mapping[str, str]) -> Wanted:
    """Read the options. Raises `ValueError` for one that is unknown or cannot be."""
    options.known(said, OPTIONS, "ray")
    own = {name: options.number(said, name, 0, smallest=SMALLEST) for name in said if name.startswith("resources.")}
    if ours := {"", "CPU", "GPU", "memory", "object_store_memory"} & {name.removeprefix("resources.") for name in own}:
        raise ValueError(f"option resources.{min(ours)} is no resource of a cluster's own; use cpus, gpus and memory")
    return Wanted(
        address=said.get("address", OWN),
        cpus=options.number(said, "cpus", 1, smallest=SMALLEST),
        gpus=options.number(said, "gpus", 0, most=1, smallest=SMALLEST),  # a cohort is trained on one device
        memory=options.size(said, "memory"),
        resources={name.removeprefix("resources."): amount for name, amount in own.items()},
        retries=options.count(said, "retries", 3),
    )


def reach(address: str) -> None:
    """Raise `ValueError` soon where nobody listens at an address of a host and a port, or who listens is not Ray.

    Ray itself would wait for a minute, deaf to signals. It speaks gRPC, which answers HTTP/2's greeting at once; where
    it is told to use TLS it is not asked.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        if address not in ("auto", OWN):
            raise ValueError(f"option address={redact(address)} must be auto, HOST:PORT or ray://HOST:PORT")
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED_WITHIN) as line:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                line.sendall(GREETING)
                if line.recv(len(SETTINGS))[3:4] != SETTINGS[3:4]:
                    raise ValueError("what listens there is not Ray")
    except (OSError, ValueError, OverflowError) as error:
        raise ValueError(f"cannot reach a Ray cluster at {redact(address)}: {error}") from None


def connect(address: str, num_cpus: int) -> None:
    """Connect to a cluster, or start one of `num_cpus`; the console and the signals stay as they are.

    Raises `ValueError` where there is none.
    """
    import ray

    reach(address)
    for name in ("ray", "ray.util"):  # Ray's client sets the first again
        logging.getLogger(name).setLevel(logging.ERROR)
    said: dict[str, Any] = {"address": address, "log_to_driver": False}
    if not address.startswith("ray://"):
        said |= {"configure_logging": False, "logging_level": logging.ERROR}
    if address == OWN:
        said |= {"num_cpus": num_cpus, "object_store_memory": STORE, "include_dashboard": False}
    handler = signal.getsignal(signal.SIGTERM)
    # Ray's own would end the program with exit code 1 while it starts; a name that is gone one day costs only that.
    ray._private.utils.set_sigterm_handler = lambda _: None
    try:
        ray.init(**said)
    except Exception as error:  # Ray has raised also plain ones
        guarded = address not in ("auto", OWN) and "RAY_AUTH_MODE" not in os.environ
        todo = "; if a token guards it, set RAY_AUTH_MODE=token" if guarded else ""
        raise ValueError(f"cannot use a Ray cluster at {redact(address)}: {one_line(error)}{todo}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # should Ray have put its own there
    # Ray prints a page for every worker that dies, whatever it is told; a name that is gone one day does no harm.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None


def check_room(demand: Mapping[str, float], nodes: Sequence[Mapping[str, Any]], address: str) -> None:
    """Raise `ValueError` where no node of a cluster of our own has what a task needs; others may grow: a warning."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if any(all(node.get(name, 0) >= amount for name, amount in demand.items()) for node in alive):
        return
    said = ", ".join(f"{name}={amount:g}" for name, amount in demand.items())
    if address == OWN:
        raise ValueError(f"this machine does not have what a cohort is to have: {said}")
    log.warning("no node of the Ray cluster has what a cohort is to have (%s): it waits until one joins", said)


class Head:
    """The cluster's head node, which Ray waits for a minute when it is away, and ends the program then."""

    def __init__(self, address: str) -> None:
        """`address` is its host and port; empty where it is not known, as to Ray's client: it is never away then."""
        self._address = address
        self._asked, self._missed = -math.inf, math.inf  # when last, and since when nobody has answered

    def is_away(self) -> bool:
        """Whether nobody has listened there for `AWAY` seconds; asks every `ASKED_EVERY`."""
        now = time.monotonic()
        if not self._address or now - self._asked < ASKED_EVERY:
            return False
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ASKED_EVERY / 2).close()
            self._missed = math.inf
        except OSError:
            self._missed = min(self._missed, now)  # not since it was heard: nobody may have asked for long
        self._asked = now
        return now - self._missed > AWAY

    def __str__(self) -> str:
        return self._address


def one_line(error: Exception) -> str:
    """What an error of Ray comes to, in one line and without passwords."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[-1 if "Traceback" in str(error) else 0] if lines else ""
    return redact(f"{type(error).__name__}: {said}")
