"""The demo as a newcomer runs it, with the shipped networks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]


def test_demo_shows_findings_and_writes_pictures(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.demo", "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no_rule_matched" in done.stdout
    pictures = sorted(tmp_path.glob("overlay_*.png"))
    assert [sum(task in picture.name for picture in pictures) for task in ("pneumonia", "csi")] == [3, 3]
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.mode == "RGB"
            assert min(image.size) >= 512


def test_demo_says_what_is_wrong_with_a_path(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.demo", "--send", str(tmp_path / "nothing")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no such file" in done.stdout
