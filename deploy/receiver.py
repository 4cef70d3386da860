"""A small receiving AE that stands in for a PACS: it takes what it is sent and keeps it in a directory."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt

from deploy.launcher import free_port


class Receiver:
    """Stores every object under its SOP Instance UID, and counts how often each came."""

    def __init__(self, directory: Path, port: int = 0, ae_title: str = "ARCHIVE", *, host: str = "127.0.0.1") -> None:
        self.directory = directory
        self.host = host
        self.port = port or free_port()
        self.ae_title = ae_title
        self.counts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._server: Any = None
        directory.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Begin to listen."""
        entity = AE(ae_title=self.ae_title)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(str(context.abstract_syntax), [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        address = (self.host, self.port)
        self._server = entity.start_server(address, block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])

    def stop(self) -> None:
        """Stop listening and drop open associations."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        with self._lock:
            with (self.directory / f"{uid}.dcm").open("wb") as file:
                file.write(event.encoded_dataset())
            self.counts[uid] = self.counts.get(uid, 0) + 1  # now that the file is whole
        return 0x0000

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
