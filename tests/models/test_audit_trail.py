"""The audit trail loses nothing up to its bound, keeps the order, and holds up nobody."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from audit_repository import AuditRepository, Heard, heard_in

from models.audit import trail as audit_trail
from models.audit.events import SOURCE, Patient, StudyTouched, application_entity, instances_transferred
from models.audit.messages import AuditMessage
from models.audit.settings import Address, AuditSettings, Way, read_address
from models.audit.spool import AuditSpool
from models.audit.trail import AuditMetrics, AuditTrail
from models.errors import ConfigurationError
from models.settings import Settings, load

Eventually = Callable[..., None]
PEER = application_entity("CR1", "10.0.0.5", SOURCE, is_requestor=True)
TrailFactory = Callable[..., AuditTrail]


def transfer(study: str) -> AuditMessage:
    return instances_transferred(PEER, PEER, StudyTouched(study, {"1.2.840": 1}, Patient("P1")))


def studies(heard: list[Heard]) -> list[str]:
    return [uid for each in heard for uid in each.studies()]


def numbered(first: int, last: int) -> list[str]:
    return [f"1.2.{number}" for number in range(first, last + 1)]


def values(registry: CollectorRegistry) -> dict[str, float]:
    names = ("sent_total", "dropped_total", "waiting")
    return {name: registry.get_sample_value(f"radstream_test_audit_{name}") or 0.0 for name in names}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_trail, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(audit_trail, "LONGEST_RETRY_S", 0.1)
    monkeypatch.setattr(audit_trail, "LOOK_S", 0.05)


@pytest.fixture
def repository() -> Iterator[AuditRepository]:
    with AuditRepository() as listening:
        yield listening


@pytest.fixture
def make_trail(tmp_path: Path) -> Iterator[TrailFactory]:
    made: list[AuditTrail] = []

    def make(registry: CollectorRegistry | None = None, delivers: bool = True, **audit: Any) -> AuditTrail:
        metrics = AuditMetrics(registry, "radstream_test") if registry is not None else None
        settings = Settings(data_dir=tmp_path / "data")
        trail = AuditTrail(settings, AuditSettings(**audit), "test", metrics=metrics, delivers=delivers)
        made.append(trail.start())
        return trail

    yield make
    for trail in made:
        trail.stop()


def at(repository: AuditRepository) -> dict[str, Any]:
    return {"repository": f"tcp://127.0.0.1:{repository.port}"}


def test_messages_are_sent_in_their_order_as_syslog_of_the_right_facility(
    make_trail: TrailFactory, repository: AuditRepository, tmp_path: Path, eventually: Eventually
) -> None:
    registry = CollectorRegistry()
    trail = make_trail(registry, **at(repository))
    trail.say_started()
    for study in numbered(1, 50):
        trail.tell(transfer(study))
    eventually(lambda: len(repository.heard) == 51)
    assert repository.heard[0].types == ["Application Start"]
    assert studies(repository.heard) == numbered(1, 50)
    assert {each.priority for each in repository.heard} == {10 * 8 + 5}
    assert {each.pid for each in repository.heard} == {os.getpid()}
    eventually(lambda: values(registry) == {"sent_total": 51, "dropped_total": 0, "waiting": 0})
    assert AuditSpool(tmp_path / "data", 1).names() == []


def test_a_repository_that_goes_and_comes_back_gets_all_in_order(
    make_trail: TrailFactory, repository: AuditRepository, eventually: Eventually
) -> None:
    registry = CollectorRegistry()
    trail = make_trail(registry, **at(repository))
    trail.tell(transfer("1.2.1"))
    eventually(lambda: len(repository.heard) == 1)
    repository.go_away()
    for study in numbered(2, 40):
        trail.tell(transfer(study))
    eventually(lambda: values(registry)["waiting"] == 39)
    repository.listen()
    eventually(lambda: len(set(studies(repository.heard))) == 40)
    # What was on its way when it went may come twice; nothing is left out and nothing overtakes.
    assert list(dict.fromkeys(studies(repository.heard))) == numbered(1, 40)
    eventually(lambda: values(registry)["waiting"] == 0)


def test_what_waits_at_the_end_is_sent_by_the_next_process(
    make_trail: TrailFactory, repository: AuditRepository, eventually: Eventually
) -> None:
    repository.go_away()
    first = make_trail(**at(repository))
    for study in numbered(1, 3):
        first.tell(transfer(study))
    first.stop()
    repository.listen()
    make_trail(**at(repository)).tell(transfer("1.2.4"))
    eventually(lambda: studies(repository.heard) == numbered(1, 4))


def test_beyond_the_bound_the_newest_are_dropped_and_counted(
    make_trail: TrailFactory, repository: AuditRepository, eventually: Eventually
) -> None:
    repository.go_away()
    registry = CollectorRegistry()
    trail = make_trail(registry, max_waiting=10, **at(repository))
    for study in numbered(1, 15):
        trail.tell(transfer(study))
    eventually(lambda: values(registry)["dropped_total"] == 5)
    repository.listen()
    eventually(lambda: studies(repository.heard) == numbered(1, 10))
    trail.tell(transfer("1.2.16"))
    eventually(lambda: studies(repository.heard)[-1] == "1.2.16")
    assert values(registry)["dropped_total"] == 5


def test_a_full_queue_drops_at_once_and_does_not_wait(
    make_trail: TrailFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dropped: list[int] = []
    settings = Settings(data_dir=tmp_path)
    audit = AuditSettings(file=tmp_path / "audit.log")
    monkeypatch.setattr(audit_trail, "QUEUE_SIZE", 2)
    trail = AuditTrail(settings, audit, "test", on_drop=lambda: dropped.append(1))  # not started: nobody writes
    began = time.perf_counter()
    for study in numbered(1, 5):
        trail.tell(transfer(study))
    assert time.perf_counter() - began < 1
    assert len(dropped) == 3


def test_one_process_sends_for_all_and_another_follows_when_it_is_killed(
    make_trail: TrailFactory, repository: AuditRepository, tmp_path: Path, eventually: Eventually
) -> None:
    code = (
        "import sys, signal\n"
        "from pathlib import Path\n"
        "from models.audit.settings import AuditSettings\n"
        "from models.audit.trail import AuditTrail\n"
        "from models.settings import Settings\n"
        "trail = AuditTrail(Settings(data_dir=Path(sys.argv[1])), AuditSettings(repository=sys.argv[2]), 'leader')\n"
        "trail.start(); trail.say_started(); signal.pause()\n"
    )
    root = Path(audit_trail.__file__).parents[1]
    command = [sys.executable, "-c", code, str(tmp_path / "data"), at(repository)["repository"]]
    leader = subprocess.Popen(command, cwd=root)
    try:
        eventually(lambda: len(repository.heard) == 1, timeout_s=60)
        follower = make_trail(**at(repository))
        receiver = make_trail(delivers=False, **at(repository))
        receiver.tell(transfer("1.2.1"))
        eventually(lambda: studies(repository.heard) == ["1.2.1"], timeout_s=60)
        os.kill(leader.pid, signal.SIGSTOP)  # it holds the lead and does nothing
        follower.tell(transfer("1.2.2"))
        eventually(lambda: AuditSpool(tmp_path / "data", 1).names() != [])
        leader.kill()
        leader.wait()
        eventually(lambda: studies(repository.heard) == ["1.2.1", "1.2.2"])
    finally:
        leader.kill()
        leader.wait()


def test_the_file_has_one_message_a_line_and_only_its_owner_reads_it(
    make_trail: TrailFactory, repository: AuditRepository, tmp_path: Path
) -> None:
    file = tmp_path / "audit.log"
    trail = make_trail(file=file, **at(repository))
    trail.tell(transfer("1.2.1"))
    trail.stop()
    file.rename(tmp_path / "audit.log.1")  # as logrotate does
    again = make_trail(file=file)
    again.tell(transfer("1.2.2"))
    again.stop()
    assert studies(heard_in(tmp_path / "audit.log.1")) == ["1.2.1"]
    assert studies(heard_in(file)) == ["1.2.2"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data" / "audit").stat().st_mode) == 0o700


def test_datagrams_carry_one_message_each_and_one_that_is_too_long_is_dropped(
    make_trail: TrailFactory, eventually: Eventually
) -> None:
    registry = CollectorRegistry()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(10)
        trail = make_trail(registry, repository=f"udp://127.0.0.1:{listener.getsockname()[1]}")
        trail.tell(transfer("1.2.1"))
        long = StudyTouched("1.2.2", {f"1.2.{number}": 1 for number in range(3000)}, None)
        trail.tell(instances_transferred(PEER, PEER, long))
        trail.tell(transfer("1.2.3"))
        heard = [Heard.of_syslog(listener.recv(65_536)) for _ in range(2)]
    assert studies(heard) == ["1.2.1", "1.2.3"]
    eventually(lambda: values(registry) == {"sent_total": 2, "dropped_total": 1, "waiting": 0})


def test_without_settings_nothing_is_written(tmp_path: Path) -> None:
    trail = AuditTrail(Settings(data_dir=tmp_path / "data"), AuditSettings(), "test").start()
    trail.tell(transfer("1.2.1"))
    trail.stop()
    assert not trail.is_on
    assert not (tmp_path / "data").exists()


def test_a_file_that_cannot_be_written_is_said_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"RADSTREAM_AUDIT_FILE: cannot write .*: No such file"):
        AuditTrail(Settings(data_dir=tmp_path), AuditSettings(file=tmp_path / "none" / "audit.log"), "test")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("tls://audit.example", Address(Way.TLS, "audit.example", 6514)),
        ("udp://10.0.0.1:5140", Address(Way.UDP, "10.0.0.1", 5140)),
        ("tcp://[::1]:601", Address(Way.TCP, "::1", 601)),
    ],
)
def test_addresses_are_read(url: str, address: Address) -> None:
    assert read_address(url) == address


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("REPOSITORY", "https://audit.example", "use tls://HOST:PORT"),
        ("REPOSITORY", "tls://:6514", "use tls://HOST:PORT"),
        ("REPOSITORY", "udp://host:99999", "use tls://HOST:PORT"),
        ("TLS_CA", "/nowhere/ca.pem", "no such file"),
        ("REPOSITRY", "tls://host", "did you mean RADSTREAM_AUDIT_REPOSITORY"),
    ],
)
def test_a_wrong_setting_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"RADSTREAM_AUDIT_{setting}", value)
    with pytest.raises(ConfigurationError, match=said) as caught:
        load(AuditSettings)
    assert "\n" not in str(caught.value)
    load(Settings)  # which leaves the names of others alone
