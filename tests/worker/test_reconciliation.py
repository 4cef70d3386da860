"""Every kind of damage, planted in real spool, ledger, queue, outbox and PACS, is told and mended, and then gone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from archive_scp import Archive
from pydicom.dataset import Dataset
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from sqlalchemy import delete
from sqlalchemy.orm import Session, sessionmaker
from still_feed import SENDER, StillFeed
from structlog.testing import capture_logs

from models.errors import Reason, Skipped, Transient, Unprocessable
from models.records.base import utc_now
from models.records.dicom import Instance, InstanceState
from models.records.outputs import DeliveryState, OutputKind
from models.requests import JOB_NAME, InferenceRequest
from worker import disagreements, output_reconciliation, reconciliation
from worker.__main__ import main
from worker.disagreements import Case, Disagreement
from worker.mending import Mended, Mender
from worker.output_reconciliation import OutputReconciliation
from worker.pacs_query import PacsQuery
from worker.reconciliation import FeedReconciliation
from worker.settings import Destination, Recipient

Sessions = sessionmaker[Session]
PLACED = "1.2.1000"
"""Study of the instances 1.2.x, see `make_source`."""


class Reconciled(StillFeed):
    """A still feed that is looked at."""

    young = timedelta(seconds=-1)
    since = datetime(2020, 1, 1, tzinfo=UTC)
    logs: list[Any]

    def cases(self, pacs: Archive | None = None) -> list[Case]:
        feed = FeedReconciliation(self.sessions, self.spool, self.queues, self.young)
        outputs = OutputReconciliation(self.sessions, self.outbox, self.recipients, self.since, self.young)
        advanced: list[int] = []
        cases = [*feed.run(advanced.append), *outputs.run(advanced.append)]
        self.redis_up = feed.redis_up
        if pacs is not None:
            query = _query(pacs)
            cases += outputs.pacs_side("pacs1", query, advanced.append)
            query.release()
        return cases

    def told(self, pacs: Archive | None = None) -> list[tuple[str, str]]:
        return [(case.disagreement.value, case.subject) for case in self.cases(pacs)]

    def mend(self, pacs: Archive | None = None) -> list[Mended]:
        return [self.mender().mend(case) for case in self.cases(pacs)]

    def mender(self) -> Mender:
        return Mender(self.sessions, self.spool, self.queues, self.outbox, self.recipients, "keep_first")


def _query(pacs: Archive, timeout_s: float = 10) -> PacsQuery:
    return PacsQuery(
        Destination(name="pacs1", host="127.0.0.1", port=pacs.port, ae_title="PACS"), "RADSTREAM", timeout_s
    )


@pytest.fixture
def feed(
    tmp_path: Path, sqlite_sessions: Sessions, redis_server: Any, outcomes: Any, put_output: Any
) -> Iterator[Reconciled]:
    feed = Reconciled(tmp_path, sqlite_sessions, redis_server.url, outcomes, put_output)
    yield feed
    redis_server.start()
    feed.close()


# In good order


def test_a_feed_at_work_agrees(feed: Reconciled) -> None:
    feed.queued("1.2.1")
    feed.take(feed.queued("1.2.2"), "worker")
    feed.done("1.2.3", output="2.25.3")
    feed.done("1.2.4", output="2.25.4")
    feed.deliver("2.25.4")
    skipped, failed = feed.received("1.2.5"), feed.received("1.2.6")
    feed.settle(skipped, Skipped(Reason.NO_RULE_MATCHED))
    feed.spool.finish(skipped.spool_key)
    feed.settle(failed, Unprocessable(Reason.DECODE_TIMEOUT))
    feed.spool.set_aside(failed.spool_key)
    assert feed.told() == []


def test_what_is_young_is_left_to_the_feed(feed: Reconciled) -> None:
    feed.accept("1.2.1")
    lost, left = feed.received("1.2.2"), feed.received("1.2.3")
    feed.spool.finish(lost.spool_key)
    feed.settle(left)
    feed.young = timedelta(seconds=60)
    assert feed.told() == []
    feed.young = timedelta(seconds=-1)
    assert sorted(name for name, _ in feed.told()) == [
        "bytes_lost",
        "not_in_ledger",
        "outputs_missing",
        "spool_file_left",
    ]


# Damage up to the result

Planted = Callable[[Reconciled], InferenceRequest]


def _without_row(feed: Reconciled) -> InferenceRequest:
    request = feed.queued("1.2.1")
    feed.redis.flushall()
    with feed.sessions.begin() as session:
        session.execute(delete(Instance))
    return request


def _redis_flushed(feed: Reconciled) -> InferenceRequest:
    request = feed.queued("1.2.1")
    feed.redis.flushall()
    return request


def _in_no_list(feed: Reconciled) -> InferenceRequest:
    request = feed.queued("1.2.1")
    feed.redis.delete("rq:queue:routine")
    return request


def _set_aside_though_unsettled(feed: Reconciled) -> InferenceRequest:
    request = feed.received("1.2.1")
    feed.spool.set_aside(request.spool_key)
    return request


def _archived_though_unsettled(feed: Reconciled) -> InferenceRequest:
    request = feed.queued("1.2.1")
    feed.spool.finish(request.spool_key, keep=True)
    feed.redis.flushall()
    return request


@pytest.mark.parametrize(
    ("plant", "disagreement"),
    [
        (_without_row, Disagreement.NOT_IN_LEDGER),
        (lambda feed: feed.received("1.2.1"), Disagreement.IN_NO_QUEUE),
        (_redis_flushed, Disagreement.IN_NO_QUEUE),
        (_in_no_list, Disagreement.IN_NO_QUEUE),
        (_set_aside_though_unsettled, Disagreement.NOT_TAKEN_BACK),
        (_archived_though_unsettled, Disagreement.NOT_TAKEN_BACK),
    ],
)
def test_what_no_worker_would_get_is_told_and_queued(
    feed: Reconciled, plant: Planted, disagreement: Disagreement
) -> None:
    request = plant(feed)
    (case,) = feed.cases()
    assert (case.disagreement, case.subject) == (disagreement, "1.2.1")
    assert feed.mender().plan(case).left is None
    assert feed.told() == [(disagreement.value, "1.2.1")], "looking changes nothing"
    assert feed.mender().mend(case) == Mended(done="queued in routine")
    assert feed.told() == []
    assert feed.job_ids() == [request.job_id]
    assert feed.row("1.2.1").state is InstanceState.QUEUED
    assert request.spool_key in feed.spool
    assert feed.mender().mend(case).done in {"agrees by now", "queued in routine"}, "twice does no harm"
    assert feed.job_ids() == [request.job_id]


def test_lost_bytes_are_told_with_study_and_sender_and_only_the_sender_mends_them(feed: Reconciled) -> None:
    request = feed.queued("1.2.1")
    feed.settle(request, Unprocessable(Reason.DECODE_TIMEOUT))
    feed.change("1.2.1", state=InstanceState.RECEIVED, settled_at=None)
    feed.spool.finish(request.spool_key)
    (case,) = feed.cases()
    assert (case.disagreement, case.sender, case.study_instance_uid) == (Disagreement.BYTES_LOST, SENDER, PLACED)
    for _ in range(2):
        assert feed.mend() == [Mended(left=f"have {SENDER} send study {PLACED} again")]
    feed.accept("1.2.1")
    feed.enqueue(request)
    assert feed.told() == []


@pytest.mark.parametrize(
    ("refusal", "kept_in"),
    [(None, "archive"), (Skipped(Reason.NO_RULE_MATCHED), None), (Unprocessable(Reason.NO_PIXEL_DATA), "set_aside")],
)
def test_a_settled_file_that_is_still_pending_ends_as_the_worker_ends_it(
    feed: Reconciled, refusal: Any, kept_in: str | None
) -> None:
    feed.recipients = []
    request = feed.received("1.2.1")
    feed.settle(request, refusal)
    assert feed.told() == [("spool_file_left", "1.2.1")]
    feed.mend()
    assert feed.told() == []
    files = [path.relative_to(feed.spool.root).parts[0] for path in feed.spool.root.rglob("*.dcm")]
    assert files == ([kept_in] if kept_in else [])


def test_other_bytes_under_a_known_uid_are_told_and_not_analysed(feed: Reconciled) -> None:
    feed.recipients = []
    feed.done("1.2.1")
    feed.accept("1.2.1", ViewPosition="AP")
    (case,) = feed.cases()
    assert (case.disagreement, case.detail) == (
        Disagreement.NOT_IN_LEDGER,
        "the ledger knows other bytes under this UID",
    )
    assert feed.mend() == [Mended(done="file finished: conflict_kept")]
    assert feed.told() == []


def test_a_file_that_the_scp_did_not_write_is_for_a_person(feed: Reconciled) -> None:
    path = feed.spool.path_of(f"1.2.1_{'0' * 16}")
    path.write_bytes(b"something else")
    assert feed.told() == [("not_in_ledger", "1.2.1")]
    (mended,) = feed.mend()
    assert mended.left is not None
    assert feed.told() == [("unreadable", "1.2.1")]
    assert feed.mend()[0].left is not None


def test_a_job_without_instance_is_removed_and_one_that_is_not_ours_is_left(
    feed: Reconciled, make_request: Any
) -> None:
    queue = Queue("routine", connection=feed.redis, serializer=JSONSerializer)
    ghost = make_request("1.9.9")
    queue.enqueue(JOB_NAME, ghost.to_payload(), job_id=ghost.job_id)
    queue.enqueue("somebody.elses", job_id="somebody")
    assert feed.told() == [("job_without_instance", "1.9.9"), ("job_without_instance", "somebody")]
    done, left = feed.mend()
    assert done == Mended(done="job removed")
    assert left.left is not None
    assert feed.job_ids() == ["somebody"]
    assert not Job.exists(ghost.job_id, connection=feed.redis)


def test_a_job_that_a_worker_is_just_taking_is_no_disagreement(feed: Reconciled, monkeypatch: Any) -> None:
    request = feed.queued("1.2.1")
    listed = feed.queues.listed

    def taken_meanwhile() -> set[str]:
        feed.take(request, "worker")
        return listed()

    monkeypatch.setattr(feed.queues, "listed", taken_meanwhile)
    assert feed.told() == []


def test_an_instance_that_is_settled_while_it_is_looked_at_is_no_disagreement(
    feed: Reconciled, monkeypatch: Any
) -> None:
    feed.recipients = []
    request = feed.received("1.2.1")
    states = feed.queues.states

    def settled_meanwhile(job_ids: Any) -> Any:
        feed.settle(request)
        feed.spool.finish(request.spool_key)
        return states(job_ids)

    monkeypatch.setattr(feed.queues, "states", settled_meanwhile)
    assert feed.told() == []


def test_without_redis_the_rest_is_told(feed: Reconciled, redis_server: Any) -> None:
    feed.received("1.2.1")
    request = feed.received("1.2.2")
    feed.spool.finish(request.spool_key)
    unregistered = feed.accept("1.2.3")
    redis_server.stop()
    assert feed.told() == [("not_in_ledger", "1.2.3"), ("bytes_lost", "1.2.2")]
    assert not feed.redis_up
    case = Case(Disagreement.NOT_IN_LEDGER, "1.2.3", unregistered.spool_key)
    assert feed.mender().mend(case) == Mended(left="see that Redis runs, then run this again")
    assert feed.row("1.2.3").state is InstanceState.RECEIVED


# Damage from the result on


def test_outputs_that_were_not_made_are_made_again_from_the_archive(feed: Reconciled) -> None:
    request = feed.done("1.2.1")
    (case,) = feed.cases()
    assert (case.disagreement, case.subject) == (Disagreement.OUTPUTS_MISSING, "1.2.1")
    assert case.detail == "pneumonia secondary_capture"
    assert feed.mend() == [Mended(done="to be inferred again, queued in routine")]
    assert (feed.row("1.2.1").state, feed.job_ids()) == (InstanceState.QUEUED, [request.job_id])
    assert request.spool_key in feed.spool
    assert feed.told() == []
    feed.settle(request, output="2.25.1")
    assert feed.deliveries() == [("2.25.1", "pacs1", "pending")]


def test_outputs_without_kept_bytes_are_for_a_person(feed: Reconciled) -> None:
    request = feed.received("1.2.1")
    feed.settle(request)
    feed.spool.finish(request.spool_key)
    (mended,) = feed.mend()
    assert "RADSTREAM_SPOOL_ARCHIVE_DAYS" in str(mended.left)
    assert feed.row("1.2.1").state is InstanceState.DONE, "findings are not given up for an output"


def test_each_wanted_kind_is_looked_for(feed: Reconciled) -> None:
    feed.done("1.2.1", output="2.25.1")
    kinds = (OutputKind.SECONDARY_CAPTURE, OutputKind.STRUCTURED_REPORT, OutputKind.PARAMETRIC_MAP)
    feed.recipients = [Recipient(name="pacs1", outputs=kinds)]
    (case,) = feed.cases()
    assert case.detail == "pneumonia structured_report", "a map is only made where there is one"
    feed.recipients = []
    assert feed.told() == [("destination_unknown", "2.25.1")]


def test_an_output_whose_file_is_gone_is_made_again_with_its_neighbours(feed: Reconciled) -> None:
    request = feed.done("1.2.1", output="2.25.1")
    feed.outbox.discard("2.25.1.dcm")
    assert feed.told() == [("output_file_missing", "2.25.1")]
    assert feed.mend() == [Mended(done="to be inferred again, queued in routine")]
    assert feed.deliveries() == []
    assert feed.told() == []
    feed.settle(request, output="2.25.1")
    assert feed.deliveries() == [("2.25.1", "pacs1", "pending")]


def test_a_delivered_output_needs_no_file(feed: Reconciled) -> None:
    feed.done("1.2.1", output="2.25.1")
    feed.deliver("2.25.1")
    feed.outbox.discard("2.25.1.dcm")
    assert feed.told() == []


def test_a_dead_delivery_is_sent_again(feed: Reconciled) -> None:
    feed.done("1.2.1", output="2.25.1")
    dead = {"state": DeliveryState.DEAD, "attempts": 5, "delivered_at": None}
    feed.deliver("2.25.1", reason=Reason.DESTINATION_REFUSED.value, **dead)
    (case,) = feed.cases()
    assert (case.disagreement, case.destination) == (Disagreement.DELIVERY_DEAD, "pacs1")
    assert case.detail == "secondary_capture, destination_refused after 5 attempts"
    assert feed.mender().mend(case) == Mended(done="to be sent to pacs1 again")
    assert feed.deliveries() == [("2.25.1", "pacs1", "pending")]
    assert feed.told() == []
    assert feed.mender().mend(case) == Mended(done="agrees by now")


def test_an_output_is_sent_to_a_destination_that_wants_it_and_has_no_delivery(feed: Reconciled) -> None:
    feed.done("1.2.1", output="2.25.1")
    feed.deliver("2.25.1")
    wants = (OutputKind.SECONDARY_CAPTURE,)
    feed.recipients.append(Recipient(name="pacs2", outputs=wants))
    feed.recipients.append(Recipient(name="reports", outputs=(OutputKind.STUDY_SUMMARY,)))
    (case,) = feed.cases()
    assert (case.disagreement, case.destination) == (Disagreement.DELIVERY_MISSING, "pacs2")
    assert feed.mend() == [Mended(done="to be sent to pacs2")]
    assert feed.deliveries() == [("2.25.1", "pacs1", "delivered"), ("2.25.1", "pacs2", "pending")]
    assert feed.told() == []


def test_only_the_period_is_looked_at_and_unfinished_work_of_any_age(feed: Reconciled) -> None:
    feed.received("1.2.1")
    feed.done("1.2.2")
    feed.done("1.2.3", output="2.25.3")
    feed.deliver("2.25.3", state=DeliveryState.DEAD, delivered_at=None)
    feed.since = utc_now() + timedelta(hours=1)
    assert feed.told() == [("in_no_queue", "1.2.1")]


def test_more_than_one_group_is_looked_at(feed: Reconciled, monkeypatch: Any) -> None:
    for module in (disagreements, reconciliation, output_reconciliation):
        monkeypatch.setattr(module, "GROUP", 2)
    lost = [feed.received(f"1.2.{number}") for number in range(5)]
    for request in lost:
        feed.spool.finish(request.spool_key)
    for number in range(5):
        feed.accept(f"1.3.{number}")
        feed.done(f"1.4.{number}")
        feed.change(f"1.4.{number}", received_at=feed.since + timedelta(days=number // 3))  # several at one time
        feed.done(f"1.5.{number}", output=f"2.25.5{number}")
        feed.outbox.discard(f"2.25.5{number}.dcm")
    assert sorted(feed.told()) == sorted(
        [("bytes_lost", f"1.2.{number}") for number in range(5)]
        + [("not_in_ledger", f"1.3.{number}") for number in range(5)]
        + [("outputs_missing", f"1.4.{number}") for number in range(5)]
        + [("output_file_missing", f"2.25.5{number}") for number in range(5)]
    )


# A PACS


@pytest.fixture
def pacs(new_archive: Callable[[], Archive]) -> Archive:
    return new_archive().start(finds=True)


def _hold(pacs: Archive, output: str, study: str = PLACED, series: str = "1.9") -> None:
    dataset = Dataset()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = study, series, output
    pacs.received.append(dataset)


def test_an_output_that_the_pacs_lacks_is_sent_again(feed: Reconciled, pacs: Archive) -> None:
    for number in (1, 2):
        feed.done(f"1.2.{number}", output=f"2.25.{number}")
        feed.deliver(f"2.25.{number}")
    _hold(pacs, "2.25.1")
    assert feed.told() == []
    assert feed.told(pacs) == [("not_at_pacs", "2.25.2")]
    assert pacs.asked == [("IMAGE", PLACED, "1.9")], "once for both, with the keys of the levels above"
    assert feed.mend(pacs) == [Mended(done="to be sent to pacs1 again")]
    assert feed.deliveries() == [("2.25.1", "pacs1", "delivered"), ("2.25.2", "pacs1", "pending")]
    assert feed.told(pacs) == []


def test_a_pacs_is_asked_about_more_than_one_group(feed: Reconciled, pacs: Archive, monkeypatch: Any) -> None:
    monkeypatch.setattr(output_reconciliation, "GROUP", 2)
    for number in range(5):
        feed.done(f"1.2.{number}", output=f"2.25.{number}")
        feed.deliver(f"2.25.{number}")
    _hold(pacs, "2.25.3")
    assert feed.told(pacs) == [("not_at_pacs", f"2.25.{number}") for number in (0, 1, 2, 4)]
    assert len(pacs.asked) == 3


def test_an_output_that_nobody_has_any_more_is_made_again(feed: Reconciled, pacs: Archive) -> None:
    request = feed.done("1.2.1", output="2.25.1")
    feed.deliver("2.25.1")
    feed.outbox.discard("2.25.1.dcm")
    assert feed.mend(pacs) == [Mended(done="to be inferred again, queued in routine")]
    assert request.spool_key in feed.spool
    assert feed.told(pacs) == []


def test_a_pacs_that_cannot_be_asked_is_an_error(
    feed: Reconciled, pacs: Archive, new_archive: Callable[[], Archive]
) -> None:
    feed.done("1.2.1", output="2.25.1")
    feed.deliver("2.25.1")
    pacs.statuses = [0xA700]
    with pytest.raises(Transient, match="pacs1: C-FIND ended with 0xA700"):
        feed.told(pacs)
    with pytest.raises(Transient, match="pacs1 offers no C-FIND"):
        feed.told(new_archive().start())
    with pytest.raises(Transient, match="pacs1 does not answer C-FIND"):
        feed.told(new_archive())


# The command line, on both databases


@pytest.fixture
def commanded(
    tmp_path: Path,
    sessions: Sessions,
    database_url: str,
    redis_server: Any,
    outcomes: Any,
    put_output: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Reconciled]:
    """A still feed that `python -m worker` finds."""
    destination = {
        "name": "pacs1",
        "host": "127.0.0.1",
        "port": 1,
        "ae_title": "PACS",
        "outputs": ["secondary_capture"],
    }
    for name, value in {
        "DATABASE_URL": database_url,
        "DATA_DIR": str(tmp_path),
        "REDIS_URL": redis_server.url,
        "SPOOL_ARCHIVE_DAYS": "1",
        "WORKER_DESTINATIONS": json.dumps([destination]),
    }.items():
        monkeypatch.setenv(f"RADSTREAM_{name}", value)
    monkeypatch.setattr("worker.__main__.configure_logging", lambda settings, process: None)
    feed = Reconciled(tmp_path, sessions, redis_server.url, outcomes, put_output)
    with capture_logs() as feed.logs:
        yield feed
    redis_server.start()
    feed.close()


def test_the_command_reports_then_mends_then_finds_nothing(
    commanded: Reconciled, capsys: pytest.CaptureFixture[str]
) -> None:
    commanded.received("1.2.1")
    lost = commanded.received("1.2.2")
    commanded.spool.finish(lost.spool_key)
    commanded.done("1.2.3", output="2.25.3")
    commanded.deliver("2.25.3", state=DeliveryState.DEAD, delivered_at=None)

    assert main(["reconcile", "--min-age", "0", "--format", "json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [(row["disagreement"], row["subject"], row["sender"], row["to_do"]) for row in rows] == [
        ("in_no_queue", "1.2.1", SENDER, "--mend queues it"),
        ("bytes_lost", "1.2.2", SENDER, f"have {SENDER} send this instance again"),
        ("delivery_dead", "2.25.3", SENDER, "--mend sends it again"),
    ]
    assert main(["reconcile", "--min-age", "0"]) == 1
    table = capsys.readouterr().out
    assert "bytes_lost" in table
    assert "for a person" in table

    assert main(["reconcile", "--min-age", "0", "--mend", "--format", "csv"]) == 1, "the lost bytes are left"
    mended = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["mended"] for row in mended] == ["queued in routine", "", "to be sent to pacs1 again"]
    assert [line["uid"] for line in commanded.logs if line["event"] == "disagreement"] == ["1.2.1", "1.2.2", "2.25.3"]
    assert "Doe" not in table + json.dumps(rows) + json.dumps(mended) + str(commanded.logs)

    with commanded.sessions.begin() as session:
        session.execute(delete(Instance).where(Instance.sop_instance_uid == "1.2.2"))
    assert main(["reconcile", "--min-age", "0"]) == 0
    assert capsys.readouterr().out == "all agrees\n"
    assert main(["reconcile", "--min-age", "0", "--mend", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_what_is_younger_than_ten_seconds_is_left_alone_unless_told_otherwise(
    commanded: Reconciled, capsys: pytest.CaptureFixture[str]
) -> None:
    commanded.received("1.2.1")
    assert main(["reconcile"]) == 0
    assert main(["reconcile", "--min-age", "0"]) == 1
    assert "in_no_queue" in capsys.readouterr().out


def test_all_that_was_mended_is_exit_status_0(commanded: Reconciled, capsys: pytest.CaptureFixture[str]) -> None:
    commanded.received("1.2.1")
    assert main(["reconcile", "--min-age", "0", "--mend"]) == 0
    assert "queued in routine" in capsys.readouterr().out


def test_the_command_says_that_redis_or_a_pacs_was_not_asked(
    commanded: Reconciled, redis_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reconcile", "--min-age", "0", "--pacs", "elsewhere"]) == 2
    assert "--pacs elsewhere: not one of RADSTREAM_WORKER_DESTINATIONS (pacs1)" in capsys.readouterr().err
    commanded.done("1.2.3", output="2.25.3")
    commanded.deliver("2.25.3")
    assert main(["reconcile", "--min-age", "0", "--pacs", "pacs1"]) == 1
    assert "pacs1 does not answer C-FIND" in capsys.readouterr().err
    redis_server.stop()
    assert main(["reconcile", "--min-age", "0"]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err) == (
        "all agrees\n",
        "radstream: Redis does not answer: the queues were not compared\n",
    )


@pytest.mark.parametrize("text", ["yesterday", "24", "h", "99999999d"])
def test_a_period_that_is_none_is_a_wrong_argument(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["reconcile", "--since", text])
    assert caught.value.code == 2
    assert "neither an ISO 8601 time nor a time ago" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "1e30"])
def test_an_age_that_is_none_is_a_wrong_argument(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["reconcile", f"--min-age={text}"])
    assert caught.value.code == 2
    assert "is not a number of seconds, 0 or more" in capsys.readouterr().err
