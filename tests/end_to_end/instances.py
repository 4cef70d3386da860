"""Chest radiographs made by tests: valid CR instances with a planted patient and a known mean grey value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from models.requestor import without_races

PATIENT_NAME = "PLANTEDSURNAME^PLANTEDGIVEN"
PATIENT_ID = "PLANTEDID0042"


def chest(side: int = 256, seed: int = 0, **attributes: object) -> Dataset:
    """Make a frontal chest CR: MONOCHROME2, 12 bits, a random texture, its own UIDs."""
    rng = np.random.default_rng(seed)
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.StudyDate, dataset.StudyTime = "20260102", "030405"
    dataset.PatientName, dataset.PatientID = PATIENT_NAME, PATIENT_ID
    dataset.PatientBirthDate, dataset.PatientSex = "19501231", "O"
    dataset.AccessionNumber, dataset.StudyID, dataset.ReferringPhysicianName = "PLANTEDACC7", "1", ""
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", "PA"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = side
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.PixelData = rng.integers(0, 4096, (side, side), dtype=np.uint16).tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    """Write a dataset as a Part 10 file."""
    dataset.save_as(path, enforce_file_format=True)
    return path


@dataclass
class Sender:
    """Sends instances over as many associations as asked for and keeps what was answered with Success."""

    port: int
    host: str = "127.0.0.1"
    accepted: list[str] = field(default_factory=list)
    refused: list[tuple[str, int]] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def send(self, datasets: list[Dataset]) -> None:
        """Send over one association, a new one where it was lost; what gets no answer is given up."""
        association = None
        for dataset in datasets:
            if association is None or not association.is_established:
                entity = AE(ae_title="MODALITY")
                entity.add_requested_context(dataset.SOPClassUID, [dataset.file_meta.TransferSyntaxUID])
                entity.dimse_timeout = entity.acse_timeout = entity.network_timeout = 10
                association = entity.associate(self.host, self.port, ae_title="RADSTREAM")
                without_races(association)
            uid = str(dataset.SOPInstanceUID)
            status = None
            if association.is_established:
                try:
                    status = association.send_c_store(dataset).get("Status")
                except (RuntimeError, ValueError, OSError):
                    status = None
            with self._lock:
                if status is None:
                    self.unanswered.append(uid)
                elif status == 0:
                    self.accepted.append(uid)
                else:
                    self.refused.append((uid, int(status)))
        if association is not None and association.is_established:
            association.release()

    def send_in_background(self, datasets: list[Dataset]) -> Thread:
        """Send from a thread."""
        thread = Thread(target=self.send, args=[datasets])
        thread.start()
        return thread
