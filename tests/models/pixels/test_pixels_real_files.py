"""Real radiographs of several makers and encoders; the expected values come from DCMTK and pydicom."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from models.errors import Reason, Unprocessable
from models.pixels.radiograph import Radiograph
from models.pixels.spec import InputSpec

INPUT = InputSpec(height=224, width=224)

REFUSED = {
    "CT_JPEGProcess10_12TransferSyntax_1.2.840.10008.1.2.4.55.dcm": Reason.UNSUPPORTED_TRANSFER_SYNTAX,
    "CT_JPEGProcess6_8TransferSyntax_1.2.840.10008.1.2.4.53.dcm": Reason.UNSUPPORTED_TRANSFER_SYNTAX,
    "no-pixel-spacing.dcm": Reason.UNSUPPORTED_PIXELS,  # PALETTE COLOR
    "CT0012.explicit_little_endian.dcm": Reason.UNSUPPORTED_PIXELS,  # several frames, as the next four
    "CT0012.not_fragmented_bot_jpeg_ls.80.dcm": Reason.UNSUPPORTED_PIXELS,
    "CT0012.not_fragmented_bot_rle.dcm": Reason.UNSUPPORTED_PIXELS,
    "emri_small_RLE.dcm": Reason.UNSUPPORTED_PIXELS,
    "emri_small_big_endian.dcm": Reason.UNSUPPORTED_PIXELS,
    "IM00001.implicit_little_endian.dcm": Reason.UNSUPPORTED_PIXELS,
    "liver_deflate.dcm": Reason.UNSUPPORTED_PIXELS,
    "liver_nonbyte_aligned_deflate.dcm": Reason.UNSUPPORTED_PIXELS,
    "report_dfl": Reason.NO_PIXEL_DATA,
    "wave_dfl": Reason.NO_PIXEL_DATA,
    "HTJ2KLossless_08_RGB.dcm": Reason.UNSUPPORTED_PIXELS,  # in colour
    "HTJ2K_08_RGB.dcm": Reason.UNSUPPORTED_PIXELS,
}


def test_every_file_is_read_or_refused_with_its_reason(real_dicom: Path) -> None:
    refused = {}
    for path in sorted(real_dicom.rglob("*")):
        if not path.is_file() or path.suffix == ".csv":
            continue
        started = time.perf_counter()
        try:
            image = Radiograph.read(path).to_input(INPUT)
        except Unprocessable as refusal:
            refused[path.name] = refusal.reason
        else:
            assert image.shape == (224, 224)
            assert np.ptp(image) > 0.5, path.name
        assert time.perf_counter() - started < 10, path.name
    assert refused == REFUSED


LOSSLESS_COPIES = [
    ("dicom-test-files/RG2_RLE", "dicom-test-files/RG2_JLSL"),
    ("dicom-test-files/RG2_RLE", "dicom-test-files/RG2_J2KR"),
    ("dicom-test-files/RG3_RLE", "dicom-test-files/RG3_JLSL"),
    ("dicom-test-files/RG3_RLE", "dicom-test-files/RG3_JPLL"),
    ("dicom-test-files/RG3_RLE", "pydicom-data/RG3_J2KR.dcm"),
    ("pydicom-data/RG1_UNCR.dcm", "pydicom-data/RG1_J2KR.dcm"),
    ("dicomParser/CT1_UNC.implicit_little_endian.dcm", "dicomParser/CT1_UNC.explicit_big_endian.dcm"),
    ("dicomParser/CT1_UNC.implicit_little_endian.dcm", "dicomParser/CT1_UNC.fragmented_bot_jpeg_ls.80.dcm"),
]


@pytest.mark.parametrize(("one", "other"), LOSSLESS_COPIES, ids=str)
def test_lossless_copies_have_the_same_stored_values(real_dicom: Path, one: str, other: str) -> None:
    assert np.array_equal(Radiograph.read(real_dicom / one).stored, Radiograph.read(real_dicom / other).stored)


@pytest.mark.parametrize(
    ("original", "copy", "mean_difference"),
    [
        ("dicom-test-files/RG2_RLE", "dicom-test-files/RG2_JLSN", 0.003),
        ("dicom-test-files/RG2_RLE", "dicom-test-files/RG2_J2KI", 0.003),
        # DCT with the scan parameters of lossless JPEG, which libjpeg refuses: repaired.
        ("dicom-test-files/RG2_RLE", "dicom-test-files/RG2_JPLY", 0.003),
        ("dicom-test-files/RG3_RLE", "dicom-test-files/RG3_JPLY", 0.003),
        ("pydicom-data/RG1_UNCR.dcm", "pydicom-data/RG1_J2KI.dcm", 0.001),
    ],
    ids=str,
)
def test_lossy_copies_give_nearly_the_same_input(
    real_dicom: Path, original: str, copy: str, mean_difference: float
) -> None:
    images = [Radiograph.read(real_dicom / name).to_input(INPUT) for name in (original, copy)]
    assert np.abs(images[0] - images[1]).mean() < mean_difference


@pytest.mark.parametrize(
    ("name", "smallest_side", "halvings"),
    [
        ("pydicom-data/RG1_J2KR.dcm", 448, 2),
        ("pydicom-data/RG1_J2KI.dcm", 448, 2),
        ("dicom-test-files/RG2_J2KR", 448, 1),
        ("pydicom-data/RG3_J2KR.dcm", 880, 1),
    ],
    ids=str,
)
def test_reduced_decoding_gives_nearly_the_same_input(
    real_dicom: Path, name: str, smallest_side: int, halvings: int
) -> None:
    reduced = Radiograph.read(real_dicom / name, smallest_side=smallest_side)
    difference = np.abs(reduced.to_input(INPUT) - Radiograph.read(real_dicom / name).to_input(INPUT))
    assert reduced.halvings == halvings
    assert difference.mean() < 0.001
    assert difference.max() < 0.02


def test_the_chest_radiograph_that_pydicom_ships_looks_like_one() -> None:
    path = get_testdata_file("RG1_UNCR.dcm")
    if path is None:
        pytest.skip("pydicom-data is not installed")
    image = Radiograph.read(Path(path)).to_input(INPUT)
    lungs, mediastinum = image[80:120, 60:80], image[100:140, 105:120]
    assert lungs.mean() < mediastinum.mean()  # air is dark, although the samples are MONOCHROME1


# pydicom as a judge

WINDOWED = [
    "pydicom-data/RG1_UNCR.dcm",
    "dicom-test-files/RG2_RLE",
    "dicom-test-files/RG3_RLE",
    "highdicom/dx_image.dcm",
]


def at_full_size(radiograph: Radiograph) -> NDArray[np.float32]:
    return radiograph.to_input(InputSpec(height=radiograph.rows, width=radiograph.columns))


@pytest.mark.parametrize(
    "name", [*WINDOWED, "dicomParser/CT1_UNC.explicit_little_endian.dcm", "cornerstoneWADOImageLoader/CTImage.dcm"]
)
def test_stored_values_are_those_of_pydicom(real_dicom: Path, name: str) -> None:
    radiograph = Radiograph.read(real_dicom / name)
    values = radiograph.stored.astype(np.int32) + radiograph.lowest_stored_value
    assert np.array_equal(values, pydicom.dcmread(real_dicom / name).pixel_array)


@pytest.mark.parametrize("name", [*WINDOWED, "cornerstoneWADOImageLoader/CTImage.dcm"])
def test_greys_are_those_of_pydicom(real_dicom: Path, name: str) -> None:
    dataset = pydicom.dcmread(real_dicom / name)
    expected = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    low, high = 0, 2**dataset.BitsStored - 1
    if dataset.get("RescaleSlope") is not None:
        low = -(2 ** (dataset.BitsStored - 1)) * dataset.PixelRepresentation
        low, high = (float(dataset.RescaleSlope) * end + float(dataset.RescaleIntercept) for end in (low, low + high))
    expected = (expected - low) / (high - low)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        expected = 1 - expected
    assert np.abs(at_full_size(Radiograph.read(real_dicom / name)) - expected).max() < 2e-4


# DCMTK as a judge


@pytest.fixture
def dcm2pnm() -> str:
    program = shutil.which("dcm2pnm") or shutil.which("dcmj2pnm")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("DCMTK is not installed")
        pytest.skip("DCMTK is not installed")
    return program


@pytest.mark.peers
@pytest.mark.parametrize("name", WINDOWED)
def test_greys_are_those_of_dcmtk(real_dicom: Path, dcm2pnm: str, tmp_path: Path, name: str) -> None:
    picture = tmp_path / "dcmtk.png"
    subprocess.run([dcm2pnm, "--use-window", "1", "--write-16-bit-png", real_dicom / name, picture], check=True)
    expected = np.asarray(Image.open(picture)).astype(np.float64) / 65535
    greys = at_full_size(Radiograph.read(real_dicom / name))
    # DCMTK maps windows to one grey level less than white; the rest is rounding.
    assert np.abs(greys - expected).max() < 0.0045


@pytest.mark.peers
def test_eight_bits_without_a_window_are_those_of_dcmtk(real_dicom: Path, dcm2pnm: str, tmp_path: Path) -> None:
    picture = tmp_path / "dcmtk.png"
    for path in sorted((real_dicom / "torchxrayvision").glob("*.dcm")):
        plain = tmp_path / "plain.dcm"
        dataset = pydicom.dcmread(path)
        dataset.decompress()
        dataset.save_as(plain)
        subprocess.run([dcm2pnm, "--write-png", plain, picture], check=True)
        expected = np.asarray(Image.open(picture)).astype(np.float64) / 255
        # Two implementations of the inverse cosine transform: DCMTK's libjpeg and ours round apart by at most 2.
        assert np.abs(at_full_size(Radiograph.read(path)) - expected).max() < 2.1 / 255


# What the SCP imports


def test_the_list_of_transfer_syntaxes_loads_no_image_library() -> None:
    program = "import sys, models.pixels.syntaxes; print(*{'cv2', 'torch', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout.strip() == ""
