"""Makes outcomes as the pipeline would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydicom.dataset import Dataset

from models.engines.engine import EngineInfo
from models.errors import Unprocessable
from models.records.outputs import OutputKind
from models.requests import InferenceRequest
from models.settings import PatientIdentity
from models.store.manifest import Manifest
from worker.findings import Classification, CongestionFinding
from worker.outputs.files import WrittenOutput
from worker.rendering import MadeOutput
from worker.settlement import Outcome, TaskResult
from worker.source import IdentityPolicy, SourceFacts, read_facts
from worker.spine_finding import LandmarkFinding


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Makes them of these manifests, sources and findings."""

    manifest: Manifest
    engine: EngineInfo
    make_request: Callable[..., InferenceRequest]
    make_source: Callable[..., Dataset]
    csi_manifest: Manifest
    make_congestion: Callable[..., CongestionFinding]
    spine_manifest: Manifest
    make_landmarks: Callable[..., LandmarkFinding]

    def facts(self, uid: str = "1.2.3", mode: PatientIdentity = PatientIdentity.FULL, **changes: object) -> SourceFacts:
        """Facts of a source dataset."""
        return read_facts(self.make_source(uid, **changes), IdentityPolicy(mode, b"a key of 16 signs"))

    def result(self, probability: float, output_uid: str | None = None) -> TaskResult:
        """A finding, with an output where its UID is given."""
        positive = probability >= 0.5
        finding = Classification("pneumonia" if positive else "normal", "pneumonia", positive, probability, 0.5, None)
        outputs = (self.output(output_uid),) if output_uid else ()
        return TaskResult(self.manifest, self.engine, finding, outputs)

    def output(self, uid: str, kind: OutputKind = OutputKind.SECONDARY_CAPTURE) -> MadeOutput:
        """An output of that UID; there is no file."""
        return MadeOutput(kind, WrittenOutput("1.2.840.10008.5.1.4.1.1.7", uid, "1.9", f"{uid}.dcm"))

    def congestion(self, *scores: int | None, **answer: Any) -> TaskResult:
        """A finding of the six zones, without output."""
        return TaskResult(self.csi_manifest, self.engine, self.make_congestion(scores, **answer))

    def landmarks(self, **answer: Any) -> TaskResult:
        """A finding of landmarks, without output."""
        return TaskResult(self.spine_manifest, self.engine, self.make_landmarks(**answer))

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
