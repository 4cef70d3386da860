"""A patient planted in the test data is found in the database alone, and only where the settings allow it."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from instances import PATIENT_ID, PATIENT_NAME, Sender, chest
from reconciliation import Ledger, reconcile, wait_settled

from deploy.launcher import Feed, wait_until
from deploy.receiver import Receiver

Feeds = Callable[..., Feed]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # the values are wrong on purpose

PLANTED = (*PATIENT_NAME.split("^"), PATIENT_ID, "PLANTEDACC7", "19501231")


def _assert_clean(what: str, content: bytes) -> None:
    for word in PLANTED:
        assert word.encode() not in content, f"{word} is in {what}"


def _assert_redis_clean(port: int) -> None:
    client = redis.Redis(port=port)
    keys = list(client.scan_iter())
    assert keys
    for key in keys:
        kind = client.type(key)
        values = {
            b"hash": lambda key=key: repr(client.hgetall(key)),
            b"list": lambda key=key: repr(client.lrange(key, 0, -1)),
            b"zset": lambda key=key: repr(client.zrange(key, 0, -1)),
            b"set": lambda key=key: repr(client.smembers(key)),
            b"stream": lambda key=key: repr(client.xrange(key)),
            b"string": lambda key=key: repr(client.get(key)),
        }
        # RQ compresses some values; the plain ones of the request are read back below.
        _assert_clean(f"Redis {key!r}", key + values[kind]().encode())
    client.close()


def test_no_patient_in_logs_metrics_redis_and_error_texts(feeds: Feeds, archive: Receiver, tmp_path: Path) -> None:
    feed = feeds(RADSTREAM_LOG_LEVEL="debug")
    feed.start()
    feed.worker.stop()
    sender = Sender(feed.port)
    bad = [
        chest(PatientBirthDate="19501231PLANTEDACC7"),
        chest(StudyInstanceUID=f"{PATIENT_ID}"),
        chest(PixelData=b"\x00" * 99),
        chest(BodyPartExamined="KNEE"),
        chest(InstanceNumber=7, PatientID=PATIENT_ID * 9),
    ]
    sender.send([chest(seed=1), *bad])
    assert len(sender.accepted) == 6
    client = redis.Redis(port=feed.redis_port)
    assert wait_until(lambda: client.llen("rq:queue:routine") == 6, 20)
    client.close()
    _assert_redis_clean(feed.redis_port)
    feed.worker.start()
    wait_settled(feed, sender.accepted)
    ledger = Ledger(feed)
    wait_until(lambda: len(ledger.rows("SELECT * FROM delivery WHERE state = 'delivered'")) >= 3, 30)
    for row in ledger.rows("SELECT reason, reason_detail FROM instance"):
        _assert_clean("a reason", repr(row).encode())
    stored = ledger.rows("SELECT patient_name FROM study")
    ledger.close()
    assert PATIENT_NAME in {row["patient_name"] for row in stored}, "PHI=full keeps the name in the database"
    _assert_redis_clean(feed.redis_port)
    for port in (feed.scp_telemetry_port, feed.worker_telemetry_port, feed.delivery_telemetry_port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            _assert_clean(f"metrics of port {port}", answer.read())
    feed.stop()
    for log in feed.logs.glob("*.log"):
        _assert_clean(log.name, log.read_bytes())


def test_phi_none_keeps_no_patient_in_the_database(feeds: Feeds, archive: Receiver) -> None:
    feed = feeds(RADSTREAM_PHI="none")
    feed.start()
    sender = Sender(feed.port)
    sender.send([chest(seed=1)])
    reconcile(feed, archive, sender.accepted)
    feed.stop()
    for file in feed.directory.glob("radstream.db*"):
        _assert_clean(file.name, file.read_bytes())
