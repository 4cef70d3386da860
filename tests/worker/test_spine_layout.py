"""Where things lie on the film: lines with the tilt of their vertebra, words beside the spine and never over it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import stand_in_spine

from models.spine.cobb import Curve
from models.spine.schemas import SCHEMAS
from worker.spine_finding import LandmarkFinding
from worker.spine_layout import SMALLEST_DRAWN, Layout, Note, lay_out

MakeLandmarks = Callable[..., LandmarkFinding]

FILM = (1024, 640)  # four pixels for each of the image
SIZE = 20
SPINE = stand_in_spine.corners(80, 128, 2.0)


def _named(layout: Layout) -> dict[str, Note]:
    return {note.lines[0][0]: note for note in layout.notes}


def _tilt(start: np.ndarray, end: np.ndarray) -> float:
    along = end - start
    return float(np.degrees(np.arctan2(along[1], along[0])))


def test_vertebrae_lie_on_the_film_as_in_the_image(make_landmarks: MakeLandmarks) -> None:
    layout = lay_out(make_landmarks(), FILM, SIZE)
    assert [body.name for body in layout.bodies] == list(SCHEMAS["aasce68"].vertebrae)
    for body, expected in zip(layout.bodies, (SPINE * 4).reshape(17, 4, 2), strict=True):
        assert body.corners == pytest.approx(expected, abs=0.01)
        assert len(body.edges) == 4


def test_a_vertebra_that_lacks_a_corner_is_not_drawn(make_landmarks: MakeLandmarks) -> None:
    confidence = np.full(68, 0.9)
    confidence[0] = 0.1
    layout = lay_out(make_landmarks(confidence=confidence, thresholds={"T1:top_left": 0.5}), FILM, SIZE)
    assert [body.name for body in layout.bodies] == list(SCHEMAS["aasce68"].vertebrae[1:])
    assert layout.end_lines == ()


def test_nothing_at_all_is_laid_out_as_nothing(make_landmarks: MakeLandmarks) -> None:
    thresholds = dict.fromkeys(SCHEMAS["aasce68"].labels, 0.95)
    layout = lay_out(make_landmarks(thresholds=thresholds), FILM, SIZE)
    assert (layout.bodies, layout.end_lines, layout.notes) == ((), (), ())


def test_lines_have_the_tilt_of_their_vertebra_and_start_from_its_outer_end_plate(
    make_landmarks: MakeLandmarks,
) -> None:
    layout = lay_out(make_landmarks(), FILM, SIZE)
    bodies = {body.name: body for body in layout.bodies}
    main = [line for line in layout.end_lines if line.curve is Curve.MAIN]
    assert len(main) == 2
    assert sorted(_tilt(line.start, line.end) for line in main) == pytest.approx([-10, 15], abs=0.01)
    for line, name, plate in ((main[0], "T4", slice(0, 2)), (main[1], "T11", slice(2, 4))):
        assert (line.start + line.end) / 2 == pytest.approx(bodies[name].corners[plate].mean(axis=0), abs=0.01)
        reach = np.hypot(*(line.end - line.start)) / np.hypot(*(bodies[name].corners[1] - bodies[name].corners[0]))
        assert 1.5 < reach < 3


def test_a_vertebra_that_ends_two_curves_has_one_line_that_of_the_main_one(make_landmarks: MakeLandmarks) -> None:
    layout = lay_out(make_landmarks(), FILM, SIZE)
    # T1 to T4, T4 to T11, T11 to L5: four vertebrae end three curves.
    assert sorted(line.curve.value for line in layout.end_lines) == ["lower", "main", "main", "upper"]


def test_small_curves_beside_the_main_one_are_not_drawn(make_landmarks: MakeLandmarks) -> None:
    nearly_straight = SPINE.reshape(17, 4, 2).copy()
    for box, tilt in zip(nearly_straight, stand_in_spine.TILTS, strict=True):
        lower_by = 10 * np.tan(np.radians(tilt / 3))
        middle = box[:, 1].mean()
        box[:, 1] = middle + np.array([-4 - lower_by, -4 + lower_by, 4 - lower_by, 4 + lower_by])
    finding = make_landmarks(nearly_straight.reshape(-1, 2))
    assert [angle.degrees < SMALLEST_DRAWN for angle in finding.measures.cobb] == [True] * 3
    layout = lay_out(finding, FILM, SIZE)
    assert {line.curve for line in layout.end_lines} == {Curve.MAIN}
    assert [note.curve for note in layout.notes if note.curve] == [Curve.MAIN]


def test_angles_stand_at_the_middle_of_their_curve_with_their_vertebrae(make_landmarks: MakeLandmarks) -> None:
    notes = {note.curve: note for note in lay_out(make_landmarks(), FILM, SIZE).notes if note.curve}
    main = notes[Curve.MAIN]
    assert [text for text, _ in main.lines] == ["25°", "T4-T11"]
    # T4 is the fourth of 17, T11 the eleventh: their centres lie 5 steps above and 2 below the middle of the image.
    assert main.middle == pytest.approx(4 * (128 - 2 * 6 * 1.5), abs=0.1)
    assert notes[Curve.UPPER].middle < main.middle < notes[Curve.LOWER].middle


def test_the_ends_of_curves_the_last_vertebra_and_those_to_look_at_are_named(make_landmarks: MakeLandmarks) -> None:
    confidence = np.full(68, 0.9)
    confidence[5] = 0.1
    named = _named(lay_out(make_landmarks(confidence=confidence), FILM, SIZE))
    assert {"T1", "T4", "T11", "L5", "T2", "T5", "T9", "L1"} <= named.keys()
    assert "T3" not in named
    assert named["T2"].flagged
    assert not named["T1"].flagged


def _boxes(layout: Layout) -> list[tuple[float, float, float, float]]:
    """Left, top, right, bottom of each note: no letter is wider than its type is high."""
    boxes = []
    for note in layout.notes:
        width = max(0.75 * len(text) * size for text, size in note.lines)
        left = note.x if note.on_right else note.x - width
        boxes.append((left, note.top, left + width, note.top + note.height))
    return boxes


@pytest.mark.parametrize("sway", [0.0, 30.0, -30.0, 60.0])
def test_no_word_lies_over_a_vertebra_or_a_line(make_landmarks: MakeLandmarks, sway: float) -> None:
    bowed = SPINE + np.stack([sway * np.sin(SPINE[:, 1] / 256 * np.pi), np.zeros(68)], axis=1)
    layout = lay_out(make_landmarks(bowed), FILM, SIZE)
    edges = [edge for body in layout.bodies for edge in body.edges]
    edges += [(line.start, line.end) for line in layout.end_lines]
    points = np.concatenate([np.linspace(start, end, 200) for start, end in edges])
    for left, top, right, bottom in _boxes(layout):
        inside = (points > [left, top]).all(axis=1) & (points < [right, bottom]).all(axis=1)
        assert not inside.any()


def test_angles_never_lie_over_each_other(make_landmarks: MakeLandmarks) -> None:
    # Vertebrae as they are, in a tenth of the height: all angles would stand at one place.
    crowded = SPINE.reshape(17, 4, 2).copy()
    for box in crowded:
        box[:, 1] -= 0.9 * (box[:, 1].mean() - 128)
    angles = [note for note in lay_out(make_landmarks(crowded.reshape(-1, 2)), FILM, SIZE).notes if note.curve]
    assert len(angles) >= 2
    for above, below in pairwise(sorted(angles, key=lambda note: note.middle)):
        assert above.top + above.height <= below.top + 1e-6


def test_names_stand_left_of_the_spine_and_angles_right(make_landmarks: MakeLandmarks) -> None:
    layout = lay_out(make_landmarks(), FILM, SIZE)
    for note in layout.notes:
        assert note.on_right is (note.curve is not None)
        assert (note.x > 320) is note.on_right
