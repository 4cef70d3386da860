"""The commands beside `run` and `deliver`: what is where, as table, JSON and CSV, and sending it on its way again."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from models.errors import Reason, Skipped, Unprocessable
from models.records.base import utc_now
from models.records.dicom import Instance, InstanceState
from models.records.ledger import Registration, register
from models.records.outputs import Delivery, DeliveryState
from models.requests import JOB_NAME, InferenceRequest, Lane
from models.settings import Settings
from models.spool import Spool
from models.spool_archive import SpoolArchive
from worker.__main__ import main
from worker.commands import redeliver, requeue, status, write_rows
from worker.running import connect_redis
from worker.settings import Recipient
from worker.settlement import Settlement

Sessions = sessionmaker[Session]


def _written(rows: Any, form: str, title: str = "") -> str:
    stream = io.StringIO()
    write_rows(rows, form, stream, title)
    return stream.getvalue()


def _store(spool: Spool, uid: str, content: bytes = b"pixels", lane: Lane = Lane.ROUTINE) -> InferenceRequest:
    writer = spool.begin(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
        sop_instance_uid=uid,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title="MODALITY",
        called_ae_title="RADSTREAM",
        lane=lane,
    )
    with writer:
        writer.write(content)
        return spool.request_for(writer.commit())


# Forms


ROWS = [
    {"what": "done", "count": 2, "at": datetime(2026, 1, 31, 12, tzinfo=UTC), "score": 0.123456, "none": None},
    {"what": "[/red] :smile:", "count": 0, "at": None, "score": None, "none": None},
]


def test_json_is_an_array_of_objects_with_iso_times() -> None:
    assert json.loads(_written(ROWS, "json")) == [
        {"what": "done", "count": 2, "at": "2026-01-31T12:00:00+00:00", "score": 0.123456, "none": None},
        {"what": "[/red] :smile:", "count": 0, "at": None, "score": None, "none": None},
    ]
    assert json.loads(_written([], "json")) == []


def test_csv_has_a_header_and_plain_values() -> None:
    read = list(csv.reader(io.StringIO(_written(ROWS, "csv"))))
    assert read == [
        ["what", "count", "at", "score", "none"],
        ["done", "2", "2026-01-31T12:00:00+00:00", "0.123456", ""],
        ["[/red] :smile:", "0", "", "", ""],
    ]


def test_a_table_shows_values_as_they_are_and_numbers_short() -> None:
    text = _written(ROWS, "table", "status")
    assert text.startswith("status")
    assert "0.123" in text
    assert "0.1234" not in text
    assert "[/red] :smile:" in text, "a value from a dataset is never taken for markup"
    assert _written([], "table", "results") == "results: nothing\n"


# status


def test_status_counts_what_is_where(sessions: Sessions, spool: Spool, redis: Redis, outcomes: Any) -> None:
    waiting, failed = _store(spool, "1.2.1"), _store(spool, "1.2.2")
    spool.set_aside(failed.spool_key)
    kept = [_store(spool, uid).spool_key for uid in ("1.4.1", "1.4.2")]
    sizes = sum(spool.path_of(key).stat().st_size for key in kept)
    for key in kept:
        SpoolArchive(spool.root).keep(spool.path_of(key))
    Queue("stat", connection=redis, serializer=JSONSerializer).enqueue(JOB_NAME, waiting.to_payload())
    Settlement(sessions, "keep_first", [Recipient(name="archive")]).settle(
        [
            outcomes.done("1.3.1", output_uid="2.25.1"),
            outcomes.done("1.3.2", output_uid="2.25.2"),
            outcomes.refused(Skipped(Reason.NO_RULE_MATCHED), "1.3.3"),
            outcomes.refused(Unprocessable(Reason.UNDECODABLE_PIXELS), "1.3.4"),
        ]
    )
    with sessions.begin() as session:
        session.scalars(select(Delivery)).first().state = DeliveryState.DEAD  # type: ignore[union-attr]
    rows = status(sessions, spool, redis)
    found = {(row["where"], row["what"]): row["count"] for row in rows}
    assert found.pop(("spool", "free MiB")) > 0
    assert found == {
        ("spool", "pending"): 1,
        ("spool", "set aside"): 1,
        ("spool archive", "kept"): 2,
        ("spool archive", "bytes"): sizes,
        ("queue stat", "queued"): 1,
        ("queue stat", "started"): 0,
        ("queue routine", "queued"): 0,
        ("queue routine", "started"): 0,
        ("ledger", "done"): 2,
        ("ledger", "failed (undecodable_pixels)"): 1,
        ("ledger", "skipped (no_rule_matched)"): 1,
        ("delivery to archive", "dead"): 1,
        ("delivery to archive", "pending"): 1,
    }


def test_status_says_that_redis_does_not_answer(sqlite_sessions: Sessions, tmp_path: Path) -> None:
    with connect_redis(Settings(redis_url=f"unix://{tmp_path / 'nobody.sock'}")) as nobody:
        rows = status(sqlite_sessions, Spool(tmp_path / "not there yet"), nobody)
    assert rows == [{"where": "queues", "what": "Redis does not answer", "count": None}]


@pytest.fixture
def settled(sessions: Sessions, outcomes: Any) -> Sessions:
    """Three instances of two studies, received a minute apart from 2026-01-01 on."""
    start = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    batch = [
        outcomes.done("1.1.1", probability=0.75, received_at=start),
        outcomes.done("1.1.2", probability=0.25, received_at=start + 60),
    ]
    skipped = outcomes.refused(Skipped(Reason.EXCLUDED_BY_RULE, "lateral"), "1.2.1", outcomes.facts("1.2.1"))
    batch.append(replace(skipped, request=replace(skipped.request, received_at=start + 120)))
    Settlement(sessions, "keep_first", []).settle(batch)
    return sessions


# requeue


@pytest.fixture
def failed(sessions: Sessions, spool: Spool, outcomes: Any) -> dict[str, InferenceRequest]:
    """Two instances that failed for different reasons, their files set aside."""
    requests = {uid: _store(spool, uid, uid.encode()) for uid in ("1.1", "1.2")}
    reasons = {"1.1": Reason.DECODE_TIMEOUT, "1.2": Reason.UNDECODABLE_PIXELS}
    refusals = [
        replace(outcomes.refused(Unprocessable(reasons[uid]), uid), request=request)
        for uid, request in requests.items()
    ]
    Settlement(sessions, "keep_first", []).settle(refusals)
    for request in requests.values():
        spool.set_aside(request.spool_key)
    return requests


def _requeue(sessions: Sessions, spool: Spool, **chosen: Any) -> list[str]:
    rows = requeue(sessions, spool, **{"instance": None, "reason": None, "all_failed": False, **chosen})
    assert {row["now"] for row in rows} <= {"pending again"}
    return sorted(row["sop_instance_uid"] for row in rows)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"all_failed": True}, ["1.1", "1.2"]),
        ({"instance": "1.2"}, ["1.2"]),
        ({"instance": "9.9"}, []),
        ({"reason": "decode_timeout"}, ["1.1"]),
        ({"reason": "no_such_reason"}, []),
    ],
)
def test_what_failed_is_taken_back_into_the_feed(
    sessions: Sessions, spool: Spool, failed: dict[str, InferenceRequest], chosen: dict[str, Any], expected: list[str]
) -> None:
    assert _requeue(sessions, spool, **chosen) == expected
    assert sorted(entry.sop_instance_uid for entry in spool.entries()) == expected
    with sessions.begin() as session:
        states = dict(session.execute(select(Instance.sop_instance_uid, Instance.state)).all())
        assert states == {
            uid: InstanceState.RECEIVED if uid in expected else InstanceState.FAILED for uid in ("1.1", "1.2")
        }
        for uid in expected:  # what the sweeper does next
            (registration,) = register(session, [failed[uid]], "keep_first").values()
            assert registration is Registration.PENDING


def test_an_instance_that_was_settled_otherwise_is_not_requeued_for_want_of_a_reason(
    sessions: Sessions, spool: Spool, outcomes: Any
) -> None:
    request = _store(spool, "1.5")
    Settlement(sessions, "keep_first", []).settle([replace(outcomes.done("1.5"), request=request)])
    spool.set_aside(request.spool_key)
    assert _requeue(sessions, spool, instance="1.6") == []
    assert list(spool.entries()) == []


# redeliver


@pytest.fixture
def delivered(sessions: Sessions, outcomes: Any) -> Sessions:
    """Outputs of three instances of two studies; the third of them was given up by the archive."""
    Settlement(sessions, "keep_first", [Recipient(name="archive")]).settle(
        [
            outcomes.done("1.1.1", output_uid="2.25.1"),
            outcomes.done("1.1.2", output_uid="2.25.2"),
            outcomes.done("1.2.1", output_uid="2.25.3"),
        ]
    )
    with sessions.begin() as session:
        for row in session.scalars(select(Delivery)):
            row.state, row.attempts, row.delivered_at = DeliveryState.DELIVERED, 1, utc_now()
        third = session.scalars(select(Delivery).order_by(Delivery.id.desc())).first()
        assert third is not None
        third.state, third.attempts, third.delivered_at = DeliveryState.DEAD, 5, None
    return sessions


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"all_dead": True}, ["2.25.3"]),
        ({"study": "1.1.1000"}, ["2.25.1", "2.25.2"]),
        ({"instance": "1.1.2"}, ["2.25.2"]),
        ({"instance": "2.25.1"}, ["2.25.1"]),
        ({"instance": "9.9"}, []),
        ({"study": "1.1.1000", "destination": "elsewhere"}, []),
    ],
)
def test_outputs_are_made_due_again(delivered: Sessions, chosen: dict[str, Any], expected: list[str]) -> None:
    before = utc_now()
    rows = redeliver(delivered, **{"study": None, "instance": None, "destination": None, "all_dead": False, **chosen})
    assert sorted(row["output"] for row in rows) == expected
    with delivered() as session:
        pending = list(session.scalars(select(Delivery).where(Delivery.state == DeliveryState.PENDING)))
        assert sorted(row.output.sop_instance_uid for row in pending) == expected
        assert all(row.attempts == 0 and row.delivered_at is None for row in pending)
        assert all(row.next_attempt_at >= before and row.requested_at >= before for row in pending)


def test_outputs_can_be_sent_to_a_destination_that_is_new(delivered: Sessions) -> None:
    for _ in range(2):
        rows = redeliver(
            delivered,
            study="1.1.1000",
            instance=None,
            destination="new",
            all_dead=False,
            new_destinations=[Recipient(name="new")],
        )
        assert [(row["output"], row["destination"]) for row in rows] == [("2.25.1", "new"), ("2.25.2", "new")]
    with delivered() as session:
        states = session.execute(select(Delivery.destination, Delivery.state)).all()
    assert sorted((name, state.value) for name, state in states) == [
        ("archive", "dead"),
        ("archive", "delivered"),
        ("archive", "delivered"),
        ("new", "pending"),
        ("new", "pending"),
    ]


# The command line


RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def on_command_line(database_url: str, tmp_path: Path, redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADSTREAM_DATABASE_URL", database_url)
    monkeypatch.setenv("RADSTREAM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("RADSTREAM_REDIS_URL", redis_server.url)
    monkeypatch.setattr("worker.__main__.configure_logging", lambda settings, process: None)


@pytest.mark.usefixtures("on_command_line")
def test_the_commands_print_to_standard_output(settled: Sessions, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--format", "json"]) == 0
    assert {"where": "ledger", "what": "done", "count": 2} in json.loads(capsys.readouterr().out)
    assert main(["requeue", "--failed"]) == 0
    assert "nothing" in capsys.readouterr().out
    assert main(["redeliver", "--dead", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.usefixtures("on_command_line")
def test_a_destination_that_is_not_set_is_a_wrong_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["redeliver", "--study", "1.2", "--destination", "nowhere"]) == 2
    assert capsys.readouterr().err == (
        "radstream: --destination nowhere: not one of RADSTREAM_WORKER_DESTINATIONS (none is set)\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [[], ["results", "--since", "yesterday"], ["requeue"], ["redeliver", "--dead", "--study", "1"], ["fly"]],
)
def test_wrong_arguments_end_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_database_is_migrated_by_the_command_and_asked_for_before(run_python: RunPython, tmp_path: Path) -> None:
    environment = {"RADSTREAM_DATA_DIR": str(tmp_path), "RADSTREAM_REDIS_URL": f"unix://{tmp_path / 'no.sock'}"}
    before = run_python("-m", "worker", "status", env=environment)
    assert before.returncode == 2
    assert before.stderr == (
        "radstream: the results database is at migration none, this version needs 0009: "
        "run `python -m worker migrate`\n"
    )
    migrated = run_python("-m", "worker", "migrate", env=environment)
    assert (migrated.returncode, migrated.stdout) == (0, "the results database is at migration 0009\n")
    after = run_python("-m", "worker", "status", env=environment)
    assert (after.returncode, after.stderr) == (0, "")
    assert "Redis does not answer" in after.stdout


def test_a_database_that_does_not_answer_is_one_line(run_python: RunPython, tmp_path: Path) -> None:
    url = f"postgresql+psycopg://postgres:secret@/db?host={tmp_path}"
    done = run_python("-m", "worker", "results", env={"RADSTREAM_DATABASE_URL": url})
    assert done.returncode == 1
    assert done.stderr == "radstream: the results database does not answer (OperationalError)\n"
