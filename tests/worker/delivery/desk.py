"""Settles instances with outputs, and delivers them to archives of the test."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from models.records.dicom import Instance
from models.records.outputs import Delivery
from worker.delivery import DestinationQueue
from worker.metrics import DeliveryMetrics
from worker.outbox import Outbox
from worker.sender import Sender
from worker.settings import Destination, Recipient, WorkerSettings
from worker.settlement import Settlement

Sessions = sessionmaker[Session]


def _settings(**changes: Any) -> WorkerSettings:
    quick = {
        "delivery_poll_interval_s": 0.02,
        "delivery_first_retry_s": 0.05,
        "delivery_longest_retry_s": 0.2,
        "delivery_timeout_s": 3,
        "delivery_max_refusals": 3,
    }
    return WorkerSettings(**{**quick, **changes})


class Desk:
    """Settles instances with outputs and delivers them in threads of the test."""

    def __init__(self, sessions: Sessions, outbox: Outbox, outcomes: Any, put_output: Callable[[str], Path]) -> None:
        self.sessions = sessions
        self._outbox = outbox
        self._outcomes = outcomes
        self._put_output = put_output
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def settle(self, *output_uids: str, to: tuple[str, ...] = ("archive",)) -> None:
        """Settle an instance `<uid>.9` with an output for each UID."""
        for uid in output_uids:
            self._put_output(uid)
        done = [self._outcomes.done(f"{uid}.9", output_uid=uid) for uid in output_uids]
        Settlement(self.sessions, "keep_first", [Recipient(name=name) for name in to]).settle(done)

    def queue(
        self, archive: Any, name: str = "archive", metrics: DeliveryMetrics | None = None, **changes: Any
    ) -> DestinationQueue:
        """A queue to an archive that does not run yet."""
        settings = _settings(**changes)
        destination = Destination(name=name, host="127.0.0.1", port=archive.port, ae_title="ARCHIVE")
        sender = Sender(destination, "RADSTREAM", settings.delivery_timeout_s)
        return DestinationQueue(
            sender, self.sessions, self._outbox, settings, metrics or DeliveryMetrics(CollectorRegistry())
        )

    def deliver(self, *queues: DestinationQueue) -> None:
        """Run queues in threads until the test ends."""
        for queue in queues:
            thread = threading.Thread(target=queue.run, args=[self._stopping], daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(15)
            assert not thread.is_alive()

    def rows(self) -> list[Delivery]:
        with self.sessions() as session:
            return list(session.scalars(select(Delivery).order_by(Delivery.id)))

    def states(self) -> list[str]:
        return [row.state.value for row in self.rows()]

    def delivered_at(self, uid: str) -> Any:
        with self.sessions() as session:
            return session.scalars(select(Instance.delivered_at).where(Instance.sop_instance_uid == uid)).one()
