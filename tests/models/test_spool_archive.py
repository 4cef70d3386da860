"""The spool's archive: finished files are kept as long as they may be, and never stand for unfinished work."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from models.requests import Lane
from models.settings import Settings
from models.spool import Spool
from models.spool_archive import ArchiveLimits, SpoolArchive
from models.spool_header import dataset_sha256

DAY_S = 86_400
AMPLE = ArchiveLimits(days=30, max_bytes=10**9)


def _spool(root: Path, archives: bool = True) -> Spool:
    spool = Spool(root, archives=archives)
    spool.prepare()
    return spool


def _finished(spool: Spool, uid: str, age_days: float = 0, content: bytes = b"bytes") -> str:
    writer = spool.begin(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
        sop_instance_uid=uid,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title="MODALITY",
        called_ae_title="RADSTREAM",
        lane=Lane.ROUTINE,
    )
    with writer:
        writer.write(content)
        key = writer.commit()
    moment = time.time() - age_days * DAY_S
    os.utime(spool.path_of(key), (moment, moment))
    spool.finish(key, keep=True)
    return key


def _kept(archive: SpoolArchive) -> list[str]:
    return sorted(file.key.partition("_")[0] for file in archive.files())


def test_a_finished_file_is_kept_whole_and_is_pending_no_more(tmp_path: Path) -> None:
    spool, archive = _spool(tmp_path), SpoolArchive(tmp_path)
    key = _finished(spool, "1.2.3")
    spool.finish(key, keep=True)  # again: no error
    path = archive.find(key)
    assert path is not None
    assert dataset_sha256(path) == hashlib.sha256(b"bytes").hexdigest()
    assert key not in spool
    assert list(spool.entries()) == []
    assert spool.usage().pending == 0


def test_without_retention_and_without_being_asked_nothing_is_kept(tmp_path: Path) -> None:
    _finished(_spool(tmp_path, archives=False), "1.2.3")
    assert not (tmp_path / "archive").exists()
    assert Settings().spool_archive_days == 0
    assert SpoolArchive(tmp_path).find("1.2.3_0123456789abcdef") is None
    assert SpoolArchive(tmp_path).trim(AMPLE, 0) == 0


def test_what_cannot_be_kept_is_removed_all_the_same(tmp_path: Path) -> None:
    spool = _spool(tmp_path)
    (tmp_path / "archive").write_text("a file where the directory should be")
    key = _finished(spool, "1.2.3")
    assert key not in spool


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        (AMPLE, ["1.1", "1.2", "1.3"]),
        (ArchiveLimits(days=2.5, max_bytes=10**9), ["1.1", "1.2"]),
        (ArchiveLimits(days=0, max_bytes=10**9), []),
    ],
)
def test_files_older_than_the_retention_go(tmp_path: Path, limits: ArchiveLimits, left: list[str]) -> None:
    spool, archive = _spool(tmp_path), SpoolArchive(tmp_path)
    for days, uid in ((1, "1.1"), (2, "1.2"), (3, "1.3")):
        _finished(spool, uid, days)
    assert archive.trim(limits, 0) == 3 - len(left)
    assert _kept(archive) == left
    assert bool(list(archive.root.iterdir())) is bool(left), "no empty day stays"


def test_the_oldest_go_first_when_there_is_too_much(tmp_path: Path) -> None:
    spool, archive = _spool(tmp_path), SpoolArchive(tmp_path)
    for days, uid in ((2, "1.2"), (3, "1.3"), (1, "1.1")):
        _finished(spool, uid, days, content=b"x" * 1000)
    sizes = [file.size for file in archive.files()]
    assert archive.trim(ArchiveLimits(30, sum(sizes) - 1), 0) == 1
    assert _kept(archive) == ["1.1", "1.2"]


def test_the_archive_gives_way_when_the_disk_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, archive = _spool(tmp_path), SpoolArchive(tmp_path)
    for days, uid in ((2, "1.2"), (1, "1.1")):
        _finished(spool, uid, days, content=b"x" * 1000)
    monkeypatch.setattr(SpoolArchive, "_free_bytes", lambda self: 5_000)
    assert archive.trim(AMPLE, 5_000) == 0
    assert archive.trim(AMPLE, 5_500) == 1
    assert _kept(archive) == ["1.1"]


def test_what_is_no_part_10_file_has_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "notes.dcm"
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="not a Part 10 file"):
        dataset_sha256(path)
