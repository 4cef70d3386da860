"""Reading files: several processes give what one gives, and a file that breaks its reader takes no other with it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from training.datasets.reading import Unreadable, identify, read_each

ABORTS_PROCESS = """
import os

def read(path):
    if path.name == "b.png":
        os.abort()
    return path.name
"""


def test_processes_give_what_one_process_gives(class_folders: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(class_folders, tmp_path / "set"))
    (directory / "NORMAL" / "a.png").write_bytes(b"no image")
    paths = [*sorted(directory.rglob("*.*")), directory / "gone.png"]
    alone = list(read_each(paths, identify, processes=0))
    assert list(read_each(paths, identify, processes=2)) == alone
    reasons = [each.reason for each in alone if isinstance(each, Unreadable)]
    assert reasons == ["not a readable PNG or JPEG", "cannot be opened: No such file or directory"]


def test_a_codec_that_crashes_takes_only_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crashing_codec.py").write_text(ABORTS_PROCESS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    from crashing_codec import read  # type: ignore[import-not-found]

    outcomes = list(read_each([Path("a.png"), Path("b.png"), Path("c.png")], read, processes=2))
    assert outcomes == ["a.png", Unreadable(Path("b.png"), "decoder crashed"), "c.png"]
