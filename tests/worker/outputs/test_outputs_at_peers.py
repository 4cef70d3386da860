"""Validators and archives accept our outputs: dciodvfy, DCMTK, Orthanc."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from models.pixels.header import read_header

MakeHeader = Callable[..., Dataset]
ErrorsOf = Callable[[Path], list[str]]

REAL_DICOM = Path(__file__).parents[3].parent / "shared" / "data" / "dicom"
KOREAN = b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf"


def test_the_radiograph_of_pydicom(written: Callable[[Dataset], Path], errors_of: ErrorsOf) -> None:
    source = get_testdata_file("RG1_UNCR.dcm")
    if source is None:
        pytest.skip("pydicom-data is not installed")
    assert errors_of(written(read_header(Path(source)))) == []


def test_every_real_source_gives_a_valid_output(written: Callable[[Dataset], Path], errors_of: ErrorsOf) -> None:
    if not REAL_DICOM.is_dir():
        pytest.skip("the shared DICOM files are not here")
    for source in sorted(REAL_DICOM.rglob("*")):
        if source.is_file() and source.suffix != ".csv":
            assert errors_of(written(read_header(source))) == [], source.name


@pytest.mark.peers
def test_dcmtk_parses_it(make_header: MakeHeader, written: Callable[[Dataset], Path], dcmdump: str) -> None:
    done = subprocess.run([dcmdump, written(make_header())], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.peers
def test_dcmtk_stores_it(make_header: MakeHeader, written: Callable[[Dataset], Path], dcmtk_storescp: Any) -> None:
    path = written(make_header(SpecificCharacterSet=b"\\ISO 2022 IR 149", PatientName=KOREAN))
    assert dcmtk_storescp.send(path) == 0x0000
    (stored,) = dcmtk_storescp.directory.iterdir()
    assert pydicom.dcmread(stored, force=True) == pydicom.dcmread(path)


@pytest.mark.peers
def test_orthanc_stores_it_and_gives_it_back(
    make_header: MakeHeader, written: Callable[[Dataset], Path], orthanc: Any
) -> None:
    path = written(make_header(SpecificCharacterSet=b"\\ISO 2022 IR 149", PatientName=KOREAN))
    assert orthanc.send(path) == 0x0000
    (identifier,) = json.loads(orthanc.get("/instances"))
    assert pydicom.dcmread(BytesIO(orthanc.get(f"/instances/{identifier}/file"))) == pydicom.dcmread(path)
    told = json.loads(orthanc.get(f"/instances/{identifier}/simplified-tags"))
    assert told["SeriesDescription"].startswith("AI ")
    assert "홍^길동" in told["PatientName"]
    assert orthanc.get(f"/instances/{identifier}/preview")[:8] == b"\x89PNG\r\n\x1a\n"
