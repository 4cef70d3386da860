"""The doctor of a whole feed: status 0 where all is well, and a phantom that goes through and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from deploy.launcher import Feed
from deploy.receiver import Receiver
from models.diagnosis.checks import Finding, Severity
from models.settings import Settings, load
from worker.doctor.phantom import Trip, check_phantom
from worker.phantom import PHANTOM_ROOT
from worker.settings import RemoteEntity

TABLES = ("study", "series", "instance", "inference", "classification_finding", "output", "delivery", "study_summary")


def _doctor(feed: Feed, *arguments: str, process: str = "worker") -> tuple[int, list[dict[str, str]]]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RADSTREAM_")}
    done = subprocess.run(
        [sys.executable, "-m", process, "doctor", "--format", "json", "--timeout", "30", *arguments],
        env={**inherited, **feed.environment},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)["findings"]


def _failures(findings: list[dict[str, str]]) -> list[dict[str, str]]:
    return [each for each in findings if each["severity"] == "failure"]


def _rows(feed: Feed) -> dict[str, int]:
    engine = create_engine(f"sqlite:///{feed.directory / 'radstream.db'}")
    with engine.connect() as connection:
        counts = {name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in TABLES}
    engine.dispose()
    return counts


def _outbox(feed: Feed) -> list[Path]:
    return [path for path in (feed.directory / "outbox").iterdir() if path.suffix == ".dcm"]


def _phantom(feed: Feed, *, delivered: bool, longest_s: float) -> list[Finding]:
    scp = RemoteEntity(host="127.0.0.1", port=feed.port, ae_title="RADSTREAM")
    trip = Trip(scp, delivered=delivered, longest_s=longest_s, timeout_s=30)
    return list(check_phantom(load(Settings), trip))


def test_a_healthy_feed_is_found_so_and_a_phantom_leaves_nothing_behind(
    feeds: Any, archive: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = feeds(RADSTREAM_SCP_MIN_FREE_BYTES="0")
    feed.start(120)
    for name in ("RADSTREAM_DATA_DIR", "RADSTREAM_REDIS_URL"):
        monkeypatch.setenv(name, feed.environment[name])

    scp = ["--scp", f"127.0.0.1:{feed.port}"]
    status, findings = _doctor(feed, *scp, "--phantom", "--phantom-timeout", "60", "--skip", "codecs", "--skip", "disk")
    assert (status, _failures(findings)) == (0, [])
    phantom = [each["finding"] for each in findings if each["check"] == "phantom"]
    assert phantom[0].startswith("the phantom is accepted by RADSTREAM at 127.0.0.1")
    assert phantom[1].startswith("the phantom is analysed: queued after ")
    assert phantom[1].endswith("2 outputs made")
    assert phantom[2] == "rows and 2 output files of the phantom are removed again"
    assert (_rows(feed), _outbox(feed)) == (dict.fromkeys(TABLES, 0), [])
    assert list(archive.directory.rglob("*.dcm")) == []

    status, findings = _doctor(feed, "--skip", "disk", process="scp")
    assert (status, _failures(findings)) == (0, [])

    told = _phantom(feed, delivered=True, longest_s=60)
    assert [each for each in told if each.severity is Severity.FAILURE] == []
    assert any(each.text.startswith("archive has 2 outputs of the phantom, ") for each in told)
    (stays,) = (each for each in told if each.severity is Severity.WARNING)
    assert (f"as study {PHANTOM_ROOT}.1." in stays.text, stays.remedy) == (True, "delete that study there")
    assert len(list(archive.directory.rglob("*.dcm"))) == 2
    assert (_rows(feed), _outbox(feed)) == (dict.fromkeys(TABLES, 0), [])

    feed.worker.stop()
    accepted, lost = _phantom(feed, delivered=False, longest_s=1)
    assert (accepted.severity, lost.severity) == (Severity.OK, Severity.FAILURE)
    assert lost.text.startswith("after 1 s the phantom is ")
    assert "is a worker running" in lost.remedy or "Redis" in lost.remedy
