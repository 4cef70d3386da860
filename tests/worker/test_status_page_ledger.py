"""What the status page reads of the database and of Redis: right counts, by index, and nothing that names a patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer
from rq.suspension import suspend
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker
from stand_in_records import Records

from models.queues import Queues
from models.records.base import utc_now
from models.records.dicom import InstanceState
from models.records.outputs import Delivery, DeliveryState, Output, OutputKind
from models.requests import InferenceRequest, Lane
from models.tasks import Task
from worker.status_page.facts import DestinationFacts, LaneFacts, LedgerFacts
from worker.status_page.ledger import LedgerReader
from worker.status_page.queues import read_queues
from worker.trace_command import named_by_number


def read(sessions: sessionmaker[Session], *destinations: str) -> LedgerFacts:
    return LedgerReader(sessions, destinations).read_now()


def ago(**parts: float) -> datetime:
    return utc_now() - timedelta(**parts)


def deliver(records: Records, instance_id: int, to: str, state: DeliveryState, **changes: Any) -> Delivery:
    number = records.session.query(Output).count()
    output = records.add(
        Output(
            instance_id=instance_id,
            kind=OutputKind.SECONDARY_CAPTURE,
            sop_class_uid="1.2",
            sop_instance_uid=f"2.25.{number}",
            series_instance_uid="2.25.1",
            file_name=f"{number}.dcm",
            created_at=utc_now(),
        )
    )
    now = utc_now()
    values = {"requested_at": now, "next_attempt_at": now, **changes}
    delivery: Delivery = records.add(Delivery(output_id=output.id, destination=to, state=state, **values))
    return delivery


def test_an_empty_database_gives_zeros(sessions: sessionmaker[Session]) -> None:
    facts = read(sessions, "pacs1")
    assert (facts.unfinished, facts.oldest_at, facts.failed, facts.failed_of_day, facts.studies) == (0, None, 0, {}, ())
    assert facts.destinations == (DestinationFacts("pacs1", True, 0, 0, None, None, None, None),)
    pace = LedgerReader(sessions, ()).read_pace()
    assert (dict(pace.by_minute), pace.latencies_s, pace.quantile_s(0.5)) == ({}, (), None)


def test_what_waits_and_what_failed_is_counted(sessions: sessionmaker[Session]) -> None:
    oldest = ago(minutes=50)
    with sessions.begin() as session:
        records = Records(session)
        records.instance("1.1", None, InstanceState.QUEUED, received_at=oldest)
        records.instance("1.2", None, InstanceState.RECEIVED, received_at=ago(minutes=1))
        records.instance("1.3", None, InstanceState.FAILED, reason="worker_died", received_at=ago(hours=2))
        records.instance("1.4", None, InstanceState.FAILED, reason="worker_died", received_at=ago(hours=3))
        records.instance("1.5", None, InstanceState.FAILED, reason="too_large", received_at=ago(hours=25))
        records.instance("1.6", None, InstanceState.DONE, received_at=ago(hours=2))
    facts = read(sessions)
    assert (facts.unfinished, facts.oldest_at) == (2, oldest)
    assert (facts.failed, facts.failed_of_day) == (3, {"worker_died": 2})


def test_the_latest_studies_come_first_with_outcome_tasks_and_outputs(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        records = Records(session)
        first, second = records.series("9.1", "8.1", "CR"), records.series("9.2", "8.2")
        first.body_part_examined = "CHEST"
        done = records.instance("1.1", first, received_at=ago(minutes=9), settled_after_s=4)
        records.instance("1.2", first, InstanceState.SKIPPED, reason="no_rule_matched", received_at=ago(minutes=8))
        records.instance("1.3", second, InstanceState.QUEUED, received_at=ago(minutes=2))
        records.instance("1.4", None, InstanceState.FAILED, reason="no_pixel_data", received_at=ago(minutes=1))
        records.inference(done, "2.0", Task.PNEUMONIA)
        records.inference(done, "3.0", Task.CSI)
        deliver(records, done.id, "pacs1", DeliveryState.DELIVERED)
        deliver(records, done.id, "pacs1", DeliveryState.PENDING)
        number = first.study_id
    newest, oldest = read(sessions).studies
    assert (newest.number, newest.outcomes) == (None, {("failed", "no_pixel_data"): 1})
    assert (newest.seconds, newest.tasks, newest.outputs) == (60.0, (), {})
    assert (oldest.number, oldest.instances, oldest.seconds) == (number, 2, 60.0)
    assert (oldest.modalities, oldest.body_parts, oldest.tasks) == (("CR",), ("CHEST",), ("csi", "pneumonia"))
    assert oldest.outcomes == {("done", ""): 1, ("skipped", "no_rule_matched"): 1}
    assert oldest.outputs == {"delivered": 1, "pending": 1}


def test_no_fact_holds_a_patient_an_accession_number_or_a_uid(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        records = Records(session)
        records.study(
            "1.2.840.99.7",
            accession_number="PLANTEDACC",
            patient_id="PLANTEDID",
            patient_name="PLANTED^NAME",
            study_description="PLANTED DESCRIPTION",
            patient_birth_date=date(1950, 12, 31),
        )
        series = records.series("1.2.840.99.7", "1.2.840.99.8")
        series.series_description = "PLANTED SERIES"
        instance = records.instance("1.2.840.99.9", series, received_at=ago(minutes=1), reason_detail="PLANTED")
        deliver(records, instance.id, "pacs1", DeliveryState.PENDING, reason="destination_unreachable")
    reader = LedgerReader(sessions, ["pacs1"])
    told = repr(asdict(reader.read_now())) + repr(asdict(reader.read_pace()))
    for secret in ("PLANTED", "1950", "1.2.840.99", "MODALITY", "2.25."):
        assert secret not in told


def test_a_study_is_traced_by_the_number_that_the_page_shows(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        number = Records(session).study("1.2.840.99.7").id
    assert named_by_number(f"study:{number}", sessions) == "1.2.840.99.7"
    for other in ("study:999", f"{number}", "study:1; DROP", "study:99999999999999999999"):
        assert named_by_number(other, sessions) == other
    assert named_by_number(f"study:{number}", None) == f"study:{number}", "the database is away"


def test_destinations_say_what_waits_since_when_and_the_last_success_and_failure(
    sessions: sessionmaker[Session],
) -> None:
    oldest, due, delivered = ago(hours=2), ago(seconds=-60), ago(minutes=5)
    pending, reasons = DeliveryState.PENDING, ("destination_refused", "destination_unreachable")
    with sessions.begin() as session:
        records = Records(session)
        instance = records.instance("1.1", None, received_at=ago(hours=3))
        deliver(records, instance.id, "pacs1", pending, requested_at=oldest, next_attempt_at=ago(seconds=-90))
        for index, reason in enumerate(reasons):
            tried = {"last_attempt_at": ago(minutes=10 - index), "reason": reason, "next_attempt_at": due}
            deliver(records, instance.id, "pacs1", pending, **tried)
        deliver(records, instance.id, "pacs1", DeliveryState.DEAD)
        deliver(records, instance.id, "pacs1", DeliveryState.DELIVERED, delivered_at=delivered)
        deliver(records, instance.id, "former", DeliveryState.PENDING)
        deliver(records, instance.id, "gone", DeliveryState.DELIVERED, delivered_at=delivered)
    first, second, third = read(sessions, "pacs1", "new").destinations
    assert first == DestinationFacts("pacs1", True, 3, 1, oldest, due, delivered, "destination_unreachable")
    assert (second.name, second.is_set, second.waiting, second.delivered_at) == ("new", True, 0, None)
    assert (third.name, third.is_set, third.waiting) == ("former", False, 1)


def test_the_pace_counts_minutes_and_measures_the_last_hour(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        records = Records(session)
        settled = utc_now().replace(second=10, microsecond=250_000) - timedelta(minutes=5)
        for number, seconds in enumerate((1.0, 2.0, 3.0, 40.0)):
            received = settled - timedelta(seconds=seconds)
            records.instance(f"1.{number}", None, received_at=received, settled_after_s=seconds)
        records.instance("1.8", None, InstanceState.SKIPPED, received_at=settled, settled_after_s=0)
        records.instance("1.9", None, received_at=ago(hours=3), settled_after_s=100)
        records.instance("1.10", None, received_at=ago(hours=30), settled_after_s=1)
    pace = LedgerReader(sessions, ()).read_pace()
    minute = int(settled.timestamp()) // 60
    assert pace.by_minute[minute] == {"done": 4, "skipped": 1}
    assert sum(sum(states.values()) for states in pace.by_minute.values()) == 6, "and not the one of yesterday"
    assert pace.latencies_s == (1.0, 2.0, 3.0, 40.0)
    assert [pace.quantile_s(part) for part in (0.5, 0.75, 0.95)] == [2.0, 3.0, 40.0]


def test_every_statement_goes_by_an_index(sqlite_sessions: sessionmaker[Session]) -> None:
    statements: list[tuple[str, Any]] = []
    engine = sqlite_sessions.kw["bind"]
    event.listen(
        engine, "before_cursor_execute", lambda c, cursor, text, values, ctx, many: statements.append((text, values))
    )
    reader = LedgerReader(sqlite_sessions, ["pacs1"])
    reader.read_now()
    reader.read_pace()
    asked = [(text, values) for text, values in statements if text.startswith("SELECT")]
    assert len(asked) >= 9
    within_time = 0
    with engine.connect() as connection:
        for text, values in asked:
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)]
            within_time += any("received_at>?" in step for step in plan)
            # A scan of a subquery is of the few rows that it chose.
            tables = {step for step in plan if step.startswith("SCAN") and "USING" not in step}
            named = {"instance", "series", "study", "output", "delivery", "inference"}
            assert not {step for step in tables if step.split()[1] in named}, f"{text}\n{plan}"
    assert within_time == 3, "failures of the day, what was settled in each minute, and how long the newest took"


# Redis


def test_lanes_workers_and_suspension_are_read_and_no_job_is_named(
    redis: Redis, redis_server: Any, make_request: Callable[..., InferenceRequest]
) -> None:
    queues = Queues(redis_server.url)
    queues.enqueue([make_request(uid) for uid in ("1.2.1", "1.2.2")] + [make_request("1.2.3", lane=Lane.STAT)])
    queues.close()
    started = Queue("stat", connection=redis, serializer=JSONSerializer).started_job_registry
    redis.zadd(started.key, {"1_2_9:execution": 4e9})
    now = "2026-01-02T03:04:05.000000Z"
    redis.sadd("rq:workers", "rq:worker:host-1", "rq:worker:gone")
    told = {"state": "busy", "birth": now, "last_heartbeat": now, "current_job": "1_2_9", "successful_job_count": 4}
    redis.hset("rq:worker:host-1", mapping={**told, "failed_job_count": 1})
    suspend(redis)
    facts = read_queues(redis)
    assert facts.lanes == (LaneFacts("stat", 1, 1), LaneFacts("routine", 2, 0))
    (worker,) = facts.workers
    assert (worker.name, worker.state, worker.ended) == ("host-1", "busy", 5)
    assert worker.heartbeat_at is not None
    assert worker.heartbeat_at.isoformat() == "2026-01-02T03:04:05+00:00"
    assert facts.suspended
    assert "1_2" not in repr(facts)


@pytest.mark.parametrize("heartbeat", ["", "yesterday"])
def test_a_worker_with_an_unreadable_heartbeat_is_shown_all_the_same(redis: Redis, heartbeat: str) -> None:
    redis.sadd("rq:workers", "rq:worker:odd")
    redis.hset("rq:worker:odd", mapping={"last_heartbeat": heartbeat, "successful_job_count": "many"})
    (worker,) = read_queues(redis).workers
    assert (worker.name, worker.heartbeat_at, worker.ended) == ("odd", None, 0)
