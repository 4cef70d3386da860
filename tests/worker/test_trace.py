"""Where a study is and why: each step of the way, in real spool, ledger and queue, while one of them is away, too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.suspension import suspend
from sqlalchemy.orm import Session, sessionmaker
from still_feed import SENDER, StillFeed

from models.errors import Reason, Skipped, Unprocessable
from models.records.base import utc_now
from models.records.dicom import InstanceState
from models.records.outputs import DeliveryState, Output, OutputKind
from models.requests import Lane
from worker.__main__ import main
from worker.outputs.files import WrittenOutput
from worker.settings import Destination
from worker.trace import Tracer
from worker.trace_facts import DeliveryTrace, InstanceTrace, LedgerEntry, OutputTrace, Trace
from worker.trace_verdict import Verdict, judge

Sessions = sessionmaker[Session]
NOON = datetime.fromisoformat("2026-01-31T12:00:00").astimezone()
PACS1 = Destination(name="pacs1", host="pacs", port=104, ae_title="PACS", commitment=True)
PACS2 = Destination(name="pacs2", host="pacs", port=104, ae_title="PACS")


@pytest.fixture
def feed(
    tmp_path: Path, sqlite_sessions: Sessions, redis_server: Any, outcomes: Any, put_output: Any
) -> Iterator[StillFeed]:
    feed = StillFeed(tmp_path, sqlite_sessions, redis_server.url, outcomes, put_output)
    yield feed
    redis_server.start()
    feed.close()


def _trace(feed: StillFeed, asked: str, database: bool = True) -> Trace:
    sessions = feed.sessions if database else None
    return Tracer(sessions, feed.spool, feed.redis, feed.outbox).trace(asked, asked)


def _verdict(feed: StillFeed, asked: str, database: bool = True, after_s: float = 0) -> Verdict:
    trace = _trace(feed, asked, database)
    (instance,) = trace.instances
    return judge(instance, trace, [PACS1, PACS2], utc_now() + timedelta(seconds=after_s))


def _employ(redis: Redis, worker: str) -> None:
    redis.sadd("rq:workers", f"rq:worker:{worker}")
    redis.hset(f"rq:worker:{worker}", "state", "idle")


# On the way to a result


def test_an_instance_is_followed_from_the_spool_to_its_result(feed: StillFeed) -> None:
    request = feed.accept("1.2.1")
    assert _verdict(feed, "1.2.1") == Verdict(
        "lies in the spool and is not in the ledger yet; the SCP's next sweep registers and queues it"
    )
    assert "reconcile --mend" in _verdict(feed, "1.2.1", after_s=120).to_do, "it should have been swept by then"

    feed.register(request)
    assert _verdict(feed, "1.2.1").now == "lies in the spool and in no queue; the SCP's next sweep queues it"
    assert "reconcile --mend" in _verdict(feed, "1.2.1", after_s=120).to_do

    feed.queued("1.2.0")
    feed.enqueue(request)
    waits = "waits in queue routine, position 2 of 2"
    assert _verdict(feed, "1.2.1") == Verdict(f"{waits}; no worker runs", "python -m worker run")
    _employ(feed.redis, "w1")
    assert _verdict(feed, "1.2.1") == Verdict(f"{waits}; 1 worker at work")
    suspend(feed.redis)
    assert _verdict(feed, "1.2.1") == Verdict(f"{waits}; the workers are suspended", "rq resume")

    feed.take(request, "w1")
    assert _verdict(feed, "1.2.1") == Verdict("in hand of worker w1")
    (instance,) = _trace(feed, "1.2.1").instances
    assert instance.queue is not None
    assert instance.queue.since is not None
    assert abs(instance.queue.since - utc_now()) < timedelta(minutes=1)

    feed.settle(request, output="2.25.1")
    feed.spool.finish(request.spool_key)
    (instance,) = _trace(feed, "1.2.1").instances
    assert instance.spool is None
    assert [(answer.task, answer.version) for answer in instance.answers] == [("pneumonia", "1.0.0")]
    assert [output.sop_instance_uid for output in instance.outputs] == ["2.25.1"]


@pytest.mark.parametrize(
    ("refusal", "now"),
    [
        (
            Skipped(Reason.NO_RULE_MATCHED),
            "skipped: no_rule_matched, see the routing rules (RADSTREAM_WORKER_ROUTING_FILE)",
        ),
        (Skipped(Reason.OWN_OUTPUT), "skipped: own_output, it is one of our own outputs that came back"),
    ],
)
def test_what_was_skipped_says_why(feed: StillFeed, refusal: Skipped, now: str) -> None:
    feed.settle(feed.received("1.2.1"), refusal)
    assert _verdict(feed, "1.2.1") == Verdict(now)


def test_what_failed_can_be_requeued_while_its_file_is_kept(feed: StillFeed) -> None:
    request = feed.received("1.2.1")
    feed.settle(request, Unprocessable(Reason.DECODE_TIMEOUT, "after 20 s"))
    feed.spool.set_aside(request.spool_key)
    verdict = _verdict(feed, "1.2.1")
    assert verdict.now == "failed: decode_timeout (after 20 s); its file is set aside"
    assert verdict.to_do.endswith("python -m worker requeue --instance 1.2.1")
    feed.spool.set_aside_path_of(request.spool_key).unlink()
    assert _verdict(feed, "1.2.1").now.endswith("its file is not kept, so it cannot be tried again")


def test_what_only_a_person_or_reconcile_can_mend_is_said(feed: StillFeed) -> None:
    lost, aside = feed.queued("1.2.1"), feed.queued("1.2.2")
    feed.spool.finish(lost.spool_key)
    feed.spool.set_aside(aside.spool_key)
    assert _verdict(feed, "1.2.1").to_do == f"have {SENDER} send it again"
    assert _verdict(feed, "1.2.2") == Verdict(
        "is to be done again, and its file still lies in set_aside", "python -m worker reconcile --mend"
    )


# What is found by what


def test_an_accession_number_of_several_studies_shows_all_and_what_is_not_settled_too(feed: StillFeed) -> None:
    feed.done("1.2.1", AccessionNumber="ACC1")
    feed.done("1.3.1", AccessionNumber="ACC1")
    feed.queued("1.3.2", AccessionNumber="ACC1")
    feed.accept("1.4.1", AccessionNumber="ACC1")
    feed.accept("1.5.1", AccessionNumber="ACC2")

    def found(asked: str) -> list[tuple[str | None, str]]:
        return [(each.study_instance_uid, each.sop_instance_uid) for each in _trace(feed, asked).instances]

    assert found("ACC1") == [
        ("1.2.1000", "1.2.1"),
        ("1.3.1000", "1.3.1"),
        ("1.3.1000", "1.3.2"),
        ("1.4.1000", "1.4.1"),
    ]
    assert found("1.3.1000") == [("1.3.1000", "1.3.1"), ("1.3.1000", "1.3.2")]
    assert found("1.5.1") == [(None, "1.5.1")], "one instance is asked for: no header is read"
    assert found("ACC9") == []


def test_an_instance_is_found_by_the_uid_of_its_output(feed: StillFeed) -> None:
    feed.done("1.2.1", output="2.25.1")
    feed.done("1.2.2", output="2.25.2")
    assert [each.sop_instance_uid for each in _trace(feed, "2.25.2").instances] == ["1.2.2"]


def test_the_summary_of_a_study_is_shown_with_the_study(feed: StillFeed) -> None:
    feed.done("1.2.1")
    row = feed.row("1.2.1")
    written = WrittenOutput("1.2.840.10008.5.1.4.1.1.88.34", "2.25.9", "1.9", "2.25.9.dcm")
    with feed.sessions.begin() as session:
        instance = session.merge(row)
        assert instance.series is not None
        session.add(
            Output(
                study_id=instance.series.study_id,
                kind=OutputKind.STUDY_SUMMARY,
                created_at=utc_now(),
                **{name: getattr(written, name) for name in WrittenOutput.__slots__},
            )
        )
    for asked in ("1.2.1000", "2.25.9"):
        trace = _trace(feed, asked)
        assert [output.sop_instance_uid for output in trace.summaries["1.2.1000"]] == ["2.25.9"]
    assert _trace(feed, "1.2.1").summaries == {}


# While something is away


def test_without_the_database_spool_and_queue_still_tell(feed: StillFeed) -> None:
    feed.queued("1.2.1", lane=Lane.STAT)
    for asked in ("1.2.1", "1.2.1000", "ACC1"):
        assert _verdict(feed, asked, database=False).now == (
            "lies in the spool (pending), in queue stat; the results database does not answer, so no more is known"
        )
    request = feed.queued("1.2.2")
    feed.spool.finish(request.spool_key)
    assert _verdict(feed, "1.2.2", database=False).now.startswith("is known to the queue alone, in queue routine")


def test_without_redis_the_rest_still_tells(feed: StillFeed, redis_server: Any) -> None:
    feed.queued("1.2.1")
    redis_server.stop()
    verdict = _verdict(feed, "1.2.1")
    assert verdict.now == "lies in the spool and waits for a worker; Redis does not answer, so its queue is not known"
    assert verdict.to_do.startswith("see that Redis runs")


# On the way to destinations: the sentence alone


def _delivery(**values: Any) -> DeliveryTrace:
    given: dict[str, Any] = {
        "destination": "pacs2",
        "state": DeliveryState.PENDING,
        "attempts": 0,
        "requested_at": NOON,
        "last_attempt_at": None,
        "last_status": None,
        "last_http_status": None,
        "reason": None,
        "next_attempt_at": None,
        "delivered_at": None,
        "commitment_attempts": 0,
        "commitment_due_at": None,
        "committed_at": None,
    }
    return DeliveryTrace(**{**given, **values})


def _done(*deliveries: DeliveryTrace, has_file: bool = True) -> Verdict:
    """Judge at 12:30 an instance of one output with these deliveries; pacs2 is unreachable since 12:03."""
    fields = dict.fromkeys(LedgerEntry.__dataclass_fields__)
    entry = LedgerEntry(**{**fields, "state": InstanceState.DONE})  # type: ignore[arg-type]
    output = OutputTrace("secondary_capture", "pneumonia", "1.0.0", "2.25.1", NOON, has_file, deliveries)
    instance = InstanceTrace("1.2.1", None, entry, None, None, outputs=(output,))
    trace = Trace((instance,), {}, None, True, {"pacs2": NOON + timedelta(minutes=3)})
    return judge(instance, trace, [PACS1, PACS2], NOON + timedelta(minutes=30))


AT_1231 = NOON + timedelta(minutes=31)


@pytest.mark.parametrize(
    ("delivery", "verdict"),
    [
        (
            {"attempts": 4, "reason": "destination_unreachable", "next_attempt_at": AT_1231},
            Verdict("waits for destination pacs2, unreachable since 12:03, next attempt 12:31", "nothing to do"),
        ),
        (
            {"attempts": 2, "reason": "destination_refused", "last_status": 0xA700, "next_attempt_at": AT_1231},
            Verdict(
                "waits for destination pacs2, 2 attempts, the last: destination_refused, status 0xA700, "
                "next attempt 12:31"
            ),
        ),
        ({"next_attempt_at": AT_1231}, Verdict("waits for its first attempt at destination pacs2")),
        (
            {"next_attempt_at": NOON},
            Verdict(
                "waits for destination pacs2; an attempt has been due since 12:00",
                "see that `python -m worker run` or `python -m worker deliver` runs",
            ),
        ),
        (
            {"destination": "gone", "next_attempt_at": AT_1231},
            Verdict("waits for destination gone, which is not one of RADSTREAM_WORKER_DESTINATIONS", "set it again"),
        ),
        (
            {"state": DeliveryState.DEAD, "attempts": 5, "reason": "destination_refused", "last_http_status": 415},
            Verdict(
                "given up for destination pacs2 after 5 attempts: destination_refused, HTTP 415",
                "once the cause is mended: python -m worker redeliver --instance 2.25.1 --destination pacs2",
            ),
        ),
        (
            {"state": DeliveryState.DELIVERED, "delivered_at": NOON - timedelta(days=1)},
            Verdict("delivered: pacs2 at 2026-01-30 12:00"),
        ),
        (
            {"state": DeliveryState.DELIVERED, "destination": "pacs1", "delivered_at": NOON, "committed_at": NOON},
            Verdict("delivered and committed: pacs1 at 12:00"),
        ),
        (
            {
                "state": DeliveryState.DELIVERED,
                "destination": "pacs1",
                "delivered_at": NOON,
                "commitment_attempts": 1,
                "commitment_due_at": AT_1231,
            },
            Verdict("delivered: pacs1 at 12:00; waits for pacs1 to commit to it; asked 1 times, next 12:31"),
        ),
    ],
)
def test_a_delivery_is_told_in_one_sentence(delivery: dict[str, Any], verdict: Verdict) -> None:
    assert _done(_delivery(**delivery)) == verdict


def test_the_worst_delivery_is_told() -> None:
    delivered = _delivery(state=DeliveryState.DELIVERED, delivered_at=NOON)
    pending = _delivery(next_attempt_at=AT_1231)
    dead = _delivery(state=DeliveryState.DEAD, attempts=1)
    assert _done(delivered, pending).now.startswith("waits")
    assert _done(delivered, pending, dead).now.startswith("given up")
    assert _done(dead, has_file=False).to_do == "python -m worker reconcile --mend"
    assert _done().now == "done; its outputs were made for no destination"


def test_a_destination_is_unreachable_since_its_oldest_waiting_output(feed: StillFeed) -> None:
    for number, minute in ((1, 5), (2, 3), (3, 1)):
        feed.done(f"1.2.{number}", output=f"2.25.{number}")
        feed.deliver(
            f"2.25.{number}",
            state=DeliveryState.PENDING if number < 3 else DeliveryState.DELIVERED,
            reason=Reason.DESTINATION_UNREACHABLE.value,
            requested_at=NOON + timedelta(minutes=minute),
        )
    assert _trace(feed, "1.2.1").unreachable_since == {"pacs1": NOON + timedelta(minutes=3)}


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
) -> Iterator[StillFeed]:
    """A still feed that `python -m worker` finds."""
    monkeypatch.setenv("RADSTREAM_DATABASE_URL", database_url)
    monkeypatch.setenv("RADSTREAM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("RADSTREAM_REDIS_URL", redis_server.url)
    monkeypatch.setenv(
        "RADSTREAM_WORKER_DESTINATIONS",
        json.dumps([{"name": "pacs1", "host": "127.0.0.1", "port": 1, "ae_title": "PACS"}]),
    )
    monkeypatch.setattr("worker.__main__.configure_logging", lambda settings, process: None)
    feed = StillFeed(tmp_path, sessions, redis_server.url, outcomes, put_output)
    yield feed
    redis_server.start()
    feed.close()


def test_the_command_shows_steps_answers_outputs_and_deliveries(
    commanded: StillFeed, capsys: pytest.CaptureFixture[str]
) -> None:
    commanded.done("1.2.1", output="2.25.1")
    start = datetime(2026, 1, 31, 12, tzinfo=UTC)
    steps = {"received_at": 0, "queued_at": 0.25, "inferred_at": 1.5, "settled_at": 1.75, "delivered_at": 11.75}
    commanded.change("1.2.1", **{name: start + timedelta(seconds=after) for name, after in steps.items()})
    commanded.deliver("2.25.1")

    assert main(["trace", "ACC1", "--format", "json"]) == 0
    text = capsys.readouterr().out
    (instance,) = json.loads(text)["instances"]
    assert instance["ledger"]["received_at"] == "2026-01-31T12:00:00+00:00"
    assert instance["durations_s"] == {"queued": 0.25, "inferred": 1.25, "settled": 0.25, "delivered": 10.0}
    assert (instance["answers"][0]["task"], instance["answers"][0]["version"]) == ("pneumonia", "1.0.0")
    assert instance["outputs"][0]["deliveries"][0]["state"] == "delivered"
    assert instance["now"].startswith("delivered: pacs1")

    assert main(["trace", "1.2.1000"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "study 1.2.1000: 1 done\n",
        f"state  done, from {SENDER}, routine\n",
        "   +10.000 s\n",
        "answer pneumonia 1.0.0 (in_test fp32) ",
        "output secondary_capture of pneumonia 1.0.0: 2.25.1\n",
        "pacs1: delivered, 1 attempt, last status 0x0000, delivered ",
        "now:   delivered: pacs1 at ",
        "to do: nothing to do\n",
    ):
        assert part in shown
    for patient in ("Doe", "Jane", "ID7", "1970"):
        assert patient not in text + shown


def test_the_command_says_what_is_away_and_shows_the_rest(
    commanded: StillFeed, redis_server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commanded.queued("1.2.1")
    monkeypatch.setenv("RADSTREAM_DATABASE_URL", f"postgresql+psycopg://postgres@/db?host={commanded.root}")
    redis_server.stop()
    assert main(["trace", "1.2.1"]) == 0
    told = capsys.readouterr()
    assert "the results database does not answer" in told.err
    assert "Redis does not answer" in told.err
    assert "now:   lies in the spool (pending); the results database does not answer" in told.out
    assert main(["trace", "9.9"]) == 1
    assert "radstream: 9.9: not found in what does answer\n" in capsys.readouterr().err


@pytest.mark.usefixtures("commanded")
def test_what_is_known_nowhere_is_one_line_and_exit_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", "ACC9"]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "radstream: ACC9: known to neither ledger nor spool nor queue\n")
    monkeypatch.setenv("RADSTREAM_PHI", "none")
    assert main(["trace", "ACC9"]) == 1
    assert "accession numbers are not recorded (RADSTREAM_PHI=none), give a UID" in capsys.readouterr().err


def test_a_pseudonymised_accession_number_is_found_by_the_real_one(
    commanded: StillFeed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from models.settings import PatientIdentity

    request = commanded.received("1.2.1")
    facts = commanded.outcomes.facts("1.2.1", PatientIdentity.PSEUDONYMISED)
    commanded.outcomes = _WithFacts(commanded.outcomes, facts)
    commanded.settle(request)
    commanded.spool.finish(request.spool_key)
    monkeypatch.setenv("RADSTREAM_PHI", "pseudonymised")
    monkeypatch.setenv("RADSTREAM_PHI_KEY", "a key of 16 signs")
    assert main(["trace", "ACC1"]) == 0
    assert "instance 1.2.1" in capsys.readouterr().out


class _WithFacts:
    """Outcomes whose facts are given."""

    def __init__(self, outcomes: Any, facts: Any) -> None:
        self._outcomes, self._facts = outcomes, facts

    def __getattr__(self, name: str) -> Any:
        return (lambda uid: self._facts) if name == "facts" else getattr(self._outcomes, name)
