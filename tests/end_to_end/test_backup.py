"""A backup of a running feed, the loss of its database and of all its data, and what becomes of every instance."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from instances import PATIENT_ID, PATIENT_NAME, Sender, chest
from pydicom.dataset import Dataset
from reconciliation import Ledger, reconcile, spool_leftovers, tails, wait_settled
from structlog.testing import capture_logs

from deploy.launcher import Feed, wait_until
from deploy.receiver import Receiver
from worker.__main__ import main

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `python -m worker` for a feed; give exit status and output."""

    def run(feed: Feed, *arguments: str) -> tuple[int, str]:
        for name, value in feed.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("worker.__main__.configure_logging", lambda settings, process: None)
        capsys.readouterr()
        with capture_logs():
            status = main(list(arguments))
        told = capsys.readouterr()
        assert PATIENT_ID not in told.out + told.err
        assert PATIENT_NAME.split("^")[0] not in told.out + told.err
        return status, told.out

    return run


def _backed_up_under_load(feed: Feed, command: Command, sent: dict[str, Dataset], directory: Path) -> set[str]:
    """Back up while instances arrive; give those that were accepted before the backup began."""
    sender, enough = Sender(feed.port), threading.Event()

    def send() -> None:
        while not enough.wait(0.4):
            dataset = chest(64)
            sender.send([dataset])
            sent[str(dataset.SOPInstanceUID)] = dataset

    thread, ledger = threading.Thread(target=send), Ledger(feed)
    thread.start()
    try:
        assert wait_until(lambda: "done" in ledger.states().values(), 120, 0.05), tails(feed)
        before = set(sender.accepted)
        status, told = command(feed, "backup", str(directory))
        assert (status, "database at migration" in told) == (0, True)
        after = len(sender.accepted)
        assert wait_until(lambda: len(sender.accepted) >= after + 3, 60, 0.05)
    finally:
        enough.set()
        thread.join()
        ledger.close()
    return before


def _lose(feed: Feed, *names: str) -> None:
    for name in names:
        for path in feed.directory.glob(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _start_again(feed: Feed) -> None:
    feed.scp.start()
    feed.worker.start()
    feed.wait_ready(feed.scp, feed.scp_telemetry_port, 60)
    feed.wait_ready(feed.worker, feed.worker_telemetry_port, 60)


@pytest.mark.timeout(400)  # three starts of a feed on a machine that may be busy
def test_whatever_was_accepted_is_in_the_backup_or_the_spool_or_is_named_and_sent_again(
    feeds: Callable[..., Feed], archive: Receiver, command: Command, tmp_path: Path
) -> None:
    feed, backup, sent = feeds(), tmp_path / "backup", dict[str, Dataset]()
    feed.start()
    before = _backed_up_under_load(feed, command, sent, backup)
    settled_after = set(sent) - before
    reconcile(feed, archive, sent)
    outputs = set(archive.counts)
    kinds, rest = divmod(len(outputs), len(sent))
    assert rest == 0

    # The database is lost, while instances wait that came after all.
    feed.worker.stop()
    waiting = [chest(64) for _ in range(2)]
    sender = Sender(feed.port)
    sender.send(waiting)
    sent |= {str(each.SOPInstanceUID): each for each in waiting}
    assert len(sender.accepted) == len(spool_leftovers(feed)) == 2
    feed.scp.stop()
    _lose(feed, "radstream.db*")
    status, told = command(feed, "restore", str(backup))
    named = {uid for uid, each in sent.items() if f"study {each.StudyInstanceUID}: not in" in told}
    assert (status, bool(named)) == (1, True)
    assert named <= settled_after, "what was accepted before the backup began needs no sender"
    _start_again(feed)
    since = re.findall(r"--since (\S+)", told)[0]
    status, told = command(feed, "reconcile", "--since", since, "--mend", "--min-age", "0", "--format", "json")
    lost = {row["subject"] for row in json.loads(told) if row["disagreement"] == "bytes_lost"}
    assert lost <= settled_after
    wait_settled(feed, set(sent) - named - lost)
    sender.send([sent[uid] for uid in sorted(named | lost)])
    reconcile(feed, archive, sent)
    assert outputs <= set(archive.counts)
    assert len(archive.counts) == kinds * len(sent), "made again, an output has the UID that it had"
    report = (
        f"database lost: {len(sent)} accepted, {len(before)} of them before the backup; {len(named)} named by restore, "
        f"{len(lost)} by reconcile, 2 were in the spool; all {len(sent)} are done, with {len(archive.counts)} outputs\n"
    )

    # Everything is lost: spool, outbox, database, Redis.
    for service in (feed.scp, feed.worker, feed.redis):
        service.kill()
    _lose(feed, "radstream.db*", "spool", "outbox", "redis/*")
    status, told = command(feed, "restore", str(backup))
    assert (status, "spool/pending: " in told) == (0, True)
    feed.start_redis()
    _start_again(feed)
    ledger = Ledger(feed)
    command(feed, "reconcile", "--since", since, "--mend", "--min-age", "0")
    wait_settled(feed, before)
    kept = {uid for uid in sent if uid in ledger.states()}
    assert before <= kept
    ledger.close()
    again = Sender(feed.port)
    again.send([each for uid, each in sent.items() if uid not in before])
    assert len(again.accepted) == len(sent) - len(before)
    reconcile(feed, archive, sent)
    assert len(archive.counts) == kinds * len(sent)
    print(
        report
        + f"all lost: {len(before)} of {len(before)} accepted before the backup are done without their senders; of "
        f"{len(sent) - len(before)} accepted after it began, {len(kept - before)} were in it; sent again, all are done"
    )
