"""Damage of every kind, planted in a real feed with Orthanc as its archive: told, mended, and afterwards all agrees."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from instances import PATIENT_ID, PATIENT_NAME, Sender, chest
from orthanc_server import Orthanc
from reconciliation import Ledger, spool_leftovers, tails, wait_settled
from sqlalchemy import create_engine, text
from structlog.testing import capture_logs

from deploy.launcher import Feed, wait_until
from worker.__main__ import main


class Console:
    """Runs `python -m worker` for a feed, in this process, which has loaded everything already."""

    def __init__(self, feed: Feed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        for name, value in feed.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("worker.__main__.configure_logging", lambda settings, process: None)
        self._capsys = capsys

    def run(self, *arguments: str) -> tuple[int, str]:
        self._capsys.readouterr()
        with capture_logs() as logs:
            status = main(list(arguments))
        told = self._capsys.readouterr()
        for patient in (PATIENT_NAME.split("^")[0], PATIENT_ID):
            assert patient not in told.out + told.err + str(logs)
        return status, told.out

    def reconcile(self, *arguments: str) -> tuple[int, dict[str, dict[str, str | None]]]:
        """Exit status, and rows by what they are about."""
        status, out = self.run("reconcile", "--min-age", "0", "--pacs", "orthanc", "--format", "json", *arguments)
        rows = json.loads(out)
        by_subject = {row["subject"]: row for row in rows}
        assert len(by_subject) == len(rows)
        return status, by_subject

    def now(self, asked: str) -> str:
        """What `trace` says of the one instance that is asked for."""
        status, out = self.run("trace", asked, "--format", "json")
        assert status == 0
        (instance,) = json.loads(out)["instances"]
        return str(instance["now"])


def _delete_at(server: Orthanc, uid: str) -> None:
    (found,) = server.post("/tools/lookup", uid.encode())
    request = urllib.request.Request(f"http://127.0.0.1:{server.http_port}{found['Path']}", method="DELETE")
    urllib.request.urlopen(request, timeout=30).close()


def _all_delivered(ledger: Ledger, count: int) -> bool:
    rows = ledger.rows("SELECT state FROM delivery")
    return len(rows) == count and {row["state"] for row in rows} == {"delivered"}


@pytest.mark.peers
def test_planted_damage_is_told_and_mended_until_all_agrees(
    feeds: Callable[..., Feed],
    peer_program: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    feed = feeds(RADSTREAM_SPOOL_ARCHIVE_DAYS="1")
    server = Orthanc(peer_program("Orthanc"), tmp_path / "orthanc", feed.port)
    try:
        destination = {"name": "orthanc", "host": "127.0.0.1", "port": server.dicom_port, "ae_title": "ORTHANC"}
        destination["outputs"] = ["secondary_capture"]
        feed.environment["RADSTREAM_WORKER_DESTINATIONS"] = json.dumps([destination])
        feed.start()
        ledger, sender, console = Ledger(feed), Sender(feed.port), Console(feed, monkeypatch, capsys)

        # Three are done and delivered, three wait while no worker runs, and then the SCP stops as well.
        done = [chest(64, seed) for seed in range(3)]
        sender.send(done)
        wait_settled(feed, sender.accepted)
        assert wait_until(lambda: _all_delivered(ledger, 3), 60), tails(feed)
        feed.worker.stop()
        waiting = [chest(64, seed) for seed in range(3, 6)]
        sender.send(waiting)
        lost, unknown, flushed = (str(each.SOPInstanceUID) for each in waiting)
        client = redis.Redis(port=feed.redis_port)
        assert wait_until(lambda: client.llen("rq:queue:routine") == 3, 30)
        feed.scp.stop()

        # Planted: Redis flushed, a spool file and a ledger row deleted, two outputs deleted at the PACS, one of them
        # from the outbox as well.
        client.flushall()
        client.close()
        (file,) = (feed.directory / "spool" / "pending").rglob(f"{lost}_*.dcm")
        file.unlink()
        engine = create_engine(f"sqlite:///{feed.directory / 'radstream.db'}")
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM instance WHERE sop_instance_uid = :uid"), {"uid": unknown})
        engine.dispose()
        sent_again, made_again = (
            str(row["sop_instance_uid"]) for row in ledger.rows("SELECT sop_instance_uid FROM output ORDER BY id")[:2]
        )
        for output in (sent_again, made_again):
            _delete_at(server, output)
        (feed.directory / "outbox" / f"{made_again}.dcm").unlink()

        # Trace says it of one, reconcile of all.
        assert console.now(lost).startswith("its bytes are lost")
        assert "not in the ledger yet" in console.now(str(waiting[1].StudyInstanceUID))
        expected = {
            lost: "bytes_lost",
            unknown: "not_in_ledger",
            flushed: "in_no_queue",
            sent_again: "not_at_pacs",
            made_again: "not_at_pacs",
        }
        status, rows = console.reconcile()
        assert (status, {uid: row["disagreement"] for uid, row in rows.items()}) == (1, expected)

        # Mended, but for what only the sender can.
        status, rows = console.reconcile("--mend")
        assert status == 1
        assert {uid: row["mended"] for uid, row in rows.items()} == {
            lost: None,
            unknown: "queued in routine",
            flushed: "queued in routine",
            sent_again: "to be sent to orthanc again",
            made_again: "to be inferred again, queued in routine",
        }
        assert rows[lost]["to_do"] == "have MODALITY send this instance again"

        # The feed goes on, and the sender sends the lost one again.
        feed.scp.start()
        feed.worker.start()
        feed.wait_ready(feed.scp, feed.scp_telemetry_port, 60)
        sender.send(waiting[:1])
        states = wait_settled(feed, sender.accepted)
        assert set(states.values()) == {"done"}
        assert wait_until(lambda: _all_delivered(ledger, 6), 60), tails(feed)
        assert wait_until(lambda: not spool_leftovers(feed), 20)
        assert console.reconcile("--mend") == (0, {})
        assert console.now(lost).startswith("delivered: orthanc")
        assert len(server.get("/instances")) == 6
        assert server.post("/tools/lookup", made_again.encode()), "made again, it has the UID that it had"
        ledger.close()
    finally:
        server.stop()
