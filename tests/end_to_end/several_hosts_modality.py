"""A modality: sends what it acquired, and sends again, to the next SCP it knows, whatever was not acknowledged."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE

from models.requestor import without_races
from tests.end_to_end.hosts import Host

SCP_PORT = 11112
RETRY_S = 0.5
LOOK_S = 0.02


@dataclass
class Sent:
    """What came of one SCP's C-STOREs."""

    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    unanswered: int = 0
    unreachable: int = 0

    @property
    def unacknowledged(self) -> int:
        """C-STOREs that were sent, and not acknowledged."""
        return self.sent - self.acknowledged


@dataclass
class Modality:
    """One host that sends to several SCPs, as many associations at once as it is given lists.

    Attributes:
        acknowledged: by SOP Instance UID, how often Success was said.
        tries: C-STOREs begun for an instance.
        by_scp: the same by the SCP that was tried.
        interval_s: between the end of one C-STORE and the next acquisition.
        enough: once so many are acknowledged, nothing further is acquired; a resend goes on.
        silence_s: without an answer for so long, it gives up and tries again.
    """

    host: Host
    scps: Sequence[Host]
    interval_s: float
    silence_s: float
    enough: int
    acknowledged: Counter[str] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)
    by_scp: dict[str, Sent] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, batches: Sequence[Sequence[Dataset]]) -> None:
        """Send each batch over an association of its own; they begin at different SCPs."""
        self.by_scp = {scp.name: Sent() for scp in self.scps}
        for number, batch in enumerate(batches):
            order = [*self.scps[number % len(self.scps) :], *self.scps[: number % len(self.scps)]]
            thread = threading.Thread(target=self._send_all, args=(batch, order), daemon=True)
            self._threads.append(thread)
            thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait until everything is acknowledged; False where it is not in time."""
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Give up what is not acknowledged."""
        self._stopping.set()

    def _send_all(self, batch: Sequence[Dataset], order: list[Host]) -> None:
        with self.host.inside():
            association: Any = None
            for dataset in batch:
                while len(self.acknowledged) >= self.enough and not self._stopping.wait(LOOK_S):
                    pass
                while not self._stopping.is_set():
                    if association is None or not association.is_established:
                        association = self._associate(order[0], dataset)
                    if association is not None and self._store(association, order[0], dataset):
                        break
                    if association is not None and association.is_established:
                        association.abort()
                    association = None
                    order.append(order.pop(0))
                    self._stopping.wait(RETRY_S)
                self._stopping.wait(self.interval_s)
            if association is not None and association.is_established:
                association.release()

    def _associate(self, scp: Host, dataset: Dataset) -> Any:
        entity = AE(ae_title="MODALITY")
        entity.add_requested_context(dataset.SOPClassUID, [dataset.file_meta.TransferSyntaxUID])
        entity.dimse_timeout = entity.acse_timeout = entity.network_timeout = self.silence_s
        entity.connection_timeout = 2
        association = entity.associate(scp.address, SCP_PORT, ae_title="RADSTREAM")
        if association.is_established:
            without_races(association)
            return association
        with self._lock:
            self.by_scp[scp.name].unreachable += 1
        return None

    def _store(self, association: Any, scp: Host, dataset: Dataset) -> bool:
        """Send once; True when it was acknowledged with Success."""
        uid = str(dataset.SOPInstanceUID)
        try:
            status = association.send_c_store(dataset).get("Status")
        except (RuntimeError, ValueError, OSError):
            status = None
        with self._lock:
            told = self.by_scp[scp.name]
            told.sent += 1
            self.tries[uid] += 1
            if status == 0:
                self.acknowledged[uid] += 1
                told.acknowledged += 1
            elif status is None:
                told.unanswered += 1
            else:
                told.refused += 1
        return bool(status == 0)
