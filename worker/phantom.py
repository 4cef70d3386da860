"""The phantom of `doctor --phantom`: a made radiograph of nobody, that goes the whole way of a real one.

Its UIDs say that it is one, so that no process needs to read it to know. What is made of a phantom is recorded and goes
to nobody, unless its UID also says that it may be delivered; no study summary is ever made of one.
"""

from __future__ import annotations

import secrets
from typing import Final

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from models.records.base import utc_now

PHANTOM_ROOT: Final = "2.25.79941403289458940055158348822582746269"
"""Made from a UUID (PS3.5 annex B.2); below it stand 0 or 1, and a random number of each phantom."""
KEPT: Final = f"{PHANTOM_ROOT}.0."
DELIVERED: Final = f"{PHANTOM_ROOT}.1."
RANDOM_DIGITS: Final = 14

PATIENT_ID: Final = "RADSTREAM-PHANTOM"
PATIENT_NAME: Final = "RADSTREAM^PHANTOM"
STUDY_DESCRIPTION: Final = "CHEST PHANTOM, NO PATIENT"
SOP_CLASS: Final = ComputedRadiographyImageStorage
TRANSFER_SYNTAX: Final = ExplicitVRLittleEndian
SIDE: Final = 512


def is_phantom(sop_instance_uid: str) -> bool:
    """Tell whether an instance is a phantom."""
    return sop_instance_uid.startswith(f"{PHANTOM_ROOT}.")


def stays_here(sop_instance_uid: str) -> bool:
    """Tell whether an instance is a phantom whose outputs go to nobody."""
    return sop_instance_uid.startswith(KEPT)


def make_phantom(*, delivered: bool) -> Dataset:
    """Make a phantom with UIDs of its own.

    Args:
        delivered: whether its outputs go to every destination, as those of a patient do.
    """
    study = f"{DELIVERED if delivered else KEPT}{1 + secrets.randbelow(10**RANDOM_DIGITS - 1)}"
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = SOP_CLASS
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = study, f"{study}.1", f"{study}.2"
    now = utc_now().astimezone()
    dataset.StudyDate = dataset.ContentDate = now.strftime("%Y%m%d")
    dataset.StudyTime = dataset.ContentTime = now.strftime("%H%M%S")
    dataset.PatientName, dataset.PatientID = PATIENT_NAME, PATIENT_ID
    dataset.PatientBirthDate = dataset.PatientSex = dataset.ReferringPhysicianName = ""
    dataset.AccessionNumber, dataset.StudyID = "", "PHANTOM"
    dataset.StudyDescription = dataset.SeriesDescription = STUDY_DESCRIPTION
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", "PA"
    dataset.Manufacturer, dataset.ManufacturerModelName = "none", "phantom"
    dataset.PatientOrientation = ["L", "F"]
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.Rows = dataset.Columns = SIDE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.BurnedInAnnotation = "NO"
    dataset.PixelData = _thorax().tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
    dataset.file_meta.TransferSyntaxUID = TRANSFER_SYNTAX
    return dataset


def _thorax() -> np.ndarray[tuple[int, int], np.dtype[np.uint16]]:
    """Draw something like a thorax: ``(SIDE, SIDE) uint16``, 12 bits; two dark lungs in a bright body."""
    rows, columns = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    body = (columns / 0.95) ** 2 + (rows / 1.2) ** 2 < 1
    picture = np.where(body, 2600.0, 150.0)
    for middle in (-0.4, 0.4):
        lung = np.exp(-((((columns - middle) / 0.27) ** 2 + ((rows + 0.05) / 0.62) ** 2) ** 3))
        picture -= 1700 * lung
    picture += 700 * np.exp(-((columns / 0.09) ** 2))
    return np.clip(picture, 0, 4095).astype(np.uint16)
