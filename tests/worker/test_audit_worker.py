"""What delivery and the analysts' exports tell the audit trail."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from audit_repository import Heard, heard_in
from stand_in_records import Records

from models.audit.settings import AuditSettings
from models.audit.trail import AuditTrail
from models.records.outputs import Output, OutputKind
from models.settings import Settings
from worker import exported, results_command
from worker.__main__ import _parser
from worker.audit import DeliveryAudit
from worker.delivery import DestinationQueue
from worker.metrics import DeliveryMetrics
from worker.sender import Sender
from worker.settings import Destination, Recipient, StowDestination, WorkerSettings
from worker.settlement import Settlement

Sessions = sessionmaker[Session]
QUICK = {"delivery_first_retry_s": 0.01, "delivery_longest_retry_s": 0.01, "delivery_timeout_s": 3}


class Audited:
    """A destination, the outputs that wait for it, and what the audit file says."""

    def __init__(self, directory: Path, sessions: Sessions) -> None:
        self.file = directory / "audit.log"
        settings = Settings(data_dir=directory)
        self.trail = AuditTrail(settings, AuditSettings(file=self.file), "delivery").start()
        self.sessions = sessions

    def heard(self) -> list[Heard]:
        self.trail.stop()
        return heard_in(self.file)


@pytest.fixture
def audited(tmp_path: Path, sqlite_sessions: Sessions) -> Iterator[Audited]:
    made = Audited(tmp_path, sqlite_sessions)
    yield made
    made.trail.stop()


def test_a_study_is_told_when_its_sending_begins_and_when_it_has_arrived(
    audited: Audited, archive: Any, outbox: Any, outcomes: Any, put_output: Any
) -> None:
    uids = ["1.2.1", "1.2.2"]
    for uid in uids:
        put_output(uid)
    done = [outcomes.done(f"{uid}.9", output_uid=uid, facts=outcomes.facts("1.2.9")) for uid in uids]
    Settlement(audited.sessions, "keep_first", [Recipient(name="archive")]).settle(done)
    to = Destination(name="archive", host="127.0.0.1", port=archive.port, ae_title="ARCHIVE")
    settings = WorkerSettings(**QUICK)  # type: ignore[arg-type]
    sender = Sender(to, "RADSTREAM", 3)
    audit = DeliveryAudit(audited.trail, to, audited.sessions)
    metrics = DeliveryMetrics(CollectorRegistry())
    queue = DestinationQueue(sender, audited.sessions, outbox, settings, metrics, audit=audit)
    stop = _Stop()
    archive.stop()
    queue._turn(stop)  # one is tried, and the other must wait
    archive.start()
    delivered: list[int] = []
    stop.until(lambda: delivered.append(queue._turn(stop)) or sum(delivered) == 2)  # type: ignore[func-returns-value]
    sender.release()
    heard = audited.heard()
    begun = [each for each in heard if each.event == "Begin Transferring DICOM Instances"]
    arrived = [each for each in heard if each.event == "DICOM Instances Transferred"]
    assert len(begun) + len(arrived) == len(heard)
    # One output was tried in vain, the other only with it; each begins once, whatever the number of attempts.
    assert [sum(classes.values()) for each in begun for classes in each.studies().values()] == [1, 1]
    assert sum(sum(classes.values()) for each in arrived for classes in each.studies().values()) == 2
    assert len(arrived) == len([count for count in delivered if count]), "one message a turn, not one an output"
    assert {uid for each in begun for uid in each.studies()} == set(arrived[0].studies())
    assert arrived[0].participant("110152")["UserID"] == "ARCHIVE"
    assert arrived[0].participant("110153")["UserIsRequestor"] == "true"
    assert arrived[0].head["outcome"] == "0"


def test_what_is_given_up_is_told_as_a_failure(audited: Audited) -> None:
    with audited.sessions.begin() as session:
        records = Records(session)
        instance = records.instance("1.2.1.1", records.series("1.2.1", "1.2.1.0"))
        output = _output(records, "1.2.1.9", instance.id)
    to = StowDestination(name="web", url="https://pacs.example/dicom-web")
    DeliveryAudit(audited.trail, to, audited.sessions).given_up([output])
    (message,) = audited.heard()
    assert message.head == {"action": "R", "outcome": "8"}
    assert message.participant("110152")["UserID"] == "https://pacs.example/dicom-web"
    assert message.participant("110152")["NetworkAccessPointID"] == "pacs.example"


def test_without_an_audit_trail_delivery_asks_the_database_nothing_more(
    sqlite_sessions: Sessions, tmp_path: Path
) -> None:
    asked: list[str] = []
    with sqlite_sessions() as session:
        event.listen(session.get_bind(), "before_cursor_execute", lambda *told: asked.append(told[2]))
    trail = AuditTrail(Settings(data_dir=tmp_path), None, "delivery")
    to = StowDestination(name="web", url="https://pacs.example/dicom-web")
    DeliveryAudit(trail, to, sqlite_sessions).arrived([1, 2])
    assert asked == []


# Exports


@pytest.fixture
def export(sqlite_sessions: Sessions, tmp_path: Path, capsys: Any) -> Callable[..., tuple[list[Heard], str]]:
    """Run `results` on two studies, and give what the audit file says, and what was written."""
    with sqlite_sessions.begin() as session:
        records = Records(session)
        for study in ("1.2.1", "1.2.2"):
            records.study(study, patient_id=f"P{study}")
            series = records.series(study, f"{study}.0")
            for number in (1, 2):
                records.finding(records.instance(f"{study}.{number}", series), 0.75)

    def run(*options: str) -> tuple[list[Heard], str]:
        file = tmp_path / "audit.log"
        arguments = _parser().parse_args(["results", *options])
        settings, audit = Settings(data_dir=tmp_path), AuditSettings(file=file)
        assert results_command.results(arguments, sqlite_sessions, settings, audit) == 0
        return heard_in(file), capsys.readouterr().out

    return run


def test_an_export_into_a_file_is_told_with_its_studies_and_without_patients(export: Any, tmp_path: Path) -> None:
    target = tmp_path / "findings.json"
    (message,), _ = export("--format", "json", "--output", str(target), "--since", "2020-01-01T00:00+00:00")
    assert len(json.loads(target.read_text())) == 4
    assert message.event == "Export"
    assert message.participant("110154")["UserID"] == target.as_uri()
    assert (set(message.studies()), message.patients(), message.detail("rows")) == ({"1.2.1", "1.2.2"}, [], "4")
    assert "@" in message.root.find("ActiveParticipant").get("UserID")


def test_an_export_with_identity_names_the_patients(export: Any) -> None:
    (message,), out = export("--format", "csv", "--identity")
    assert "P1.2.1" in out
    assert sorted(message.patients()) == ["P1.2.1", "P1.2.2"]
    assert message.participant("110154")["UserID"] == "file:///dev/stdout"


def test_a_large_export_takes_several_messages(export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "STUDIES_TOGETHER", 1)
    heard, _ = export("--format", "csv", "--view", "study")
    assert [len(each.studies()) for each in heard] == [1, 1]


def test_counts_by_day_concern_no_patient(export: Any) -> None:
    heard, _ = export("--view", "daily", "--format", "csv")
    assert heard == []


class _Stop:
    """An event that is never set, and a loop with a bound."""

    def is_set(self) -> bool:
        return False

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _output(records: Records, uid: str, instance_id: int) -> int:
    output = Output(
        kind=OutputKind.STRUCTURED_REPORT,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        sop_instance_uid=uid,
        series_instance_uid=f"{uid}.0",
        file_name=f"{uid}.dcm",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        instance_id=instance_id,
    )
    return int(records.add(output).id)
