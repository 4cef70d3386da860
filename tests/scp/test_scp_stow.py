"""The STOW-RS entry: what is answered as stored lies in the spool, and whatever else comes harms nothing."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from stow_messages import BOUNDARY, MULTIPART, TOKEN, multipart, part_ten

from deploy.launcher import free_port
from models.errors import ConfigurationError
from models.settings import load
from scp.settings import ScpSettings
from scp.stow import server
from scp.stow.clients import ANYBODY, Clients

# Clients


def test_clients_are_known_by_their_token_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# who may send\nPORTAL {TOKEN}\n\nCR_ROOM_2  abcdefghijklmnopqrstuvwxyz # x-ray\n")
    clients = Clients(path)
    assert clients.identify(f"Bearer {TOKEN}") == "PORTAL"
    assert clients.identify("bearer abcdefghijklmnopqrstuvwxyz") == "CR_ROOM_2"
    for wrong in (None, "", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"):
        assert clients.identify(wrong) is None
    assert Clients(None).identify(None) == ANYBODY


def test_a_new_token_counts_without_a_restart_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"PORTAL {TOKEN}\n")
    clients = Clients(path)
    path.write_text("PORTAL another-token-altogether\n")
    assert clients.identify("Bearer another-token-altogether") == "PORTAL"
    assert clients.identify(f"Bearer {TOKEN}") is None
    path.write_text("nonsense\n")
    assert clients.identify("Bearer another-token-altogether") == "PORTAL"


@pytest.mark.parametrize(
    "text",
    ["", "PORTAL\n", "PORTAL short\n", f"A {TOKEN} more\n", f"A {TOKEN}\nA {TOKEN}\n", f"{'x' * 17} {TOKEN}\n"],
)
def test_a_file_of_tokens_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(ConfigurationError, match="RADSTREAM_SCP_STOW_TOKENS"):
        Clients(tmp_path / "tokens")


def test_the_entry_asks_who_it_is_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RADSTREAM_SCP_STOW_PORT", "8080")
    assert load(ScpSettings).stow_host == "127.0.0.1"
    monkeypatch.setenv("RADSTREAM_SCP_STOW_HOST", "0.0.0.0")
    with pytest.raises(ConfigurationError, match="stow_tokens"):
        load(ScpSettings)
    monkeypatch.setenv("RADSTREAM_SCP_STOW_OPEN", "true")
    assert load(ScpSettings).stow_open


# The server


class Entry:
    """The entry of a running SCP, spoken to in HTTP."""

    def __init__(self, scp: Any, port: int) -> None:
        self.scp = scp
        self.port = port

    def post(
        self, body: bytes, path: str = "/dicom-web/studies", token: str | None = TOKEN, **headers: str
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {"Content-Type": MULTIPART, "Accept": "application/dicom+json"}
        sent |= {"Authorization": f"Bearer {token}"} if token else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, body, sent)
        answer = connection.getresponse()
        answer.text = answer.read()  # type: ignore[attr-defined]
        connection.close()
        return answer

    def wait_listening(self) -> None:
        for _ in range(400):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0 and self.scp.http("/readyz")[0] == 200:
                    return
            time.sleep(0.05)
        pytest.fail(f"the entry does not listen: {self.scp.log()}")


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory, running_scp: Callable[..., Any]) -> Iterator[Entry]:
    directory = tmp_path_factory.mktemp("stow")
    (directory / "tokens").write_text(f"PORTAL {TOKEN}\n")
    port = free_port()
    settings = {"STOW_PORT": str(port), "STOW_TOKENS": str(directory / "tokens"), "STOW_TIMEOUT_S": "1"}
    scp = running_scp(directory / "data", {f"RADSTREAM_SCP_{name}": value for name, value in settings.items()})
    scp.start()
    entry = Entry(scp, port)
    entry.wait_listening()
    yield entry
    assert scp.stop() == 0
    assert not scp.events("stow_request_failed")


def test_an_instance_that_is_answered_200_is_in_the_spool(entry: Entry, instance: Callable[..., Dataset]) -> None:
    dataset = instance()
    answer = entry.post(multipart(part_ten(dataset)), path=f"/dicom-web/studies/{dataset.StudyInstanceUID}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/dicom+json")
    (stored,) = json.loads(answer.text)["00081199"]["Value"]  # type: ignore[attr-defined]
    assert stored["00081155"]["Value"] == [dataset.SOPInstanceUID]
    assert dataset.SOPInstanceUID in {entry.sop_instance_uid for entry in entry.scp.pending()}
    metrics = entry.scp.metrics()
    assert metrics['radstream_scp_stow_requests_total{code="200"}'] >= 1
    assert metrics['radstream_scp_instances_total{status="success"}'] >= 1
    assert "Planted" not in entry.scp.log()


@pytest.mark.parametrize(
    ("code", "change"),
    [
        (401, {"token": None}),
        (401, {"token": "not-the-token-of-anybody"}),
        (404, {"path": "/studies"}),
        (404, {"path": "/dicom-web/studies/..%2f..%2fetc"}),
        (400, {"path": "/dicom-web/studies/1.2.x"}),
        (406, {"Accept": "text/html"}),
        (415, {"Content_Type": "application/dicom"}),
        (415, {"Content_Type": f'multipart/related; type="application/dicom+json"; boundary={BOUNDARY}'}),
        (415, {"Content_Encoding": "gzip"}),
        (400, {"Content_Type": "multipart/related; type=application/dicom"}),
        (400, {"Content_Type": f"multipart/related; boundary={'x' * 129}"}),
        (400, {"Content_Type": 'multipart/related; type="application/dicom"; boundary=another'}),
    ],
)
def test_a_request_that_is_none_is_refused(
    entry: Entry, instance: Callable[..., Dataset], code: int, change: dict[str, Any]
) -> None:
    answer = entry.post(multipart(part_ten(instance())), **change)
    assert answer.status == code
    if code == 401:
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--" + BOUNDARY.encode() + b"--\r\n",
        b"no boundary at all",
        b"--a-boundary\r\n" + b"X-Long: " + b"x" * 5000 + b"\r\n\r\n",
        b"--a-boundary\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(20)) + b"\r\n",
        b"--a-boundary\r\nno header\r\n\r\n",
        b"--a-boundary\r\nContent-Type: application/dicom\r\n\r\nhalf",
    ],
    ids=["empty", "no part", "no boundary", "long header", "many headers", "not a header", "cut off"],
)
def test_a_body_that_is_not_multipart_is_answered_400(entry: Entry, body: bytes) -> None:
    assert entry.post(body).status == 400
    assert not entry.scp.incoming()


def test_a_huge_request_head_and_nonsense_are_answered_400(entry: Entry) -> None:
    for start in (b"POST /dicom-web/studies HTTP/1.1\r\nX: " + b"x" * 100_000, b"\x04\x00\x00\x00" * 50 + b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", entry.port), 10) as connection:
            connection.sendall(start)
            assert connection.recv(100).startswith(b"HTTP/1.1 400")


def test_a_client_that_falls_silent_is_given_up(entry: Entry) -> None:
    head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += f"Content-Type: {MULTIPART}\r\nContent-Length: 100000\r\n\r\n--{BOUNDARY}\r\n"
    with socket.create_connection(("127.0.0.1", entry.port), 10) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
    assert not entry.scp.incoming()


def test_a_full_spool_is_answered_503_and_the_entry_speaks_tls(
    start_scp: Callable[..., Any], certificates: Path, instance: Callable[..., Dataset], eventually: Any
) -> None:
    port = free_port()
    scp = start_scp(
        SCP_STOW_PORT=str(port),
        SCP_STOW_TLS_CERTIFICATE=str(certificates / "server.pem"),
        SCP_STOW_TLS_KEY=str(certificates / "server.key"),
        SCP_MAX_PENDING="1",
    )
    Entry(scp, port).wait_listening()
    trusting = ssl.create_default_context(cafile=certificates / "ca.pem")
    codes = []
    for _ in range(2):
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=trusting)
        connection.request("POST", "/dicom-web/studies", multipart(part_ten(instance())), {"Content-Type": MULTIPART})
        answer = connection.getresponse()
        codes.append((answer.status, answer.headers["Retry-After"]))
        connection.close()
    assert codes == [(200, None), (503, "60")]
    assert scp.pending()[0].key
    assert scp.spool.request_for(scp.pending()[0].key).calling_ae_title == ANYBODY

    scp.kill()  # of the parent: its children end by themselves

    def is_closed() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    eventually(is_closed)


def test_a_connection_without_a_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_WAIT_S", 0.05)

    async def scenario() -> bytes:
        import asyncio

        import uvicorn

        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        made = server._Server(
            uvicorn.Config(lambda *_: None, http=server.PatientProtocol, loop="none", lifespan="off", log_config=None)  # type: ignore[arg-type]
        )
        serving = loop.create_task(made.serve(sockets=[listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"POST / HTTP/1.1\r\nX-Slow:")
        got = await asyncio.wait_for(_read_all(reader), 10)
        writer.close()
        made.stop()
        await serving
        return got

    async def _read_all(reader: Any) -> bytes:
        try:
            return bytes(await reader.read())
        except ConnectionError:
            return b""

    import asyncio

    assert asyncio.run(scenario()) == b""
