"""When a study is summarised: after a quiet time, once, by whoever comes first, and again when something comes late."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from prometheus_client import CollectorRegistry
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker
from stand_in_records import NOON
from still_feed import StillFeed

from models.errors import Reason, Skipped, Unprocessable
from models.records.base import utc_now
from models.records.dicom import Instance
from models.records.outputs import Delivery, DeliveryState, Output, OutputKind
from models.records.summaries import StudySummary, SummaryState
from models.settings import PatientIdentity
from models.spool import Spool
from worker import commands, summary_queue
from worker.disagreements import Disagreement
from worker.mending import Mender
from worker.metrics import DeliveryMetrics
from worker.outbox import Outbox
from worker.output_reconciliation import OutputReconciliation
from worker.settings import Destination, Recipient, WorkerSettings
from worker.settlement import Settlement, forget_outcome
from worker.study_summary import read_study
from worker.summary_queue import SummaryQueue
from worker.summary_source import SummarySource
from worker.trace import Tracer
from worker.trace_verdict import judge, judge_summary

Sessions = sessionmaker[Session]

PACS = Recipient(name="pacs", outputs=(OutputKind.STUDY_SUMMARY,))
OTHER = Recipient(name="other")
QUIET_S = 120.0
DUE, MADE, SKIPPED = SummaryState.DUE, SummaryState.MADE, SummaryState.SKIPPED


class Feed:
    """Settles instances of the study `1.2.1000` and summarises it; time passes by moving what is recorded back."""

    def __init__(self, sessions: Sessions, root: Path, outcomes: Any) -> None:
        self.sessions, self.outcomes = sessions, outcomes
        self.outbox, self.spool = Outbox(root / "outbox"), Spool(root / "spool", archives=True)
        self.outbox.prepare()
        self.spool.prepare()
        self.metrics = DeliveryMetrics(CollectorRegistry())

    def settle(self, uid: str = "1.2.1", refusal: Unprocessable | None = None, **options: Any) -> None:
        """Settle an instance; its output lies in the outbox unless `kept` says that it does not."""
        recipients, kept = options.pop("recipients", (PACS, OTHER)), options.pop("kept", True)
        mode = options.pop("mode", PatientIdentity.FULL)
        request = {name: options.pop(name) for name in ("content", "received_at") if name in options}
        output = uid.replace("1.", "2.25.", 1)
        facts = self.outcomes.facts(uid, mode, **options)
        if refusal is None:
            outcome = self.outcomes.done(uid, output_uid=output, facts=facts, **request)
            if kept:
                self.put_output(output, self.outcomes.make_source(uid, **options))
        else:
            outcome = self.outcomes.refused(refusal, uid, facts)
        Settlement(self.sessions, "replace", recipients).settle([outcome])

    def put_output(self, uid: str, source: Dataset) -> None:
        source.SOPInstanceUID = uid
        source.save_as(self.outbox.path_of(f"{uid}.dcm"), enforce_file_format=True)

    def queue(self, identity: PatientIdentity = PatientIdentity.FULL, **changes: Any) -> SummaryQueue:
        settings = WorkerSettings(**{"study_quiet_s": QUIET_S, "study_longest_wait_s": 3600, **changes})
        source = SummarySource(self.outbox, self.spool, identity)
        return SummaryQueue(self.sessions, source, (PACS, OTHER), settings, self.metrics)

    def turn(self, after_s: float = 0, identity: PatientIdentity = PatientIdentity.FULL) -> int:
        """Let seconds pass, and then a new process look for what is due."""
        self.pass_time(after_s)
        return self.queue(identity).turn(threading.Event())

    def pass_time(self, seconds: float) -> None:
        by = timedelta(seconds=seconds)
        with self.sessions.begin() as session:
            for row in session.scalars(select(StudySummary)):
                row.changed_at, row.waiting_since = row.changed_at - by, row.waiting_since - by
                row.next_attempt_at -= by

    def note(self) -> StudySummary:
        with self.sessions() as session:
            return session.scalars(select(StudySummary)).one()

    def made(self) -> list[Output]:
        with self.sessions() as session:
            chosen = select(Output).where(Output.kind == OutputKind.STUDY_SUMMARY).order_by(Output.id)
            return list(session.scalars(chosen))

    def datasets(self) -> list[Dataset]:
        return [pydicom.dcmread(self.outbox.path_of(each.file_name)) for each in self.made()]

    def count(self, outcome: str) -> float:
        value = self.metrics.summaries.labels(outcome=outcome)._value.get()
        return float(value)


@pytest.fixture
def feed(sqlite_sessions: Sessions, tmp_path: Path, outcomes: Any) -> Feed:
    return Feed(sqlite_sessions, tmp_path, outcomes)


@pytest.fixture
def feeds(sessions: Sessions, tmp_path: Path, outcomes: Any) -> Feed:
    """On both databases."""
    return Feed(sessions, tmp_path, outcomes)


# When it is due


def test_a_study_is_summarised_once_it_was_quiet_and_once_only(feeds: Feed) -> None:
    feeds.settle("1.2.1")
    feeds.settle("1.2.2")
    assert feeds.turn(QUIET_S - 10) == 0
    assert feeds.made() == []
    assert feeds.turn(11) == 1
    (output,) = feeds.made()
    assert feeds.note().state is MADE
    assert feeds.turn(10 * QUIET_S) == 0
    assert feeds.made()[0].id == output.id
    assert (feeds.count("made"), feeds.note().attempts) == (1, 0)


def test_it_goes_to_the_destinations_that_want_it_and_to_no_other(feed: Feed) -> None:
    feed.settle()
    feed.turn(QUIET_S)
    (output,) = feed.made()
    with feed.sessions() as session:
        deliveries = session.scalars(select(Delivery).where(Delivery.output_id == output.id)).all()
    assert [(each.destination, each.state) for each in deliveries] == [("pacs", DeliveryState.PENDING)]
    assert (output.instance_id, output.model_version_id) == (None, None)


def test_studies_settled_while_nobody_wanted_summaries_get_none(feed: Feed) -> None:
    feed.settle(recipients=(OTHER,))
    assert feed.turn(QUIET_S) == 0
    with feed.sessions() as session:
        assert session.scalars(select(StudySummary)).all() == []


def test_our_own_outputs_that_come_back_make_no_summary_due(feed: Feed) -> None:
    feed.settle("1.2.1")
    feed.turn(QUIET_S)
    feed.settle("1.2.2", Skipped(Reason.OWN_OUTPUT))
    assert feed.note().state is MADE
    assert feed.turn(QUIET_S) == 0


def test_an_instance_that_waits_again_is_waited_for(feed: Feed) -> None:
    feed.settle("1.2.1")
    feed.settle("1.2.2")
    _forget(feed, "1.2.2")
    assert feed.turn(QUIET_S) == 0
    assert feed.made() == []
    feed.settle("1.2.2")
    assert feed.turn(QUIET_S) == 1
    assert feed.datasets()[0].CompletionFlag == "COMPLETE"


def test_an_instance_of_unknown_study_is_waited_for_if_it_may_be_of_this_one(feeds: Feed) -> None:
    feeds.settle("1.2.1")
    with feeds.sessions.begin() as session:
        settled = session.scalars(select(Instance)).one()
        waiting = _waiting_like(settled)
        session.add(waiting)
    assert feeds.turn(QUIET_S) == 0, "the same sender, the same time"
    for change in (
        {"calling_ae_title": "ELSEWHERE", "received_at": settled.received_at},
        {"calling_ae_title": settled.calling_ae_title, "received_at": settled.received_at + timedelta(seconds=121)},
        {"calling_ae_title": settled.calling_ae_title, "received_at": settled.received_at - timedelta(seconds=121)},
    ):
        with feeds.sessions.begin() as session:
            session.execute(update(Instance).where(Instance.series_id.is_(None)).values(**change))
            session.execute(update(StudySummary).values(state=DUE, changes=StudySummary.changes + 1))
        assert feeds.turn(QUIET_S) == 1, change


def test_no_study_waits_for_ever(feed: Feed) -> None:
    feed.settle("1.2.1")
    feed.settle("1.2.2")
    _forget(feed, "1.2.2")
    assert feed.turn(3590) == 0
    assert feed.turn(60) == 1
    (told,) = feed.datasets()
    assert told.CompletionFlag == "PARTIAL"


def test_a_study_to_which_something_always_comes_is_summarised_after_the_longest_wait(feed: Feed) -> None:
    turns = []
    for number in range(37):
        feed.settle(f"1.2.{number}", kept=number == 0)
        turns.append(feed.turn(100))
    assert turns == [0] * 35 + [1, 0]


def test_one_study_that_fails_does_not_stop_the_others(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(summary_queue.CLAIM_SIZE + 2):
        feed.settle(f"1.{number + 2}.1")
    whole = SummaryQueue._make

    def make(self: SummaryQueue, task: Any) -> Any:
        if task.study.study_instance_uid.startswith(("1.2.", "1.3.")):
            raise OSError(28, "No space left on device")
        return whole(self, task)

    monkeypatch.setattr(SummaryQueue, "_make", make)
    feed.turn(QUIET_S)
    feed.turn()
    assert len(feed.made()) == summary_queue.CLAIM_SIZE
    with feed.sessions() as session:
        late = session.scalars(select(StudySummary).where(StudySummary.state == DUE)).all()
    assert [(each.attempts, each.reason) for each in late] == [(1, "out_of_space")] * 2
    assert feed.count("failed") == 2
    monkeypatch.undo()
    feed.turn(60)
    assert len(feed.made()) == summary_queue.CLAIM_SIZE + 2


# Again, and together


def test_what_comes_late_makes_another_object_of_the_series_that_names_the_one_before(feed: Feed) -> None:
    feed.settle("1.2.1")
    feed.turn(QUIET_S)
    feed.settle("1.2.2")
    assert feed.note().state is DUE
    feed.turn(QUIET_S)
    for _ in range(2):  # the first time it is only registered
        feed.settle("1.2.1", content=b"other pixels", received_at=2e9)
    feed.turn(QUIET_S)
    first, second, third = feed.datasets()
    assert len({each.SOPInstanceUID for each in (first, second, third)}) == 3
    assert first.SeriesInstanceUID == second.SeriesInstanceUID == third.SeriesInstanceUID
    assert "PredecessorDocumentsSequence" not in first
    assert _predecessors(second) == [first.SOPInstanceUID]
    assert _predecessors(third) == [second.SOPInstanceUID]
    assert [each.InstanceNumber for each in (first, second, third)] == [1, 2, 3]


def test_made_again_of_the_same_it_is_the_same_object_with_the_same_predecessor(feed: Feed) -> None:
    feed.settle("1.2.1")
    feed.turn(QUIET_S)
    feed.settle("1.2.2")
    feed.turn(QUIET_S)
    before = feed.datasets()
    for each in feed.made():
        feed.outbox.discard(each.file_name)
    with feed.sessions.begin() as session:
        session.execute(update(StudySummary).values(state=DUE))
    assert feed.turn(QUIET_S) == 1
    assert feed.count("known") == 1
    assert len(feed.made()) == 2
    again = pydicom.dcmread(feed.outbox.path_of(feed.made()[1].file_name))
    assert (again.SOPInstanceUID, again.InstanceNumber) == (before[1].SOPInstanceUID, 2)
    assert _predecessors(again) == _predecessors(before[1])
    assert again.ContentSequence == before[1].ContentSequence


def test_two_processes_never_claim_one_study(feeds: Feed) -> None:
    for number in range(6):
        feeds.settle(f"1.{number + 2}.1")
    feeds.pass_time(QUIET_S)
    start = threading.Barrier(2)

    def work() -> int:
        queue = feeds.queue()
        start.wait(10)
        return queue.turn(threading.Event())

    with ThreadPoolExecutor(2) as pool:
        done = [future.result() for future in [pool.submit(work) for _ in range(2)]]
    assert sum(done) == 6
    assert len(feeds.made()) == 6
    assert (feeds.count("made"), feeds.count("known")) == (6, 0)


def test_two_processes_that_make_one_summary_write_it_once(feeds: Feed) -> None:
    feeds.settle()
    feeds.pass_time(QUIET_S)
    one, two = feeds.queue(), feeds.queue()
    (study_id,) = one._claim()
    assert list(two._claim()) == []
    feeds.pass_time(summary_queue.LEASE.total_seconds())  # the first takes too long
    assert list(two._claim()) == [study_id]
    start = threading.Barrier(2)

    def work(queue: SummaryQueue) -> bool:
        start.wait(10)
        return queue._work_on(study_id)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work, queue) for queue in (one, two)]:
            assert future.result()
    (output,) = feeds.made()
    with feeds.sessions() as session:
        assert len(session.scalars(select(Delivery).where(Delivery.output_id == output.id)).all()) == 1
    assert feeds.count("made") == 1


def test_what_is_settled_while_a_summary_is_made_overtakes_it(feed: Feed) -> None:
    feed.settle("1.2.1")
    feed.pass_time(QUIET_S)
    queue = feed.queue()
    (study_id,) = queue._claim()
    task = queue._read(study_id)
    assert task is not None
    written = queue._make(task)
    feed.settle("1.2.2")
    assert queue._finish(task, written) == "overtaken"
    assert feed.made() == []
    assert feed.note().state is DUE
    feed.turn(QUIET_S)
    (told,) = feed.datasets()
    assert told.SOPInstanceUID != written.sop_instance_uid


def test_whatever_workers_and_deliverers_do_at_once_the_last_summary_tells_of_every_instance(feeds: Feed) -> None:
    stopping = threading.Event()
    studies = ("1.2.1000", "1.3.1000", "1.4.1000")

    def settle(worker: int, batches: Sequence[int] = range(1, 4)) -> None:
        settlement = Settlement(feeds.sessions, "keep_first", [PACS])
        for batch in batches:
            # The same studies for all, in another order for each.
            order = studies[worker:] + studies[:worker]
            uids = {f"1.9.{worker}.{batch}.{place}": study for place, study in enumerate(order)}
            settlement.settle(
                [
                    feeds.outcomes.done(
                        uid,
                        facts=feeds.outcomes.facts(uid, StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1"),
                    )
                    for uid, study in uids.items()
                ]
            )

    def summarise() -> None:
        queue = feeds.queue(study_quiet_s=0)
        while not stopping.is_set():
            if not queue.turn(stopping):
                stopping.wait(0.01)

    settle(0, [0])  # from here on the studies are known
    with ThreadPoolExecutor(5) as pool:
        makers = [pool.submit(summarise) for _ in range(2)]
        try:
            for done in [pool.submit(settle, worker) for worker in range(3)]:
                done.result(60)
        finally:
            stopping.set()
        for made in makers:
            made.result()
    while feeds.turn(QUIET_S):
        pass
    newest = {each.StudyInstanceUID: each for each in feeds.datasets()}
    assert sorted(newest) == sorted(studies)
    for each in newest.values():
        (evidence,) = each.CurrentRequestedProcedureEvidenceSequence
        assert sum(len(series.ReferencedSOPSequence) for series in evidence.ReferencedSeriesSequence) == 10
    assert feeds.count("failed") == 0


# Where the patient comes from


def test_the_patient_is_copied_from_an_output_of_the_study_as_bytes(feed: Feed) -> None:
    attributes = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "王^小東", "IssuerOfPatientID": "CLINIC"}
    feed.settle(mode=PatientIdentity.NONE, **attributes)
    feed.turn(QUIET_S, identity=PatientIdentity.NONE)
    (told,) = feed.datasets()
    assert (told.PatientName, told.PatientID, told.IssuerOfPatientID) == ("王^小東", "ID7", "CLINIC")
    assert (told.AccessionNumber, told.StudyTime, told.SpecificCharacterSet) == ("ACC1", "120000", "ISO_IR 192")


@pytest.fixture
def archived(feed: Feed) -> Feed:
    """No output is kept, and the source is in the spool's archive."""
    request = feed.outcomes.make_request("1.2.1")
    feed.settle(kept=False, mode=PatientIdentity.NONE)
    directory = feed.spool.root / "archive" / "20260101"
    directory.mkdir(parents=True)
    source = feed.outcomes.make_source("1.2.1", StudyTime="121314")
    source.save_as(directory / f"{request.spool_key}.dcm", enforce_file_format=True)
    return feed


def test_without_outputs_it_is_copied_from_the_archive_of_the_spool(archived: Feed) -> None:
    archived.turn(QUIET_S, identity=PatientIdentity.NONE)
    (told,) = archived.datasets()
    assert (told.PatientID, told.StudyTime) == ("ID7", "121314")


def test_without_any_file_it_is_what_is_recorded_in_full(feed: Feed) -> None:
    feed.settle(kept=False, SpecificCharacterSet="ISO_IR 192", PatientName="王^小東", IssuerOfPatientID="CLINIC")
    feed.turn(QUIET_S)
    (told,) = feed.datasets()
    assert (told.PatientName, told.PatientID, told.IssuerOfPatientID) == ("王^小東", "ID7", "CLINIC")
    assert (told.PatientBirthDate, told.PatientSex, told.StudyDate) == ("19700101", "F", "20260131")
    assert told.SpecificCharacterSet == "ISO_IR 192"
    assert told.StudyTime == ""


@pytest.mark.parametrize(
    ("recorded", "now"),
    [
        (PatientIdentity.PSEUDONYMISED, PatientIdentity.PSEUDONYMISED),
        (PatientIdentity.NONE, PatientIdentity.NONE),
        (PatientIdentity.PSEUDONYMISED, PatientIdentity.FULL),  # a hash would become an identifier
        (PatientIdentity.FULL, PatientIdentity.PSEUDONYMISED),
    ],
)
def test_without_any_file_and_patient_there_is_none_and_the_reason_is_recorded(
    feed: Feed, recorded: PatientIdentity, now: PatientIdentity
) -> None:
    feed.settle(kept=False, mode=recorded)
    assert feed.turn(QUIET_S, identity=now) == 1
    assert feed.made() == []
    assert (feed.note().state, feed.note().reason) == (SKIPPED, "source_not_kept")
    assert feed.count("skipped") == 1
    feed.settle("1.2.2", mode=recorded)
    feed.turn(QUIET_S, identity=now)
    assert len(feed.made()) == 1, "what came late is copied from"


def test_a_file_of_another_study_is_never_copied_from(feed: Feed) -> None:
    feed.settle(mode=PatientIdentity.NONE)
    feed.put_output("2.25.2.1", feed.outcomes.make_source("1.3.1", PatientID="SOMEBODY ELSE"))
    feed.turn(QUIET_S, identity=PatientIdentity.NONE)
    assert feed.note().state is SKIPPED


def test_a_trend_is_told_where_the_patient_is_known_by_a_hash_and_not_where_it_is_not(feed: Feed) -> None:
    for mode, patient in ((PatientIdentity.PSEUDONYMISED, "ID8"), (PatientIdentity.NONE, "ID9")):
        for number, day in ((1, "20250101"), (2, "20260101")):
            uid = f"1.{patient[2]}{number}.1"
            facts = feed.outcomes.facts(uid, mode, PatientID=patient, StudyDate=day)
            outcome = replace(
                feed.outcomes.done(uid, facts=facts), results=(feed.outcomes.congestion(number, 1, 1, 1, 1, 1),)
            )
            Settlement(feed.sessions, "keep_first", [PACS]).settle([outcome])
    with feed.sessions() as session:
        notes = session.scalars(select(StudySummary).order_by(StudySummary.study_id)).all()
        counts = [len(read_study(session, note.study).trends) for note in notes]
    assert counts == [0, 1, 0, 0]


# Commands


def test_it_is_delivered_again_like_any_output(feed: Feed) -> None:
    feed.settle()
    feed.turn(QUIET_S)
    (output,) = feed.made()
    for chosen in ({"study": "1.2.1000", "instance": None}, {"study": None, "instance": output.sop_instance_uid}):
        rows = commands.redeliver(feed.sessions, **chosen, destination="pacs", all_dead=False)
        assert [row["output"] for row in rows if row["output"] == output.sop_instance_uid] == [output.sop_instance_uid]
    new = Recipient(name="new", outputs=(OutputKind.STUDY_SUMMARY,))
    rows = commands.redeliver(
        feed.sessions, study="1.2.1000", instance=None, destination="new", all_dead=False, new_destinations=[new]
    )
    assert [row["output"] for row in rows] == [output.sop_instance_uid]


def _predecessors(dataset: Dataset) -> list[str]:
    (study,) = dataset.PredecessorDocumentsSequence
    assert study.StudyInstanceUID == dataset.StudyInstanceUID
    (series,) = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == dataset.SeriesInstanceUID
    return [each.ReferencedSOPInstanceUID for each in series.ReferencedSOPSequence]


def _forget(feed: Feed, uid: str) -> None:
    with feed.sessions.begin() as session:
        forget_outcome(session, session.scalars(select(Instance).where(Instance.sop_instance_uid == uid)).one())


def _waiting_like(settled: Instance) -> Instance:
    kept = ("sop_class_uid", "transfer_syntax_uid", "content_sha256", "calling_ae_title", "lane", "received_at")
    return Instance(sop_instance_uid="1.2.99", **{name: getattr(settled, name) for name in kept})


@pytest.fixture
def still_feed(
    tmp_path: Path, sqlite_sessions: Sessions, redis_server: Any, outcomes: Any, put_output: Any
) -> Iterator[StillFeed]:
    feed = StillFeed(tmp_path / "still", sqlite_sessions, redis_server.url, outcomes, put_output)
    feed.recipients = [PACS]
    yield feed
    feed.close()


def test_a_trace_tells_where_the_summary_is(still_feed: StillFeed, feed: Feed) -> None:
    def now(asked: str) -> str:
        trace = Tracer(feed.sessions, still_feed.spool, still_feed.redis, feed.outbox).trace(asked, None)
        pacs = Destination(name="pacs", host="pacs", port=104, ae_title="PACS", outputs=PACS.outputs)
        (instance,) = trace.instances
        assert judge(instance, trace, [pacs], utc_now()).now.endswith("want no outputs but a summary of its study")
        note = trace.summary_notes["1.2.1000"]
        return judge_summary(trace.summaries.get("1.2.1000", ()), note, trace, [pacs], utc_now()).now

    still_feed.done("1.2.1")
    assert now("1.2.1000") == "is made once the study is quiet (RADSTREAM_WORKER_STUDY_QUIET_S)"
    assert feed.turn(QUIET_S, identity=PatientIdentity.NONE) == 1
    assert now("1.2.1000").startswith("cannot be made: source_not_kept; ")
    with feed.sessions.begin() as session:
        session.execute(update(StudySummary).values(state=DUE, attempts=2, reason="out_of_space"))
    assert now("1.2.1000").startswith("could not be made: out_of_space, 2 attempts, next ")
    assert feed.turn(QUIET_S) == 1
    assert now("1.2.1000") == "waits for its first attempt at destination pacs"


def test_a_summary_whose_file_is_gone_is_made_again_by_reconcile(still_feed: StillFeed, feed: Feed) -> None:
    feed.settle()
    feed.turn(QUIET_S)
    (before,) = feed.made()
    feed.outbox.discard(before.file_name)
    found = OutputReconciliation(feed.sessions, feed.outbox, [PACS], NOON, timedelta(0))
    (case,) = [each for each in found.run(lambda _: None) if each.output_id == before.id]
    assert case.disagreement is Disagreement.OUTPUT_FILE_MISSING
    mender = Mender(feed.sessions, still_feed.spool, still_feed.queues, feed.outbox, [PACS], "keep_first")
    assert mender.plan(case).done == "makes the summary of its study again"
    assert mender.mend(case).done == "the summary of its study is about to be made again"
    feed.turn(QUIET_S)
    (after,) = feed.made()
    assert after.sop_instance_uid == before.sop_instance_uid
    assert feed.outbox.path_of(after.file_name).exists()
    assert mender.mend(case).done == "agrees by now"


# The process


def _deliver(feed: Feed, port: int) -> subprocess.Popen[bytes]:
    to = {"name": "pacs", "host": "127.0.0.1", "port": port, "ae_title": "ARCHIVE", "outputs": ["study_summary"]}
    environment = {
        "RADSTREAM_DATABASE_URL": str(feed.sessions.kw["bind"].url),
        "RADSTREAM_OUTBOX_DIR": str(feed.outbox.root),
        "RADSTREAM_SPOOL_DIR": str(feed.spool.root),
        "RADSTREAM_WORKER_DESTINATIONS": json.dumps([to]),
        "RADSTREAM_WORKER_STUDY_QUIET_S": "0.2",
        "RADSTREAM_WORKER_DELIVERY_POLL_INTERVAL_S": "0.1",
        "RADSTREAM_WORKER_DELIVERY_TELEMETRY_PORT": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "worker", "deliver"], env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )


def test_the_process_that_delivers_makes_it_and_sends_it_also_after_one_that_was_killed(
    feed: Feed, new_archive: Callable[[], Any], eventually: Callable[..., None]
) -> None:
    feed.settle(recipients=(PACS,))
    with feed.sessions.begin() as session:  # of a process that was killed over it, when its claim runs out
        session.execute(update(StudySummary).values(next_attempt_at=utc_now() + timedelta(seconds=1)))
    archive = new_archive().start(contexts={Comprehensive3DSRStorage: [ExplicitVRLittleEndian]})
    process = _deliver(feed, archive.port)
    try:
        eventually(lambda: archive.uids, timeout_s=60)
        assert archive.uids == [feed.made()[0].sop_instance_uid]
    finally:
        process.terminate()
        assert process.wait(60) == 0
