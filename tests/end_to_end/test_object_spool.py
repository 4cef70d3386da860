"""The feed with its spool in a bucket: a real S3-speaking server is stopped, and processes are killed."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from instances import Sender, chest
from reconciliation import Ledger, reconcile
from s3_server import S3Server

from deploy.launcher import Feed, wait_until
from deploy.receiver import Receiver

PREFIX = "one_host"
OUT_OF_RESOURCES = 0xA700


def _failing(port: int) -> dict[str, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=20) as answer:
            return dict(json.load(answer)["failing"])
    except urllib.error.HTTPError as error:
        return dict(json.load(error)["failing"])
    except urllib.error.URLError:
        return {"process": "not there yet"}


def _is_empty(s3: S3Server) -> bool:
    return not s3.keys(f"{PREFIX}/pending") and not s3.keys(f"{PREFIX}/set_aside")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """One for the file, as the feed is."""
    with Receiver(tmp_path_factory.mktemp("archive")) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def feed(
    lasting_feeds: Any,
    tmp_path_factory: pytest.TempPathFactory,
    stand_in_store: Path,
    archive: Receiver,
    s3_process: S3Server,
) -> Iterator[Feed]:
    directory, bucket = tmp_path_factory.mktemp("in_a_bucket"), s3_process.environment(PREFIX)
    with lasting_feeds(directory, stand_in_store, archive) as feeds:
        feed = feeds(processes=2, **bucket, RADSTREAM_SPOOL_ARCHIVE_DAYS="1")
        feed.start()
        yield feed


def test_bucket_down_is_refused_and_waited_for_and_nothing_accepted_is_lost(
    feed: Feed, archive: Receiver, s3: S3Server
) -> None:
    sender = Sender(feed.port)
    sender.send([chest(seed=seed) for seed in range(3)])
    assert len(sender.accepted) == 3
    reconcile(feed, archive, sender.accepted)

    feed.worker.stop()
    waiting = [chest(seed=seed) for seed in range(3, 6)]
    sender.send(waiting)
    assert len(s3.keys(f"{PREFIX}/pending")) == 3, "accepted is what the bucket has"
    s3.go_down()
    feed.worker.start()
    refused = [chest(seed=seed) for seed in range(6, 8)]
    sender.send(refused)
    assert [status for _, status in sender.refused] == [OUT_OF_RESOURCES] * 2
    assert _failing(feed.scp_telemetry_port)["spool"] == "object_store_unavailable"
    assert wait_until(
        lambda: _failing(feed.worker_telemetry_port).get("object_store") == "object_store_unavailable", 60, 0.2
    )
    ledger = Ledger(feed)
    assert "failed" not in ledger.states().values()
    ledger.close()

    s3.come_back()
    sender.send(refused)
    assert len(sender.accepted) == 8
    reconcile(feed, archive, sender.accepted)
    assert wait_until(lambda: _is_empty(s3), 20, 0.1)
    assert len(s3.keys(f"{PREFIX}/archive")) == 8
    assert wait_until(lambda: not _failing(feed.scp_telemetry_port) and not _failing(feed.worker_telemetry_port), 20)


def test_processes_killed_while_they_carry_lose_nothing_that_got_success(
    feed: Feed, archive: Receiver, s3: S3Server
) -> None:
    sender = Sender(feed.port)
    threads = [sender.send_in_background([chest(768, seed) for seed in range(start, start + 6)]) for start in (0, 10)]
    wait_until(lambda: len(sender.accepted) >= 3, 120, 0.005)
    feed.scp.kill()
    feed.worker.kill()
    for thread in threads:
        thread.join()
    assert sender.unanswered, "the SCP was killed too late for this test to mean anything"
    # As on a host that is new: of what lay on this one nothing is needed.
    for directory in (feed.directory / "spool", feed.directory / "outbox"):
        for path in directory.rglob("*.*"):
            if path.is_file():
                path.unlink()
    feed.scp.start()
    feed.worker.start()
    feed.wait_ready(feed.scp, feed.scp_telemetry_port, 60)
    reconcile(feed, archive, sender.accepted)
    assert wait_until(lambda: _is_empty(s3), 20, 0.1)
