"""What is asked of DICOM peers and certificates: each step that can fail has its own finding and remedy."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import SecondaryCaptureImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

from certificates import self_signed

from deploy.launcher import free_port
from models.diagnosis.checks import Finding, Severity
from models.diagnosis.peers import Peer, check_certificate, check_peer

WHERE = "RADSTREAM_WORKER_DESTINATIONS (pacs)"
Serve = Callable[..., int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start peers on loopback."""
    servers: list[Any] = []

    def start(*sop_classes: str, tls: ssl.SSLContext | None = None, handlers: Any = (), **rules: Any) -> int:
        entity = AE(ae_title="PACS")
        for sop_class in sop_classes or (Verification,):
            entity.add_supported_context(sop_class)
        for name, value in rules.items():
            setattr(entity, name, value)
        port = free_port()
        server = entity.make_server(
            ("127.0.0.1", port), evt_handlers=list(handlers), ssl_context=tls, server_class=ThreadedAssociationServer
        )
        servers.append(server)
        # As `start_server` does, but it looks for its end more often, which spares half a second per test.
        entity._servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return port

    yield start
    for server in servers:
        for association in server.active_associations:
            association.abort()
        server.shutdown()


def _asked(port: int, timeout_s: float = 5, host: str = "127.0.0.1", **peer: Any) -> list[Finding]:
    found = list(check_peer(Peer(host, port, peer.pop("ae_title", "PACS"), "FEED", WHERE, **peer), timeout_s))
    assert all(bool(each.remedy) == (each.severity in {Severity.WARNING, Severity.FAILURE}) for each in found)
    return found


def _failure(found: list[Finding]) -> Finding:
    (only,) = (each for each in found if each.severity is Severity.FAILURE)
    return only


def test_a_good_peer_is_told_with_milliseconds(serve: Serve) -> None:
    (found,) = _asked(
        serve(Verification, SecondaryCaptureImageStorage), storage_classes={"SC": SecondaryCaptureImageStorage}
    )
    assert (found.severity, found.text.startswith("PACS at 127.0.0.1:")) == (Severity.OK, True)
    assert "answers C-ECHO of FEED in " in found.text


def test_a_closed_port_is_told() -> None:
    port = free_port()
    found = _failure(_asked(port))
    assert found.text == f"nothing listens on 127.0.0.1:{port}"
    assert WHERE in found.remedy


def test_an_unknown_name_is_told() -> None:
    assert "is not known" in _failure(_asked(104, host="no-such-host.invalid")).text


def test_a_peer_that_accepts_and_never_answers_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        found = _failure(_asked(silent.getsockname()[1], timeout_s=0.3))
    assert time.monotonic() - started < 20
    assert "does not answer an association within 0.3 s" in found.text


def test_a_peer_that_associates_and_never_answers_c_echo_is_told(serve: Serve) -> None:
    released = threading.Event()
    port = serve(handlers=[(evt.EVT_C_ECHO, lambda event: 0 if released.wait(20) else 1)])
    found = _failure(_asked(port, timeout_s=0.5))
    released.set()
    assert "associates, but does not answer C-ECHO within 0.5 s" in found.text


def test_a_peer_that_does_not_know_our_title_says_what_to_enter_there(serve: Serve) -> None:
    found = _failure(_asked(serve(require_calling_aet=["OTHER"])))
    assert "does not know our AE title FEED" in found.text
    assert "enter FEED with this host's address there" in found.remedy


def test_a_peer_of_another_title_is_told(serve: Serve) -> None:
    found = _failure(_asked(serve(require_called_aet=True), ae_title="ARCHIVE"))
    assert found.text.endswith("is not ARCHIVE")


def test_a_peer_without_room_is_told(serve: Serve) -> None:
    assert "has no association left for us" in _failure(_asked(serve(maximum_associations=0))).text


def test_a_kind_of_object_that_is_not_taken_is_told(serve: Serve) -> None:
    found = _failure(_asked(serve(), storage_classes={"Secondary Capture": SecondaryCaptureImageStorage}))
    assert found.text == "PACS does not take Secondary Capture"


def test_a_peer_without_c_echo_is_a_warning(serve: Serve) -> None:
    port = serve(SecondaryCaptureImageStorage)
    (found,) = _asked(port, storage_classes={"SC": SecondaryCaptureImageStorage})
    assert (found.severity, "takes no C-ECHO" in found.text) == (Severity.WARNING, True)


def test_another_program_on_our_port_is_told(serve: Serve) -> None:
    assert "another program" in _failure(_asked(serve(), expected_implementation="2.25.1")).text


# TLS


def _server(paths: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*paths)
    return context


def test_days_of_a_peers_certificate_are_told(serve: Serve, tmp_path: Path) -> None:
    paths = self_signed(tmp_path, "soon", days=20.5)
    trusting = ssl.create_default_context(cafile=paths[0])
    certificate, echo = _asked(serve(tls=_server(paths)), tls=trusting)
    assert (certificate.severity, certificate.text.endswith("expires in 20 days")) == (Severity.WARNING, True)
    assert "answers C-ECHO" in echo.text


def test_an_expired_or_unknown_certificate_of_a_peer_is_told(serve: Serve, tmp_path: Path) -> None:
    paths = self_signed(tmp_path, "expired", days=-3)
    trusting = ssl.create_default_context(cafile=paths[0])
    assert "certificate has expired" in _failure(_asked(serve(tls=_server(paths)), tls=trusting)).text
    unknown = _failure(_asked(serve(tls=_server(self_signed(tmp_path, "good", 100))), tls=ssl.create_default_context()))
    assert "self-signed certificate" in unknown.text
    assert "tls_ca" in unknown.remedy


def test_a_peer_that_wants_our_certificate_is_told(serve: Serve, tmp_path: Path) -> None:
    paths = self_signed(tmp_path, "good", 100)
    context = _server(paths)
    context.load_verify_locations(paths[0])
    context.verify_mode = ssl.CERT_REQUIRED
    port = serve(tls=context)
    found = _failure(_asked(port, tls=ssl.create_default_context(cafile=paths[0])))
    assert "CERTIFICATE_REQUIRED" in found.text
    assert "tls_certificate and tls_key" in found.remedy

    known = ssl.create_default_context(cafile=paths[0])
    known.load_cert_chain(*paths)
    assert [each.severity.value for each in _asked(port, tls=known)] == ["ok", "ok"]


def test_a_peer_without_tls_is_told(serve: Serve) -> None:
    found = _failure(_asked(serve(), timeout_s=2, tls=ssl.create_default_context()))
    assert "TLS" in found.text
    assert "TLS" in found.remedy or "tls" in found.remedy


@pytest.mark.parametrize(
    ("days", "begins", "severity", "said"),
    [
        (365.5, -1, "ok", "is good for 365 days"),
        (29.5, -1, "warning", "expires in 29 days"),
        (-9.5, -20, "failure", "expired 10 days ago"),
        (30, 2, "failure", "is good only from"),
    ],
)
def test_days_of_a_certificate_file(days: float, begins: float, severity: str, said: str, tmp_path: Path) -> None:
    path, _ = self_signed(tmp_path, "own", days, begins)
    (found,) = check_certificate(path, "certificate", "RADSTREAM_SCP_TLS_CERTIFICATE")
    assert (found.severity, said in found.text) == (severity, True)


def test_a_certificate_file_that_is_none_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("no certificate")
    (found,) = check_certificate(tmp_path / "none.pem", "certificate", "RADSTREAM_SCP_TLS_CERTIFICATE")
    assert "holds no PEM certificate" in found.text
    (found,) = check_certificate(tmp_path / "absent.pem", "certificate", "RADSTREAM_SCP_TLS_CERTIFICATE")
    assert "cannot be read" in found.text
