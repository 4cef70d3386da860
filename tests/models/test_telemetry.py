"""Logs hold no patient data whatever an exception or another library says; health and metrics over HTTP."""

from __future__ import annotations

import http.client
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from models.telemetry import Page, TelemetryServer

NAME = "PLANTED^PATIENT"

RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

PREAMBLE = f"""
import logging, sys, threading, warnings
from models.settings import load, Settings
from models.telemetry import configure_logging, get_logger
NAME = {NAME!r}
configure_logging(load(Settings), "test")
log = get_logger("test")
"""


def _logged(run_python: RunPython, code: str, **environment: str) -> list[dict[str, Any]]:
    """Run code in a fresh process; see that the name is nowhere; give the log lines."""
    done = run_python("-c", PREAMBLE + code, env=environment)
    assert NAME not in done.stdout + done.stderr
    assert "PLANTED" not in done.stdout + done.stderr
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_an_event_is_one_json_line_with_its_keys(run_python: RunPython) -> None:
    (line,) = _logged(run_python, "log.info('instance_settled', sop_instance_uid='1.2.3', seconds=0.5)")
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "instance_settled",
        "level": "info",
        "logger_name": "radstream.test",
        "process": "test",
        "sop_instance_uid": "1.2.3",
        "seconds": 0.5,
    }


def test_an_exception_is_logged_by_type_and_place_without_its_message(run_python: RunPython) -> None:
    code = """
def read():
    raise ValueError(f"cannot parse {NAME}")
try:
    try:
        read()
    except ValueError as error:
        raise RuntimeError(NAME) from error
except RuntimeError as error:
    log.error("first", exc_info=error)
    log.exception("second")
"""
    first, second = _logged(run_python, code)
    for line in (first, second):
        assert line["error"] == "RuntimeError"
        assert line["cause"] == "ValueError"
        assert line["error_at"].startswith("<string>:")
        assert "exception" not in line


def test_an_uncaught_exception_is_one_line_and_the_exit_status_1(run_python: RunPython) -> None:
    done = run_python("-c", PREAMBLE + "raise KeyError(NAME)")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "PLANTED" not in line
    assert json.loads(line)["event"] == "uncaught_exception"
    assert json.loads(line)["error"] == "KeyError"


def test_an_exception_that_ends_a_thread_is_one_line(run_python: RunPython) -> None:
    code = """
def work():
    raise OSError(NAME)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    (line,) = _logged(run_python, code)
    assert (line["event"], line["error"]) == ("uncaught_exception", "OSError")
    assert line["process"] == "test", "other threads say whose they are, too"


def test_an_exception_in_a_destructor_is_one_line(run_python: RunPython) -> None:
    code = """
class Leaking:
    def __del__(self):
        raise ValueError(NAME)
Leaking()
"""
    (line,) = _logged(run_python, code)
    assert (line["event"], line["error"]) == ("uncaught_exception", "ValueError")


def test_records_of_other_libraries_are_reduced_to_where_they_came_from(run_python: RunPython) -> None:
    code = """
other = logging.getLogger("pynetdicom.assoc")
other.error("Association with %s", NAME)
other.info("not even this")
try:
    raise ValueError(NAME)
except ValueError:
    other.exception("failed for " + NAME)
"""
    first, second = _logged(run_python, code)
    assert first["event"] == "library_message"
    assert first["library"] == "pynetdicom.assoc"
    assert first["at"].startswith("<string>:")
    assert second["error"] == "ValueError"


def test_a_record_that_cannot_be_formatted_is_not_printed(run_python: RunPython) -> None:
    code = "logging.getLogger('radstream.x').warning('%d', NAME)"
    _logged(run_python, code)


def test_warnings_of_pydicom_never_reach_the_log(run_python: RunPython) -> None:
    code = """
import pydicom
from pydicom.dataset import Dataset
dataset = Dataset()
dataset.PatientBirthDate = NAME
dataset.PatientName = NAME
dataset.StudyInstanceUID = NAME
str(dataset["StudyInstanceUID"])
warnings.warn("about " + NAME)
logging.getLogger("pydicom").warning("value %s", NAME)
"""
    lines = _logged(run_python, code)
    assert {line["library"] for line in lines} <= {"pydicom", "py.warnings"}


def test_lines_below_the_level_are_not_written(run_python: RunPython) -> None:
    lines = _logged(run_python, "log.info('no'); log.warning('yes')", RADSTREAM_LOG_LEVEL="warning")
    assert [line["event"] for line in lines] == ["yes"]


def test_the_console_form_holds_no_names_either(run_python: RunPython) -> None:
    code = PREAMBLE + "try:\n    raise ValueError(NAME)\nexcept ValueError:\n    log.exception('failed', key=1)"
    done = run_python("-c", code, env={"RADSTREAM_LOG_FORMAT": "console"})
    assert "PLANTED" not in done.stderr
    assert "failed" in done.stderr
    assert "ValueError" in done.stderr


# HTTP


@pytest.fixture
def failing() -> dict[str, str | None]:
    return {"redis": None, "database": None}


@pytest.fixture
def server(failing: dict[str, str | None]) -> Iterator[TelemetryServer]:
    registry = CollectorRegistry()
    Counter("radstream_test", "Things.", registry=registry).inc(3)
    checks = {name: lambda name=name: failing[name] for name in failing}
    pages = {"/": lambda: Page("text/html", b"<p>hello", {"Content-Security-Policy": "default-src 'none'"})}
    server = TelemetryServer("127.0.0.1", 0, registry, checks, pages)
    server.start()
    yield server
    server.stop()


def _get(server: TelemetryServer, path: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_metrics_are_served_in_the_form_of_prometheus(server: TelemetryServer) -> None:
    status, content_type, body = _get(server, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain")
    assert "radstream_test_total 3.0" in body.splitlines()


def test_a_living_process_is_healthy_even_when_it_is_not_ready(
    server: TelemetryServer, failing: dict[str, str | None]
) -> None:
    failing["redis"] = "redis_unavailable"
    status, content_type, body = _get(server, "/healthz")
    assert (status, content_type, json.loads(body)) == (200, "application/json", {"alive": True})


def test_readiness_names_what_fails_and_recovers(server: TelemetryServer, failing: dict[str, str | None]) -> None:
    assert _get(server, "/readyz") == (200, "application/json", '{"ready": true, "failing": {}}')
    failing["redis"] = "redis_unavailable"
    status, _, body = _get(server, "/readyz")
    assert status == 503
    assert json.loads(body) == {"ready": False, "failing": {"redis": "redis_unavailable"}}
    failing["redis"] = None
    assert _get(server, "/readyz")[0] == 200


def test_other_paths_are_not_found(server: TelemetryServer) -> None:
    assert _get(server, "/status")[0] == 404
    assert _get(server, "/../../etc/passwd")[0] == 404


def test_a_page_is_served_with_its_headers_and_nobody_may_keep_or_guess_it(server: TelemetryServer) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/?refresh=1", timeout=5) as answer:
        assert (answer.status, answer.headers["Content-Type"], answer.read()) == (200, "text/html", b"<p>hello")
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Server"] == "radstream"


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", 200), ("POST", 405), ("PUT", 405), ("DELETE", 405), ("PATCH", 405), ("OPTIONS", 405)],
)
def test_pages_can_only_be_looked_at(server: TelemetryServer, method: str, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request(method, "/")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Allow"]) == (status, None if status == 200 else "GET, HEAD")
    if method == "HEAD":
        assert answer.headers["Content-Length"] == "8"
        assert answer.read() == b""
    connection.close()


def test_a_failing_check_harms_one_answer_and_prints_nothing(
    server: TelemetryServer, failing: dict[str, str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    del failing["redis"]  # the check raises KeyError
    with pytest.raises(http.client.RemoteDisconnected):
        _get(server, "/readyz")
    assert _get(server, "/healthz")[0] == 200
    assert "Traceback" not in capsys.readouterr().err


def test_a_stopped_server_gives_its_port_back(server: TelemetryServer) -> None:
    second = TelemetryServer("127.0.0.1", 0, CollectorRegistry(), {})
    second.start()
    port = second.port
    second.stop()
    third = TelemetryServer("127.0.0.1", port, CollectorRegistry(), {})
    assert third.port == port
    third.start()
    third.stop()
