"""Structured logs without patient data, and the HTTP port with ``/metrics``, ``/healthz``, ``/readyz`` and pages.

Two rules keep patients out of the logs. Exceptions are logged as type and place, never with their message, which may
quote a dataset. Records of other libraries are logged as logger name and place, never with their text, for the same
reason: pydicom and pynetdicom quote element values in warnings.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from models.settings import Settings

TRUSTED_LOGGERS: Final = ("radstream", "alembic.runtime.migration")
"""Loggers whose messages are our own words; all others are reduced to their origin."""

Check = Callable[[], str | None]
"""A readiness check: None when ready, else a reason code."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a path answers with, and headers beside those that every answer has."""

    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def get_logger(name: str) -> FilteringBoundLogger:
    """Give the logger of a module; events are snake_case names with keys, never sentences with values."""
    logger: FilteringBoundLogger = structlog.get_logger(logger_name=f"radstream.{name}")
    return logger


def configure_logging(settings: Settings, process: str) -> None:
    """Send all logs of this process to stderr, one line per event."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]

    def name_process(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    shared: list[Processor] = [structlog.stdlib.add_log_level, structlog.processors.TimeStamper("iso"), place_exception]
    renderer = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[name_process, *shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = _ForeignHandler(logging.WARNING)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.raiseExceptions = False  # a record that cannot be formatted would be printed with its arguments
    logging.captureWarnings(True)
    warnings.simplefilter("ignore")  # pydicom warns with element values; nothing of it may reach stderr
    sys.excepthook = _log_uncaught
    sys.unraisablehook = lambda found: _log_uncaught(found.exc_type, found.exc_value, found.exc_traceback)
    threading.excepthook = lambda found: _log_uncaught(found.exc_type, found.exc_value, found.exc_traceback)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Say where a process or thread failed; Python's own report would print the message."""
    if issubclass(kind, SystemExit):
        return
    log = get_logger("telemetry")
    if error is None:
        log.critical("uncaught_exception", error=kind.__qualname__)
    else:
        log.critical("uncaught_exception", exc_info=error)


def place_exception(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Replace an exception by its type and the place where it was raised."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()[1]
    elif isinstance(info, tuple):
        info = info[1]
    if isinstance(info, BaseException):
        event["error"] = type(info).__qualname__
        event["error_at"] = _place(info)
        cause = info.__cause__
        if cause is not None:
            event["cause"] = type(cause).__qualname__
            event["cause_at"] = _place(cause)
    return event


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames[-4:]))


class _ForeignHandler(logging.Handler):
    """Takes the records of other libraries and keeps only where they came from."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(logger_name=record.name)
        trusted = record.name.startswith(TRUSTED_LOGGERS)
        keys: dict[str, Any] = {"at": f"{record.filename}:{record.lineno}", "library": record.name}
        if trusted:
            keys["message"] = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            keys["exc_info"] = record.exc_info
        log.log(min(record.levelno, logging.ERROR), "library_message", **keys)


SEES_STOP_S: Final = 0.1
"""Within which a telemetry server sees that it is to stop; Python's own half second is most of a quick stop."""
GUARDS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every answer: nobody keeps it, takes it for another type, or draws it into a page of another site."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A scraper that hangs up is no event worth more than a line."""
        get_logger("telemetry").debug("telemetry_request_failed", exc_info=True)


class TelemetryServer:
    """Serves metrics, health and pages in a thread of its own; everything is read only.

    ``/healthz`` answers 200 while the process lives; ``/readyz`` answers 200 when every check passes, else 503, and
    names the failing checks with their reason codes. `pages` are further paths, whatever their query.
    """

    def __init__(
        self,
        address: str,
        port: int,
        registry: CollectorRegistry,
        checks: dict[str, Check],
        pages: Mapping[str, Callable[[], Page]] | None = None,
    ) -> None:
        further = dict(pages or {})

        class Handler(BaseHTTPRequestHandler):
            timeout = 30  # seconds for a client to say what it wants

            def version_string(self) -> str:
                return "radstream"  # not which Python

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._answer(HTTPStatus.OK, Page(CONTENT_TYPE_LATEST, generate_latest(registry)))
                elif path == "/healthz":
                    self._answer(HTTPStatus.OK, Page("application/json", b'{"alive": true}'))
                elif path == "/readyz":
                    failing = {name: reason for name, check in checks.items() if (reason := check()) is not None}
                    status = HTTPStatus.SERVICE_UNAVAILABLE if failing else HTTPStatus.OK
                    body = json.dumps({"ready": not failing, "failing": failing}).encode()
                    self._answer(status, Page("application/json", body))
                elif path in further:
                    self._answer(HTTPStatus.OK, further[path]())
                else:
                    self._answer(HTTPStatus.NOT_FOUND, Page("text/plain", b"/metrics /healthz /readyz\n"))

            do_HEAD = do_GET

            def _refuse(self) -> None:
                self._answer(HTTPStatus.METHOD_NOT_ALLOWED, Page("text/plain", b"GET, HEAD\n", {"Allow": "GET, HEAD"}))

            do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse

            def _answer(self, status: HTTPStatus, page: Page) -> None:
                self.send_response(status)
                own = {"Content-Type": page.content_type, "Content-Length": str(len(page.body))}
                for name, value in {**own, **GUARDS, **page.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(page.body)

            def log_message(self, format: str, *args: object) -> None:
                """Scrapes are not events."""

        self._server = _Server((address, port), Handler)
        self.port = self._server.server_port

    def start(self) -> None:
        """Begin to serve."""
        threading.Thread(target=self._server.serve_forever, args=[SEES_STOP_S], name="telemetry", daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
