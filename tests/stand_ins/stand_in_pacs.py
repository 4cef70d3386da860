"""A PACS that gives instances by C-GET at the image level, over loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet  # type: ignore[attr-defined]

from deploy.launcher import free_port


class Pacs:
    """Gives what the test put into `holds`, by SOP Instance UID; keeps what it was asked for."""

    def __init__(self, sop_class: str, syntaxes: list[str]) -> None:
        self.port = free_port()
        self.holds: dict[str, Dataset] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.associations = 0
        self._ae = AE(ae_title="PACS")
        self._ae.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
        self._ae.add_supported_context(sop_class, syntaxes, scu_role=True, scp_role=True)
        self._lock = threading.Lock()
        self._server: Any = None

    @property
    def source(self) -> dict[str, Any]:
        """What `backfill_source` is set to."""
        return {"host": "127.0.0.1", "port": self.port, "ae_title": "PACS"}

    def start(self) -> None:
        """Listen."""
        handlers: list[Any] = [(evt.EVT_C_GET, self._get), (evt.EVT_ACCEPTED, self._accepted)]
        self._server = self._ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def stop(self) -> None:
        """Stop listening; not running is no error."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _accepted(self, event: Any) -> None:
        self.associations += 1

    def _get(self, event: Any) -> Iterator[Any]:
        asked = event.identifier
        uid = str(asked.SOPInstanceUID)
        with self._lock:
            self.asked.append((asked.QueryRetrieveLevel, str(asked.StudyInstanceUID), uid))
        found = [self.holds[uid]] if uid in self.holds else []
        yield len(found)
        for dataset in found:
            yield 0xFF00, dataset
