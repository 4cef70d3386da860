"""What the header says of an image of a spine: the view, and where the patient's front is."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from models.pixels.radiograph import Radiograph
from models.pixels.spec import Framing, InputSpec, Resize
from models.spine.corners import ImageSide
from models.spine.schemas import SpineView
from models.spine.spacing import Spacing, SpacingSource
from models.tasks import Task
from worker.source_image import SourceImage, anterior_of, view_of

LETTERBOX = InputSpec(height=64, width=64, resize=Resize.LETTERBOX)
OF_CHESTS = InputSpec(height=24, width=24, framing=Framing.LUNGS)


def _header(**attributes: object) -> Dataset:
    header = Dataset()
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    return header


def _radiograph(shape: tuple[int, int] = (128, 64), **attributes: object) -> Radiograph:
    radiograph = Radiograph.from_grayscale(np.zeros(shape, np.uint8))
    radiograph.header = _header(**attributes)
    return radiograph


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # lower case, which senders write all the same
@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("AP", SpineView.FRONTAL),
        ("pa", SpineView.FRONTAL),
        ("PA STANDING", SpineView.FRONTAL),
        ("AP_ERECT", SpineView.FRONTAL),
        ("LL", SpineView.LATERAL),
        ("RL", SpineView.LATERAL),
        ("LATERAL", SpineView.LATERAL),
        ("LAO", None),
        ("APPLE", None),
    ],
)
def test_the_view_is_that_of_view_position(position: str, expected: SpineView | None) -> None:
    assert view_of(_header(ViewPosition=position, PatientOrientation=["H", "F"])) is expected


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (["L", "F"], SpineView.FRONTAL),
        (["R", "F"], SpineView.FRONTAL),
        (["LA", "F"], SpineView.FRONTAL),
        (["A", "F"], SpineView.LATERAL),
        (["PL", "FR"], SpineView.LATERAL),
        (["F", "L"], None),
        (None, None),
    ],
    ids=str,
)
def test_without_view_position_the_rows_say_the_view(orientation: object, expected: SpineView | None) -> None:
    assert view_of(_header(PatientOrientation=orientation)) is expected
    assert view_of(_header(PatientOrientation=orientation, ViewPosition="")) is expected


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (["A", "F"], ImageSide.RIGHT),
        (["P", "F"], ImageSide.LEFT),
        (["AL", "F"], ImageSide.RIGHT),
        (["a", "f"], ImageSide.RIGHT),
        (["L", "F"], None),
        (["", "F"], None),
        (["F", "A"], None),
        (None, None),
    ],
    ids=str,
)
def test_rows_that_run_to_the_front_end_at_it(orientation: object, expected: ImageSide | None) -> None:
    assert anterior_of(_header(PatientOrientation=orientation)) is expected


def test_an_image_of_a_spine_knows_place_spacing_view_and_front() -> None:
    radiograph = _radiograph(
        ViewPosition="LL",
        PatientOrientation=["P", "F"],
        PixelSpacing=[0.5, 0.25],
        PixelSpacingCalibrationType="FIDUCIAL",
    )
    image = SourceImage.of(radiograph, {Task.LANDMARKS: LETTERBOX})
    assert (image.rows, image.columns, image.lung_fields) == (128, 64, None)
    assert image.placement is not None
    # 128 x 64 is halved to 64 x 32, in the middle of 64 columns.
    assert image.placement.to_original(np.array([16.0, 0.0])).tolist() == [0, 0]
    assert image.placement.to_original(np.array([48.0, 64.0])).tolist() == [64, 128]
    assert image.spacing == Spacing(0.5, 0.25, SpacingSource.CALIBRATED_FIDUCIAL)
    assert (image.view, image.anterior) == (SpineView.LATERAL, ImageSide.LEFT)


def test_a_frontal_view_has_no_front_in_the_image_whatever_its_orientation_says() -> None:
    image = SourceImage.of(_radiograph(ViewPosition="AP", PatientOrientation=["A", "F"]), {Task.LANDMARKS: LETTERBOX})
    assert (image.view, image.anterior) == (SpineView.FRONTAL, None)


def test_nothing_of_a_spine_is_read_when_only_a_chest_is_asked_for() -> None:
    radiograph = _radiograph(ViewPosition="PA", PixelSpacing=[0.5, 0.5])
    image = SourceImage.of(radiograph, {Task.CSI: OF_CHESTS})
    assert image == SourceImage(128, 64, radiograph.lung_fields)
    assert SourceImage.of(radiograph, {Task.PNEUMONIA: LETTERBOX}) == SourceImage(128, 64)
