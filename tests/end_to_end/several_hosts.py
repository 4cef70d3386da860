"""A feed over six hosts while some of them are cut off and two lose their power: does it all add up?

``python -m tests.end_to_end.several_hosts --instances 600`` runs it as root and prints the reconciliation. Hosts are
network namespaces (`tests.end_to_end.hosts`), each process has a directory of its own, and all that they share is the
bucket, Redis and PostgreSQL.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from rich.console import Console
from sqlalchemy import Engine

from deploy.launcher import LaunchError, ServiceProcess, is_ready, wait_until
from models.records.sessions import open_database
from models.settings import Settings
from tests.end_to_end.hosts import Host, Network, NoNamespacesError
from tests.end_to_end.instances import chest
from tests.end_to_end.several_hosts_count import Reconciliation, count
from tests.end_to_end.several_hosts_modality import Modality
from tests.end_to_end.several_hosts_services import PREFIX, REDIS_PORT, Services
from tests.end_to_end.stand_in_store import make_store

TELEMETRY_PORTS = {"scp": 9108, "worker": 9109}
QUICK = {
    "OMP_NUM_THREADS": "1",
    "RADSTREAM_SCP_PROCESSES": "1",
    "RADSTREAM_SCP_SWEEP_INTERVAL_S": "2",
    "RADSTREAM_WORKER_DECODERS": "1",
    "RADSTREAM_WORKER_ENGINE_THREADS": "1",
    "RADSTREAM_WORKER_HEARTBEAT_INTERVAL_S": "1",
    "RADSTREAM_WORKER_JOB_HEARTBEAT_TTL_S": "5",
    "RADSTREAM_WORKER_MAINTENANCE_INTERVAL_S": "1",
    "RADSTREAM_WORKER_DELIVERY_FIRST_RETRY_S": "1",
    "RADSTREAM_WORKER_DELIVERY_LONGEST_RETRY_S": "2",
    "RADSTREAM_WORKER_DELIVERY_TIMEOUT_S": "4",
}
"""Shorter leases and intervals than in service, so that recovery can be watched."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is sent, and how fast.

    Attributes:
        side: of each radiograph, pixels.
        interval_s: between two instances of one association.
        silence_s: that the modality bears before it tries again.
        patience_s: for everything to be settled and delivered after the last acknowledgement.
    """

    instances: int = 80
    associations: int = 4
    side: int = 128
    interval_s: float = 0.2
    silence_s: float = 5
    patience_s: float = 90


@dataclass(slots=True)
class Station:
    """An SCP or a worker on a host of its own."""

    host: Host
    kind: str
    process: ServiceProcess
    directory: Path


class SeveralHosts:
    """The whole arrangement; a context manager that starts and removes it.

    Raises:
        NoNamespacesError: network namespaces cannot be made here.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._closing = ExitStack()
        self._began = time.monotonic()
        # Not under pytest's directory: PostgreSQL runs as another user, and pytest closes its root to others.
        self.directory = Path(tempfile.mkdtemp(prefix="radstream-hosts-"))
        self.directory.chmod(0o755)
        self.logs = self.directory / "logs"
        self.most_pending = 0

    def __enter__(self) -> SeveralHosts:
        self._closing.callback(shutil.rmtree, self.directory, ignore_errors=True)
        try:
            self._start()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def _start(self) -> None:
        network = self._closing.enter_context(Network())
        self.logs.mkdir()
        shared = network.host("services")
        hosts = {name: network.host(name) for name in ("scp1", "scp2", "worker1", "worker2", "modality")}
        store = make_store(self.directory / "store", side=64).root
        self.services = self._closing.enter_context(Services(shared, self.directory, self.logs))
        self.environment = {**QUICK, **self.services.environment(), "RADSTREAM_MODEL_STORE": str(store)}
        self.scps = [self._station(hosts[name], "scp") for name in ("scp1", "scp2")]
        self.workers = [self._station(hosts[name], "worker") for name in ("worker1", "worker2")]
        scps, plan = [scp.host for scp in self.scps], self._plan
        self.modality = Modality(hosts["modality"], scps, plan.interval_s, plan.silence_s, enough=0)
        migrated = self.run_on(self.workers[0], "-m", "worker", "migrate")
        if migrated.returncode != 0:
            raise LaunchError(f"the database cannot be prepared: {migrated.stderr}")
        for station in [*self.scps, *self.workers]:
            self.start(station)
        for station in [*self.scps, *self.workers]:
            self.wait_ready(station)
        self._say("two SCPs and two workers are ready")

    def _station(self, host: Host, kind: str) -> Station:
        directory = self.directory / host.name
        directory.mkdir()
        environment = {
            **self.environment,
            "RADSTREAM_DATA_DIR": str(directory / "data"),
            "RADSTREAM_SCP_HOST": host.address,
            "RADSTREAM_WORKER_DESTINATIONS": json.dumps([self.services.destination()]),
            "TMPDIR": str(directory),
        }
        arguments = {"scp": ["scp"], "worker": ["worker", "run", "--name", host.name]}[kind]
        command = [sys.executable, "-m", *arguments]
        return Station(host, kind, ServiceProcess(host.name, command, environment, self.log_of(host)), directory)

    def log_of(self, host: Host) -> Path:
        """Where a host's processes write; outside its directory, which may be lost."""
        return self.logs / f"{host.name}.log"

    def start(self, station: Station) -> None:
        """Start the process of a station."""
        with station.host.inside():
            station.process.start()
        self._closing.callback(station.process.kill)

    def wait_ready(self, station: Station, timeout_s: float = 90) -> None:
        """Wait until a station says that it is ready.

        Raises:
            LaunchError: it ended or did not become ready.
        """
        port = TELEMETRY_PORTS[station.kind]
        with station.host.inside():
            if not wait_until(lambda: not station.process.running or is_ready(port), timeout_s):
                raise LaunchError(f"{station.host.name} did not become ready\n{self.tails()}")
        if not station.process.running:
            raise LaunchError(f"{station.host.name} ended\n{self.tails()}")

    def run_on(self, station: Station, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python on the host of a station, with its settings, to its end."""
        with station.host.inside():
            environment = {**os.environ, **station.process.environment}
            return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)

    def run(self) -> Reconciliation:
        """Send everything through the failures, wait until it has settled and arrived, and count."""
        plan = self._plan
        datasets = [chest(plan.side, seed) for seed in range(plan.instances)]
        share = [datasets[number :: plan.associations] for number in range(plan.associations)]
        (scp1, scp2), (worker1, worker2) = self.scps, self.workers
        with self.services.host.inside():
            self._redis = self._closing.enter_context(Redis(host=self.services.host.address, port=REDIS_PORT))
            database = open_database(Settings(database_url=self.services.postgres.url))  # type: ignore[arg-type]
            self._closing.callback(database.dispose)
            self.modality.start(share)
            self._closing.callback(self.modality.stop)

            # However long an outage takes to be seen, there is something left to send during the next.
            self._acquire_until(0.40)
            self._after(0.10)
            held = self._when_busy(worker2)
            self._note(worker2.host.cut_off, f"worker2 is cut off without a sign, with {held} jobs in hand")
            self._after(0.25)
            self._note(scp1.host.unplug, "the link of scp1 goes down")
            self._wait(lambda: not self._in_hand(worker2), 60, "the jobs of worker2 are taken over by worker1")
            self._wait(lambda: "redis_unavailable" in self.log_of(worker2.host).read_text(), 60, "worker2 sees it")
            self._after(0.40)
            self._note(worker2.host.rejoin, "worker2 is on the network again")
            self._acquire_until(0.80)
            self._after(0.55)
            held = self._when_busy(worker1)
            self._note(worker1.host.pull_power, f"worker1 loses its power and its disks, with {held} jobs in hand")
            shutil.rmtree(worker1.directory)
            self._after(0.70)
            self._note(scp1.host.plug_in, "the link of scp1 is up again")
            self._after(0.80)
            self._note(
                lambda: scp2.host.lose(self.services.host), "scp2 reaches senders, but bucket, Redis and SQL no more"
            )
            told = self.modality.by_scp["scp2"]
            before = told.unacknowledged
            self._acquire_until(1)
            self._wait(lambda: told.unacknowledged > before, 60, "scp2 did not say Success")
            self._note(lambda: scp2.host.find(self.services.host), "scp2 reaches them again")
            self._after(0.92)
            self._note(scp1.host.pull_power, "scp1 loses its power and its disks")
            shutil.rmtree(scp1.directory)
            if not self.modality.join(plan.patience_s):
                raise LaunchError(f"not everything was acknowledged in time\n{self.tails()}")
            self._say("the modality has an acknowledgement of everything")
            uids = [str(dataset.SOPInstanceUID) for dataset in datasets]
            return self._settled(database, uids)

    def _settled(self, database: Engine, uids: Sequence[str]) -> Reconciliation:
        last: list[Reconciliation] = []

        def adds_up() -> bool:
            pending = self._pending()
            last[:] = [count(database, self.modality, self.services.archive, uids, pending, self.most_pending)]
            return last[0].is_complete

        if wait_until(adds_up, self._plan.patience_s, 0.5):
            self._say("everything is settled and delivered")
        return last[0]

    # Watching

    def _pending(self) -> int:
        pending = len(self.services.s3.keys(f"{PREFIX}/pending/"))
        self.most_pending = max(self.most_pending, pending)
        return pending

    def _in_hand(self, worker: Station) -> int:
        names = [self._redis.hget(f"rq:job:{entry.decode().partition(':')[0]}", "worker_name") for entry in self._wip()]
        return sum(name is not None and name.decode() == worker.host.name for name in names)

    def _wip(self) -> list[bytes]:
        return [entry for lane in ("stat", "routine") for entry in self._redis.zrange(f"rq:wip:{lane}", 0, -1)]

    def _when_busy(self, worker: Station) -> int:
        held: list[int] = [0]

        def busy() -> bool:
            held[0] = self._in_hand(worker)
            return held[0] > 0

        self._wait(busy, 60, "")
        return held[0]

    def _acquire_until(self, share: float) -> None:
        self.modality.enough = int(share * self._plan.instances)

    def _after(self, share: float) -> None:
        wanted = int(share * self._plan.instances)
        self._wait(lambda: len(self.modality.acknowledged) >= wanted, 120, "")

    def _note(self, act: Callable[[], None], what: str) -> None:
        act()
        self._pending()
        self._say(f"{len(self.modality.acknowledged)} acknowledged: {what}")

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        if not wait_until(condition, timeout_s, 0.005):
            raise LaunchError(f"waited for {timeout_s:g} s in vain {what}\n{self.tails()}")
        if what:
            self._say(what)

    def tails(self) -> str:
        """Ends of all logs."""
        parts = []
        for log in sorted(self.logs.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-12:]
            parts.append(f"--- {log.name}\n" + "\n".join(line[:300] for line in lines))
        return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it larger, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--instances", type=int, default=600)
    parser.add_argument("--associations", type=int, default=6)
    parser.add_argument("--side", type=int, default=512, help="of each radiograph, pixels")
    parser.add_argument("--interval", type=float, default=0.05, metavar="S", help="between two of one association")
    given = parser.parse_args(argv)
    plan = Plan(given.instances, given.associations, given.side, given.interval, silence_s=30, patience_s=600)
    console, began = Console(width=110), time.monotonic()
    try:
        with SeveralHosts(plan, lambda text: console.print(f"{time.monotonic() - began:6.1f} s  {text}")) as hosts:
            result = hosts.run()
            console.print(result.table())
            reconciled = hosts.run_on(hosts.workers[1], "-m", "worker", "reconcile")
    except (NoNamespacesError, LaunchError) as error:
        console.print(str(error), style="red", markup=False)
        return 2
    console.print(reconciled.stdout, markup=False)
    return 0 if result.is_right and reconciled.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
