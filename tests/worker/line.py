"""A pipeline with real decoding processes, a real spool and a real database, for tests; its engines are given."""

from __future__ import annotations

from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from models.pixels.limits import PixelLimits
from models.records.dicom import Instance
from models.records.findings import ClassificationFinding
from models.records.inference import Inference, ModelVersion
from models.records.outputs import OutputKind
from models.requests import InferenceRequest, Lane
from models.settings import PatientIdentity
from models.spool import Spool
from worker.engine_set import EngineSet, TaskEngines
from worker.metrics import WorkerMetrics
from worker.outbox import Outbox
from worker.pipeline import Pipeline, PipelineLimits
from worker.routing import Routing
from worker.settings import Recipient
from worker.settlement import Settlement, known_revision
from worker.settling import Done
from worker.shadow import ShadowRunner
from worker.source import IdentityPolicy
from worker.stages import StageContext

Sessions = sessionmaker[Session]


def half_white(share: float) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(64, 64) uint8, the right `share` of the columns white, the rest black: its mean is `share`."""
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:, round(64 * (1 - share)) :] = 255
    return pixels


class Line:
    """A pipeline and everything around it."""

    def __init__(
        self,
        spool: Spool,
        outbox: Outbox,
        sessions: Sessions,
        engine: Any,
        *,
        routing: Routing | None = None,
        limits: PixelLimits | None = None,
        decode_timeout_s: float = 30.0,
        decoders: int = 2,
        max_batch: int = 8,
        max_delay_s: float = 0.05,
        outputs: bool = True,
        kinds: tuple[OutputKind, ...] = (OutputKind.SECONDARY_CAPTURE,),
        not_analysed: bool = False,
        others: tuple[Any, ...] = (),
        shadow: Any = None,
    ) -> None:
        self.spool, self.outbox, self.sessions, self.engine = spool, outbox, sessions, engine
        self.done: list[Done] = []
        self.registry = CollectorRegistry()
        self.metrics = WorkerMetrics(self.registry)
        self.engines = EngineSet()
        self.shadows = ShadowRunner(sessions, self.metrics, max_batch=max_batch, max_waiting=64)
        self.serve(engine, *others, shadow=shadow)
        archive = Recipient(name="archive", outputs=kinds, not_analysed=not_analysed)
        self.pipeline = Pipeline(
            spool=spool,
            outbox=outbox,
            engines=self.engines,
            context=StageContext(
                routing=routing or Routing.read(None),
                identity=IdentityPolicy(PatientIdentity.FULL),
                limits=limits or PixelLimits(),
                own_ae_titles=frozenset({"OUR_AI"}),
                overlay_max_side=256 if outputs else 0,
                kinds=frozenset(kinds) if outputs else frozenset(),
                reports_refusals=not_analysed,
            ),
            settlement=Settlement(sessions, "keep_first", [archive] if outputs else []),
            revision_of=self._revision,
            limits=PipelineLimits(max_batch, max_delay_s, decoders, decode_timeout_s),
            metrics=self.metrics,
            on_done=self.done.append,
            shadows=self.shadows,
        )

    def serve(self, *engines: Any, shadow: Any = None, canary: Any = None, percent: float = 0.0) -> None:
        """Let these engines answer for what is submitted from now on; `canary` is one of the first's task."""
        tasks = {served.manifest.task: TaskEngines(served) for served in engines}
        if canary is not None:
            tasks[canary.manifest.task] = TaskEngines(engines[0], canary, percent)
        shadows = {} if shadow is None else {shadow.manifest.task: shadow}
        self.shadows.serve(shadows)
        self.engines.swap(tasks, {task: running.manifest.input_spec for task, running in shadows.items()})

    def stop(self) -> None:
        """End everything."""
        self.pipeline.stop(10)
        self.shadows.stop(10)

    def _revision(self, request: InferenceRequest) -> int:
        with self.sessions() as session:
            return known_revision(session, request.sop_instance_uid)

    def accept(self, dataset: Dataset | bytes, uid: str | None = None, calling: str = "MODALITY") -> InferenceRequest:
        """Put an instance into the spool as the SCP does."""
        if isinstance(dataset, Dataset):
            encoded = DicomBytesIO()
            encoded.is_little_endian, encoded.is_implicit_VR = True, False
            write_dataset(encoded, dataset)
            data = encoded.getvalue()
            uid = uid or str(dataset.SOPInstanceUID)
        else:
            data = dataset
        writer = self.spool.begin(
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
            sop_instance_uid=uid or "1.2.3",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            calling_ae_title=calling,
            called_ae_title="RADSTREAM",
            lane=Lane.ROUTINE,
        )
        with writer:
            writer.write(data)
            return self.spool.request_for(writer.commit())

    def rows(self) -> dict[str, Instance]:
        with self.sessions() as session:
            return {row.sop_instance_uid: row for row in session.scalars(select(Instance))}

    def probabilities(self) -> dict[str, float]:
        with self.sessions() as session:
            statement = (
                select(Instance.sop_instance_uid, ClassificationFinding.probability)
                .join(Inference, Inference.instance_id == Instance.id)
                .join(ClassificationFinding, ClassificationFinding.inference_id == Inference.id)
            )
            return {uid: probability for uid, probability in session.execute(statement)}

    def versions(self) -> dict[str, str]:
        """The version that answered, by instance; fails where an instance has two."""
        with self.sessions() as session:
            statement = (
                select(Instance.sop_instance_uid, ModelVersion.version)
                .join(Inference, Inference.instance_id == Instance.id)
                .join(ModelVersion, ModelVersion.id == Inference.model_version_id)
            )
            found = [(uid, version) for uid, version in session.execute(statement)]
        assert len(dict(found)) == len(found), "an instance has two answers"
        return dict(found)

    def pending(self) -> list[str]:
        return sorted(entry.sop_instance_uid for entry in self.spool.entries())

    def set_aside(self) -> list[str]:
        return sorted(entry.sop_instance_uid for entry in self.spool.set_aside_entries())

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0
