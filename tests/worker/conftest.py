"""What the worker's tests share: a model version, an engine that needs no model, source datasets, outcomes."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from sqlalchemy.orm import Session, sessionmaker

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))

import stand_in_spine
from archive_scp import SECONDARY_CAPTURE, Archive
from grey_engines import SIDE, MeanEngine, network_by_grey
from hand import Hand
from line import Line
from outcome_maker import Outcomes

from models.engines.engine import EngineInfo
from models.engines.onnx_runtime import OnnxRuntimeEngine
from models.pixels.lung_fields import WHOLE_IMAGE, Frame, LungFields
from models.pixels.placement import Placement
from models.pixels.spec import Framing, InputSpec
from models.requests import JOB_NAME, InferenceRequest, Lane
from models.spine.schemas import landmark_schema
from models.spool import Spool
from models.store.manifest import Manifest
from models.store.store import open_version
from models.tasks import Task
from models.zones import CLASS_NAMES, ZONES, Congestion
from worker.batch_worker import WorkerTimes
from worker.findings import CongestionFinding, grade
from worker.metrics import DeliveryMetrics, WorkerMetrics
from worker.outbox import Outbox
from worker.settings import Recipient
from worker.settlement import Settlement
from worker.source_image import SourceImage
from worker.spine_finding import LandmarkFinding, locate

MIDDLE = Frame(0.25, 0.25, 0.75, 0.75)


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


@pytest.fixture
def mean_engine(manifest: Manifest, engine_info: EngineInfo) -> MeanEngine:
    """A loaded engine."""
    return MeanEngine(manifest, engine_info)


@pytest.fixture(scope="session")
def csi_manifest() -> Manifest:
    """A model version of the task of six zones, which looks for the lungs."""
    return Manifest(
        task=Task.CSI,
        network="mean_of_zones",
        version="3.0.0",
        labels=CLASS_NAMES,
        input_spec=InputSpec(height=24, width=24, framing=Framing.LUNGS),
        output_names=("probability", "cam"),
        files={"network.onnx": "ef" * 32},
        licence="made in a test",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        radstream_version="0.1.0",
    )


@pytest.fixture
def csi_engine(csi_manifest: Manifest, tmp_path: Path) -> OnnxRuntimeEngine:
    """A real engine of that version; each zone is severe where its mean grey is above a half, else normal."""
    content = network_by_grey()
    directory = tmp_path / "csi_version"
    directory.mkdir()
    (directory / "network.onnx").write_bytes(content)
    files = {"network.onnx": hashlib.sha256(content).hexdigest()}
    (directory / "manifest.json").write_text(csi_manifest.model_copy(update={"files": files}).model_dump_json())
    return OnnxRuntimeEngine(open_version(directory), threads=1)


@pytest.fixture(scope="session")
def make_congestion(csi_manifest: Manifest) -> Callable[..., CongestionFinding]:
    """Make the answer for an image of 200 x 100 pixels; None is an ungradable zone."""

    def make(
        scores: Sequence[int | None] = (0, 0, 0, 0, 0, 0),
        frame: Frame = MIDDLE,
        lungs_found: bool | None = True,
        cams: NDArray[np.float32] | None = None,
    ) -> CongestionFinding:
        probability = np.full((1, len(ZONES), len(Congestion)), 0.05, np.float32)
        for place, score in enumerate(scores):
            probability[0, place, Congestion.UNGRADABLE if score is None else score] = 0.8
        outputs = {"probability": probability} | ({} if cams is None else {"cam": cams[np.newaxis]})
        manifest = csi_manifest
        if lungs_found is None:
            manifest = manifest.model_copy(update={"input_spec": InputSpec(height=24, width=24)})
        fields = LungFields(frame if lungs_found else WHOLE_IMAGE, 0.9 if lungs_found else 0.1, bool(lungs_found))
        return grade(manifest, outputs, 0, SourceImage(200, 100, fields))

    return make


# A spine of known angles; one pixel of the original is half a pixel of the input, 24 of whose columns are padding.
SPINE_IMAGE = SourceImage(256, 160, placement=Placement(0.5, 0.5, 24, 0))


@pytest.fixture(scope="session")
def spine_manifest() -> Manifest:
    """A model version of the task of landmarks."""
    return stand_in_spine.manifest_of(b"none")


@pytest.fixture(scope="session")
def spine_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That version with a network that finds the spine which `stand_in_spine` draws."""
    return stand_in_spine.write_version(tmp_path_factory.mktemp("spine") / "version")


@pytest.fixture
def spine_engine(spine_version: Path) -> OnnxRuntimeEngine:
    """A real engine of that version."""
    return OnnxRuntimeEngine(open_version(spine_version), threads=1)


@pytest.fixture(scope="session")
def make_landmarks(spine_manifest: Manifest) -> Callable[..., LandmarkFinding]:
    """Make the answer for an image of 256 x 160 pixels; `landmarks` are places in it, those of the known spine else."""

    def make(
        landmarks: NDArray[np.float64] | None = None,
        confidence: float | NDArray[np.float64] = 0.9,
        schema: str = "aasce68",
        image: SourceImage = SPINE_IMAGE,
        **manifest: Any,
    ) -> LandmarkFinding:
        labels = landmark_schema(schema).labels
        if landmarks is None:
            landmarks = stand_in_spine.corners(80, 128, 2.0)
        assert image.placement is not None
        outputs = {
            "landmarks": image.placement.to_input(landmarks)[np.newaxis].astype(np.float32),
            "confidence": np.broadcast_to(np.asarray(confidence, np.float32), (1, len(labels))).copy(),
            "spread": np.full((1, len(labels)), 1.5, np.float32),
        }
        version = spine_manifest.model_copy(update={"labels": labels, **manifest})
        return locate(version, outputs, 0, image)

    return make


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


@pytest.fixture
def outcomes(
    manifest: Manifest,
    engine_info: EngineInfo,
    make_request: Callable[..., InferenceRequest],
    make_source: Callable[..., Dataset],
    csi_manifest: Manifest,
    make_congestion: Callable[..., CongestionFinding],
    spine_manifest: Manifest,
    make_landmarks: Callable[..., LandmarkFinding],
) -> Outcomes:
    """A maker of outcomes."""
    return Outcomes(
        manifest,
        engine_info,
        make_request,
        make_source,
        csi_manifest,
        make_congestion,
        spine_manifest,
        make_landmarks,
    )


@pytest.fixture
def lay(
    spool: Spool, outbox: Outbox, mean_engine: MeanEngine, sqlite_sessions: sessionmaker[Session]
) -> Iterator[Callable[..., Line]]:
    """Make pipelines; they are stopped when the test ends."""
    lines: list[Line] = []

    def make(sessions: sessionmaker[Session] | None = None, **options: Any) -> Line:
        lines.append(Line(spool, outbox, sessions or sqlite_sessions, options.pop("engine", mean_engine), **options))
        return lines[-1]

    yield make
    for line in lines:
        line.stop()


@pytest.fixture
def settlement(sessions: sessionmaker[Session]) -> Settlement:
    """Settlement with one destination, on both databases."""
    return Settlement(sessions, "keep_first", [Recipient(name="archive")])


# Workers and queues


@pytest.fixture
def hire(redis_server: Any) -> Iterator[Callable[..., Hand]]:
    """Make and start workers, each with a connection of its own."""
    hands: list[Hand] = []

    def make(name: str = "worker", start: bool = True, **options: Any) -> Hand:
        hands.append(Hand(redis_server.client(), name, **options))
        return hands[-1].start() if start else hands[-1]

    yield make
    redis_server.start()
    for hand in hands:
        if hand._thread.is_alive():
            hand.worker._times = WorkerTimes(0.01, 1, 2, 1000, 0)
            hand.stop()
        hand.worker.connection.close()


@pytest.fixture
def enqueue(redis: Redis, make_request: Callable[..., InferenceRequest]) -> Callable[..., list[Job]]:
    """Queue instances by their UIDs, as the SCP does."""

    def put(*uids: str, lane: Lane = Lane.ROUTINE) -> list[Job]:
        queue = Queue(lane.value, connection=redis, serializer=JSONSerializer)
        requests = [make_request(uid, lane=lane) for uid in uids]
        return [queue.enqueue(JOB_NAME, request.to_payload(), job_id=request.job_id) for request in requests]

    return put


# A receiving application entity


@pytest.fixture
def archive() -> Iterator[Archive]:
    """An archive that listens."""
    archive = Archive().start()
    yield archive
    archive.hold.set()
    archive.stop()


@pytest.fixture
def new_archive() -> Iterator[Callable[[], Archive]]:
    """Make archives that do not listen yet."""
    made: list[Archive] = []

    def make() -> Archive:
        made.append(Archive())
        return made[-1]

    yield make
    for archive in made:
        archive.hold.set()
        archive.stop()


@pytest.fixture
def put_output(outbox: Outbox) -> Callable[..., Path]:
    """Write a Secondary Capture to the outbox."""

    def put(uid: str) -> Path:
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = SECONDARY_CAPTURE, uid
        dataset.PatientID = "ID7"
        dataset.Rows = dataset.Columns = 4
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation = 7, 0
        dataset.PixelData = bytes(range(16))
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = outbox.path_of(f"{uid}.dcm")
        dataset.save_as(path, enforce_file_format=True)
        return path

    return put
