"""The process of the STOW-RS entry: an HTTP server on the parent's listening socket.

Like a receiver it needs the spool and nothing else, stops gracefully on SIGTERM and when its parent is gone, and
tells the parent of each accepted instance.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from asyncio import TimerHandle, Transport
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from models.any_spool import open_spool
from models.requests import InferenceRequest
from models.telemetry import configure_logging, get_logger
from scp.notices import send_notice
from scp.scoreboard import NOTICES_DROPPED, STOW_READY
from scp.stow.clients import Clients
from scp.stow.parts import PartContext
from scp.stow.service import ServiceLimits, StowService
from scp.tls import stow_context

if TYPE_CHECKING:
    from scp.receiver import Equipment

MAX_HEADER_BYTES: Final = 16_384
"""Of a whole request head; more is answered 400."""
REQUEST_WAIT_S: Final = 10.0
"""For a request head to come, whole, on a new connection or after an answer."""

log = get_logger("scp.stow.server")


def run(equipment: Equipment) -> None:
    """Run the entry to its end; the target of the process."""
    configure_logging(equipment.settings, "scp-stow")
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # our own lines say it, without addresses of resources
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent tells us
    asyncio.run(_serve(equipment))


async def _serve(equipment: Equipment) -> None:
    settings, slot = equipment.scp_settings, equipment.slot

    def stored(request: InferenceRequest) -> None:
        if not send_notice(equipment.notices, request):
            slot.add(NOTICES_DROPPED)

    audit = equipment.open_audit()
    context = PartContext.of(
        settings,
        spool=open_spool(equipment.settings),
        slot=slot,
        stored=stored,
        called_ae_title=equipment.settings.ae_title,
        audit=audit,
    )
    limits = ServiceLimits(settings.stow_max_requests, settings.stow_timeout_s)
    service = StowService(context, Clients(settings.stow_tokens), slot, limits)
    server = _Server(
        uvicorn.Config(
            service.application(settings.stow_path),
            http=PatientProtocol,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            limit_concurrency=4 * settings.stow_max_requests + 16,
            timeout_graceful_shutdown=max(1, round(settings.stop_grace_s)),
            backlog=128,
            **_tls(stow_context(settings)),
        )
    )
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.stop)

    def parent_gone() -> None:
        loop.remove_reader(equipment.notices.fileno())
        log.error("parent_gone")
        server.stop()

    loop.add_reader(equipment.notices.fileno(), parent_gone)  # the parent never writes, so this is its end
    slot.scoreboard.put(slot.index, STOW_READY, 1)
    await server.serve(sockets=[equipment.listener])
    slot.scoreboard.put(slot.index, STOW_READY, 0)
    audit.stop()


def _tls(context: ssl.SSLContext | None) -> dict[str, Any]:
    if context is None:
        return {}
    factory: Callable[..., ssl.SSLContext] = lambda *_: context  # noqa: E731 - typed, as uvicorn's own is
    return {"ssl_context_factory": factory}


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which raises each signal again when all is done."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    def stop(self) -> None:
        self.should_exit = True


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with a limit to the time in which no request is being served.

    uvicorn waits for ever for the first request of a connection, and for the rest of a body that was answered before
    its end.
    """

    _waiting: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Stop to wait when a request head is whole."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._wait()
        super().on_response_complete()

    def _wait(self) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(REQUEST_WAIT_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
