"""Compares ledger, spool, outbox and archive: whatever got Success is settled once, with one output each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sqlalchemy import create_engine, text

from deploy.launcher import Feed, wait_until
from deploy.receiver import Receiver


class Ledger:
    """The results database of a feed, read from outside."""

    def __init__(self, feed: Feed) -> None:
        url = feed.environment.get("RADSTREAM_DATABASE_URL") or f"sqlite:///{feed.directory / 'radstream.db'}"
        self._engine = create_engine(url)

    def rows(self, statement: str) -> list[dict[str, object]]:
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(statement)).mappings()]

    def states(self) -> dict[str, str]:
        return {str(row["sop_instance_uid"]): str(row["state"]) for row in self.rows("SELECT * FROM instance")}

    def close(self) -> None:
        self._engine.dispose()


def wait_settled(feed: Feed, uids: Iterable[str], timeout_s: float = 90) -> dict[str, str]:
    """Wait until instances have a final state."""
    ledger, wanted = Ledger(feed), set(uids)

    def settled() -> bool:
        states = ledger.states()
        return all(states.get(uid) in {"done", "skipped", "failed"} for uid in wanted)

    try:
        good = wait_until(settled, timeout_s, 0.3)
        states = ledger.states()
        left = {uid: states.get(uid) for uid in wanted if states.get(uid) not in {"done", "skipped", "failed"}}
        assert good, f"not settled within {timeout_s} s: {left}\n{tails(feed)}"
        return states
    finally:
        ledger.close()


def reconcile(feed: Feed, archive: Receiver, accepted: Iterable[str], timeout_s: float = 90) -> None:
    """Every accepted chest is done once, has one output of each kind, which reached the archive; nothing is left."""
    uids = set(accepted)
    states = wait_settled(feed, uids, timeout_s)
    assert {states[uid] for uid in uids} == {"done"}, Counter(states[uid] for uid in uids)
    ledger = Ledger(feed)
    try:
        undelivered = "SELECT * FROM delivery WHERE state <> 'delivered'"
        arrived = wait_until(lambda: not ledger.rows(undelivered), timeout_s, 0.3)
        assert arrived, f"{len(ledger.rows(undelivered))} are not delivered\n{tails(feed)}"
        inferences = Counter(row["instance_id"] for row in ledger.rows("SELECT * FROM inference"))
        assert set(inferences.values()) == {1}, "an instance has two findings"
        outputs = ledger.rows(
            "SELECT output.sop_instance_uid AS uid, output.kind, instance.sop_instance_uid AS source"
            " FROM output JOIN instance ON instance.id = output.instance_id"
        )
        made = Counter((str(row["source"]), str(row["kind"])) for row in outputs)
        assert set(made.values()) == {1}, "an instance has two outputs of a kind"
        kinds = {kind for _, kind in made}
        assert {(uid, kind) for uid in uids for kind in kinds} <= set(made), "an instance lacks an output"
        assert {str(row["uid"]) for row in outputs} == set(archive.counts)
        waiting = wait_until(lambda: not spool_leftovers(feed), 20)
        assert waiting, f"left in the spool: {spool_leftovers(feed)}"
    finally:
        ledger.close()


def spool_leftovers(feed: Feed) -> list[str]:
    """Files in the spool that stand for unfinished work."""
    return [path.name for path in (feed.directory / "spool" / "pending").rglob("*.dcm")]


def tails(feed: Feed) -> str:
    """Ends of all logs, for the message of a failed test."""
    parts = []
    for log in sorted(feed.logs.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-15:]
        parts.append(f"--- {log.name}\n" + "\n".join(line[:300] for line in lines))
    return "\n".join(parts)
