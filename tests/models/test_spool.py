"""The spool: durable before Success, found again after anything, never outside its directory."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from models.errors import Reason, Transient, Unprocessable
from models.identity import IMPLEMENTATION_CLASS_UID
from models.requests import InferenceRequest, Lane
from models.spool import Spool
from models.spool_places import is_valid_uid
from models.spool_writer import SpoolWriter

CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
UID = "1.2.826.0.1.3680043.8.498.1"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


def _begin(spool: Spool, uid: str = UID, lane: Lane = Lane.ROUTINE, calling: str = "MODALITY") -> SpoolWriter:
    return spool.begin(
        sop_class_uid=CR,
        sop_instance_uid=uid,
        transfer_syntax_uid=EXPLICIT,
        calling_ae_title=calling,
        called_ae_title="RADSTREAM",
        lane=lane,
    )


def _store(spool: Spool, data: bytes = b"bytes", uid: str = UID, lane: Lane = Lane.ROUTINE) -> str:
    with _begin(spool, uid, lane) as writer:
        writer.write(data)
        return writer.commit()


def _keys(spool: Spool) -> list[str]:
    return sorted(entry.key for entry in spool.entries())


def _files(spool: Spool) -> list[str]:
    return sorted(path.relative_to(spool.root).as_posix() for path in spool.root.rglob("*") if path.is_file())


def test_a_committed_instance_is_one_file_named_by_uid_and_content(spool: Spool) -> None:
    digest = hashlib.sha256(b"bytes").hexdigest()
    key = _store(spool)
    assert key == f"{UID}_{digest[:16]}"
    assert _files(spool) == [f"pending/{digest[:2]}/{key}.dcm"]
    assert _keys(spool) == [key]
    assert key in spool
    assert spool.usage().pending == 1
    assert next(spool.entries()).sop_instance_uid == UID


def test_the_file_is_part_10_and_holds_the_dataset_as_it_came(spool: Spool) -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.PatientID = CR, UID, "odd"
    encoded = DicomBytesIO()
    encoded.is_little_endian, encoded.is_implicit_VR = True, False
    write_dataset(encoded, dataset)
    key = _store(spool, encoded.getvalue())
    with spool.open(key) as file:
        assert file.read().endswith(encoded.getvalue())
    read = dcmread(spool.path_of(key))
    assert read.PatientID == "odd"
    assert read.file_meta.TransferSyntaxUID == EXPLICIT
    assert read.file_meta.MediaStorageSOPInstanceUID == UID
    assert read.file_meta.MediaStorageSOPClassUID == CR
    assert read.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert read.file_meta.SourceApplicationEntityTitle == "MODALITY"
    assert read.file_meta.ReceivingApplicationEntityTitle == "RADSTREAM"
    length = read.file_meta.FileMetaInformationGroupLength
    assert spool.path_of(key).stat().st_size == 132 + 12 + length + len(encoded.getvalue())


def test_data_is_on_disk_before_its_name_and_the_name_before_commit_returns(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def name_of(descriptor: int) -> str:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        return "directory" if path.is_dir() else path.suffix

    def noted_fsync(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        calls.append(("fsync", name_of(descriptor)))
        fsync(descriptor)
        assert os.fstat(descriptor).st_size == size

    def noted_replace(source: Path, target: Path) -> None:
        assert source.read_bytes().endswith(b"all of it"), "nothing is written after the fsync"
        calls.append(("rename", f"{source.suffix} to {target.suffix}"))
        replace(source, target)

    with _begin(spool) as writer:
        writer.write(b"all ")
        writer.write(b"of it")
        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "replace", noted_replace)
        writer.commit()
    assert calls == [("fsync", ".part"), ("rename", ".part to .dcm"), ("fsync", "directory")]


def test_leaving_without_commit_leaves_nothing(spool: Spool) -> None:
    with _begin(spool) as writer:
        writer.write(b"half of")
        assert len(_files(spool)) == 1
    assert _files(spool) == []
    assert _keys(spool) == []
    writer.abort()  # again: no error


def test_a_full_disk_is_transient_and_leaves_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with _begin(spool) as writer:
        writer.write(b"bytes")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(Transient) as caught:
            writer.commit()
    assert caught.value.reason is Reason.OUT_OF_SPACE
    assert _files(spool) == []


def test_a_spool_that_cannot_be_written_is_transient(spool: Spool) -> None:
    for path in sorted(spool.root.rglob("*"), reverse=True):
        path.rmdir()
    with pytest.raises(Transient) as caught:
        _begin(spool)
    assert caught.value.reason is Reason.OUT_OF_SPACE


def test_the_same_bytes_twice_are_one_file(spool: Spool) -> None:
    assert _store(spool) == _store(spool)
    assert len(_files(spool)) == 1


def test_other_bytes_under_the_same_uid_are_a_file_of_their_own(spool: Spool) -> None:
    first, second = _store(spool, b"first"), _store(spool, b"second")
    assert first != second
    assert _keys(spool) == sorted([first, second])
    spool.finish(first)
    assert _keys(spool) == [second], "finishing one never removes the other"


def test_the_request_is_rebuilt_from_the_file_alone(spool: Spool) -> None:
    with _begin(spool, calling="SENDING AE") as writer:
        writer.write(b"bytes")
        writer.lane = Lane.STAT
        key = writer.commit()
    expected = InferenceRequest(
        spool_key=key,
        sop_instance_uid=UID,
        sop_class_uid=CR,
        transfer_syntax_uid=EXPLICIT,
        content_sha256=hashlib.sha256(b"bytes").hexdigest(),
        calling_ae_title="SENDING AE",
        lane=Lane.STAT,
        received_at=writer.received_at,
    )
    assert Spool(spool.root).request_for(key) == expected
    assert writer.content_sha256 == expected.content_sha256
    assert abs(time.time() - expected.received_at) < 60


@given(calling=st.text(max_size=16), called=st.text(max_size=16))
def test_whatever_the_ae_titles_are_the_request_can_be_rebuilt_or_is_refused(
    spool_factory: Spool, calling: str, called: str
) -> None:
    writer = spool_factory.begin(
        sop_class_uid=CR,
        sop_instance_uid=UID,
        transfer_syntax_uid=EXPLICIT,
        calling_ae_title=calling,
        called_ae_title=called,
        lane=Lane.ROUTINE,
    )
    with writer:
        key = writer.commit()
    try:
        request = spool_factory.request_for(key)
    except Unprocessable:
        assert any(ord(sign) < 32 or ord(sign) == 127 for sign in calling)
    else:
        expected = calling.encode("ascii", "replace").decode().rstrip("\x00 ")
        assert request.calling_ae_title == expected


@pytest.fixture(scope="module")
def spool_factory(tmp_path_factory: pytest.TempPathFactory) -> Spool:
    spool = Spool(tmp_path_factory.mktemp("spools") / "spool")
    spool.prepare()
    return spool


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 132, b"\x00" * 128 + b"DICM", b"\x00" * 128 + b"DICM" + b"\xff" * 400, b"x" * 5000]
)
def test_a_file_that_is_not_ours_is_refused(spool: Spool, content: bytes) -> None:
    key = _store(spool)
    spool.path_of(key).write_bytes(content)
    with pytest.raises(Unprocessable) as caught:
        spool.request_for(key)
    assert caught.value.reason is Reason.MALFORMED_DATASET


def test_a_foreign_part_10_file_put_into_the_spool_is_refused(spool: Spool) -> None:
    key = _store(spool)
    other = f"1.2.3_{key.partition('_')[2]}"
    spool.path_of(other).write_bytes(spool.path_of(key).read_bytes())
    with pytest.raises(Unprocessable):
        spool.request_for(other)  # its meta information speaks of another UID than its name


def test_a_finished_file_is_gone_for_everybody(spool: Spool) -> None:
    key = _store(spool)
    spool.finish(key)
    spool.finish(key)  # again: no error
    assert key not in spool
    for read in (spool.open, spool.request_for):
        with pytest.raises(Unprocessable) as caught:
            read(key)
        assert caught.value.reason is Reason.SPOOL_FILE_MISSING


HOSTILE = [
    "",
    "1.2/../../x",
    "../1.2",
    "1.2\x00",
    "1.2\n",
    "1..2",
    ".1",
    "1.",
    "a.b",
    "1.2 ",
    "1" * 65,
    "\uff11.2",
    "~",
]


@pytest.mark.parametrize("uid", HOSTILE)
def test_a_uid_that_is_none_never_becomes_a_path(spool: Spool, uid: str) -> None:
    assert not is_valid_uid(uid)
    before = _files(spool)
    with pytest.raises(Unprocessable) as caught:
        _begin(spool, uid)
    assert caught.value.reason is Reason.MALFORMED_DATASET
    assert _files(spool) == before


def test_a_uid_of_64_characters_and_leading_zeros_are_let_through(spool: Spool) -> None:
    longest = "1." + "2" * 62
    for uid in (longest, "1.02.003"):
        assert is_valid_uid(uid)
        assert spool.request_for(_store(spool, uid=uid)).sop_instance_uid == uid


@given(st.text())
def test_no_text_that_is_not_a_key_becomes_a_path(spool_factory: Spool, key: str) -> None:
    with pytest.raises(ValueError, match="not a spool key"):
        spool_factory.path_of(key)


@pytest.mark.parametrize("key", ["../x", "1.2_0123456789abcdef/..", "1.2_0123456789ABCDEF", "1.2_0123456789abcdef\n"])
def test_hostile_keys_are_refused_by_every_operation(spool: Spool, key: str) -> None:
    for act in (spool.path_of, spool.open, spool.finish, spool.set_aside, spool.restore, spool.__contains__):
        with pytest.raises(ValueError, match="not a spool key"):
            act(key)


def test_what_failed_is_set_aside_and_can_be_restored(spool: Spool) -> None:
    key = _store(spool)
    content = spool.path_of(key).read_bytes()
    spool.set_aside(key)
    spool.set_aside(key)  # again: no error
    assert _keys(spool) == []
    assert [entry.key for entry in spool.set_aside_entries()] == [key]
    assert spool.usage().pending == 0
    assert spool.restore(key)
    assert not spool.restore(key)
    assert _keys(spool) == [key]
    assert spool.path_of(key).read_bytes() == content
    assert list(spool.set_aside_entries()) == []


def test_only_old_files_of_broken_receptions_are_discarded(spool: Spool) -> None:
    old, fresh = _begin(spool), _begin(spool)
    (stale,) = [path for path in (spool.root / "incoming").iterdir() if path == old._path]
    os.utime(stale, (time.time() - 100,) * 2)
    key = _store(spool)
    os.utime(spool.path_of(key), (1, 1))
    assert spool.discard_stale_incoming(older_than_s=50) == 1
    assert not stale.exists()
    assert fresh._path.exists()
    assert _keys(spool) == [key], "what was accepted is never stale"
    old.abort()
    fresh.abort()


def test_foreign_files_in_the_spool_are_overlooked(spool: Spool) -> None:
    key = _store(spool)
    (spool.path_of(key).parent / "notes.txt").write_text("put here by hand")
    (spool.root / "set_aside" / "core").write_text("")
    assert _keys(spool) == [key]
    assert list(spool.set_aside_entries()) == []


def test_preparing_twice_keeps_what_is_pending(spool: Spool) -> None:
    key = _store(spool)
    Spool(spool.root).prepare()
    assert _keys(spool) == [key]


def test_many_threads_store_and_finish_at_once(spool: Spool) -> None:
    def work(number: int) -> Iterator[str]:
        for step in range(20):
            key = _store(spool, f"{number} {step}".encode(), f"1.2.{number}.{step}")
            shared = _store(spool, f"shared {step}".encode(), f"1.3.{step}")
            assert len(list(spool.entries())) >= 1
            if step % 2:
                spool.finish(key)
            else:
                yield key
            assert shared in spool

    with ThreadPoolExecutor(8) as pool:
        kept = [key for keys in pool.map(lambda number: list(work(number)), range(8)) for key in keys]
    shared = [f"1.3.{step}_{hashlib.sha256(f'shared {step}'.encode()).hexdigest()[:16]}" for step in range(20)]
    assert _keys(spool) == sorted(kept + shared)
    assert list((spool.root / "incoming").iterdir()) == []


def test_large_datasets_stream_through_in_pieces(spool: Spool) -> None:
    pieces = [bytes([number % 256]) * 100_000 for number in range(30)]
    with _begin(spool) as writer:
        assert writer.write_pieces([memoryview(piece) for piece in pieces[:20]]) == 2_000_000
        for piece in pieces[20:]:
            assert writer.write(piece) == 100_000
        assert writer.dataset_bytes == 3_000_000
        key = writer.commit()
    whole = b"".join(pieces)
    assert spool.path_of(key).read_bytes().endswith(whole)
    assert spool.request_for(key).content_sha256 == hashlib.sha256(whole).hexdigest()


def test_more_pieces_than_one_system_call_takes_are_all_written(spool: Spool) -> None:
    pieces = [number.to_bytes(2, "big") for number in range(3000)]
    with _begin(spool) as writer:
        assert writer.write_pieces(pieces) == 6000
        key = writer.commit()
    assert spool.path_of(key).read_bytes().endswith(b"".join(pieces))


def test_a_short_write_is_continued(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    with _begin(spool) as writer:
        monkeypatch.setattr(os, "writev", lambda descriptor, pieces: os.write(descriptor, bytes(pieces[0])[:1]))
        assert writer.write_pieces([b"abc", b"defg"]) == 7
        key = writer.commit()
    assert spool.path_of(key).read_bytes().endswith(b"abcdefg")
