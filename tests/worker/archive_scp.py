"""A receiving application entity, for tests of delivery."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from deploy.launcher import free_port

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


class Archive:
    """A real storage SCP on the loopback interface that answers as the test wants."""

    def __init__(self) -> None:
        self.port = free_port()
        self.received: list[Dataset] = []
        self.statuses: list[int] = []
        self.otherwise = 0x0000
        self.asked: list[tuple[str, str, str]] = []
        self.associations = 0
        self.released = 0
        self.abort_once = False
        self.hold = threading.Event()
        self.hold.set()
        self._server: Any = None

    def start(
        self,
        *,
        contexts: dict[str, list[str]] | None = None,
        called: bool = False,
        tls: ssl.SSLContext | None = None,
        finds: bool = False,
    ) -> Archive:
        """Listen; `contexts` are the accepted transfer syntaxes by SOP class, `finds` lets it answer C-FIND."""
        ae = AE(ae_title="ARCHIVE")
        ae.require_called_aet = called
        for sop_class, syntaxes in (contexts or {SECONDARY_CAPTURE: [ExplicitVRLittleEndian]}).items():
            ae.add_supported_context(sop_class, syntaxes)
        if finds:
            ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        handlers = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_ESTABLISHED, self._established),
            (evt.EVT_RELEASED, self._released),
        ]
        self._server = ae.make_server(
            ("127.0.0.1", self.port), evt_handlers=handlers, ssl_context=tls, server_class=ThreadedAssociationServer
        )
        # As `start_server` does, but it looks for its end more often, which spares half a second per test.
        ae._servers.append(self._server)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening and abort what is open; not running is no error."""
        if self._server is not None:
            for association in self._server.active_associations:
                association.abort()
            self._server.shutdown()
            self._server = None

    def _established(self, event: Any) -> None:
        self.associations += 1

    def _released(self, event: Any) -> None:
        self.released += 1

    def _store(self, event: Any) -> int:
        self.hold.wait(10)
        if self.abort_once:
            self.abort_once = False
            event.assoc.abort()
            return 0xC000
        status = self.statuses.pop(0) if self.statuses else self.otherwise
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        self.received.append(dataset)
        return status

    def _find(self, event: Any) -> Iterator[Any]:
        """Give instances of a series by their UIDs alone; a status of the test's in place of the answer."""
        asked = event.identifier
        self.asked.append((asked.QueryRetrieveLevel, str(asked.StudyInstanceUID), str(asked.SeriesInstanceUID)))
        if self.statuses:
            yield self.statuses.pop(0), None
            return
        for dataset in self.received:
            if (dataset.StudyInstanceUID, dataset.SeriesInstanceUID) == self.asked[-1][1:]:
                answer = Dataset()
                answer.QueryRetrieveLevel, answer.SOPInstanceUID = "IMAGE", dataset.SOPInstanceUID
                yield 0xFF00, answer

    @property
    def uids(self) -> list[str]:
        """SOP Instance UIDs as they came."""
        return [str(dataset.SOPInstanceUID) for dataset in self.received]
