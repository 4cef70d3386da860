"""Settling: findings and outputs-to-send of a batch, written in one transaction, each instance on its own terms.

Settling is idempotent. The ledger row is locked and read first: an instance that another worker settled meanwhile,
or whose bytes were replaced, is left alone, and inference rows are unique on (instance, model version).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import singledispatch

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from models.engines.engine import EngineInfo
from models.errors import Reason, Skipped, Transient, Unprocessable
from models.records.base import Base, utc_now
from models.records.dicom import SETTLED_STATES, Instance, InstanceState
from models.records.findings import ClassificationFinding, ZoneFinding, ZoneSummary, delete_findings
from models.records.inference import Inference, ModelVersion
from models.records.ledger import DuplicatePolicy, Registration, register
from models.records.outputs import OutputKind
from models.records.sessions import is_outage
from models.records.summaries import note_changes
from models.requests import InferenceRequest
from models.store.manifest import Manifest
from models.telemetry import get_logger
from worker.findings import Classification, CongestionFinding, Finding
from worker.output_records import record_output
from worker.phantom import is_phantom, stays_here
from worker.placing import VersionKey, place_studies, place_versions
from worker.rendering import MadeOutput
from worker.settings import Recipient
from worker.source import SourceFacts
from worker.spine_finding import LandmarkFinding
from worker.spine_records import rows_of_spine

log = get_logger("worker.settlement")


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One task's answer for one instance, with the outputs that were made of it."""

    manifest: Manifest
    engine: EngineInfo
    finding: Finding
    outputs: tuple[MadeOutput, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is to be recorded of one instance.

    Attributes:
        refusal: why it has no findings; `Skipped` for a sound instance, else it failed. None when done.
        deaths: how many workers died with it in hand, where that is the refusal.
        reports: outputs that say that it was not analysed, where some were made.
    """

    request: InferenceRequest
    facts: SourceFacts | None
    refusal: Unprocessable | None
    results: tuple[TaskResult, ...] = ()
    inferred_at: datetime | None = None
    deaths: int = 0
    reports: tuple[MadeOutput, ...] = ()

    @property
    def outputs(self) -> list[MadeOutput]:
        """Every output that was made."""
        return [*self.reports, *(made for result in self.results for made in result.outputs)]

    @property
    def state(self) -> InstanceState:
        """The final state that this outcome means."""
        if self.refusal is None:
            return InstanceState.DONE
        return InstanceState.SKIPPED if isinstance(self.refusal, Skipped) else InstanceState.FAILED


class Settlement:
    """Writes outcomes to the records."""

    def __init__(
        self, sessions: sessionmaker[Session], policy: DuplicatePolicy, destinations: Sequence[Recipient]
    ) -> None:
        self._sessions = sessions
        self._policy = policy
        self._destinations = tuple(destinations)
        self._summarises = any(OutputKind.STUDY_SUMMARY in to.outputs for to in self._destinations)

    def settle(self, outcomes: Sequence[Outcome]) -> list[InstanceState | None]:
        """Record a batch.

        Returns:
            The state written per outcome; None where the records already held a result or other bytes were kept;
            `received` where nothing is settled and the file must stay: the records refuse even the failure, or the
            outputs were made before the bytes were known to replace others.

        Raises:
            Transient: the database is away; nothing was written.
        """
        try:
            return self._settle_together(outcomes)
        except Transient:
            raise
        except Exception as error:
            # Drivers raise more than SQLAlchemy knows of (OverflowError, UnicodeEncodeError), all for one bad value.
            log.warning("batch_settled_one_by_one", exc_info=error)
        return [self._settle_alone(outcome) for outcome in outcomes]

    def _settle_together(self, outcomes: Sequence[Outcome]) -> list[InstanceState | None]:
        states: list[InstanceState | None] = [None] * len(outcomes)
        try:
            with self._sessions.begin() as session:
                for turn in _turns(outcomes):
                    self._settle_turn(session, outcomes, turn, states)
                if self._summarises:
                    settled = [
                        each.request.sop_instance_uid
                        for each, state in zip(outcomes, states, strict=True)
                        if state in SETTLED_STATES
                    ]
                    note_changes(session, [uid for uid in settled if not is_phantom(uid)])
        except SQLAlchemyError as error:
            if is_outage(error):
                raise Transient(Reason.DATABASE_UNAVAILABLE) from error
            raise
        return states

    def _settle_turn(
        self,
        session: Session,
        outcomes: Sequence[Outcome],
        turn: Sequence[int],
        states: list[InstanceState | None],
    ) -> None:
        """Write the outcomes at the places `turn`, of different instances, and fill their `states`."""
        # Rows that other batches may want are locked kind by kind, and in one order: instances, studies, series,
        # versions. Or two batches could wait for each other.
        open_to_writing = []
        for index in turn:
            states[index], writes = self._open(session, outcomes[index])
            if writes:
                open_to_writing.append((index, outcomes[index]))
        series_ids = place_studies(session, [each.facts for _, each in open_to_writing if each.facts is not None])
        version_ids = place_versions(session, [made.manifest for _, each in open_to_writing for made in each.results])
        for index, outcome in open_to_writing:
            states[index] = self._write(session, outcome, series_ids, version_ids)

    def _settle_alone(self, outcome: Outcome) -> InstanceState | None:
        try:
            return self._settle_together([outcome])[0]
        except Transient:
            raise
        except Exception as error:
            log.error("outcome_refused_by_database", spool_key=outcome.request.spool_key, exc_info=error)
        # The findings or facts cannot be stored; that they could not is recorded instead.
        failure = Outcome(outcome.request, None, Unprocessable(Reason.INTERNAL_ERROR, "records refused the findings"))
        try:
            return self._settle_together([failure])[0]
        except Transient:
            raise
        except Exception as error:
            log.error("instance_not_settled", spool_key=outcome.request.spool_key, exc_info=error)
            return InstanceState.RECEIVED

    def _open(self, session: Session, outcome: Outcome) -> tuple[InstanceState | None, bool]:
        """Lock the instance's row; say whether it is to be written, and what `settle` returns where it is not."""
        registration = register(session, [outcome.request], self._policy)[outcome.request.spool_key]
        if not registration.to_be_queued:
            return None, False
        # Where nobody had registered these bytes before, their outputs were made under the UIDs of the old ones.
        # The revision counts now; done again, they get UIDs of their own.
        stale = registration is Registration.REPLACED and bool(outcome.outputs)
        return InstanceState.RECEIVED, not stale

    def _write(
        self,
        session: Session,
        outcome: Outcome,
        series_ids: Mapping[str, int],
        version_ids: Mapping[VersionKey, int],
    ) -> InstanceState:
        uid = outcome.request.sop_instance_uid
        row = session.scalars(select(Instance).where(Instance.sop_instance_uid == uid)).one()
        now = utc_now()
        row.state = outcome.state
        row.reason = outcome.refusal.reason.value if outcome.refusal else None
        row.reason_detail = (outcome.refusal.detail[:256] or None) if outcome.refusal else None
        row.attempts = outcome.deaths
        row.inferred_at = outcome.inferred_at
        row.settled_at = now
        if outcome.facts is not None:
            row.series_id = series_ids[outcome.facts.series_instance_uid]
            row.instance_number = outcome.facts.instance_number
            row.view_position = outcome.facts.view_position
            row.laterality = outcome.facts.laterality
        for result in outcome.results:
            version_id = version_ids[result.manifest.task, result.manifest.version]
            self._write_result(session, row, result, version_id, outcome.inferred_at or now)
        recipients = [to.name for to in self._destinations_of(row) if to.not_analysed]
        for made in outcome.reports:
            record_output(session, made, recipients, instance_id=row.id)
        session.flush()
        return outcome.state

    def supplement(self, sop_instance_uid: str, content_sha256: str, result: TaskResult, inferred_at: datetime) -> bool:
        """Record what one more version found in an instance that is done; its state and other findings stay.

        Returns:
            False where nothing was written: the version has answered already, or the instance is not done any more or
            has other bytes.

        Raises:
            Transient: the database is away; nothing was written.
            SQLAlchemyError: it refuses the finding.
        """
        version = select(ModelVersion.id).where(
            ModelVersion.task == result.manifest.task, ModelVersion.version == result.manifest.version
        )
        try:
            with self._sessions.begin() as session:
                row = session.scalars(
                    select(Instance)
                    .where(
                        Instance.sop_instance_uid == sop_instance_uid,
                        Instance.content_sha256 == content_sha256,
                        Instance.state == InstanceState.DONE,
                    )
                    .with_for_update()
                ).one_or_none()
                if row is None:
                    return False
                answered = select(Inference.id).where(
                    Inference.instance_id == row.id, Inference.model_version_id.in_(version)
                )
                if session.scalar(answered) is not None:
                    return False
                version_ids = place_versions(session, [result.manifest])
                version_id = version_ids[result.manifest.task, result.manifest.version]
                self._write_result(session, row, result, version_id, inferred_at)
                if self._summarises and result.outputs:
                    note_changes(session, [sop_instance_uid])  # told to nobody, it changes no summary either
                return True
        except SQLAlchemyError as error:
            if is_outage(error):
                raise Transient(Reason.DATABASE_UNAVAILABLE) from error
            raise

    def _write_result(
        self, session: Session, row: Instance, result: TaskResult, version_id: int, inferred_at: datetime
    ) -> None:
        inference = Inference(
            instance_id=row.id,
            model_version_id=version_id,
            provider=result.engine.provider,
            precision=result.engine.precision,
            inferred_at=inferred_at,
        )
        session.add(inference)
        session.flush()
        session.add_all(rows_of(result.finding, inference.id))
        for made in result.outputs:
            recipients = [to.name for to in self._destinations_of(row) if made.kind in to.outputs]
            record_output(session, made, recipients, instance_id=row.id, version_id=version_id)

    def _destinations_of(self, row: Instance) -> tuple[Recipient, ...]:
        return () if stays_here(row.sop_instance_uid) else self._destinations


@singledispatch
def rows_of(finding: Finding, inference_id: int) -> list[Base]:
    """Give the rows that a finding is recorded as."""
    raise TypeError(f"no record is known for {type(finding).__name__}")


@rows_of.register
def _rows_of_classification(finding: Classification, inference_id: int) -> list[Base]:
    row = ClassificationFinding(
        inference_id=inference_id,
        label=finding.label,
        positive=finding.positive,
        probability=finding.probability,
        threshold=finding.threshold,
    )
    return [row]


@rows_of.register
def _rows_of_congestion(finding: CongestionFinding, inference_id: int) -> list[Base]:
    zones = [
        ZoneFinding(
            inference_id=inference_id,
            zone=zone.zone,
            score=zone.score,
            probability=zone.probability,
            expected_score=zone.expected_score,
        )
        for zone in finding.zones
    ]
    frame = finding.pixel_frame
    summary = ZoneSummary(
        inference_id=inference_id,
        mean_csi=finding.mean_csi,
        gradable_zones=finding.gradable_zones,
        heart_failure_class=finding.heart_failure_class,
        lungs_found=finding.lungs_found is True,
        frame_left=frame.left,
        frame_top=frame.top,
        frame_right=frame.right,
        frame_bottom=frame.bottom,
    )
    return [*zones, summary]


@rows_of.register
def _rows_of_landmarks(finding: LandmarkFinding, inference_id: int) -> list[Base]:
    return rows_of_spine(finding, inference_id)


def known_revision(session: Session, sop_instance_uid: str) -> int:
    """How often the bytes of an instance were replaced; 0 when the ledger does not know it."""
    return session.scalar(select(Instance.revision).where(Instance.sop_instance_uid == sop_instance_uid)) or 0


def is_settled(session: Session, request: InferenceRequest) -> bool:
    """Whether the records hold a final state for these very bytes."""
    statement = select(Instance.state).where(
        Instance.sop_instance_uid == request.sop_instance_uid,
        Instance.content_sha256 == request.content_sha256,
    )
    return session.scalar(statement) in SETTLED_STATES


def forget_outcome(session: Session, row: Instance) -> None:
    """Take an instance back to `received`, its findings removed, so that it can be inferred again."""
    delete_findings(session, row.id)
    row.state = InstanceState.RECEIVED
    row.reason = row.reason_detail = None
    row.attempts = 0
    row.queued_at = row.inferred_at = row.settled_at = None


def _turns(outcomes: Sequence[Outcome]) -> list[list[int]]:
    """Give the places of outcomes by UID; one instance a second time comes in a later turn, where it is settled."""
    turns: list[list[int]] = []
    seen: Counter[str] = Counter()
    for index in sorted(range(len(outcomes)), key=lambda index: outcomes[index].request.sop_instance_uid):
        uid = outcomes[index].request.sop_instance_uid
        if seen[uid] == len(turns):
            turns.append([])
        turns[seen[uid]].append(index)
        seen[uid] += 1
    return turns
