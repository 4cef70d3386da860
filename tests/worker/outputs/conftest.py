from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from deploy.launcher import free_port
from models.engines.engine import EngineInfo
from models.pixels.header import read_header
from models.requestor import without_races
from models.store.manifest import Manifest
from worker.findings import Classification
from worker.outputs.common_modules import OutputOrder
from worker.outputs.secondary_capture import write_secondary_capture

SOURCE_UID = "1.2.826.0.1.3680043.9.7433.1.1"

MakeHeader = Callable[..., Dataset]
MakeOrder = Callable[[Dataset], OutputOrder]


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    return Manifest.model_validate(
        {
            "task": "pneumonia",
            "network": "efficientnet_lite0",
            "version": "efficientnet_lite0-2026.11",
            "labels": ("NORMAL", "PNEUMONIA"),
            "positive_label": "PNEUMONIA",
            "thresholds": {"PNEUMONIA": 0.52},
            "input_spec": {"height": 224, "width": 224},
            "output_names": ("probability", "cam"),
            "files": {"network.onnx": "0" * 64},
            "licence": "test",
            "created": datetime(2026, 1, 1, tzinfo=UTC),
            "radstream_version": "0.1.0",
        }
    )


@pytest.fixture(scope="session")
def engine() -> EngineInfo:
    return EngineInfo("onnxruntime", "1.31.1", "cpu", "fp32", "b" * 64)


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    """(61, 53, 3) RGB of an odd number of bytes, no two channels alike."""
    rows, columns = np.mgrid[0:61, 0:53]
    return np.stack([rows * 4, columns * 4, rows + columns], axis=-1).astype(np.uint8)


@pytest.fixture(scope="session")
def make_order(manifest: Manifest, engine: EngineInfo) -> MakeOrder:
    def make(header: Dataset) -> OutputOrder:
        finding = Classification("PNEUMONIA", "PNEUMONIA", True, 0.87, 0.52, None)
        return OutputOrder(header, manifest, engine, SOURCE_UID, 0, finding)

    return make


@pytest.fixture(scope="session")
def make_header() -> MakeHeader:
    """Give a function that makes the header of a chest radiograph; bytes go into the file as they are, None removes."""

    def make(**attributes: Any) -> Dataset:
        dataset = Dataset()
        known: dict[str, Any] = {
            "SOPClassUID": ComputedRadiographyImageStorage,
            "SOPInstanceUID": SOURCE_UID,
            "StudyInstanceUID": "1.2.826.0.1.3680043.9.7433.1",
            "SeriesInstanceUID": "1.2.826.0.1.3680043.9.7433.1.2",
            "PatientName": "Doe^Jane",
            "PatientID": "4711",
            "PatientBirthDate": "19500102",
            "PatientSex": "F",
            "StudyDate": "20260301",
            "StudyTime": "101500",
            "StudyID": "S1",
            "AccessionNumber": "A17",
            "ReferringPhysicianName": "Roe^Richard",
            "Modality": "CR",
            "BodyPartExamined": "CHEST",
            "InstanceNumber": 3,
            "PatientOrientation": ["L", "F"],
        }
        for keyword, value in (known | attributes).items():
            if isinstance(value, bytes):
                padded = value + b" " * (len(value) % 2)
                tag = Tag(keyword)
                dataset[tag] = RawDataElement(tag, dictionary_VR(tag), len(padded), padded, 0, False, True)
            elif value is not None:
                setattr(dataset, keyword, value)
        # Raw elements are then written as they are.
        dataset.set_original_encoding(False, True, default_encoding)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if "SpecificCharacterSet" in dataset:
                dataset.set_original_encoding(False, True, convert_encodings(dataset.SpecificCharacterSet))
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
        meta.MediaStorageSOPInstanceUID = SOURCE_UID
        dataset.file_meta = meta
        stream = BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the invalid values that some tests are for
            dataset.save_as(stream, enforce_file_format=True)
        return read_header(stream)

    return make


@pytest.fixture
def written(make_order: MakeOrder, picture: NDArray[np.uint8], tmp_path: Path) -> Callable[[Dataset], Path]:
    def write(header: Dataset) -> Path:
        return tmp_path / write_secondary_capture(make_order(header), picture, tmp_path).file_name

    return write


# Judges and peers


@pytest.fixture
def errors_of() -> Callable[..., list[str]]:
    """Give a function that lists what dciodvfy calls an error, and makes sure that it took the file for an `iod`."""
    program = Path(sys.executable).parent / "dciodvfy"

    def check(path: Path, iod: str = "SCImage") -> list[str]:
        done = subprocess.run([program, "-new", path], capture_output=True, text=True, errors="replace")
        told = (done.stdout + done.stderr).splitlines()
        assert any(iod in line for line in told), told
        return [line for line in told if line.strip().startswith(("Error", "Abort"))]

    return check


def program(name: str, *places: str) -> str:
    # The virtual environment has pynetdicom's apps of the same names; the system's are DCMTK's.
    found = shutil.which(name, path=os.pathsep.join(("/usr/bin", "/usr/sbin", "/usr/local/bin", *places)))
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture
def dcmdump() -> str:
    return program("dcmdump")


@pytest.fixture
def dcmpschk() -> str:
    return program("dcmpschk")


@pytest.fixture
def dcmp2pgm() -> str:
    return program("dcmp2pgm")


@pytest.fixture
def dsrdump() -> str:
    return program("dsrdump")


@dataclass(frozen=True)
class Peer:
    """A running receiver: its AE title and port, and what it holds."""

    title: str
    port: int
    http_port: int | None = None
    directory: Path | None = None

    def send(self, path: Path) -> int:
        """C-STORE one file and give the status."""
        import pydicom

        dataset = pydicom.dcmread(path)
        ae = AE("RADSTREAM")
        ae.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        association = ae.associate("127.0.0.1", self.port, ae_title=self.title)
        without_races(association)
        assert association.is_established
        try:
            return int(association.send_c_store(dataset).Status)
        finally:
            association.release()

    def find(self, sop_instance_uid: str) -> str:
        """Orthanc's own name for an instance."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}/tools/lookup", data=str(sop_instance_uid).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            (found,) = json.load(answer)
        return str(found["ID"])

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as answer:
            content: bytes = answer.read()
        return content


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, "the peer ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the peer does not listen")


def ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture
def dcmtk_storescp(tmp_path: Path) -> Iterator[Peer]:
    directory = tmp_path / "storescp"
    directory.mkdir()
    port = free_port()
    process = subprocess.Popen(
        [program("storescp"), "--aetitle", "STORESCP", "--output-directory", directory, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, process)
        yield Peer("STORESCP", port, directory=directory)
    finally:
        ended(process)


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Peer]:
    directory = tmp_path / "orthanc"
    directory.mkdir()
    port, http_port = free_port(), free_port()
    configuration = {
        "Name": "radstream test",
        "StorageDirectory": str(directory),
        "IndexDirectory": str(directory),
        "Plugins": [],
        "DicomAet": "ORTHANC",
        "DicomPort": port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
    }
    settings = tmp_path / "orthanc.json"
    settings.write_text(json.dumps(configuration))
    process = subprocess.Popen([program("Orthanc"), settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peer = Peer("ORTHANC", port, http_port)
    try:
        wait_for_port(port, process)
        wait_for_port(http_port, process)
        yield peer
    finally:
        ended(process)
