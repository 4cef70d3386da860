"""What a report says of an instance, read by highdicom and by dsrdump, is what the database says of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
import stand_in_spine
from line import Line
from sqlalchemy import select

from models.records.base import Base
from models.records.dicom import InstanceState
from models.records.findings import ClassificationFinding, ZoneFinding, ZoneSummary
from models.records.outputs import Output, OutputKind
from models.records.spine import CobbFinding, HeightFinding, Landmark, SpineSummary, VertebraFinding
from models.spine.measures import Part

Eventually = Callable[..., None]

DIGITS_OF_TEXT = 1e-12
"""Relative error of a decimal string of 16 characters, whose point and sign take some."""
ZONES = {
    ("281392002", "24028007"): "right_sup",
    ("281392002", "7771000"): "left_sup",
    ("281393007", "24028007"): "right_mid",
    ("281393007", "7771000"): "left_mid",
    ("281394001", "24028007"): "right_inf",
    ("281394001", "7771000"): "left_inf",
}


class Analysed:
    """A chest and a spine that went through the pipeline: their reports and their rows."""

    def __init__(self, line: Line) -> None:
        self._line = line
        with line.sessions() as session:
            outputs = session.scalars(select(Output).where(Output.kind == OutputKind.STRUCTURED_REPORT)).all()
            self.paths = {output.model_version.task.value: line.outbox.path_of(output.file_name) for output in outputs}  # type: ignore[union-attr]
        self.report = cache(lambda task: hd.sr.srread(self.paths[task]))

    def rows(self, kind: type[Base]) -> list[Any]:
        with self._line.sessions() as session:
            return list(session.scalars(select(kind)))

    def groups(self, task: str) -> dict[str, Any]:
        content = self.report(task).content
        found = [*content.get_image_measurement_groups(), *content.get_planar_roi_measurement_groups()]
        return {group.tracking_identifier.partition(" ")[2]: group for group in found}


def numbers(group: Any) -> dict[str, float]:
    return {each.name.value: each.value for each in group.get_measurements()}


def answers(group: Any) -> dict[str, str]:
    return {each.name.value: each.value.value for each in group.get_qualitative_evaluations()}


@pytest.fixture
def analysed(lay: Any, make_source: Any, eventually: Eventually, csi_engine: Any, spine_engine: Any) -> Analysed:
    line = lay(
        others=(csi_engine, spine_engine),
        decoders=1,
        kinds=(OutputKind.SECONDARY_CAPTURE, OutputKind.STRUCTURED_REPORT),
    )
    rows, columns = np.mgrid[0:120, 0:90]
    film = stand_in_spine.draw((512, 300), stand_in_spine.corners(170, 250, 4.0), 255).astype(np.uint8)
    spine = make_source("1.2.4", film, BodyPartExamined="SPINE", ViewPosition="AP", PixelSpacing=[0.3, 0.2])
    for source in (make_source("1.2.3", (rows + columns).astype(np.uint8)), spine):
        line.pipeline.submit(line.accept(source))
    eventually(lambda: len(line.done) == 2, timeout_s=60)
    assert {done.state for done in line.done} == {InstanceState.DONE}
    return Analysed(line)


def test_reports_say_what_the_database_says(analysed: Analysed) -> None:
    _pneumonia_is_equal(analysed)
    _zones_are_equal(analysed)
    _spine_is_equal(analysed)


def _pneumonia_is_equal(analysed: Analysed) -> None:
    (row,) = analysed.rows(ClassificationFinding)
    (group,) = analysed.groups("pneumonia").values()
    told = numbers(group)
    assert told == {"122157": 100 * row.probability, "122411": 100 * row.threshold}
    assert answers(group)["233604007"] == ("52101004" if row.positive else "272519000")


def _zones_are_equal(analysed: Analysed) -> None:
    groups = analysed.groups("csi")
    (summary,) = analysed.rows(ZoneSummary)
    told = {}
    for name, group in groups.items():
        if name != "mean":
            (site,) = group.finding_sites
            values = numbers(group)
            zone = ZONES[site.value.value, site.laterality.value]
            told[zone] = (values.get("ZONE_SCORE"), values["CLASS_PROB"], values.get("EXPECTED_SCORE"))
    rows = analysed.rows(ZoneFinding)
    assert told == {row.zone.value: (row.score, 100 * row.probability, row.expected_score) for row in rows}
    assert len(told) == 6
    assert numbers(groups["mean"]) == {"MEAN_CSI": summary.mean_csi, "GRADABLE_ZONES": summary.gradable_zones}
    assert answers(groups["mean"])["HF_CLASS"] == f"HF_{summary.heart_failure_class.value.upper()}"


def _spine_is_equal(analysed: Analysed) -> None:
    groups = analysed.groups("landmarks")
    (summary,) = analysed.rows(SpineSummary)
    assert numbers(groups["spine"])["MEAN_CONFIDENCE"] == 100 * summary.mean_confidence
    assert answers(groups["spine"])["REVIEW"] == ("373066001" if summary.review else "373067005")
    assert answers(groups["spine"])["SPACING"] == summary.spacing_source.value
    for row in analysed.rows(VertebraFinding):
        assert numbers(groups[row.vertebra])["CONFIDENCE"] == 100 * row.confidence
        assert answers(groups[row.vertebra])["REVIEW"] == ("373066001" if row.review else "373067005")
    places: dict[str, dict[str, tuple[float, float]]] = {}
    for row in analysed.rows(Landmark):
        places.setdefault(row.vertebra, {})[row.corner.value] = (row.x, row.y)
    assert len(places) == 17
    for vertebra, corner in places.items():
        around = [corner[name] for name in ("top_left", "top_right", "bottom_right", "bottom_left", "top_left")]
        # Coordinates are written in single precision (PS3.3 C.18.6, FL).
        assert np.array_equal(groups[vertebra].roi.value, np.array(around, np.float32)), vertebra
    cobb = analysed.rows(CobbFinding)
    assert len(cobb) == 3
    for row in cobb:
        assert numbers(groups[f"curve {row.curve.value}"]) == {"285285000": row.degrees}
    heights = analysed.rows(HeightFinding)
    assert len(heights) == 17 + 16
    for row in heights:
        name = row.upper_vertebra if row.part is Part.BODY else f"disc {row.upper_vertebra}/{row.lower_vertebra}"
        told = numbers(groups[name])
        assert (told["HEIGHT_LEFT"], told["HEIGHT_RIGHT"]) == (row.left_mm, row.right_mm)


@pytest.fixture
def dsrdump() -> str:
    found = shutil.which("dsrdump", path="/usr/bin:/usr/local/bin")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("dsrdump is not installed")
        pytest.skip("dsrdump is not installed")
    return found


@pytest.mark.peers
def test_dsrdump_reads_the_numbers_of_the_database(analysed: Analysed, dsrdump: str) -> None:
    (pneumonia,) = analysed.rows(ClassificationFinding)
    assert _dumped(dsrdump, analysed.paths["pneumonia"], "Probability") == [
        pytest.approx(100 * pneumonia.probability, rel=DIGITS_OF_TEXT)
    ]
    zones = {row.zone.value: row for row in analysed.rows(ZoneFinding)}
    in_order = [zones[name] for name in ZONES.values()]
    called = _dumped(dsrdump, analysed.paths["csi"], "Probability of the class that was called")
    assert called == pytest.approx([100 * row.probability for row in in_order], rel=DIGITS_OF_TEXT)
    scores = _dumped(dsrdump, analysed.paths["csi"], "Congestion score of a lung zone, 0 to 3")
    assert scores == [row.score for row in in_order if row.score is not None]
    cobb = {row.curve.value: row.degrees for row in analysed.rows(CobbFinding)}
    angles = _dumped(dsrdump, analysed.paths["landmarks"], "Cobb angle")
    assert sorted(angles) == pytest.approx(sorted(cobb.values()), rel=DIGITS_OF_TEXT)
    heights = _dumped(dsrdump, analysed.paths["landmarks"], "Height at the left side of the image")
    left = sorted(row.left_mm for row in analysed.rows(HeightFinding))
    assert sorted(heights) == pytest.approx(left, rel=DIGITS_OF_TEXT)


def _dumped(dsrdump: str, path: Path, name: str) -> list[float]:
    done = subprocess.run([dsrdump, "+Pl", path], capture_output=True, text=True, check=True)
    return [float(value) for value in re.findall(rf'NUM:\(,,"{re.escape(name)}"\)="([^"]+)"', done.stdout)]
