"""Hostile and broken input ends as `Unprocessable`, soon and without much memory; nothing else is raised."""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import jpeg_ls
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from openjpeg.utils import encode_array as encode_jpeg_2000
from pydicom import uid
from pydicom.dataset import Dataset

from models.errors import Reason, Unprocessable
from models.pixels.attributes import read_integer, read_items, read_number, read_text
from models.pixels.header import MAX_ELEMENT_BYTES, read_header
from models.pixels.limits import PixelLimits
from models.pixels.radiograph import Radiograph
from models.pixels.spec import InputSpec

MakeDicom = Callable[..., BytesIO]
SMALL = InputSpec(height=32, width=32)


def refusal(stream: BytesIO | Path, limits: PixelLimits | None = None) -> Reason:
    with pytest.raises(Unprocessable) as caught:
        Radiograph.read(stream, limits or PixelLimits())
    return caught.value.reason


# The header


def test_header_is_read_without_pixel_data(make_dicom: MakeDicom, film: NDArray[np.uint16]) -> None:
    header = read_header(make_dicom(film, BodyPartExamined="CHEST"))
    assert header.BodyPartExamined == "CHEST"
    assert header.file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian
    assert "PixelData" not in header


def test_header_of_an_object_without_pixels(make_dicom: MakeDicom) -> None:
    stream = make_dicom(np.zeros((2, 2), np.uint8))
    cut = BytesIO(stream.getvalue().split(b"\xe0\x7f\x10\x00")[0])
    assert read_header(cut).Rows == 2
    assert refusal(cut) is Reason.NO_PIXEL_DATA


def test_long_elements_are_left_out_of_the_header(make_dicom: MakeDicom, film: NDArray[np.uint16]) -> None:
    block = Dataset()
    block.ICCProfile = bytes(MAX_ELEMENT_BYTES + 2)
    block.ImageComments = "kept"
    attributes = {element.keyword: element.value for element in block}
    header = read_header(make_dicom(film, **attributes))
    assert "ICCProfile" not in header
    assert header.ImageComments == "kept"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 10,
        b"\x00" * 1000,
        b"\x00" * 128 + b"DICM",
        b"\x00" * 128 + b"DICM" + b"\xff" * 500,
        b"<html>" * 99,
    ],
    ids=["empty", "short", "zeros", "prefix only", "prefix and rubbish", "text"],
)
def test_rubbish_is_malformed(content: bytes) -> None:
    with pytest.raises(Unprocessable) as caught:
        read_header(BytesIO(content))
    assert caught.value.reason is Reason.MALFORMED_DATASET


def test_a_missing_file_is_an_error_of_the_file_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "none.dcm")


def part_10(dataset: bytes, syntax: str = uid.ExplicitVRLittleEndian) -> BytesIO:
    """Put encoded bytes behind minimal meta information."""
    value = syntax.encode() + b"\x00" * (len(syntax) % 2)
    return BytesIO(b"\x00" * 128 + b"DICM" + struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value + dataset)


def element(group: int, number: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    length = len(value) if length is None else length
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return struct.pack("<HH2sHL", group, number, vr, 0, length) + value
    return struct.pack("<HH2sH", group, number, vr, length) + value


def test_an_element_longer_than_the_file_is_no_reason_to_allocate() -> None:
    stream = part_10(element(0x0009, 0x1001, b"OB", b"abc", length=0xFFFFFFF0))
    assert refusal(stream) in (Reason.NO_PIXEL_DATA, Reason.MALFORMED_DATASET)


def test_deep_nesting_is_refused() -> None:
    undefined = 0xFFFFFFFF
    opening = element(0x0040, 0xA730, b"SQ", b"", undefined) + struct.pack("<HHL", 0xFFFE, 0xE000, undefined)
    assert refusal(part_10(opening * 20_000)) in (Reason.MALFORMED_DATASET, Reason.TOO_LARGE)


def test_millions_of_items_are_refused_soon() -> None:
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 2_000_000
    started = time.perf_counter()
    assert refusal(part_10(element(0x0040, 0xA730, b"SQ", items, 0xFFFFFFFF))) is Reason.TOO_LARGE
    assert time.perf_counter() - started < 10


def test_a_header_over_the_limit_is_refused(make_dicom: MakeDicom) -> None:
    comments = element(0x0009, 0x1001, b"UT", b"x" * 200_000) * 10
    assert refusal(part_10(comments), PixelLimits(max_header_bytes=1_000_000)) is Reason.TOO_LARGE


def test_malformed_values_are_absent(make_dicom: MakeDicom, film: NDArray[np.uint16]) -> None:
    header = read_header(
        part_10(
            element(0x0028, 0x1050, b"DS", b"1.2.3 ")
            + element(0x0028, 0x1051, b"DS", b"nan ")
            + element(0x0028, 0x1052, b"DS", b"1e999 ")
            + element(0x0028, 0x1053, b"FD", b"abc")
            + element(0x0028, 0x3010, b"SQ", b"\xff" * 30)
        )
    )
    for keyword in ("WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope", "Rows"):
        assert read_number(header, keyword) is None
        assert read_integer(header, keyword) is None
    assert not any(len(item) for item in read_items(header, "VOILUTSequence"))
    assert read_text(header, "VOILUTSequence") is None


def test_text_is_stripped_and_joined(make_dicom: MakeDicom, film: NDArray[np.uint16]) -> None:
    header = read_header(
        make_dicom(film, ImageType=["DERIVED", "PRIMARY"], BodyPartExamined=" CHEST ", ViewPosition="")
    )
    assert read_text(header, "ImageType") == "DERIVED\\PRIMARY"
    assert read_text(header, "BodyPartExamined") == "CHEST"
    assert read_text(header, "ViewPosition") is None


# Sizes


@pytest.mark.parametrize(
    "limits", [PixelLimits(max_rows_columns=131 * 97 - 1), PixelLimits(max_decoded_bytes=2 * 131 * 97 - 1)], ids=str
)
def test_limits_hold_before_decoding(make_dicom: MakeDicom, film: NDArray[np.uint16], limits: PixelLimits) -> None:
    assert refusal(make_dicom(film), limits) is Reason.TOO_LARGE


def test_limits_let_through_what_meets_them(make_dicom: MakeDicom, film: NDArray[np.uint16]) -> None:
    limits = PixelLimits(max_rows_columns=131 * 97, max_decoded_bytes=2 * 131 * 97)
    assert Radiograph.read(make_dicom(film), limits).stored.shape == (131, 97)


def test_a_deflated_bomb_is_refused(make_dicom: MakeDicom) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    limits = PixelLimits(max_decoded_bytes=10_000_000, max_header_bytes=10_000_000)
    assert refusal(part_10(bomb, uid.DeflatedExplicitVRLittleEndian), limits) is Reason.TOO_LARGE


def test_a_cut_deflated_dataset_is_malformed(make_dicom: MakeDicom, film: NDArray[np.uint16]) -> None:
    whole = make_dicom(film, syntax=uid.DeflatedExplicitVRLittleEndian).getvalue()
    assert refusal(BytesIO(whole[:-200])) is Reason.MALFORMED_DATASET


def with_size(frame: bytes, offset: int, code: str, *sizes: int) -> bytes:
    return frame[:offset] + struct.pack(code, *sizes) + frame[offset + struct.calcsize(code) :]


def test_codestreams_that_declare_more_than_the_header_are_refused(make_dicom: MakeDicom) -> None:
    values = np.zeros((64, 64), np.uint8)
    wavelet = with_size(encode_jpeg_2000(values), 8, ">2L", 60_000, 60_000)
    assert refusal(make_dicom(values, syntax=uid.JPEG2000Lossless, frame=wavelet)) is Reason.UNDECODABLE_PIXELS
    predictive = bytes(jpeg_ls.encode_array(values))
    start = predictive.index(b"\xff\xf7") + 5
    predictive = with_size(predictive, start, ">2H", 60_000, 60_000)
    assert refusal(make_dicom(values, syntax=uid.JPEGLSLossless, frame=predictive)) is Reason.UNDECODABLE_PIXELS


def test_an_rle_frame_gives_no_more_than_the_image(make_dicom: MakeDicom) -> None:
    header = struct.pack("<16L", 1, 64, *[0] * 14)
    frame = header + b"\x81\x00" * 500_000  # each pair is 128 zeros: 64 MB from 1 MB
    stream = make_dicom(np.zeros((8, 8), np.uint8), syntax=uid.RLELossless, frame=frame)
    started = time.perf_counter()
    read_whatever(stream.getvalue())
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    "syntax",
    [uid.RLELossless, uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000, uid.HTJ2K],
    ids=lambda syntax: syntax.keyword,
)
@pytest.mark.parametrize(
    "frame", [b"\x00\x00", b"\xff\xd8\xff\xda", b"\xff\xd8\xff\xff", b"\xff\x4f\xff\x51" * 9, b"\xff" * 99]
)
def test_rubbish_frames_are_refused(make_dicom: MakeDicom, syntax: uid.UID, frame: bytes) -> None:
    reason = refusal(make_dicom(np.zeros((8, 8), np.uint8), syntax=syntax, frame=frame))
    assert reason in (Reason.UNDECODABLE_PIXELS, Reason.UNSUPPORTED_PIXELS, Reason.NO_PIXEL_DATA)


def test_native_data_in_a_compressed_syntax_and_the_reverse_are_refused(make_dicom: MakeDicom) -> None:
    values = np.zeros((8, 8), np.uint8)
    rle, native = (syntax.encode() + b"\x00" for syntax in (uid.RLELossless, uid.ExplicitVRLittleEndian))
    encapsulated = make_dicom(values, syntax=uid.RLELossless, frame=b"\x00" * 128).getvalue()
    assert refusal(BytesIO(encapsulated.replace(rle, native, 1))) is Reason.UNDECODABLE_PIXELS
    plain = make_dicom(values).getvalue()
    assert refusal(BytesIO(plain.replace(native, rle, 1))) is Reason.UNDECODABLE_PIXELS


_MEMORY_PROGRAM = """
import resource, sys
from io import BytesIO
from models.errors import Unprocessable
from models.pixels.radiograph import Radiograph
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    Radiograph.read(BytesIO(sys.stdin.buffer.read()))
except Unprocessable as refusal:
    print(refusal.reason, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("case", ["element", "codestream", "pixels"])
def test_claims_cost_no_memory(make_dicom: MakeDicom, case: str) -> None:
    values = np.zeros((64, 64), np.uint8)
    frame = with_size(encode_jpeg_2000(values), 8, ">2L", 9_000, 9_000)
    stream = {
        "element": part_10(element(0x0009, 0x1001, b"OB", b"abc", length=0xFFFFFFF0)),
        "codestream": make_dicom(values, syntax=uid.JPEG2000, frame=frame, Rows=9000, Columns=9000),
        "pixels": make_dicom(values, Rows=9000, Columns=9000),
    }[case]
    program = [sys.executable, "-c", _MEMORY_PROGRAM]
    done = subprocess.run(
        program, input=stream.getvalue(), capture_output=True, check=True, cwd=Path(__file__).parents[3]
    )
    reason, kilobytes = done.stdout.decode().split()
    assert reason in {reason.value for reason in Reason}
    # A codec may reserve the 81 million samples that codestream and header agree on; nothing else is that large.
    assert int(kilobytes) < (1_200_000 if case == "codestream" else 50_000)


# Random damage


def read_whatever(content: bytes) -> None:
    """Read damaged bytes; give an image or refuse, nothing else."""
    try:
        radiograph = Radiograph.read(BytesIO(content), PixelLimits(max_rows_columns=4_000_000))
    except Unprocessable:
        return
    image = radiograph.to_input(SMALL)
    assert image.shape == (32, 32)
    assert np.isfinite(image).all()
    assert 0 <= image.min() <= image.max() <= 1
    assert radiograph.to_display(64).dtype == np.uint8


def damaged(content: bytes, damage: list[tuple[float, int]]) -> bytes:
    broken = bytearray(content)
    for place, value in damage:
        broken[132 + int(place * (len(broken) - 133))] = value
    return bytes(broken)


DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=12)


@pytest.mark.parametrize("kind", ["native", "deflated", "rle", "wavelet", "predictive"])
def test_damaged_instances_are_refused_or_read(make_dicom: MakeDicom, kind: str) -> None:
    content = instance_of(make_dicom, kind).getvalue()

    @settings(max_examples=150, deadline=5000, derandomize=True, database=None)
    @given(DAMAGE, st.floats(0.2, 1.5))
    def check(damage: list[tuple[float, int]], kept: float) -> None:
        broken = damaged(content, damage)
        read_whatever(broken[: int(len(broken) * kept)])

    check()


def instance_of(make_dicom: MakeDicom, kind: str) -> BytesIO:
    from rle.utils import encode_pixel_data

    values = (np.add.outer(np.arange(48), np.arange(36)) * 45).astype(np.uint16)
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [4, 0, 8])
    lut.add_new("LUTData", "US", [0, 51, 102, 255])
    attributes: dict[str, Any] = {
        "BitsStored": 12,
        "VOILUTSequence": [lut],
        "WindowCenter": 2048,
        "WindowWidth": 4096,
        "PixelPaddingValue": 0,
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
    }
    if kind == "native":
        return make_dicom(values, **attributes)
    if kind == "deflated":
        return make_dicom(values, syntax=uid.DeflatedExplicitVRLittleEndian, **attributes)
    if kind == "rle":
        layout = {"rows": 48, "columns": 36, "samples_per_pixel": 1, "bits_allocated": 16, "number_of_frames": 1}
        frame = bytes(encode_pixel_data(values.tobytes(), byteorder="<", **layout))
        return make_dicom(values, syntax=uid.RLELossless, frame=frame, **attributes)
    if kind == "wavelet":
        return make_dicom(values, syntax=uid.JPEG2000, frame=encode_jpeg_2000(values, bits_stored=12), **attributes)
    return make_dicom(values, syntax=uid.JPEGLSLossless, frame=bytes(jpeg_ls.encode_array(values)), **attributes)


def test_reading_leaves_no_file_open(make_dicom: MakeDicom, film: NDArray[np.uint16], tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(make_dicom(film).getvalue())
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(min(20, limit)):
        Radiograph.read(path)
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_before
