"""A running SCP, instances to send, and a peer that speaks the upper layer byte by byte."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification

sys.path.insert(0, str(Path(__file__).parent))

from deploy.launcher import free_port
from models.requestor import without_races
from models.spool import Spool, SpoolEntry

ROOT = Path(__file__).resolve().parents[2]
NO_REDIS = "redis://127.0.0.1:1/0"


class RunningScp:
    """`python -m scp` as a process of its own."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.port, self.telemetry_port = free_port(), free_port()
        self.directory = directory
        self.spool = Spool(directory / "spool")
        self.log_path = directory / f"scp-{self.port}.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RADSTREAM_")}
        self._environment = inherited | {
            "RADSTREAM_DATA_DIR": str(directory),
            "RADSTREAM_REDIS_URL": NO_REDIS,
            "RADSTREAM_SCP_HOST": "127.0.0.1",
            "RADSTREAM_SCP_PORT": str(self.port),
            "RADSTREAM_SCP_TELEMETRY_PORT": str(self.telemetry_port),
            "RADSTREAM_SCP_PROCESSES": "1",
            "RADSTREAM_SCP_MIN_FREE_BYTES": "0",
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        directory = self.directory
        directory.mkdir(exist_ok=True)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scp"], cwd=ROOT, env=self._environment, stdout=log, stderr=log
            )
        expected = int(self._environment["RADSTREAM_SCP_PROCESSES"])
        deadline = time.monotonic() + 60
        while self.metrics().get("radstream_scp_receivers", 0) < expected:
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the SCP does not start: {self.log()}")
            time.sleep(0.05)

    def stop(self, timeout_s: float = 60) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """Kill -9 of the parent."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def receivers(self) -> list[int]:
        """Process ids of the receivers."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def events(self, name: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def http(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.telemetry_port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        try:
            _, text = self.http("/metrics")
        except OSError:
            return {}
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    def pending(self) -> list[SpoolEntry]:
        return list(self.spool.entries())

    def incoming(self) -> list[Path]:
        return list((self.spool.root / "incoming").iterdir())


ScpFactory = Callable[..., RunningScp]


@pytest.fixture
def start_scp(tmp_path: Path) -> Iterator[ScpFactory]:
    """Start an SCP with settings of its own, given without their prefix `RADSTREAM_`."""
    running: list[RunningScp] = []

    def start(**settings: str) -> RunningScp:
        scp = RunningScp(tmp_path / "data", {f"RADSTREAM_{name}": value for name, value in settings.items()})
        running.append(scp)
        scp.start()
        return scp

    yield start
    for scp in running:
        if scp.process is not None and scp.process.poll() is None:
            scp.process.terminate()
            try:
                scp.process.wait(20)
            except subprocess.TimeoutExpired:
                scp.process.send_signal(signal.SIGKILL)
                scp.process.wait()


@pytest.fixture(scope="session")
def running_scp() -> type[RunningScp]:
    """The class itself, for fixtures that outlive a test."""
    return RunningScp


@pytest.fixture(scope="module")
def shared_scp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningScp]:
    """One SCP for the tests of a module that need no settings of their own."""
    scp = RunningScp(tmp_path_factory.mktemp("scp"), {"RADSTREAM_SCP_ACSE_TIMEOUT_S": "5"})
    scp.start()
    yield scp
    assert scp.stop() == 0


@pytest.fixture
def scp(shared_scp: RunningScp) -> RunningScp:
    """The module's SCP with an empty spool."""
    for entry in shared_scp.pending():
        shared_scp.spool.finish(entry.key)
    return shared_scp


# Instances


def make_instance(rows: int = 32, columns: int = 32, **attributes: object) -> Dataset:
    """A CR instance that exists only here."""
    dataset = Dataset()
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientName, dataset.PatientID = "Planted^Name", "PLANTED-ID"
    dataset.Modality = "CR"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    pixels = np.random.default_rng(rows).integers(0, 4096, (rows, columns), dtype=np.uint16)
    dataset.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


@pytest.fixture
def instance() -> Callable[..., Dataset]:
    return make_instance


def encode(dataset: Dataset) -> bytes:
    """Explicit VR little endian, without file meta information."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


@pytest.fixture
def encoded() -> Callable[[Dataset], bytes]:
    return encode


@pytest.fixture
def associate() -> Iterator[Callable[..., Association]]:
    """Associate with an SCP by pynetdicom; released at the end."""
    made: list[Association] = []

    def connect(
        scp: RunningScp,
        sop_class: UID = ComputedRadiographyImageStorage,
        syntaxes: tuple[UID, ...] = (ExplicitVRLittleEndian,),
        ae_title: str = "SENDER",
        called: str = "RADSTREAM",
        **options: object,
    ) -> Association:
        entity = AE(ae_title)
        contexts = [build_context("1.2.840.10008.1.1"), build_context(sop_class, list(syntaxes))]
        association = entity.associate("127.0.0.1", scp.port, contexts, ae_title=called, **options)
        without_races(association)
        made.append(association)
        return association

    yield connect
    for association in made:
        if association.is_established:
            association.release()
    made.clear()
    with warnings.catch_warnings():
        # As a requestor pynetdicom forgets the socket of a refused connection; let it go here, not in a later test.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


# A peer that speaks byte by byte

COMMAND, LAST = 0x01, 0x02
CONTEXT_ID = 1
PDU_TYPES = {2: "accept", 3: "reject", 4: "data", 5: "release request", 6: "release reply", 7: "abort"}


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


def store_command(
    dataset: Dataset | None = None,
    *,
    message_id: int = 7,
    sop_class: bytes | None = None,
    sop_instance: bytes | None = None,
    priority: int = 0,
    has_dataset: bool = True,
) -> bytes:
    """A C-STORE-RQ command set, worked out from PS3.7 9.3.1.1 by hand."""
    sop_class = str(dataset.SOPClassUID).encode() if sop_class is None and dataset else sop_class or b""
    sop_instance = str(dataset.SOPInstanceUID).encode() if sop_instance is None and dataset else sop_instance or b""
    body = (
        element(0x0002, sop_class + b"\0" * (len(sop_class) % 2))
        + element(0x0100, struct.pack("<H", 0x0001))
        + element(0x0110, struct.pack("<H", message_id))
        + element(0x0700, struct.pack("<H", priority))
        + element(0x0800, struct.pack("<H", 0x0000 if has_dataset else 0x0101))
        + element(0x1000, sop_instance + b"\0" * (len(sop_instance) % 2))
    )
    return element(0x0000, struct.pack("<I", len(body))) + body


def pdv(control: int, data: bytes, context_id: int = CONTEXT_ID) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context_id, control) + data


def pdu(*pdvs: bytes) -> bytes:
    body = b"".join(pdvs)
    return struct.pack(">BxI", 4, len(body)) + body


@dataclass
class RawPeer:
    """One TCP connection to the SCP."""

    connection: socket.socket

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def receive(self) -> tuple[str, bytes]:
        """Give the next PDU's kind and body; `closed` when the SCP closed the connection."""
        try:
            head = self._exactly(6)
            return PDU_TYPES[head[0]], self._exactly(int.from_bytes(head[2:], "big"))
        except (ConnectionError, EOFError):
            return "closed", b""

    def status(self) -> int:
        """Take a C-STORE response and give its status."""
        kind, body = self.receive()
        assert kind == "data", kind
        at = body.index(struct.pack("<HHI", 0, 0x0900, 2))
        return int.from_bytes(body[at + 8 : at + 10], "little")

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.connection.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def request_association(
        self,
        sop_class: str = ComputedRadiographyImageStorage,
        syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian,),
        maximum_length: int = 16382,
    ) -> None:
        self.send(association_request(sop_class, syntaxes, maximum_length))

    def associate(self, **options: object) -> None:
        self.request_association(**options)  # type: ignore[arg-type]
        assert self.receive()[0] == "accept"

    def release(self) -> None:
        self.send(bytes.fromhex("05000000000400000000"))
        assert self.receive()[0] == "release reply"


def association_request(sop_class: str, syntaxes: tuple[str, ...], maximum_length: int) -> bytes:
    """An A-ASSOCIATE-RQ PDU with one context."""
    context = build_context(sop_class, list(syntaxes))
    context.context_id = CONTEXT_ID
    request = A_ASSOCIATE()
    request.application_context_name = UID("1.2.840.10008.3.1.1.1")
    request.calling_ae_title, request.called_ae_title = "RAWPEER", "RADSTREAM"
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = maximum_length
    implementation.implementation_class_uid = UID("1.2.3.4")
    request.user_information = [length, implementation]
    request.presentation_context_definition_list = [context]
    encoded = A_ASSOCIATE_RQ()
    encoded.from_primitive(request)
    return bytes(encoded.encode())


@pytest.fixture
def raw_peer() -> Iterator[Callable[[RunningScp], RawPeer]]:
    connections: list[socket.socket] = []

    def connect(scp: RunningScp) -> RawPeer:
        connection = socket.create_connection(("127.0.0.1", scp.port), 30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections.append(connection)
        return RawPeer(connection)

    yield connect
    for connection in connections:
        connection.close()


class Speech:
    """Words of the upper layer, for tests."""

    COMMAND, LAST = COMMAND, LAST
    store_command = staticmethod(store_command)
    pdv, pdu, element = staticmethod(pdv), staticmethod(pdu), staticmethod(element)
    ABORT = bytes.fromhex("07000000000400000000")
    RELEASE = bytes.fromhex("05000000000400000000")


@pytest.fixture(scope="session")
def speech() -> type[Speech]:
    return Speech


# DCMTK


def dcmtk_program(name: str) -> str | None:
    """Find a program of DCMTK; pynetdicom installs others of the same names."""
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        path = shutil.which(name, path=directory)
        if path and "dcmtk" in subprocess.run([path, "--version"], capture_output=True, text=True).stdout:
            return path
    return None


@pytest.fixture(scope="session")
def dcmtk() -> Callable[[str], str]:
    def find(name: str) -> str:
        path = dcmtk_program(name)
        if path is None:
            reason = f"DCMTK's {name} is not installed"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        return path

    return find


# TLS


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA (`ca.pem`) and certificates `server` and `client` of it, plus a self-signed `stranger`."""
    if shutil.which("openssl") is None:
        reason = "no openssl"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "stranger"):
        openssl(
            "req",
            "-x509",
            *curve,
            "-days",
            "2",
            "-subj",
            f"/CN={name}",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.pem",
        )
    for name in ("server", "client"):
        openssl("req", *curve, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (directory / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "2", "-extfile", "names", "-out", f"{name}.pem"),
        )
    return directory
