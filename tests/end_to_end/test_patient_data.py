"""A patient planted in the test data is found in the database alone, and only where the settings allow it."""

from __future__ import annotations

import hmac
import json
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from instances import PATIENT_ID, PATIENT_NAME, Sender, chest
from pydicom.dataset import Dataset
from reconciliation import Ledger, wait_settled

from deploy.launcher import Feed, wait_until
from deploy.receiver import Receiver

Feeds = Callable[..., Feed]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # the values are wrong on purpose

PLANTED = (*PATIENT_NAME.split("^"), PATIENT_ID, "PLANTEDACC7", "19501231")


def _assert_clean(what: str, content: bytes) -> None:
    for word in PLANTED:
        assert word.encode() not in content, f"{word} is in {what}"


def _redis_contents(port: int) -> dict[str, bytes]:
    """Every key with its value as it was put in; RQ compresses some, and Redis itself would in a dump."""
    client = redis.Redis(port=port)
    contents = {}
    for key in client.scan_iter():
        read: dict[bytes, Callable[[bytes], Any]] = {
            b"hash": client.hgetall,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"zset": lambda key: client.zrange(key, 0, -1),
            b"set": client.smembers,
            b"stream": lambda key: [part for _, entry in client.xrange(key) for pair in entry.items() for part in pair],
            b"string": lambda key: [client.get(key)],
        }
        value = read[client.type(key)](key)
        parts = [part for pair in value.items() for part in pair] if isinstance(value, dict) else list(value)
        contents[f"Redis {key!r}"] = b"\n".join([key, *map(_inflated, parts)])
    client.close()
    assert contents
    return contents


def _inflated(value: bytes) -> bytes:
    try:
        return zlib.decompress(value)
    except zlib.error:
        return value


def _assert_redis_clean(port: int) -> None:
    for what, content in _redis_contents(port).items():
        _assert_clean(what, content)


def test_no_patient_in_logs_metrics_redis_and_error_texts(feeds: Feeds, archive: Receiver, tmp_path: Path) -> None:
    feed = feeds(RADSTREAM_LOG_LEVEL="debug")
    feed.start_redis()
    feed.scp.start()
    feed.wait_ready(feed.scp, feed.scp_telemetry_port, 60)
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


NAMED = "DOEPLANTED"
"""Fits every text attribute, as a code string too, and is no term of the standard."""
NAMES_IN_PARTS = ("DOEPLANTED", "山田プランテッド", "Plänted", "Jörg", "PLANTEDDESCRIPTION")
OTHER_NAMES = ("山田プランテッド", "Plänted^Jörg", "PLANTEDDESCRIPTION OF DOEPLANTED", "DOEPLANTEDOTHER")
TEXTS = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientSex", "PatientBirthDate", "OtherPatientNames"),
    *("AccessionNumber", "StudyID", "StudyDescription", "SeriesDescription", "ReferringPhysicianName"),
    *("Manufacturer", "ManufacturerModelName", "InstitutionName", "StationName", "PatientComments", "ProtocolName"),
    *("ViewPosition", "ImageLaterality", "PatientSpeciesDescription", "RequestedProcedureDescription"),
    *("OperatorsName", "PatientAddress", "ImageComments", "SOPAuthorizationComment", "StudyPriorityID"),
)


def _hostile() -> list[Dataset]:
    """Chests with a name wherever a text may stand: one that is analysed, others that are skipped or fail."""
    everywhere = {keyword: NAMED for keyword in TEXTS}
    japanese, german, description, other = OTHER_NAMES
    analysed = {
        "PatientName": f"{NAMED}={japanese}",
        "PatientID": NAMED,
        "IssuerOfPatientID": other,
        "AccessionNumber": NAMED,
        "StudyDescription": description,
        "SeriesDescription": german,
        "Manufacturer": other,
        "PatientSex": NAMED,
    }
    return [
        chest(seed=1, **analysed),
        chest(seed=2, BodyPartExamined=NAMED, **everywhere),
        chest(seed=3, Modality=NAMED, **everywhere),
        chest(PixelData=b"\x00" * 99, **{**analysed, "PatientName": other}),
        chest(StudyInstanceUID=NAMED, **everywhere),
    ]


def _written_forms(word: str) -> set[bytes]:
    return {word.encode(), word.encode("utf-16-le"), json.dumps(word)[1:-1].encode()}


def _patient_columns(feed: Feed, sent: Sequence[str]) -> dict[str, object]:
    """What is stored of the study of the one instance that was analysed."""
    ledger = Ledger(feed)
    rows = ledger.rows(
        "SELECT instance.sop_instance_uid AS uid, study.* FROM study JOIN series ON series.study_id = study.id"
        " JOIN instance ON instance.series_id = series.id WHERE state = 'done'"
    )
    ledger.close()
    (study,) = [row for row in rows if row["uid"] in sent]
    return {name: value for name, value in study.items() if value is not None and not name.endswith("uid")}


def test_a_name_in_any_field_reaches_no_database_log_metric_or_queue(feeds: Feeds, archive: Receiver) -> None:
    key = "0123456789abcdef"
    feed = feeds(RADSTREAM_PHI="none", RADSTREAM_PHI_KEY=key, RADSTREAM_LOG_LEVEL="debug")
    feed.start()
    contents: dict[str, bytes] = {}
    stored = {}
    for mode in ("none", "pseudonymised"):
        if mode != "none":
            feed.worker.stop()
            feed.environment["RADSTREAM_PHI"] = mode
            feed.worker.start()
        sender = Sender(feed.port)
        sender.send(_hostile())
        states = wait_settled(feed, sender.accepted)
        assert sorted(states[uid] for uid in sender.accepted) == ["done", "failed", "failed", "skipped", "skipped"]
        stored[mode] = _patient_columns(feed, sender.accepted)
        contents |= {f"{what} in {mode}": content for what, content in _redis_contents(feed.redis_port).items()}
    assert stored["none"].keys() == {"id"}
    pseudonym = hmac.new(key.encode(), f"{OTHER_NAMES[3]}\0{NAMED}".encode(), "sha256").hexdigest()[:32]
    assert stored["pseudonymised"]["patient_id"] == pseudonym
    assert stored["pseudonymised"].keys() == {"id", "study_date", "accession_number", "patient_id"}

    assert wait_until(lambda: any(archive.directory.rglob("*.dcm")), 30)
    for port in (feed.scp_telemetry_port, feed.worker_telemetry_port, feed.delivery_telemetry_port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            contents[f"metrics of port {port}"] = answer.read()
    feed.stop()
    delivered = [file.read_bytes() for file in archive.directory.rglob("*.dcm")]
    assert all(NAMED.encode() in content for content in delivered), "what goes back to the PACS names the patient"
    files = [*feed.logs.glob("*.log"), *feed.directory.glob("radstream.db*")]
    assert len(files) >= 4
    contents |= {file.name: file.read_bytes() for file in files}
    words = [*NAMES_IN_PARTS, PATIENT_ID, *PATIENT_NAME.split("^"), "19501231", key]
    for what, content in contents.items():
        found = [word for word in words for form in _written_forms(word) if form in content]
        assert not found, f"{found} in {what}"


def test_without_a_key_nothing_is_pseudonymised(run_python: Callable[..., Any], tmp_path: Path) -> None:
    environment = {"RADSTREAM_DATA_DIR": str(tmp_path), "RADSTREAM_PHI": "pseudonymised"}
    done = run_python("-m", "worker", "run", env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "radstream: RADSTREAM_PHI_KEY: pseudonymised records need a secret key of 16 characters\n"
