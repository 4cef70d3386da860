"""Storage commitment asked by us: requests, reports on either association, and what becomes of each output."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.transport import ThreadedAssociationServer
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from deploy.launcher import free_port
from models.commitment_reports import CommitmentReport, ReportFolder, report_from
from models.errors import ConfigurationError, Reason
from models.records.base import utc_now
from models.records.dicom import Instance
from models.records.outputs import CommitmentRequest, Delivery, DeliveryState, Output
from worker import commands
from worker.commitment import Asker, AskResult, CommitmentQueue
from worker.commitment_inbox import ReportListener, ReportRecorder
from worker.commitment_records import Asked, CommitmentRecords, Recorded
from worker.delivery import DestinationQueue
from worker.metrics import DeliveryMetrics
from worker.outbox import Outbox
from worker.outbox_cleaning import clean_outbox
from worker.sender import SendResult
from worker.settings import Destination, WorkerSettings
from worker.settlement import Settlement

PUSH, PUSH_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
NO_SUCH_INSTANCE = 0x0112

Sessions = sessionmaker[Session]


def _settings(**changes: Any) -> WorkerSettings:
    quick = {
        "commitment_group_s": 0,
        "commitment_wait_s": 2,
        "delivery_timeout_s": 5,
        "delivery_first_retry_s": 0.01,
        "delivery_longest_retry_s": 0.1,
    }
    return WorkerSettings(**{**quick, **changes})


class Arrived:
    """A way to a destination on which everything arrives."""

    def __init__(self, name: str) -> None:
        self.name = name

    def send(self, path: Path) -> SendResult:
        return SendResult(0x0000)

    def release_idle(self) -> None:
        return

    release = release_idle


class Keeper:
    """An archive that is asked to commit; it listens, and reports as the test wants."""

    def __init__(self) -> None:
        self.port = free_port()
        self.requests: list[Dataset] = []
        self.status = 0x0000
        self.reports_at_once = True
        self.failing: dict[str, int] = {}
        self.answers: list[int] = []
        ae = AE("ARCHIVE")
        ae.add_supported_context(PUSH)
        self._server: Any = ae.make_server(
            ("127.0.0.1", self.port),
            evt_handlers=[(evt.EVT_N_ACTION, self._asked)],
            server_class=ThreadedAssociationServer,
        )
        ae._servers.append(self._server)
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _asked(self, event: evt.Event) -> tuple[int, None]:
        self.requests.append(event.action_information)
        if self.status == 0 and self.reports_at_once:
            threading.Thread(target=self._report_on, args=[event.assoc, self.report()], daemon=True).start()
        return self.status, None

    def _report_on(self, association: Any, report: Dataset) -> None:
        answer, _ = association.send_n_event_report(report, 2 if self.failing else 1, PUSH, PUSH_INSTANCE)
        self.answers.append(int(answer.Status))

    def report(self) -> Dataset:
        """Give the report to the last request."""
        asked = self.requests[-1]
        report = Dataset()
        report.TransactionUID = asked.TransactionUID
        report.ReferencedSOPSequence, report.FailedSOPSequence = [], []
        for item in asked.ReferencedSOPSequence:
            reason = self.failing.get(item.ReferencedSOPInstanceUID)
            if reason is None:
                report.ReferencedSOPSequence.append(item)
            else:
                item.FailureReason = reason
                report.FailedSOPSequence.append(item)
        return report

    def report_on_a_new_association(self, port: int) -> int:
        contexts = [build_context(PUSH, [ExplicitVRLittleEndian])]
        role = build_role(PUSH, scu_role=False, scp_role=True)
        association = AE("ARCHIVE").associate("127.0.0.1", port, contexts, ext_neg=[role])
        answer, _ = association.send_n_event_report(self.report(), 1, PUSH, PUSH_INSTANCE)
        association.release()
        return int(answer.Status)


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    keeper = Keeper()
    yield keeper
    keeper.stop()


class Office:
    """Delivered outputs of an instance each, and what asks for their commitment."""

    def __init__(self, sessions: Sessions, outbox: Outbox, outcomes: Any, folder: ReportFolder, **changes: Any) -> None:
        self.sessions = sessions
        self.settings = _settings(**changes)
        self.records = CommitmentRecords(sessions, self.settings)
        self.metrics = DeliveryMetrics(CollectorRegistry())
        self.folder = folder
        self._outbox = outbox
        self._outcomes = outcomes
        self._never = threading.Event()

    def settle(self, *uids: str, to: tuple[str, ...] = ("archive",)) -> None:
        destinations = [Destination(name=name, host="h", port=1, ae_title="A") for name in to]
        done = [self._outcomes.done(f"{uid}.9", output_uid=uid) for uid in uids]
        Settlement(self.sessions, "keep_first", destinations).settle(done)

    def deliver(self, name: str = "archive", asks: bool = True) -> None:
        queue = DestinationQueue(
            Arrived(name), self.sessions, self._outbox, self.settings, self.metrics, asks_commitment=asks
        )
        queue._turn(self._never)

    def queue(self, port: int) -> CommitmentQueue:
        to = Destination(name="archive", host="127.0.0.1", port=port, ae_title="ARCHIVE", commitment=True)
        asker = Asker(to, "RADSTREAM", self.settings)
        return CommitmentQueue(asker, self.records, self.folder.put, self.settings, self.metrics)

    def ask(self, port: int) -> bool:
        return self.queue(port).turn(self._never)

    def record(self) -> None:
        ReportRecorder(self.folder, self.records, self.metrics).turn()

    def rows(self) -> dict[str, Delivery]:
        statement = select(Output.sop_instance_uid, Delivery).join(Output, Output.id == Delivery.output_id)
        with self.sessions() as session:
            return {uid: row for uid, row in session.execute(statement.order_by(Delivery.id))}

    def instance(self, uid: str) -> Instance:
        with self.sessions() as session:
            return session.scalars(select(Instance).where(Instance.sop_instance_uid == uid)).one()

    def make_due(self, **values: Any) -> None:
        past = utc_now() - timedelta(seconds=1)
        with self.sessions.begin() as session:
            session.execute(
                update(Delivery).where(Delivery.commitment_due_at.is_not(None)).values(commitment_due_at=past, **values)
            )

    def count(self, outcome: str) -> float:
        return float(self.metrics.commitments.labels(destination="archive", outcome=outcome)._value.get())


@pytest.fixture
def folder(tmp_path: Path) -> ReportFolder:
    folder = ReportFolder(tmp_path / "spool")
    folder.prepare()
    return folder


@pytest.fixture
def open_office(
    outbox: Outbox, outcomes: Any, folder: ReportFolder, sqlite_sessions: Sessions
) -> Callable[..., Office]:
    return lambda **changes: Office(sqlite_sessions, outbox, outcomes, folder, **changes)


def test_the_report_on_the_same_association_commits_every_output(
    keeper: Keeper, open_office: Callable[..., Office], eventually: Any
) -> None:
    office = open_office()
    office.settle("2.25.1", "2.25.2")
    office.deliver()
    assert office.ask(keeper.port)
    (asked,) = keeper.requests
    named = {(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in asked.ReferencedSOPSequence}
    assert named == {(SECONDARY_CAPTURE, "2.25.1"), (SECONDARY_CAPTURE, "2.25.2")}
    eventually(lambda: keeper.answers == [0x0000])
    office.record()
    for row in office.rows().values():
        assert row.state is DeliveryState.DELIVERED
        assert row.committed_at is not None
        assert (row.commitment_due_at, row.commitment_attempts, row.reason) == (None, 1, None)
    assert office.instance("2.25.1.9").committed_at is not None
    assert (office.count("asked"), office.count("committed")) == (2, 2)
    assert not office.ask(keeper.port)  # nothing is left to ask for
    assert list(office.folder.waiting()) == []


def test_the_report_on_a_new_association_counts_as_well_and_is_durable_before_it_is_answered(
    keeper: Keeper, open_office: Callable[..., Office]
) -> None:
    office = open_office(commitment_wait_s=0)
    keeper.reports_at_once = False
    office.settle("2.25.1")
    office.deliver()
    assert office.ask(keeper.port)
    port = free_port()
    listener = ReportListener("RADSTREAM", "127.0.0.1", port, office.folder.put)
    listener.start()
    assert keeper.report_on_a_new_association(port) == 0x0000
    listener.stop()
    assert office.rows()["2.25.1"].committed_at is None
    # Another process, after a restart of this one, finds it.
    office.record()
    assert office.rows()["2.25.1"].committed_at is not None


def test_what_is_not_kept_is_sent_again_and_given_up_after_so_many_times(
    keeper: Keeper, open_office: Callable[..., Office], eventually: Any
) -> None:
    office = open_office(commitment_max_failures=2)
    office.settle("2.25.1", "2.25.2")
    office.deliver()
    keeper.failing = {"2.25.2": NO_SUCH_INSTANCE}
    assert office.ask(keeper.port)
    eventually(lambda: list(office.folder.waiting()))
    office.record()
    rows = office.rows()
    assert rows["2.25.1"].committed_at is not None
    again = rows["2.25.2"]
    assert (again.state, again.reason) == (DeliveryState.PENDING, Reason.COMMITMENT_FAILED.value)
    assert (again.last_status, again.delivered_at, again.commitment_failures) == (NO_SUCH_INSTANCE, None, 1)
    assert office.instance("2.25.2.9").committed_at is None

    eventually(lambda: (office.deliver(), office.rows()["2.25.2"].state is DeliveryState.DELIVERED)[1])
    assert office.ask(keeper.port)
    eventually(lambda: list(office.folder.waiting()))
    office.record()
    dead = office.rows()["2.25.2"]
    assert (dead.state, dead.reason, dead.commitment_due_at) == (DeliveryState.DEAD, "commitment_failed", None)
    assert (office.count("sent_again"), office.count("dead")) == (1, 1)

    # A person who repaired the archive sends it once more, from the beginning.
    commands.redeliver(office.sessions, study=None, instance=None, destination=None, all_dead=True)
    office.deliver()
    keeper.failing = {}
    assert office.ask(keeper.port)
    eventually(lambda: list(office.folder.waiting()))
    office.record()
    row = office.rows()["2.25.2"]
    assert (row.state, row.commitment_failures) == (DeliveryState.DELIVERED, 0)
    assert row.committed_at is not None


def test_a_request_that_is_refused_or_finds_nobody_is_put_off(
    keeper: Keeper, archive: Any, open_office: Callable[..., Office]
) -> None:
    office = open_office(delivery_first_retry_s=60, delivery_longest_retry_s=600)
    office.settle("2.25.1")
    office.deliver()
    keeper.status = 0x0213
    for port, reason in (
        (keeper.port, Reason.COMMITMENT_REFUSED),
        (archive.port, Reason.COMMITMENT_REFUSED),  # it knows nothing of the service
        (free_port(), Reason.DESTINATION_UNREACHABLE),
    ):
        office.make_due()
        assert not office.ask(port)
        row = office.rows()["2.25.1"]
        assert (row.state, row.reason) == (DeliveryState.DELIVERED, reason.value)
        assert row.commitment_due_at is not None
        assert 40 < (row.commitment_due_at - utc_now()).total_seconds() < 80
        assert not office.ask(port)  # not yet due
    assert office.count("retry") == 3
    assert office.rows()["2.25.1"].commitment_attempts == 3


def test_without_a_report_it_is_asked_again_and_in_the_end_dead_for_all_to_see(
    keeper: Keeper, open_office: Callable[..., Office]
) -> None:
    office = open_office(commitment_wait_s=0, commitment_timeout_s=3600)
    keeper.reports_at_once = False
    office.settle("2.25.1")
    office.deliver()
    assert office.ask(keeper.port)
    first = office.rows()["2.25.1"]
    assert first.commitment_due_at is not None
    assert 3500 < (first.commitment_due_at - utc_now()).total_seconds() <= 3600
    office.make_due()
    assert office.ask(keeper.port)
    assert len({request.TransactionUID for request in keeper.requests}) == 2
    office.make_due(delivered_at=utc_now() - timedelta(days=4))
    assert not office.ask(keeper.port)
    row = office.rows()["2.25.1"]
    assert (row.state, row.reason, row.commitment_due_at) == (DeliveryState.DEAD, "commitment_timeout", None)


def test_a_late_report_commits_but_does_not_send_again(open_office: Callable[..., Office]) -> None:
    office = open_office()
    office.settle("2.25.1", "2.25.2")
    office.deliver()
    first = office.records.claim("archive")
    office.make_due()
    second = office.records.claim("archive")
    assert first is not None
    assert second is not None
    late = CommitmentReport(first.transaction_uid, ("2.25.1",), (("2.25.2", NO_SUCH_INSTANCE),))
    assert office.records.record(late) == Recorded("archive", committed=1)
    assert office.records.record(late) == Recorded("archive")
    assert office.rows()["2.25.2"].state is DeliveryState.DELIVERED
    assert office.records.record(CommitmentReport("2.25.404", ("2.25.2",))) == Recorded()
    assert office.rows()["2.25.2"].committed_at is None


def test_an_instance_is_committed_when_all_that_was_asked_for_is(
    sessions: Sessions, outbox: Outbox, outcomes: Any, folder: ReportFolder
) -> None:
    office = Office(sessions, outbox, outcomes, folder)
    office.settle("2.25.1", to=("archive", "viewer"))
    office.deliver()
    asked = office.records.claim("archive")
    assert asked is not None
    assert asked.references == ((SECONDARY_CAPTURE, "2.25.1"),)
    assert office.records.claim("archive") is None
    office.records.record(CommitmentReport(asked.transaction_uid, ("2.25.1",)))
    assert office.instance("2.25.1.9").committed_at is None  # the viewer, which is not asked, has it not yet
    office.deliver("viewer", asks=False)
    assert office.instance("2.25.1.9").committed_at is not None
    with sessions() as session:
        (request,) = session.scalars(select(CommitmentRequest))
    assert (request.destination, request.transaction_uid) == ("archive", asked.transaction_uid)
    assert request.answered_at is not None


def test_what_may_have_to_be_sent_again_stays_in_the_outbox(
    open_office: Callable[..., Office], outbox: Outbox, put_output: Callable[[str], Path]
) -> None:
    office = open_office(commitment_group_s=3600)
    path = put_output("2.25.1")
    office.settle("2.25.1")
    office.deliver()
    with office.sessions.begin() as session:
        session.execute(update(Delivery).values(delivered_at=utc_now() - timedelta(days=30)))
    assert clean_outbox(office.sessions, outbox, keep_days=-1) == 0
    assert path.exists()


def test_reports_that_are_none_are_refused_and_unreadable_files_are_removed(
    folder: ReportFolder, tmp_path: Path
) -> None:
    for wrong in (Dataset(), _report(TransactionUID="")):
        with pytest.raises(ValueError, match="report"):
            report_from(wrong)
    empty = _report(TransactionUID="1.2", ReferencedSOPSequence=[Dataset()])
    with pytest.raises(ValueError, match="report"):
        report_from(empty)
    (tmp_path / "spool" / "commitment_reports" / "x.json").write_text("{}")
    ((name, report),) = folder.waiting()
    assert report is None
    assert name == "x.json"


def _report(**attributes: object) -> Dataset:
    dataset = Dataset()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def test_a_port_that_is_taken_is_a_mistake_of_the_settings(archive: Any, folder: ReportFolder) -> None:
    with pytest.raises(ConfigurationError, match="RADSTREAM_WORKER_COMMITMENT_PORT"):
        ReportListener("RADSTREAM", "127.0.0.1", archive.port, folder.put)


def test_a_report_that_cannot_be_kept_is_not_answered_with_success(keeper: Keeper, eventually: Any) -> None:
    def fail(report: CommitmentReport) -> None:
        raise OSError(28, "No space left on device")

    to = Destination(name="archive", host="127.0.0.1", port=keeper.port, ae_title="ARCHIVE")
    asked = Asked("2.25.5", ((SECONDARY_CAPTURE, "2.25.1"),))
    assert Asker(to, "RADSTREAM", _settings()).ask(asked, fail, threading.Event()) == AskResult(0x0000)
    eventually(lambda: keeper.answers == [0x0110])
