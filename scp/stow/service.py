"""The STOW-RS service: ``POST <base>/studies`` and ``<base>/studies/<study>``.

What can be refused is refused before the body is read. Bodies are taken in worker threads, so that a slow disk holds
up nobody else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.spool_places import is_valid_uid
from models.telemetry import get_logger
from scp.scoreboard import Slot, answer_name
from scp.statuses import StoreStatus
from scp.stow.answer import UNAVAILABLE, http_status, response_body
from scp.stow.clients import Clients
from scp.stow.parts import BadRequest, PartContext, RequestBody

DICOM_JSON: Final = "application/dicom+json"
ACCEPTABLE: Final = frozenset({"*/*", "application/*", DICOM_JSON, "application/json"})
FULL_RETRY_S: Final = 60
"""What a client is asked to wait when there is no room."""
BUSY_RETRY_S: Final = 5
MAX_BOUNDARY_BYTES: Final = 128
"""RFC 2046 5.1.1 allows 70; Orthanc has 73."""
MIN_BYTES_PER_S: Final = 1024
"""A request that is slower over its whole length is given up: a client that trickles would hold its place for ever."""

log = get_logger("scp.stow")


class _Refused(Exception):
    """An answer given before or instead of the results."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.response = PlainTextResponse(text + "\n", status, headers)


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """How many requests at once, and how long a client may be silent, seconds."""

    max_requests: int
    timeout_s: float


class StowService:
    """Serves requests; one for each process."""

    def __init__(self, context: PartContext, clients: Clients, slot: Slot, limits: ServiceLimits) -> None:
        self._context = context
        self._clients = clients
        self._slot = slot
        self._limits = limits
        self._open = 0
        self._workers = ThreadPoolExecutor(limits.max_requests, thread_name_prefix="stow")

    def application(self, base_path: str) -> ASGIApp:
        """Give the application, which counts its answers."""
        routes = [
            Route(f"{base_path}/studies", self._store, methods=["POST"]),
            Route(f"{base_path}/studies/{{study}}", self._store, methods=["POST"]),
        ]
        return _Counted(Starlette(routes=routes), self._slot)

    async def _store(self, request: Request) -> Response:
        began = time.monotonic()
        try:
            client = self._clients.identify(request.headers.get("authorization"))
            if client is None:
                self._context.audit.token_refused(_address(request))
                raise _Refused(401, "a bearer token is needed", {"WWW-Authenticate": 'Bearer realm="radstream"'})
            body = RequestBody(self._context, client, _study(request), _boundary(request), _address(request))
            _check_accept(request)
            self._check_room()
        except _Refused as refused:
            log.warning("stow_request_refused", http_status=refused.response.status_code, reason=str(refused))
            return refused.response
        self._open += 1
        try:
            response = await self._receive(request, body)
        except _Refused as refused:
            response = refused.response
        except Exception:
            log.exception("stow_request_failed")
            response = PlainTextResponse("internal error\n", 500, {"Connection": "close"})
        finally:
            self._open -= 1
            await asyncio.get_running_loop().run_in_executor(self._workers, body.close)
        stored = sum(result.status is StoreStatus.SUCCESS for result in body.results)
        log.info(
            "stow_request_ended",
            http_status=response.status_code,
            client=client,
            address=_address(request) or None,
            stored=stored,
            refused=len(body.results) - stored,
            seconds=round(time.monotonic() - began, 3),
        )
        return response

    async def _receive(self, request: Request, body: RequestBody) -> Response:
        loop = asyncio.get_running_loop()
        try:
            async for chunk in self._chunks(request):
                await loop.run_in_executor(self._workers, body.feed, chunk)
        except TimeoutError as error:
            raise _Refused(408, "nothing came for too long", {"Connection": "close"}) from error
        except ClientDisconnect as error:
            raise _Refused(400, "the client is gone") from error
        except (FormParserError, BadRequest):
            return self._broken(body)
        if not body.complete or not body.results:
            return self._broken(body)
        status = http_status(body.results)
        headers = {"Retry-After": str(FULL_RETRY_S)} if status == UNAVAILABLE else None
        return Response(response_body(body.results), status, headers, media_type=DICOM_JSON)

    def _broken(self, body: RequestBody) -> Response:
        # Parts before the break may be stored; the answer names them, and sending all again harms nothing.
        if body.results:
            return Response(response_body(body.results), 400, {"Connection": "close"}, media_type=DICOM_JSON)
        return PlainTextResponse("not a multipart/related body of at least one part\n", 400, {"Connection": "close"})

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        stream = request.stream().__aiter__()
        began, received = time.monotonic(), 0
        while True:
            try:
                chunk = await asyncio.wait_for(anext(stream), self._limits.timeout_s)
            except StopAsyncIteration:
                return
            received += len(chunk)
            if time.monotonic() - began > self._limits.timeout_s + received / MIN_BYTES_PER_S:
                raise TimeoutError
            if chunk:
                yield chunk

    def _check_room(self) -> None:
        if self._open >= self._limits.max_requests:
            raise _Refused(503, "too many requests at once", {"Retry-After": str(BUSY_RETRY_S)})
        if not self._context.admission.has_room():
            raise _Refused(503, "no space or too many instances pending", {"Retry-After": str(FULL_RETRY_S)})


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _study(request: Request) -> str | None:
    uid: str | None = request.path_params.get("study")
    if uid is not None and not is_valid_uid(uid):
        raise _Refused(400, "the study is not a UID")
    return uid


def _boundary(request: Request) -> bytes:
    media_type, parameters = parse_options_header(request.headers.get("content-type"))
    # PS3.18 8.7.5: DICOM files in multipart/related; the type parameter may be missing, RFC 2387 or not.
    inner = parameters.get(b"type", b"application/dicom").lower()
    if media_type.strip() != b"multipart/related" or inner != b"application/dicom":
        raise _Refused(415, 'send multipart/related; type="application/dicom"')
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise _Refused(415, "send the body without a content encoding")
    boundary = parameters.get(b"boundary", b"")
    if not 1 <= len(boundary) <= MAX_BOUNDARY_BYTES:
        raise _Refused(400, f"the boundary must have 1 to {MAX_BOUNDARY_BYTES} characters")
    return boundary


def _check_accept(request: Request) -> None:
    accepted = request.headers.get("accept", "*/*").split(",")
    if not any(part.partition(";")[0].strip().lower() in ACCEPTABLE for part in accepted):
        raise _Refused(406, f"the answer is {DICOM_JSON}")


class _Counted:
    """Counts the answers of an application by their status."""

    def __init__(self, application: ASGIApp, slot: Slot) -> None:
        self._application = application
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._slot.add(answer_name(message["status"]))
            await send(message)

        await self._application(scope, receive, counting)
