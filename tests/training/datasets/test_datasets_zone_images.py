"""Both formats of zone scores: which column is which zone, what is missing, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.errors import ConfigurationError
from models.zones import ZONES, Congestion, Zone
from training.datasets.zone_images import ZoneFormat, read_zone_images

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "brixia_cohen"
CSI_HEADER = "FileID;right_sup;left_sup;right_mid;left_mid;right_inf;left_inf;csi"
BRIXIA_HEADER = "filename,file," + ",".join(f"{r}-{z}" for r in "SJ" for z in (*"ABCDEF", "Global")) + ",patient,view"


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (40, 40), dtype=np.uint8))


def test_csi_tables_have_a_separator_of_their_own_and_empty_zones(tmp_path: Path) -> None:
    write_image(tmp_path / "deep" / "a.png", 1)
    write_image(tmp_path / "b.jpg", 2)
    (tmp_path / "labels.csv").write_text(f"{CSI_HEADER}\na;0;1;2;3;;1;1.4\nb;1;1;1;1;1;1;1\nc;0;0;0;0;0;0;0\n")
    images = read_zone_images(tmp_path)
    assert images.format is ZoneFormat.CSI
    by_source = {image.source: image for image in images.images}
    (grades,) = by_source["deep/a.png"].readers
    assert grades == (0, 1, 2, 3, Congestion.UNGRADABLE, 1)
    assert by_source["b.jpg"].person == "b"
    assert images.missing == ("c",)
    assert read_zone_images(tmp_path, exclude={"b"}).excluded == ("b",)


def test_brixia_letters_are_the_right_lung_first_and_both_readers_are_kept(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "x.png", 1)
    row = "x.png,images/x.png,0,1,2,3,2,1,9,1,1,1,0,0,0,3,17,PA"
    (tmp_path / "scores.csv").write_text(f"{BRIXIA_HEADER}\n{row}\n")
    (image,) = read_zone_images(tmp_path, format="brixia").images
    senior, junior = (dict(zip(ZONES, grades, strict=True)) for grades in image.readers)
    assert [senior[zone] for zone in (Zone.RIGHT_SUP, Zone.RIGHT_MID, Zone.RIGHT_INF)] == [0, 1, 2]
    assert [senior[zone] for zone in (Zone.LEFT_SUP, Zone.LEFT_MID, Zone.LEFT_INF)] == [3, 2, 1]
    assert junior[Zone.RIGHT_INF] == 1
    assert junior[Zone.LEFT_SUP] == 0
    assert image.person == "patient-17"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (f"{CSI_HEADER}\na;0;1;2;5;0;1;1\n", "line 2, left_mid: a whole number from 0 to 4"),
        (f"{CSI_HEADER}\na;0;1;2;x;0;1;1\n", "line 2, left_mid"),
        (f"{CSI_HEADER}\na;0;1;2;1.5;0;1;1\n", "line 2, left_mid"),
        (f"{CSI_HEADER}\na;0;0;0;0;0;0;0\na;0;0;0;0;0;0;0\n", "line 3: names an image for the second time"),
        (f"{CSI_HEADER}\n;0;0;0;0;0;0;0\n", "line 2: names no image"),
        (f"{BRIXIA_HEADER}\nx,a.png,0,1,2,4,2,1,9,1,1,1,0,0,0,3,17,PA\n", "line 2, S-D: a whole number from 0 to 3"),
        (f"{BRIXIA_HEADER}\nx,a.png,,1,2,1,2,1,9,,,,,,,3,17,PA\n", "line 2: no reader scored all six zones"),
        (f"{BRIXIA_HEADER}\nx,../a.png,0,1,2,1,2,1,9,1,1,1,0,0,0,3,17,PA\n", "none of its 1 images can be read"),
        ("name,score\na,1\n", "neither a table of CSI"),
    ],
)
def test_faults_of_a_table_are_named_by_line_and_column(tmp_path: Path, table: str, message: str) -> None:
    write_image(tmp_path / "set" / "a.png", 1)
    write_image(tmp_path / "a.png", 1)
    (tmp_path / "set" / "scores.csv").write_text(table)
    with pytest.raises(ConfigurationError, match=message):
        read_zone_images(tmp_path / "set")


def test_an_unreadable_image_is_listed_and_does_not_stop_the_others(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 1)
    (tmp_path / "b.png").write_bytes(b"\x89PNG nonsense")
    (tmp_path / "labels.csv").write_text(f"{CSI_HEADER}\na;0;1;2;3;0;1;1\nb;1;1;1;1;1;1;1\n")
    images = read_zone_images(tmp_path)
    assert [image.source for image in images.images] == ["a.png"]
    assert [fault.path.name for fault in images.unreadable] == ["b.png"]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real radiographs are not here")
def test_the_real_set_is_read_whole() -> None:
    images = read_zone_images(REAL)
    assert images.format is ZoneFormat.BRIXIA
    assert len(images.images) == 139
    assert len({image.person for image in images.images}) == 109
    assert not images.unreadable
    assert not images.missing
    assert all(len(image.readers) == 2 for image in images.images)
