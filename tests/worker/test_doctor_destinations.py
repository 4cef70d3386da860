"""Destinations asked by the doctor: by their own settings, without writing anything there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from archive_scp import SECONDARY_CAPTURE, Archive
from pydicom.uid import ExplicitVRLittleEndian

from models.diagnosis.checks import Finding, Severity, run_checks
from models.settings import Settings
from worker.doctor.destinations import NO_STUDY, checks_of_destinations
from worker.settings import WorkerSettings

VERIFICATION = "1.2.840.10008.1.1"
TOKEN = "hunter2-token"


class WebServer:
    """A DICOMweb server that answers GET and OPTIONS as the test wants."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str | None]] = []
        self.answers: dict[str, tuple[int, dict[str, str]]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                outer.asked.append((self.command, self.path, self.headers.get("Authorization")))
                status, headers = outer.answers.get(self.command, (501, {}))
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_OPTIONS = do_POST = _answer

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/dicom-web"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.stop()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return path


def _asked(destination: dict[str, Any]) -> list[Finding]:
    own = WorkerSettings(destinations=[destination])  # type: ignore[arg-type]  # as it stands in the environment
    found = run_checks(checks_of_destinations(Settings(), own, 2))
    for each in found:
        assert (each.check, each.subject) == ("destination", "pacs")
        assert bool(each.remedy) == (each.severity in {Severity.WARNING, Severity.FAILURE})
        assert TOKEN not in each.text + each.remedy
    return found


def _severities(found: list[Finding]) -> list[str]:
    return [each.severity.value for each in found]


def test_no_destination_is_told() -> None:
    (found,) = run_checks(checks_of_destinations(Settings(), WorkerSettings(), 2))
    assert (found.severity, "no destination is set" in found.text) == (Severity.SKIPPED, True)


def test_a_pacs_that_takes_only_some_of_what_it_is_to_get_is_a_failure(new_archive: Callable[[], Archive]) -> None:
    archive = new_archive()
    archive.start(contexts={VERIFICATION: [ExplicitVRLittleEndian], SECONDARY_CAPTURE: [ExplicitVRLittleEndian]})
    to = {"name": "pacs", "host": "127.0.0.1", "port": archive.port, "ae_title": "ARCHIVE"}
    pictures = _asked({**to, "outputs": ["secondary_capture"]})
    assert _severities(pictures) == ["ok"]
    assert "ARCHIVE at 127.0.0.1" in pictures[0].text
    assert "C-ECHO of RADSTREAM " in pictures[0].text
    all_kinds = _asked({**to, "commitment": True, "calling_ae_title": "CHEST_AI"})
    assert "C-ECHO of CHEST_AI " in all_kinds[0].text
    assert all_kinds[1].text == "ARCHIVE does not take Comprehensive 3D SR, Storage Commitment"
    assert archive.received == []


def test_a_destination_with_our_own_title_may_send_outputs_back(archive: Archive) -> None:
    to = {"name": "pacs", "host": "127.0.0.1", "port": archive.port, "ae_title": "RADSTREAM"}
    assert "outputs may come back to us" in _asked({**to, "outputs": ["secondary_capture"]})[0].text


def test_tls_files_that_are_absent_are_a_failure(tmp_path: Path) -> None:
    to = {"name": "pacs", "host": "127.0.0.1", "port": 104, "ae_title": "PACS", "tls": True}
    found = _asked({**to, "tls_ca": str(tmp_path / "ca.pem")})
    assert _severities(found) == ["failure", "failure"]
    assert "ca.pem cannot be read" in found[0].text


# DICOMweb


def test_a_web_server_that_takes_posts_is_asked_by_options_alone(web: WebServer, token: Path) -> None:
    web.answers["OPTIONS"] = 204, {"Allow": "GET, POST"}
    credentials, answer = _asked({"name": "pacs", "url": web.url, "bearer_token_file": str(token)})
    assert credentials.severity is Severity.OK
    assert answer.text.endswith("/dicom-web/studies answers (HTTP 204, and takes GET, POST)")
    assert web.asked == [("OPTIONS", "/dicom-web/studies", f"Bearer {TOKEN}")]


def test_a_web_server_without_options_is_asked_for_a_study_that_nobody_has(web: WebServer) -> None:
    web.answers["GET"] = 200, {}
    assert _severities(_asked({"name": "pacs", "url": web.url})) == ["ok"]
    assert web.asked[1][:2] == ("GET", f"/dicom-web/studies?StudyInstanceUID={NO_STUDY}&limit=1")
    assert len(NO_STUDY) <= 64


@pytest.mark.parametrize(
    ("options", "get", "severity", "said"),
    [
        (401, 200, "failure", "does not accept our credentials (HTTP 401)"),
        (405, 403, "failure", "does not accept our credentials (HTTP 403)"),
        (404, 404, "failure", "there is no such service"),
        (503, 503, "failure", "answers HTTP 503"),
        (405, 405, "ok", "whether it takes our outputs is told only by sending"),
    ],
)
def test_what_a_web_server_answers(web: WebServer, options: int, get: int, severity: str, said: str) -> None:
    web.answers = {"OPTIONS": (options, {}), "GET": (get, {})}
    (found,) = _asked({"name": "pacs", "url": web.url})
    assert (found.severity, said in found.text) == (severity, True)


def test_a_token_that_everybody_can_read_or_that_is_absent_is_a_failure(web: WebServer, token: Path) -> None:
    web.answers["OPTIONS"] = 204, {}
    to = {"name": "pacs", "url": web.url, "bearer_token_file": str(token)}
    token.chmod(0o644)
    assert [each.remedy for each in _asked(to)] == [f"chmod 600 {token}", ""]
    token.unlink()
    absent = _asked(to)
    assert _severities(absent) == ["failure", "failure"]
    assert "cannot be read" in json.dumps([each.text for each in absent])
