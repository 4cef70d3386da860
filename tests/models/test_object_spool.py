"""What is special to a spool in a bucket: the bucket's keys, its outages, and the copies on this host."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from models.commitment_reports import CommitmentReport, ReportObjects, open_reports
from models.errors import ConfigurationError, ObjectStoreUnavailable, Reason, Transient, Unprocessable
from models.object_cache import ObjectCache
from models.object_spool import ObjectSpool
from models.object_store import ObjectStore
from models.requests import Lane
from models.settings import Settings, load
from models.spool import Spool

CR, EXPLICIT = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.1.2.1"


@pytest.fixture
def prefix() -> str:
    return f"objects/{uuid.uuid4().hex}"


@pytest.fixture
def store(s3: Any, prefix: str) -> ObjectStore:
    return ObjectStore(f"s3://{s3.bucket}/{prefix}", endpoint=s3.endpoint, keys=("stand-in", "stand-in"))


@pytest.fixture
def spool(store: ObjectStore, tmp_path: Path) -> ObjectSpool:
    spool = ObjectSpool(tmp_path / "spool", store, cache_bytes=10**9, archives=True)
    spool.prepare()
    return spool


def _store(spool: ObjectSpool | Spool, data: bytes = b"bytes", uid: str = "1.2.3") -> str:
    with spool.begin(
        sop_class_uid=CR,
        sop_instance_uid=uid,
        transfer_syntax_uid=EXPLICIT,
        calling_ae_title="MODALITY",
        called_ae_title="RADSTREAM",
        lane=Lane.ROUTINE,
    ) as writer:
        writer.write(data)
        return writer.commit()


def _local(spool: ObjectSpool) -> list[str]:
    return [path.name for path in spool.root.rglob("*") if path.is_file()]


def test_accepted_means_that_the_bucket_has_it_and_this_host_needs_nothing(
    spool: ObjectSpool, s3: Any, prefix: str
) -> None:
    key = _store(spool)
    digest = key.partition("_")[2]
    assert s3.keys(prefix) == [f"{prefix}/pending/{digest[:2]}/{key}.dcm"]
    assert s3.get(f"{prefix}/pending/{digest[:2]}/{key}.dcm").endswith(b"bytes")
    assert _local(spool) == []
    spool.set_aside(key)
    assert s3.keys(prefix) == [f"{prefix}/set_aside/{key}.dcm"]
    spool.restore(key)
    spool.finish(key, keep=True)
    assert s3.keys(prefix) == [f"{prefix}/archive/{time.strftime('%Y%m%d', time.gmtime())}/{key}.dcm"]


def test_another_host_takes_what_this_one_accepted(spool: ObjectSpool, store: ObjectStore, tmp_path: Path) -> None:
    other = ObjectSpool(tmp_path / "other", store, cache_bytes=10**9)
    other.prepare()
    key = _store(spool)
    assert other.fetch(key).read_bytes().endswith(b"bytes")
    other.finish(key)
    assert key not in spool
    assert spool.usage().pending == 0


def test_a_bucket_that_is_down_refuses_and_takes_again_when_it_is_back(spool: ObjectSpool, s3: Any) -> None:
    kept = _store(spool, b"kept")
    s3.go_down()
    with pytest.raises(Transient) as caught:
        _store(spool, b"refused")
    assert caught.value.reason is Reason.OBJECT_STORE_UNAVAILABLE
    assert _local(spool) == []
    for act in (spool.fetch, spool.finish, spool.set_aside, spool.restore, spool.request_for, spool.find):
        with pytest.raises(ObjectStoreUnavailable):
            act(kept)
    for look in (spool.usage, spool.check, lambda: kept in spool, lambda: list(spool.archived())):
        with pytest.raises(OSError, match="object_store_unavailable"):  # whoever bears with a bad disk bears with it
            look()
    s3.come_back()
    spool.check()
    assert kept in spool
    assert spool.fetch(kept).read_bytes().endswith(b"kept")
    assert _store(spool, b"refused") in spool


def test_a_network_that_is_silent_is_an_error_and_no_hang(
    spool: ObjectSpool, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.object_store.REQUEST_S", 1.0)
    quick = ObjectStore(spool.store.url, endpoint=s3.endpoint, keys=("stand-in", "stand-in"))
    silent = ObjectSpool(spool.root, quick, cache_bytes=10**9)
    s3.freeze()
    began = time.monotonic()
    with pytest.raises(ObjectStoreUnavailable):
        _store(silent)
    assert time.monotonic() - began < 15
    assert _local(spool) == []


def test_a_missing_bucket_never_looks_like_a_missing_object(s3: Any) -> None:
    missing = ObjectStore("s3://no-such-bucket", endpoint=s3.endpoint, keys=("stand-in", "stand-in"))
    acts = (missing.check, lambda: missing.put_bytes("x", b""), lambda: missing.get_bytes("x"))
    for act in (*acts, lambda: missing.exists("x"), lambda: missing.move("x", "y"), lambda: list(missing.objects("x"))):
        with pytest.raises(ObjectStoreUnavailable):
            act()


def test_an_object_that_is_gone_can_never_be_processed(spool: ObjectSpool) -> None:
    key = _store(spool)
    spool.store.delete(f"pending/{key.partition('_')[2][:2]}/{key}.dcm")
    with pytest.raises(Unprocessable) as caught:
        spool.fetch(key)
    assert caught.value.reason is Reason.SPOOL_FILE_MISSING
    assert _local(spool) == []


def test_a_fetched_file_is_transferred_once(spool: ObjectSpool) -> None:
    key = _store(spool)
    asked: list[str] = []
    spool.store.observe = lambda operation, seconds: asked.append(operation)
    assert spool.fetch(key) == spool.fetch(key)
    assert asked == ["get"]


def test_a_header_is_read_without_the_pixels(spool: ObjectSpool) -> None:
    key = _store(spool, b"x" * 10_000_000)
    read = spool.store.get_range
    lengths: list[int] = []

    def noted(key: str, start: int, length: int) -> bytes:
        lengths.append(length)
        return read(key, start, length)

    spool.store.get_range = noted  # type: ignore[method-assign]
    spool.request_for(key)
    with spool.open(key) as file:
        file.read(300)
    assert sum(lengths) < 100_000


def test_a_local_spool_with_unfinished_instances_is_not_forgotten(spool: ObjectSpool, tmp_path: Path) -> None:
    local = Spool(tmp_path / "spool")
    local.prepare()
    key = _store(local)
    with pytest.raises(ConfigurationError, match="unset it until the workers have finished them"):
        spool.prepare()
    local.finish(key)
    spool.prepare()


def test_foreign_objects_are_overlooked(spool: ObjectSpool) -> None:
    spool.store.put_bytes("pending/ab/notes.txt", b"put here by hand")
    spool.store.put_bytes("archive/20260101/core", b"")
    assert list(spool.entries()) == []
    assert list(spool.archived()) == []


# Copies


def test_copies_used_longest_ago_go_first_and_never_those_in_hand(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, 250)
    for age_s, name in enumerate(("d", "c", "b", "a", ".x.part"), 1):
        (tmp_path / name).write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (time.time() - 1000 * age_s,) * 2)
    cache.get("a", lambda path: pytest.fail("it is there"))
    os.utime(tmp_path / "a", (1, 1))
    cache.trim()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "d"]
    cache.let_go("a")
    (tmp_path / "e").write_bytes(b"x" * 100)
    cache.trim()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "e"]
    for name in ("f", "g"):
        (tmp_path / name).write_bytes(b"x" * 100)
    cache.trim()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "f", "g"], "new ones may be about to be read"


def test_a_copy_that_failed_leaves_nothing(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, 1000)

    def fail(path: Path) -> None:
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        cache.get("a", fail)
    assert list(tmp_path.iterdir()) == []


# Reports, settings


def test_commitment_reports_go_from_host_to_host(s3: Any, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment(prefix).items():
        monkeypatch.setenv(name, value)
    reports = open_reports(Settings())
    assert isinstance(reports, ReportObjects)
    reports.prepare()
    report = CommitmentReport("1.2.3", ("1.2.4",), (("1.2.5", 0x0112),))
    reports.put(report)
    ((name, waiting),) = open_reports(Settings()).waiting()
    assert waiting == report
    reports.discard(name)
    reports.discard(name)  # again: no error
    assert list(reports.waiting()) == []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("OBJECT_STORE", "bucket/prefix", "RADSTREAM_OBJECT_STORE"),
        ("OBJECT_STORE", "s3://UPPER", "RADSTREAM_OBJECT_STORE"),
        ("OBJECT_STORE_ENDPOINT", "127.0.0.1:9000", "RADSTREAM_OBJECT_STORE_ENDPOINT"),
        ("OBJECT_STORE_ENDPOINT", "http://127.0.0.1:9000", "RADSTREAM_OBJECT_STORE=s3://bucket/prefix is not"),
        ("OBJECT_STORE_ACCESS_KEY_ID", "key", "both, or none"),
        ("OBJECT_STORE_SECRET_ACCESS_KEY", "hidden", "both, or none"),
    ],
)
def test_wrong_settings_are_named_and_secrets_are_not_told(
    name: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"RADSTREAM_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        load(Settings)
    assert expected in str(caught.value)
    assert "hidden" not in str(caught.value)
