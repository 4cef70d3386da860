"""What the worker's tests share: a model version, an engine that needs no model, source datasets, outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy.orm import Session, sessionmaker

from models.engines.engine import EngineInfo, Outputs
from models.errors import Unprocessable
from models.pixels.spec import InputSpec
from models.requests import InferenceRequest
from models.settings import PatientIdentity
from models.spool import Spool
from models.store.manifest import Manifest
from models.tasks import Task
from worker.findings import Classification
from worker.metrics import DeliveryMetrics, WorkerMetrics
from worker.outbox import Outbox
from worker.settlement import Outcome, Settlement, TaskResult
from worker.source import IdentityPolicy, SourceFacts, read_facts
from worker.stages import Rendered, StageTimes

SIDE = 16


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """A model version of the pneumonia task."""
    return Manifest(
        task=Task.PNEUMONIA,
        network="mean_of_pixels",
        version="1.0.0",
        labels=("normal", "pneumonia"),
        positive_label="pneumonia",
        thresholds={"pneumonia": 0.5},
        input_spec=InputSpec(height=SIDE, width=SIDE),
        output_names=("probability", "cam"),
        files={"network.onnx": "ab" * 32},
        licence="made in a test",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        radstream_version="0.1.0",
    )


@pytest.fixture(scope="session")
def engine_info() -> EngineInfo:
    """Identity of the engine of that version."""
    return EngineInfo("in_test", "1", "cpu", "fp32", "cd" * 32)


class MeanEngine:
    """An engine whose probability of pneumonia is the mean of the image, and whose map is the image."""

    def __init__(self, manifest: Manifest, info: EngineInfo) -> None:
        self.manifest = manifest
        self.info = info
        self.batches: list[int] = []
        self.closed = False
        self.failures: list[Exception] = []

    def run(self, image: NDArray[np.float32]) -> Outputs:
        """Answer, or raise what the test put into `failures`."""
        assert image.dtype == np.float32
        assert image.shape[1:] == (1, SIDE, SIDE)
        self.batches.append(len(image))
        if self.failures:
            raise self.failures.pop(0)
        positive = image.mean(axis=(1, 2, 3))
        return {"probability": np.stack([1 - positive, positive], axis=1), "cam": image[:, 0, ::2, ::2].copy()}

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


@pytest.fixture
def mean_engine(manifest: Manifest, engine_info: EngineInfo) -> MeanEngine:
    """A loaded engine."""
    return MeanEngine(manifest, engine_info)


@pytest.fixture
def worker_metrics() -> WorkerMetrics:
    """Metrics of `run` on a registry of their own."""
    return WorkerMetrics(CollectorRegistry())


@pytest.fixture
def delivery_metrics() -> DeliveryMetrics:
    """Metrics of `deliver` on a registry of their own."""
    return DeliveryMetrics(CollectorRegistry())


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An empty spool."""
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    """An empty outbox."""
    outbox = Outbox(tmp_path / "outbox")
    outbox.prepare()
    return outbox


@pytest.fixture(scope="session")
def make_source() -> Callable[..., Dataset]:
    """Make the dataset of a small chest radiograph; keywords replace attributes, None removes them."""

    def make(uid: str = "1.2.3", pixels: NDArray[np.uint8] | None = None, **changes: object) -> Dataset:
        if pixels is None:
            pixels = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))
        dataset = Dataset()
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
        dataset.SOPInstanceUID = uid
        dataset.StudyInstanceUID = f"{uid.rpartition('.')[0] or uid}.1000"
        dataset.SeriesInstanceUID = f"{uid.rpartition('.')[0] or uid}.2000"
        dataset.StudyDate, dataset.StudyTime = "20260131", "120000"
        dataset.AccessionNumber, dataset.StudyID = "ACC1", "S1"
        dataset.PatientName, dataset.PatientID = "Doe^Jane", "ID7"
        dataset.PatientBirthDate, dataset.PatientSex = "19700101", "F"
        dataset.ReferringPhysicianName = ""
        dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", "PA"
        dataset.InstanceNumber = 7
        dataset.PatientOrientation = ["L", "F"]
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation = 7, 0
        dataset.PixelData = pixels.tobytes() + b"\x00" * (pixels.size % 2)
        for keyword, value in changes.items():
            if value is None:
                del dataset[keyword]
            else:
                setattr(dataset, keyword, value)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        return dataset

    return make


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Makes outcomes as the pipeline would."""

    manifest: Manifest
    engine: EngineInfo
    make_request: Callable[..., InferenceRequest]
    make_source: Callable[..., Dataset]

    def facts(self, uid: str = "1.2.3", mode: PatientIdentity = PatientIdentity.FULL, **changes: object) -> SourceFacts:
        """Facts of a source dataset."""
        return read_facts(self.make_source(uid, **changes), IdentityPolicy(mode, b"a key of 16 signs"))

    def result(self, probability: float, output_uid: str | None = None) -> TaskResult:
        """A finding, with an output where its UID is given."""
        positive = probability >= 0.5
        finding = Classification("pneumonia" if positive else "normal", "pneumonia", positive, probability, 0.5, None)
        output = output_uid and Rendered(
            Task.PNEUMONIA, "1.2.840.10008.5.1.4.1.1.7", output_uid, "1.9", f"{output_uid}.dcm", StageTimes()
        )
        return TaskResult(self.manifest, self.engine, finding, output or None)

    def done(
        self,
        uid: str = "1.2.3",
        probability: float = 0.75,
        output_uid: str | None = None,
        facts: SourceFacts | None = None,
        **request: object,
    ) -> Outcome:
        """An analysed instance."""
        return Outcome(
            self.make_request(uid, **request),
            facts or self.facts(uid),
            None,
            (self.result(probability, output_uid),),
            datetime(2026, 1, 1, tzinfo=UTC),
        )

    def refused(self, refusal: Unprocessable, uid: str = "1.2.3", facts: SourceFacts | None = None) -> Outcome:
        """An instance without findings."""
        return Outcome(self.make_request(uid), facts, refusal)


@pytest.fixture
def outcomes(
    manifest: Manifest,
    engine_info: EngineInfo,
    make_request: Callable[..., InferenceRequest],
    make_source: Callable[..., Dataset],
) -> Outcomes:
    """A maker of outcomes."""
    return Outcomes(manifest, engine_info, make_request, make_source)


@pytest.fixture
def settlement(sessions: sessionmaker[Session]) -> Settlement:
    """Settlement with one destination, on both databases."""
    return Settlement(sessions, "keep_first", ["archive"])
