"""Parametric Map (PS3.3 A.75) of the Grad-CAM maps of a finding: the numbers themselves, as the network gave them.

A map keeps its size of a few pixels: enlarged to the film it would be a thousand times as large and say nothing more.
The IOD wants to know where each pixel lies, and a projection has no frame of reference. So it gets one of its own: the
plane of the image, with the centre of the first pixel of the source as its origin. Directions are those that Patient
Orientation says, lengths those of the source's pixels. What the source does not say is left out where the standard
permits, else nominal and called so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ParametricMapStorage
from pydicom.valuerep import format_number_as_ds

from models.identity import DISCLAIMER
from models.pixels.lung_fields import WHOLE_IMAGE, Frame
from models.pixels.spacing import read_spacing
from models.records.outputs import OutputKind
from models.spine.spacing import Spacing
from worker.outputs import common_modules as common
from worker.outputs import uids
from worker.outputs.activation_maps import ActivationMap, activation_maps
from worker.outputs.common_modules import OPTIONAL, OutputOrder
from worker.outputs.copied_attributes import Presence, SourceAttributes
from worker.outputs.files import WrittenOutput, write_output

KIND: Final = OutputKind.PARAMETRIC_MAP

IMAGE_TYPE: Final = ("DERIVED", "PRIMARY", "STATIC", "QUANTITY")
"""PS3.3 C.8.32.2 and C.8.16.1: of defined flavors, STATIC comes nearest to a single exposure."""

_COPIED: Final[Mapping[str, Presence]] = {
    **common.SERIES_ATTRIBUTES,
    **common.COMPRESSION_ATTRIBUTES,
    "PatientOrientation": OPTIONAL,  # read, not copied: the planes of the frames say it
    "ImageLaterality": OPTIONAL,
}
_DIRECTIONS: Final[Mapping[str, tuple[int, int, int]]] = {
    "L": (1, 0, 0),
    "R": (-1, 0, 0),
    "P": (0, 1, 0),
    "A": (0, -1, 0),
    "H": (0, 0, 1),
    "F": (0, 0, -1),
}
"""PS3.3 C.7.6.2.1.1: x grows to the patient's left, y to the back, z to the head."""
_NOMINAL: Final = ((1, 0, 0), (0, 1, 0))

_Direction = tuple[int, int, int]


def build_parametric_map(order: OutputOrder, now: datetime | None = None) -> Dataset | None:
    """Make the dataset, with file meta information, for explicit VR little endian; None when there is no map.

    Args:
        order: source and finding.
        now: aware time of creation; default the time now.

    Raises:
        Unprocessable: the header of the source does not say its size.
    """
    rows, columns = common.source_size(order)
    maps = activation_maps(order.finding, order.manifest.input_spec, (rows, columns))
    if not maps:
        return None
    dataset, source, now = common.start_dataset(order, _COPIED, now)
    common.add_series(dataset, order, KIND, "OT", f"{order.task} Grad-CAM {order.version}")
    common.describe_device(dataset, order)
    # Enhanced General Equipment Module, C.7.5.2
    dataset.DeviceSerialNumber = common.plain(order.engine.file_sha256, 64)
    orientation = _orientation(source)
    _add_image(dataset, source, order, orientation is not None, now)
    _add_frames(dataset, order, maps, orientation or _NOMINAL)
    _add_dimensions(dataset)
    _add_references(dataset, order)
    common.add_sop_common(dataset, order, KIND, ParametricMapStorage, now)
    dataset.FloatPixelData = np.stack([each.values for each in maps]).astype("<f4").tobytes()
    return dataset


def write_parametric_map(order: OutputOrder, directory: Path) -> WrittenOutput | None:
    """Make a Parametric Map and write it durably to ``<directory>/<SOP Instance UID>.dcm``; None when there is no map.

    Raises:
        OSError: the directory cannot be written.
        Unprocessable: the header of the source does not say its size.
    """
    dataset = build_parametric_map(order)
    return None if dataset is None else write_output(dataset, directory)


def _add_image(
    dataset: Dataset, source: SourceAttributes, order: OutputOrder, is_oriented: bool, now: datetime
) -> None:
    """General Image and Parametric Map Image Modules, PS3.3 C.7.6.1 and C.8.32.2."""
    source.copy(dataset, {"ImageLaterality": OPTIONAL})
    common.copy_side(dataset, source)
    dataset.InstanceNumber = common.instance_number(order)
    dataset.ContentDate, dataset.ContentTime = common.date_and_time(now)
    dataset.ImageType = list(IMAGE_TYPE)
    dataset.ContentQualification = "RESEARCH"
    dataset.ContentLabel = "GRAD_CAM"
    dataset.ContentDescription = common.plain(f"AI Grad-CAM of {order.task}, research use only", 64)
    dataset.ContentCreatorName = None
    nominal = "" if is_oriented else "The source does not say its orientation: that of the frames is nominal. "
    dataset.ImageComments = f"{nominal}{DISCLAIMER}"
    dataset.BurnedInAnnotation = dataset.RecognizableVisualFeatures = "NO"
    dataset.PixelPresentation = "MONOCHROME"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.LossyImageCompression = "01" if common.is_lossy(order.header) else "00"
    if dataset.LossyImageCompression == "01":
        source.copy(dataset, common.COMPRESSION_ATTRIBUTES)
    dataset.AcquisitionContextSequence = []  # type 2, C.7.6.14


def _add_frames(
    dataset: Dataset, order: OutputOrder, maps: Sequence[ActivationMap], orientation: tuple[_Direction, _Direction]
) -> None:
    """Floating Point Image Pixel, Frame of Reference and Multi-frame Functional Groups Modules."""
    # C.7.6.24
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = maps[0].values.shape
    dataset.BitsAllocated = 32
    dataset.NumberOfFrames = len(maps)
    # C.7.4.1
    dataset.FrameOfReferenceUID = uids.frame_of_reference_uid(order.source_sop_instance_uid, order.revision)
    dataset.PositionReferenceIndicator = None
    # C.7.6.16
    dataset.SharedFunctionalGroupsSequence = [_shared_groups(order, maps[0], orientation)]
    dataset.PerFrameFunctionalGroupsSequence = [
        _frame_groups(number, each, common.source_size(order)) for number, each in enumerate(maps, 1)
    ]


def _shared_groups(order: OutputOrder, first: ActivationMap, orientation: tuple[_Direction, _Direction]) -> Dataset:
    groups = Dataset()
    spacing, shape = read_spacing(order.header), common.source_size(order)
    groups.PixelMeasuresSequence = [_pixel_measures(first, shape, spacing)]
    plane, place = Dataset(), Dataset()
    plane.ImageOrientationPatient = [part for direction in orientation for part in direction]
    place.ImagePositionPatient = _position(first, shape, spacing, orientation)
    groups.PlaneOrientationSequence, groups.PlanePositionSequence = [plane], [place]
    identity = Dataset()
    identity.RescaleIntercept, identity.RescaleSlope, identity.RescaleType = 0, 1, "US"
    groups.PixelValueTransformationSequence = [identity]
    window = Dataset()
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = 0.5, 1, "LINEAR_EXACT"
    groups.FrameVOILUTSequence = [window]
    kind = Dataset()
    kind.FrameType = list(IMAGE_TYPE)
    groups.ParametricMapFrameTypeSequence = [kind]
    derivation = Dataset()
    derivation.DerivationDescription = common.plain(
        f"Grad-CAM of {order.task} {order.version}: {order.words}. {DISCLAIMER}", 1024
    )
    derivation.DerivationCodeSequence = [common.code("112187", "Unspecified method of calculation")]
    derivation.SourceImageSequence = [common.source_reference(order)]
    groups.DerivationImageSequence = [derivation]
    return groups


def _frame_groups(number: int, each: ActivationMap, shape: tuple[int, int]) -> Dataset:
    groups, content = Dataset(), Dataset()
    content.DimensionIndexValues = number
    content.FrameLabel = each.label  # type 3, C.7.6.16.2.2
    content.FrameComments = f"Covers {_words_of(each.frame, shape)}"
    groups.FrameContentSequence = [content]
    groups.RealWorldValueMappingSequence = [_real_world_value_mapping(each.label)]
    return groups


def _words_of(frame: Frame, shape: tuple[int, int]) -> str:
    if frame == WHOLE_IMAGE:
        return "the whole source image"
    rows, columns = shape
    across = f"columns {frame.left * columns:.1f} to {frame.right * columns:.1f}"
    return f"{across}, rows {frame.top * rows:.1f} to {frame.bottom * rows:.1f} of the source image"


def _real_world_value_mapping(label: str) -> Dataset:
    """Real World Value Mapping, PS3.3 C.7.6.16.2.11: what the numbers are."""
    mapping = Dataset()
    mapping.DoubleFloatRealWorldValueFirstValueMapped = 0.0
    mapping.DoubleFloatRealWorldValueLastValueMapped = 1.0
    mapping.RealWorldValueIntercept, mapping.RealWorldValueSlope = 0.0, 1.0
    mapping.LUTLabel = label
    mapping.LUTExplanation = "Grad-CAM, relative to the hottest place"
    mapping.MeasurementUnitsCodeSequence = [common.code("1", "no units", "UCUM")]
    quantity = Dataset()
    quantity.ValueType = "CODE"
    quantity.ConceptNameCodeSequence = [common.code("246205007", "Quantity", "SCT")]
    quantity.ConceptCodeSequence = [common.code("130403", "Gradient-weighted class activation")]
    mapping.QuantityDefinitionSequence = [quantity]
    return mapping


def _pixel_measures(first: ActivationMap, shape: tuple[int, int], spacing: Spacing | None) -> Dataset:
    """Give an item of Pixel Measures, PS3.3 C.7.6.16.2.1; without lengths where the source has none."""
    measures = Dataset()
    if spacing is not None:
        across, down = _cell(first, shape)
        measures.PixelSpacing = [_decimal(down * spacing.row_mm), _decimal(across * spacing.column_mm)]
    return measures


def _position(
    first: ActivationMap, shape: tuple[int, int], spacing: Spacing | None, orientation: tuple[_Direction, _Direction]
) -> list[str]:
    """Give Image Position (Patient): the centre of the map's first pixel, mm from that of the source's."""
    if spacing is None:
        return [_decimal(0.0)] * 3
    across, down = _cell(first, shape)
    x = (first.frame.left * shape[1] + across / 2 - 0.5) * spacing.column_mm
    y = (first.frame.top * shape[0] + down / 2 - 0.5) * spacing.row_mm
    return [_decimal(x * along + y * below) for along, below in zip(*orientation, strict=True)]


def _cell(each: ActivationMap, shape: tuple[int, int]) -> tuple[float, float]:
    """Give width and height of a pixel of the map in pixels of the source."""
    height, width = each.values.shape
    return each.frame.width * shape[1] / width, each.frame.height * shape[0] / height


def _decimal(number: float) -> str:
    return format_number_as_ds(float(number) + 0.0)  # no negative zero


def _orientation(source: SourceAttributes) -> tuple[_Direction, _Direction] | None:
    """Give the directions of rows and columns by Patient Orientation; None when it does not say two axes.

    The first letter of each is the principal one (PS3.3 C.7.6.1.1.1); the angles of the others are not known.
    """
    said = source.text("PatientOrientation").split("\\")
    if len(said) != 2:
        return None
    along, below = (_DIRECTIONS[letters[0]] for letters in said)
    return None if any(a and b for a, b in zip(along, below, strict=True)) else (along, below)


def _add_dimensions(dataset: Dataset) -> None:
    """Multi-frame Dimension Module, PS3.3 C.7.6.17: frames differ in what they explain, and in nothing else."""
    organization, index = Dataset(), Dataset()
    organization.DimensionOrganizationUID = index.DimensionOrganizationUID = uids.dimension_organization_uid(KIND)
    index.DimensionIndexPointer = 0x00409210  # LUT Label
    index.FunctionalGroupPointer = 0x00409096  # Real World Value Mapping Sequence
    index.DimensionDescriptionLabel = "LUT Label"
    dataset.DimensionOrganizationSequence, dataset.DimensionIndexSequence = [organization], [index]


def _add_references(dataset: Dataset, order: OutputOrder) -> None:
    """Common Instance Reference Module, PS3.3 C.12.2."""
    series = Dataset()
    series.SeriesInstanceUID = common.source_series_uid(order) or uids.source_series_uid(order.source_sop_instance_uid)
    series.ReferencedInstanceSequence = [common.image_reference(order)]
    dataset.ReferencedSeriesSequence = [series]
