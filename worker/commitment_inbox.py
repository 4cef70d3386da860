"""Reports of archives on our outputs: taken on a port of our own, and written to the records from where they lie.

Whoever takes a report, this process or the SCP, puts it into one directory before it answers; it is recorded from
there, when the database is up.
"""

from __future__ import annotations

import threading
from typing import Any

from pynetdicom.transport import ThreadedAssociationServer
from sqlalchemy.exc import SQLAlchemyError

from models.commitment_reports import Reports
from models.errors import ConfigurationError
from models.telemetry import get_logger
from worker.commitment import DATABASE_RETRY_S, TakeReport, report_handlers, reporting_entity
from worker.commitment_records import CommitmentRecords
from worker.metrics import DeliveryMetrics

POLL_S = 0.2

log = get_logger("worker.commitment_inbox")


class ReportListener:
    """Takes reports on new associations.

    Raises:
        ConfigurationError: from the constructor, the port cannot be opened.
    """

    def __init__(self, ae_title: str, address: str, port: int, keep: TakeReport) -> None:
        ae = reporting_entity(ae_title)
        try:
            self._server = ae.make_server(
                (address, port), evt_handlers=report_handlers(keep), server_class=ThreadedAssociationServer
            )
        except OSError as error:
            raise ConfigurationError(
                f"RADSTREAM_WORKER_COMMITMENT_PORT: cannot listen on {address}:{port}: {error.strerror}"
            ) from error
        ae._servers.append(self._server)  # what `start_server` does, and associations look for themselves there
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=[POLL_S], name="commitment-port", daemon=True
        )

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port and what is open on it."""
        server: Any = self._server
        for association in server.active_associations:
            association.abort()
        server.shutdown()
        server.server_close()


class ReportRecorder:
    """Writes waiting reports to the records; runs as a queue of `worker.delivery.Deliverer`."""

    name = "commitment-reports"

    def __init__(self, folder: Reports, records: CommitmentRecords, metrics: DeliveryMetrics) -> None:
        self._folder = folder
        self._records = records
        self._metrics = metrics

    def run(self, stopping: threading.Event) -> None:
        """Record until told to stop."""
        while not stopping.wait(self._folder.poll_s):
            try:
                self.turn()
            except SQLAlchemyError as error:
                log.warning("commitment_reports_wait", exc_info=error)
                stopping.wait(DATABASE_RETRY_S)
            except Exception as error:
                # A failing disk, or our own mistake: the thread must live on, and the next turn tries again.
                log.error("commitment_reports_failed", exc_info=error)
                stopping.wait(DATABASE_RETRY_S)

    def turn(self) -> None:
        """Record what waits."""
        for name, report in self._folder.waiting():
            if report is None:
                log.error("commitment_report_unreadable", file_name=name)
                self._folder.discard(name)
                continue
            recorded = self._records.record(report)
            self._folder.discard(name)
            if recorded.destination is None:
                log.warning("commitment_report_of_no_request")
                continue
            counts = {"committed": recorded.committed, "sent_again": recorded.sent_again, "dead": recorded.given_up}
            for outcome, count in counts.items():
                if count:
                    self._metrics.commitments.labels(destination=recorded.destination, outcome=outcome).inc(count)
            level = log.warning if report.failed else log.info
            level("commitment_report", destination=recorded.destination, **counts)
