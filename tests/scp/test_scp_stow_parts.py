"""The body of a STOW-RS request: what becomes of each part, and what the answer says of it."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSNearLossless,
)
from stow_messages import BOUNDARY, multipart, part_ten

from models.requests import Lane
from models.spool import Spool
from scp.ingest import Admission
from scp.scoreboard import Scoreboard, Slot
from scp.settings import ScpSettings
from scp.statuses import StoreStatus
from scp.stow import parts
from scp.stow.answer import http_status, response_body
from scp.stow.part_ten import MAX_META_BYTES, read_file_meta, study_instance_uid
from scp.stow.parts import BadRequest, PartContext, PartResult, RequestBody


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


@pytest.fixture
def slot() -> Slot:
    return Slot(Scoreboard(1), 0)


@pytest.fixture
def body(spool: Spool, slot: Slot) -> Iterator[Callable[..., RequestBody]]:
    made: list[RequestBody] = []

    def make(study: str | None = None, client: str = "PORTAL", **settings: Any) -> RequestBody:
        own = ScpSettings(min_free_bytes=0, **settings)
        context = PartContext.of(own, spool=spool, slot=slot, stored=lambda _: None, called_ae_title="RADSTREAM")
        made.append(RequestBody(context, client, study, BOUNDARY.encode()))
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert not list((spool.root / "incoming").iterdir())


def test_each_part_becomes_the_file_that_a_c_store_would_have_made(
    body: Callable[..., RequestBody], spool: Spool, instance: Callable[..., Dataset], encoded: Callable[..., bytes]
) -> None:
    datasets = [instance(), instance(64, 64)]
    request = body()
    request.feed(multipart(*map(part_ten, datasets)))
    assert request.complete
    assert [result.status for result in request.results] == [StoreStatus.SUCCESS] * 2
    for dataset in datasets:
        (entry,) = [entry for entry in spool.entries() if entry.sop_instance_uid == dataset.SOPInstanceUID]
        with spool.open(entry.key) as file:
            assert file.read().endswith(encoded(dataset))
        queued = spool.request_for(entry.key)
        assert (queued.calling_ae_title, queued.lane) == ("PORTAL", Lane.ROUTINE)
        assert (queued.sop_class_uid, queued.transfer_syntax_uid) == (dataset.SOPClassUID, ExplicitVRLittleEndian)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_body_may_be_cut_anywhere(
    body: Callable[..., RequestBody], spool: Spool, instance: Callable[..., Dataset], step: int
) -> None:
    content = multipart(part_ten(instance(8, 8)), part_ten(instance(8, 8)))
    request = body()
    for start in range(0, len(content), step):
        request.feed(content[start : start + step])
    assert request.complete
    assert [result.status.name for result in request.results] == ["SUCCESS"] * 2


def test_clients_named_as_stat_and_high_study_priority_choose_the_lane(
    body: Callable[..., RequestBody], spool: Spool, instance: Callable[..., Dataset]
) -> None:
    high = instance()
    high.add_new(0x0032000C, "CS", "HIGH")
    plain = instance()
    body().feed(multipart(part_ten(high)))
    body(stat_ae_titles=("PORTAL",)).feed(multipart(part_ten(plain)))
    assert {spool.request_for(entry.key).lane for entry in spool.entries()} == {Lane.STAT}


def _renamed(content: bytes, old: str, new: str) -> bytes:
    """Put another UID of the same length into the file meta information."""
    assert len(old) == len(new)
    return content.replace(old.encode(), new.encode(), 1)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda c, d: _renamed(c, d.SOPInstanceUID, "../" * 20 + d.SOPInstanceUID[60:]), StoreStatus.INVALID_UID),
        (lambda c, d: _renamed(c, d.SOPInstanceUID, "/" + d.SOPInstanceUID[1:]), StoreStatus.INVALID_UID),
        (lambda c, d: _renamed(c, d.SOPClassUID, str(CTImageStorage)), StoreStatus.SOP_CLASS_NOT_SUPPORTED),
        (lambda c, d: c.replace(b"DICM", b"DICK", 1), StoreStatus.CANNOT_UNDERSTAND),
        (lambda c, d: c[:100], StoreStatus.CANNOT_UNDERSTAND),
        (lambda c, d: c[:200], StoreStatus.CANNOT_UNDERSTAND),
        (lambda c, d: b"", StoreStatus.CANNOT_UNDERSTAND),
        (lambda c, d: b"%PDF-1.7" * 100, StoreStatus.CANNOT_UNDERSTAND),
        (
            lambda c, d: c[:132] + b"\x02\x00\x02\x01OB\x00\x00\xff\xff\xff\x7f",
            StoreStatus.CANNOT_UNDERSTAND,
        ),
    ],
    ids=["traversal", "slash", "class", "prefix", "in preamble", "in meta", "empty", "pdf", "long meta"],
)
def test_a_part_that_is_not_an_instance_is_refused_and_its_neighbours_are_stored(
    body: Callable[..., RequestBody],
    spool: Spool,
    instance: Callable[..., Dataset],
    change: Callable[[bytes, Dataset], bytes],
    status: StoreStatus,
) -> None:
    bad, good = instance(SOPInstanceUID="1.2." + "3" * 60), instance()
    request = body()
    content = change(part_ten(bad), bad)
    request.feed(multipart(content, part_ten(good)))
    assert [result.status for result in request.results] == [status, StoreStatus.SUCCESS]
    assert [entry.sop_instance_uid for entry in spool.entries()] == [good.SOPInstanceUID]
    assert not list(spool.root.parent.rglob(f"*{'3' * 20}*"))


def test_a_transfer_syntax_that_nobody_decodes_is_refused(
    body: Callable[..., RequestBody], instance: Callable[..., Dataset]
) -> None:
    dataset = instance()
    private = UID("1.2.840.113619.5.2")
    old, new = str(ExplicitVRLittleEndian).encode() + b"\0", str(private).encode().ljust(20, b"\0")
    content = part_ten(dataset).replace(old, new)
    request = body()
    request.feed(multipart(content))
    (result,) = request.results
    assert result.status is StoreStatus.TRANSFER_SYNTAX_NOT_SUPPORTED


def test_a_part_of_another_media_type_is_refused(
    body: Callable[..., RequestBody], spool: Spool, instance: Callable[..., Dataset]
) -> None:
    request = body()
    request.feed(multipart(part_ten(instance()), media_type="application/pdf"))
    assert request.results == [PartResult("", "", StoreStatus.CANNOT_UNDERSTAND)]
    assert not list(spool.entries())


def test_limits_are_those_of_c_store(
    body: Callable[..., RequestBody], spool: Spool, instance: Callable[..., Dataset]
) -> None:
    content = multipart(part_ten(instance(64, 64)))
    for settings, status in (
        ({"max_instance_bytes": 4096}, StoreStatus.TOO_LARGE),
        ({"max_pending": 1}, StoreStatus.SUCCESS),
        ({"max_pending": 1}, StoreStatus.OUT_OF_RESOURCES),
    ):
        request = body(**settings)
        request.feed(content)
        assert [result.status for result in request.results] == [status]
    assert len(list(spool.entries())) == 1


def test_only_instances_of_the_study_in_the_url_are_stored(
    body: Callable[..., RequestBody], spool: Spool, instance: Callable[..., Dataset]
) -> None:
    of_study, other = instance(), instance()
    request = body(study=of_study.StudyInstanceUID)
    request.feed(multipart(part_ten(of_study), part_ten(other)))
    assert [result.status for result in request.results] == [StoreStatus.SUCCESS, StoreStatus.WRONG_STUDY]
    assert [entry.sop_instance_uid for entry in spool.entries()] == [of_study.SOPInstanceUID]


def test_more_parts_than_any_client_sends_end_the_request(
    body: Callable[..., RequestBody], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "MAX_PARTS", 3)
    request = body()
    with pytest.raises(BadRequest):
        request.feed(multipart(b"", b"", b"", b""))
    assert len(request.results) == 3


def test_a_body_that_breaks_off_leaves_no_file(
    body: Callable[..., RequestBody], spool: Spool, instance: Callable[..., Dataset]
) -> None:
    request = body()
    request.feed(multipart(part_ten(instance()))[:-200])
    assert not request.complete
    request.close()
    assert not list(spool.entries())
    assert not list((spool.root / "incoming").iterdir())


def test_the_study_is_found_in_every_encoding(instance: Callable[..., Dataset]) -> None:
    dataset = instance()
    meta = part_ten(dataset)
    explicit = meta[read_file_meta(meta).length :]  # type: ignore[union-attr]
    assert study_instance_uid(explicit, ExplicitVRLittleEndian) == dataset.StudyInstanceUID
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = compressor.compress(explicit) + compressor.flush()
    assert study_instance_uid(deflated, DeflatedExplicitVRLittleEndian) == dataset.StudyInstanceUID
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian):
        buffer = io.BytesIO()
        del dataset.PixelData
        dataset.PixelData = b"\0" * 2048
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset["PixelData"].VR = "OW"
        dataset.save_as(buffer, enforce_file_format=True)
        content = buffer.getvalue()
        start = read_file_meta(content).length  # type: ignore[union-attr]
        assert study_instance_uid(content[start:], syntax) == dataset.StudyInstanceUID
    assert study_instance_uid(b"\xff" * 100, ExplicitVRLittleEndian) is None
    assert study_instance_uid(b"\xff" * 100, DeflatedExplicitVRLittleEndian) is None
    assert study_instance_uid(b"", JPEGLSNearLossless) is None


def test_file_meta_information_has_a_limit() -> None:
    start = bytes(128) + b"DICM"
    private = b"\x02\x00\x02\x01OB\x00\x00" + (30_000).to_bytes(4, "little") + bytes(30_000)
    assert read_file_meta(start + private) is None
    with pytest.raises(ValueError, match="too long"):
        read_file_meta(start + private * 3)
    assert len(start + private * 2) < MAX_META_BYTES


# Answers


STORED, FULL = StoreStatus.SUCCESS, StoreStatus.OUT_OF_RESOURCES


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([STORED], 200),
        ([STORED, StoreStatus.INVALID_UID], 202),
        ([STORED, FULL], 202),
        ([FULL, FULL], 503),
        ([StoreStatus.TOO_LARGE], 413),
        ([StoreStatus.TOO_LARGE, FULL], 409),
        ([StoreStatus.SOP_CLASS_NOT_SUPPORTED], 409),
    ],
)
def test_the_http_status_sums_up_the_parts(statuses: list[StoreStatus], code: int) -> None:
    assert http_status([PartResult("1.2", "1.3", status) for status in statuses]) == code


def test_the_answer_names_every_part_in_dicom_json() -> None:
    results = [
        PartResult("1.2", "1.3", STORED),
        PartResult("1.2", "1.4", StoreStatus.SOP_CLASS_NOT_SUPPORTED),
        PartResult("", "", StoreStatus.INVALID_UID),
    ]
    assert json.loads(response_body(results)) == {
        "00081190": {"vr": "UR"},
        "00081199": {
            "vr": "SQ",
            "Value": [
                {
                    "00081150": {"vr": "UI", "Value": ["1.2"]},
                    "00081155": {"vr": "UI", "Value": ["1.3"]},
                    "00081190": {"vr": "UR"},
                }
            ],
        },
        "00081198": {
            "vr": "SQ",
            "Value": [
                {
                    "00081150": {"vr": "UI", "Value": ["1.2"]},
                    "00081155": {"vr": "UI", "Value": ["1.4"]},
                    "00081197": {"vr": "US", "Value": [0x0122]},
                }
            ],
        },
        "0008119A": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xC001]}}]},
    }


def test_a_failing_disk_is_out_of_resources(
    body: Callable[..., RequestBody], spool: Spool, instance: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("models.spool_writer._write_all", fail)
    request = body()
    request.feed(multipart(part_ten(instance())))
    assert [result.status for result in request.results] == [StoreStatus.OUT_OF_RESOURCES]
    assert not Admission(spool, Scoreboard(1), ScpSettings(min_free_bytes=1 << 62)).has_room()
