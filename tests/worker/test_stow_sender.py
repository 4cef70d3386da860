"""One origin server as a destination: what is sent, and what its answers mean."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.message import Message
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from models.errors import ConfigurationError, Reason
from models.records.base import utc_now
from models.records.outputs import Delivery
from models.settings import load
from worker.delivery import DestinationQueue
from worker.metrics import DeliveryMetrics
from worker.outbox import Outbox
from worker.sender import SendResult
from worker.settings import AnyDestination, Destination, StowDestination, WorkerSettings
from worker.settlement import Settlement
from worker.stow_sender import BLOCK_BYTES, MultipartFile, StowSender, _retry_after_s, judge_answer

REFUSED, UNREACHABLE = Reason.DESTINATION_REFUSED, Reason.DESTINATION_UNREACHABLE
UNAUTHORISED, NOT_FOUND = Reason.DESTINATION_UNAUTHORISED, Reason.DESTINATION_NOT_FOUND


class OriginServer:
    """A real HTTP server on the loopback interface that answers as the test wants."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Message, bytes]] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((self.path, self.headers, body))
                code, headers, text = outer.answers.pop(0) if outer.answers else (200, {}, b"{}")
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/dicom-web"
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def origin() -> Iterator[OriginServer]:
    server = OriginServer()
    yield server
    server.stop()


@pytest.fixture
def sender_to() -> Iterator[Callable[..., StowSender]]:
    made: list[StowSender] = []

    def make(url: str, **options: Any) -> StowSender:
        made.append(StowSender(StowDestination(name="web", url=url, **options), 5.0))
        return made[-1]

    yield make
    for sender in made:
        sender.release()


def _failed(reason: int, sequence: str = "00081198") -> dict[str, Any]:
    item = {"00081150": {"vr": "UI", "Value": ["1.2"]}, "00081197": {"vr": "US", "Value": [reason]}}
    return {sequence: {"vr": "SQ", "Value": [item]}}


def test_the_file_arrives_as_it_lies_in_the_outbox(
    origin: OriginServer, sender_to: Any, put_output: Callable[[str], Path]
) -> None:
    path = put_output("2.25.1")
    assert sender_to(f"{origin.url}/").send(path) == SendResult(http_status=200)
    ((target, headers, body),) = origin.requests
    assert target == "/dicom-web/studies"
    assert headers.get_content_type() == "multipart/related"
    assert headers.get_param("type") == "application/dicom"
    # Taken apart by hand, by RFC 2046 5.1.1.
    boundary = str(headers.get_param("boundary")).encode()
    before, part, after = body.split(b"--" + boundary)
    assert (before, after) == (b"", b"--\r\n")
    head, _, content = part.partition(b"\r\n\r\n")
    assert head == b"\r\nContent-Type: application/dicom"
    assert content == path.read_bytes() + b"\r\n"
    assert headers["Authorization"] is None


@pytest.mark.parametrize(
    ("http_status", "answer", "expected"),
    [
        (200, None, SendResult(http_status=200)),
        (200, {}, SendResult(http_status=200)),
        (202, {}, SendResult(http_status=202)),  # stored, with coerced attributes, say
        (200, _failed(0x0110), SendResult(0x0110, REFUSED, False, 200)),  # some answer 200 whatever came of it
        (202, _failed(0xA700), SendResult(0xA700, REFUSED, False, 202)),
        (202, _failed(0xA900), SendResult(0xA900, REFUSED, True, 202)),
        (409, _failed(0x0111), SendResult(0x0111, None, False, 409)),  # it is there already
        (409, _failed(0x0122), SendResult(0x0122, REFUSED, True, 409)),
        (409, _failed(0xC000, "0008119A"), SendResult(0xC000, REFUSED, True, 409)),
        (409, _failed("text"), SendResult(0xC000, REFUSED, True, 409)),  # type: ignore[arg-type]
        (409, None, SendResult(None, REFUSED, True, 409)),
        (409, {"00081198": 7}, SendResult(None, REFUSED, True, 409)),
        (400, None, SendResult(None, REFUSED, True, 400)),
        (413, None, SendResult(None, REFUSED, True, 413)),
        (415, None, SendResult(None, REFUSED, True, 415)),
        (401, None, SendResult(None, UNAUTHORISED, False, 401)),
        (403, _failed(0x0124), SendResult(None, UNAUTHORISED, False, 403)),
        (404, None, SendResult(None, NOT_FOUND, False, 404)),
        (301, None, SendResult(None, NOT_FOUND, False, 301)),
        (405, None, SendResult(None, NOT_FOUND, False, 405)),
        (429, None, SendResult(None, REFUSED, False, 429)),
        (500, None, SendResult(None, REFUSED, False, 500)),
        (503, None, SendResult(None, REFUSED, False, 503)),
        (502, None, SendResult(None, UNREACHABLE, False, 502)),
        (504, None, SendResult(None, UNREACHABLE, False, 504)),
    ],
)
def test_answers_mean_delivered_later_or_never(
    http_status: int, answer: dict[str, Any] | None, expected: SendResult
) -> None:
    assert judge_answer(http_status, answer) == expected


def test_what_the_server_asks_us_to_wait_is_read(
    origin: OriginServer, sender_to: Any, put_output: Callable[[str], Path]
) -> None:
    sender, path = sender_to(origin.url), put_output("2.25.1")
    origin.answers = [(503, {"Retry-After": "120"}, b""), (200, {}, json.dumps([_failed(0xA700)]).encode())]
    assert sender.send(path) == SendResult(None, REFUSED, False, 503, 120.0)
    assert sender.send(path) == SendResult(0xA700, REFUSED, False, 200)
    waits = _retry_after_s(format_datetime(utc_now() + timedelta(seconds=90)))
    assert waits is not None
    assert 80 < waits <= 90
    assert _retry_after_s("soon") is None
    assert _retry_after_s(None) is None


def test_a_queue_waits_as_long_as_it_was_asked_to_and_does_not_try_the_next(
    origin: OriginServer, sender_to: Any, put_output: Any, outbox: Outbox, outcomes: Any, sqlite_sessions: Any
) -> None:
    sessions: sessionmaker[Session] = sqlite_sessions
    settings = WorkerSettings(delivery_first_retry_s=1, delivery_longest_retry_s=600)
    destination = StowDestination(name="web", url=origin.url)
    for uid in ("2.25.1", "2.25.2"):
        put_output(uid)
    done = [outcomes.done(f"{uid}.9", output_uid=uid) for uid in ("2.25.1", "2.25.2")]
    Settlement(sessions, "keep_first", [destination]).settle(done)
    queue = DestinationQueue(sender_to(origin.url), sessions, outbox, settings, DeliveryMetrics(CollectorRegistry()))
    origin.answers = [(503, {"Retry-After": "300"}, b"")]
    queue._turn(threading.Event())
    assert len(origin.requests) == 1
    with sessions() as session:
        first, second = session.scalars(select(Delivery).order_by(Delivery.attempts.desc()))
    assert (first.last_http_status, first.last_status, first.reason) == (503, None, REFUSED.value)
    assert 250 < (first.next_attempt_at - utc_now()).total_seconds() <= 300
    assert second.attempts == 0


def test_nobody_listening_a_dead_port_and_a_missing_file_are_told_apart(
    origin: OriginServer, sender_to: Any, put_output: Callable[[str], Path], tmp_path: Path
) -> None:
    sender = sender_to(origin.url)
    assert sender.send(tmp_path / "none.dcm") == SendResult(None, Reason.OUTPUT_FILE_MISSING, True)
    (tmp_path / "cut.dcm").write_bytes(b"cut off")
    assert sender.send(tmp_path / "cut.dcm") == SendResult(None, Reason.OUTPUT_FILE_MISSING, True)
    assert not origin.requests
    assert sender_to("http://127.0.0.1:1/x").send(put_output("2.25.1")) == SendResult(None, UNREACHABLE)


def test_credentials_are_read_for_each_output_and_never_follow_a_redirect(
    origin: OriginServer, sender_to: Any, put_output: Callable[[str], Path], tmp_path: Path
) -> None:
    path, secret = put_output("2.25.1"), tmp_path / "secret"
    secret.write_text("first-token\n")
    sender = sender_to(origin.url, bearer_token_file=secret)
    assert sender.send(path).reason is None
    secret.write_text("second-token\n")
    origin.answers = [(307, {"Location": f"{origin.url}/elsewhere"}, b"")]
    assert sender.send(path) == SendResult(None, NOT_FOUND, False, 307)
    secret.unlink()
    assert sender.send(path) == SendResult(None, UNAUTHORISED)
    assert [headers["Authorization"] for _, headers, _ in origin.requests] == [
        "Bearer first-token",
        "Bearer second-token",
    ]
    secret.write_text("pass:word")
    basic = sender_to(origin.url, username="radstream", password_file=secret)
    assert basic.send(path).reason is None
    # base64 of radstream:pass:word, by coreutils
    assert origin.requests[-1][1]["Authorization"] == "Basic cmFkc3RyZWFtOnBhc3M6d29yZA=="


def test_files_that_cannot_be_read_are_a_mistake_of_the_settings(origin: OriginServer, tmp_path: Path) -> None:
    for wrong in ({"bearer_token_file": tmp_path / "none"}, {"username": "u", "password_file": tmp_path / "none"}):
        with pytest.raises(ConfigurationError, match="web"):
            StowSender(StowDestination(name="web", url=origin.url, **wrong), 5.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="TLS"):
        StowSender(StowDestination(name="web", url="https://pacs/x", tls_ca=tmp_path / "none"), 5.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://pacs/x"},
        {"url": "http://user:secret@pacs/x"},
        {"url": "http://pacs/x?token=1"},
        {"url": "http://pacs/x", "bearer_token_file": "/token"},
        {"url": "https://pacs/x", "username": "u"},
        {"url": "https://pacs/x", "username": "u", "password_file": "/p", "bearer_token_file": "/t"},
        {"url": "https://pacs/x", "host": "pacs"},
        {"url": "https://pacs/x", "commitment": True},
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(AnyDestination).validate_python({"name": "web", **wrong})


def test_a_destination_is_one_of_two_kinds() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(AnyDestination)
    assert isinstance(adapter.validate_python({"name": "a", "url": "https://pacs/x"}), StowDestination)
    dimse = {"name": "a", "host": "pacs", "port": 104, "ae_title": "PACS"}
    assert isinstance(adapter.validate_python(dimse), Destination)
    loopback = {"name": "a", "url": "http://localhost:8042/x", "username": "u", "password_file": "/p"}
    assert isinstance(adapter.validate_python(loopback), StowDestination)
    open_text = {"name": "a", "url": "http://pacs/x", "bearer_token_file": "/t", "cleartext_credentials": True}
    assert isinstance(adapter.validate_python(open_text), StowDestination)


def test_a_large_file_is_given_in_pieces_of_known_length(
    sender_to: Any, put_output: Callable[[str], Path], origin: OriginServer
) -> None:
    path = put_output("2.25.1")
    with path.open("r+b") as file:
        file.truncate(3 * BLOCK_BYTES + 1)
        body = MultipartFile(file, "x")
        sizes = [len(piece) for piece in body]
    assert max(sizes) == BLOCK_BYTES
    assert sum(sizes) == body.length
    assert sender_to(origin.url).send(path).reason is None
    assert len(origin.requests[0][2]) == int(origin.requests[0][1]["Content-Length"])


def test_a_wrong_setting_is_named_without_the_other_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADSTREAM_WORKER_DESTINATIONS", '[{"name": "web", "url": "ftp://pacs"}]')
    with pytest.raises(ConfigurationError, match=r"^RADSTREAM_WORKER_DESTINATIONS\.0\.URL: String should match"):
        load(WorkerSettings)
