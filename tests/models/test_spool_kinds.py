"""What both kinds of spool do alike: a local directory, and a bucket behind a real S3 API."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydicom.filereader import read_file_meta_info

from models.any_spool import AnySpool, open_spool
from models.errors import Reason, Unprocessable
from models.object_spool import ObjectSpool
from models.requests import Lane
from models.settings import Settings
from models.spool import Spool
from models.spool_archive import ArchiveLimits
from models.spool_places import SpoolPlace
from models.spool_writer import SpoolWriter

CR, EXPLICIT, UID = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.1.2.1", "1.2.3.4"
AMPLE = ArchiveLimits(days=30, max_bytes=10**9)


@pytest.fixture(params=["directory", "bucket"])
def spool(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnySpool:
    if request.param == "bucket":
        s3: Any = request.getfixturevalue("s3")
        for name, value in s3.environment(f"kinds/{uuid.uuid4().hex}").items():
            monkeypatch.setenv(name, value)
    spool = open_spool(Settings(spool_dir=tmp_path / "spool", spool_archive_days=1))
    assert isinstance(spool, ObjectSpool if request.param == "bucket" else Spool)
    spool.prepare()
    return spool


def _begin(spool: AnySpool, uid: str = UID, lane: Lane = Lane.ROUTINE) -> SpoolWriter:
    return spool.begin(
        sop_class_uid=CR,
        sop_instance_uid=uid,
        transfer_syntax_uid=EXPLICIT,
        calling_ae_title="MODALITY",
        called_ae_title="RADSTREAM",
        lane=lane,
    )


def _store(spool: AnySpool, data: bytes = b"bytes", uid: str = UID, lane: Lane = Lane.ROUTINE) -> str:
    with _begin(spool, uid, lane) as writer:
        writer.write(data)
        return writer.commit()


def _keys(spool: AnySpool) -> list[str]:
    return sorted(entry.key for entry in spool.entries())


def _left(spool: AnySpool) -> list[str]:
    return [path.name for path in (spool.root / "incoming").iterdir()]


def test_what_is_committed_is_pending_until_it_is_finished(spool: AnySpool) -> None:
    digest = hashlib.sha256(b"bytes").hexdigest()
    key = _store(spool)
    assert key == f"{UID}_{digest[:16]}"
    assert _keys(spool) == [key]
    assert key in spool
    assert spool.usage().pending == 1
    (entry,) = spool.entries()
    assert abs(entry.modified_at - time.time()) < 60
    assert _left(spool) == []
    spool.finish(key)
    spool.finish(key)  # again: no error
    assert key not in spool
    assert spool.find(key) is None
    for read in (spool.open, spool.request_for):
        with pytest.raises(Unprocessable) as caught:
            read(key)
        assert caught.value.reason is Reason.SPOOL_FILE_MISSING


def test_the_same_bytes_twice_are_one_and_other_bytes_are_another(spool: AnySpool) -> None:
    first, second = _store(spool, b"first"), _store(spool, b"second")
    assert _store(spool, b"first") == first
    assert _keys(spool) == sorted([first, second])
    spool.finish(first)
    assert _keys(spool) == [second]


def test_the_request_is_rebuilt_from_what_lies_there(spool: AnySpool) -> None:
    with _begin(spool, lane=Lane.STAT) as writer:
        writer.write(b"bytes")
        key = writer.commit()
    request = spool.request_for(key)
    assert (request.spool_key, request.sop_instance_uid, request.sop_class_uid) == (key, UID, CR)
    assert (request.lane, request.calling_ae_title) == (Lane.STAT, "MODALITY")
    assert request.content_sha256 == writer.content_sha256 == hashlib.sha256(b"bytes").hexdigest()
    assert request.received_at == writer.received_at


def test_what_is_fetched_is_the_part_10_file_as_it_was_received(spool: AnySpool) -> None:
    key = _store(spool, data := bytes(range(256)) * 4096)
    path = spool.fetch(key)
    assert path == spool.local_path(key)
    assert path.read_bytes().endswith(data)
    meta = read_file_meta_info(path)
    assert (meta.MediaStorageSOPInstanceUID, meta.SourceApplicationEntityTitle) == (UID, "MODALITY")
    with spool.open(key) as file:
        assert file.read() == path.read_bytes()
        file.seek(128)
        assert file.read(4) == b"DICM"
        file.seek(-3, os.SEEK_END)
        assert file.read() == data[-3:]
    spool.finish(key)
    assert not path.exists(), "the copy goes with the original"


def test_leaving_without_commit_leaves_nothing(spool: AnySpool) -> None:
    with _begin(spool) as writer:
        writer.write(b"half of")
        assert len(_left(spool)) == 1
    assert (_left(spool), _keys(spool)) == ([], [])


def test_what_failed_is_set_aside_and_can_be_restored(spool: AnySpool) -> None:
    key = _store(spool)
    content = spool.fetch(key).read_bytes()
    spool.set_aside(key)
    spool.set_aside(key)  # again: no error
    assert _keys(spool) == []
    assert [entry.key for entry in spool.set_aside_entries()] == [key]
    found = spool.find(key)
    assert found is not None
    assert (found.place, found.location) == (SpoolPlace.SET_ASIDE, spool.location_of(key, SpoolPlace.SET_ASIDE))
    assert found.size == len(content)
    with spool.open(key, SpoolPlace.SET_ASIDE) as file:
        assert file.read() == content
    assert spool.restore(key)
    assert not spool.restore(key)
    assert _keys(spool) == [key]
    assert spool.fetch(key).read_bytes() == content
    assert list(spool.set_aside_entries()) == []


def test_what_is_kept_can_be_found_read_and_restored(spool: AnySpool) -> None:
    key = _store(spool)
    content = spool.fetch(key).read_bytes()
    spool.finish(key, keep=True)
    spool.finish(key, keep=True)  # again: no error
    assert (_keys(spool), spool.usage().pending) == ([], 0)
    (kept,) = spool.archived()
    assert (kept.key, kept.place, kept.size) == (key, SpoolPlace.ARCHIVE, len(content))
    assert spool.find(key) == kept
    assert spool.fetch_file(kept).read_bytes() == content
    path = spool.find_archived(key)
    assert path is not None
    assert path.read_bytes() == content
    assert spool.find_archived(_store(spool, b"other")) is None
    assert spool.restore(key)
    assert list(spool.archived()) == []
    assert spool.request_for(key).spool_key == key


def test_the_archive_is_trimmed_by_age_and_size(spool: AnySpool) -> None:
    assert spool.trim_archive(AMPLE, 0) == 0
    keys = [_store(spool, b"x" * 1000, f"1.2.{number}") for number in range(3)]
    for key in keys:
        spool.finish(key, keep=True)
    size = next(iter(spool.archived())).size
    assert spool.trim_archive(AMPLE, 0) == 0
    assert spool.trim_archive(ArchiveLimits(30, 2 * size), 0) == 1
    assert len(list(spool.archived())) == 2
    assert spool.trim_archive(ArchiveLimits(0, 10**9), 0) == 2
    assert list(spool.archived()) == []


@pytest.mark.parametrize("key", ["../x", "1.2_0123456789abcdef/..", "1.2_0123456789ABCDEF", "1.2_0123456789abcdef\n"])
def test_hostile_keys_are_refused_by_every_operation(spool: AnySpool, key: str) -> None:
    acts = (spool.open, spool.finish, spool.set_aside, spool.restore, spool.__contains__, spool.fetch, spool.find)
    for act in (*acts, spool.local_path, spool.location_of, spool.request_for, spool.find_archived):
        with pytest.raises(ValueError, match="not a spool key"):
            act(key)


def test_large_datasets_stream_through_in_pieces(spool: AnySpool) -> None:
    pieces = [bytes([number % 256]) * 1_000_000 for number in range(12)]
    with _begin(spool) as writer:
        for piece in pieces:
            writer.write(piece)
        key = writer.commit()
    whole = b"".join(pieces)
    assert spool.fetch(key).read_bytes().endswith(whole)
    assert spool.request_for(key).content_sha256 == hashlib.sha256(whole).hexdigest()


def test_many_threads_store_fetch_and_finish_at_once(spool: AnySpool) -> None:
    def work(number: int) -> Iterator[str]:
        for step in range(6):
            key = _store(spool, f"{number} {step}".encode(), f"1.2.{number}.{step}")
            shared = _store(spool, f"shared {step}".encode(), f"1.3.{step}")
            assert spool.fetch(shared).read_bytes().endswith(f"shared {step}".encode())
            if step % 2:
                spool.finish(key)
            else:
                yield key
            assert shared in spool

    with ThreadPoolExecutor(6) as pool:
        kept = [key for keys in pool.map(lambda number: list(work(number)), range(6)) for key in keys]
    shared = [f"1.3.{step}_{hashlib.sha256(f'shared {step}'.encode()).hexdigest()[:16]}" for step in range(6)]
    assert _keys(spool) == sorted(kept + shared)
    assert _left(spool) == []
