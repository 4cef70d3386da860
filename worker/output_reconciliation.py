"""Compares results, outputs, outbox, deliveries and a PACS, and says where they disagree; it changes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import ColumnElement, Row, Select, func, or_, select
from sqlalchemy.orm import Session, sessionmaker

from models.records.dicom import Instance, InstanceState, Series, Study
from models.records.inference import Inference, ModelVersion
from models.records.outputs import Delivery, DeliveryState, Output, OutputKind
from worker.disagreements import GROUP, Advance, Case, Disagreement, is_older, key_of, read_only
from worker.outbox import AnyOutbox
from worker.settings import Recipient

if TYPE_CHECKING:
    from worker.pacs_query import PacsQuery

OF_EVERY_ANSWER: Final = frozenset({OutputKind.SECONDARY_CAPTURE, OutputKind.STRUCTURED_REPORT})
"""Kinds that are made for whatever a task answers; the others only where the answer has something to show."""


class OutputReconciliation:
    """Looks for disagreements from the result on.

    Args:
        since: instances received, outputs made and deliveries ended before are not looked at.
        young: what is not older is left alone.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        outbox: AnyOutbox,
        destinations: Sequence[Recipient],
        since: datetime,
        young: timedelta,
    ) -> None:
        self._sessions = sessions
        self._outbox = outbox
        self._destinations = destinations
        self._since = since
        self._young = young

    def count(self) -> int:
        """Count what there is to look at, about."""
        done = (
            select(func.count())
            .select_from(Instance)
            .where(Instance.state == InstanceState.DONE, Instance.received_at >= self._since)
        )
        made = select(func.count()).select_from(Output).where(Output.created_at >= self._since)
        with read_only(self._sessions) as session:
            return (session.scalar(done) or 0) + (session.scalar(made) or 0)

    def run(self, advance: Advance) -> Iterator[Case]:
        """Look from both sides."""
        yield from self._answers_side(advance)
        yield from self._outputs_side(advance)

    # Is there an output of every answered task and wanted kind?

    def _answers_side(self, advance: Advance) -> Iterator[Case]:
        wanted = OF_EVERY_ANSWER & {kind for to in self._destinations for kind in to.outputs}
        last = (self._since, 0)
        while rows := self._done(*last):
            last = (rows[-1][0].received_at, rows[-1][0].id)
            old = [(row, study) for row, study in rows if is_older(row.settled_at, self._young)]
            with read_only(self._sessions) as session:
                missing = _missing_outputs(session, [row.id for row, _ in old], wanted)
            for row, study in old:
                if row.id in missing:
                    yield Case(
                        Disagreement.OUTPUTS_MISSING,
                        row.sop_instance_uid,
                        key_of(row),
                        study,
                        row.calling_ae_title,
                        detail=", ".join(sorted(missing[row.id])),
                    )
            advance(len(rows))

    def _done(self, received_at: datetime, after: int) -> Sequence[Row[Instance, str]]:
        # In the order of the index of states and times: sorted by key alone, each group would sort all that are done.
        statement: Select[Instance, str] = (
            select(Instance, Study.study_instance_uid)
            .outerjoin(Series, Series.id == Instance.series_id)
            .outerjoin(Study, Study.id == Series.study_id)
            .where(
                Instance.state == InstanceState.DONE,
                Instance.received_at >= received_at,
                or_(Instance.received_at > received_at, Instance.id > after),
            )
            .order_by(Instance.received_at, Instance.id)
            .limit(GROUP)
        )
        with read_only(self._sessions) as session:
            return session.execute(statement).all()

    # Has each output its deliveries, are they alive, and is the file there that they need?

    def _outputs_side(self, advance: Advance) -> Iterator[Case]:
        last = 0
        while rows := self._made(last):
            last = rows[-1][0].id
            with read_only(self._sessions) as session:
                deliveries = _deliveries_of(session, [row.id for row, _ in rows])
            for output, source in rows:
                yield from self._of_output(output, source, deliveries[output.id])
            advance(len(rows))

    def _made(self, after: int) -> Sequence[Row[Output, Instance]]:
        statement: Select[Output, Instance] = (
            select(Output, Instance)
            .outerjoin(Instance, Instance.id == Output.instance_id)
            .where(Output.created_at >= self._since, Output.id > after)
            .order_by(Output.id)
            .limit(GROUP)
        )
        with read_only(self._sessions) as session:
            return session.execute(statement).all()

    def _of_output(self, output: Output, source: Instance | None, deliveries: Sequence[Delivery]) -> Iterator[Case]:
        waiting = any(delivery.state is not DeliveryState.DELIVERED for delivery in deliveries)
        has_file = waiting and output.file_name in self._outbox  # asked only where it matters: it may be a bucket
        known = {to.name for to in self._destinations}
        for delivery in deliveries:
            detail = output.kind.value
            if delivery.state is DeliveryState.DELIVERED:
                continue
            if not has_file:
                disagreement = Disagreement.OUTPUT_FILE_MISSING
            elif delivery.destination not in known:
                disagreement = Disagreement.DESTINATION_UNKNOWN
            elif delivery.state is DeliveryState.DEAD:
                disagreement = Disagreement.DELIVERY_DEAD
                detail += f", {delivery.reason} after {delivery.attempts} attempts"
            else:
                continue
            yield _case(disagreement, output, source, delivery.destination, delivery, detail)
        on_its_way = {delivery.destination for delivery in deliveries}
        for to in self._destinations:
            if to.name not in on_its_way and _wants(to, output):
                yield _case(Disagreement.DELIVERY_MISSING, output, source, to.name, None, output.kind.value)

    # Does the PACS have what was delivered to it?

    def count_delivered(self, name: str) -> int:
        """Count what a PACS is to be asked about."""
        with read_only(self._sessions) as session:
            statement = select(func.count()).select_from(Delivery).where(*self._is_delivered(name))
            return session.scalar(statement) or 0

    def pacs_side(self, name: str, pacs: PacsQuery, advance: Advance) -> Iterator[Case]:
        """Ask a destination for each series that it was sent to.

        Raises:
            Transient: it does not answer.
        """
        last = 0
        while rows := self._delivered(name, last):
            last = rows[-1][0].id
            series: defaultdict[tuple[str, str], list[tuple[Delivery, Output, Instance | None]]] = defaultdict(list)
            for delivery, output, source, study in rows:
                if study is not None and is_older(delivery.delivered_at, self._young):
                    series[study, output.series_instance_uid].append((delivery, output, source))
            for (study, of_series), deliveries in series.items():
                held = pacs.instances_of(study, of_series)
                for delivery, output, of_instance in deliveries:
                    if output.sop_instance_uid not in held:
                        yield _case(Disagreement.NOT_AT_PACS, output, of_instance, name, delivery, output.kind.value)
            advance(len(rows))

    def _is_delivered(self, name: str) -> tuple[ColumnElement[bool], ...]:
        return (
            # No plain column: SQLite would take the index of due deliveries, and sort all of them for each group.
            Delivery.destination.concat("") == name,
            Delivery.state == DeliveryState.DELIVERED,
            Delivery.delivered_at >= self._since,
        )

    def _delivered(self, name: str, after: int) -> Sequence[Row[Delivery, Output, Instance, str]]:
        statement: Select[Delivery, Output, Instance, str] = (
            select(Delivery, Output, Instance, Study.study_instance_uid)
            .join(Output, Output.id == Delivery.output_id)
            .outerjoin(Instance, Instance.id == Output.instance_id)
            .outerjoin(Series, Series.id == Instance.series_id)
            .outerjoin(Study, Study.id == func.coalesce(Output.study_id, Series.study_id))
            .where(*self._is_delivered(name), Delivery.id > after)
            .order_by(Delivery.id)
            .limit(GROUP)
        )
        with read_only(self._sessions) as session:
            return session.execute(statement).all()


def _case(
    disagreement: Disagreement,
    output: Output,
    source: Instance | None,
    destination: str,
    delivery: Delivery | None,
    detail: str,
) -> Case:
    return Case(
        disagreement,
        output.sop_instance_uid,
        key_of(source) if source is not None else None,
        sender=source.calling_ae_title if source is not None else None,
        destination=destination,
        output_id=output.id,
        delivery_id=delivery.id if delivery is not None else None,
        detail=detail,
    )


def _wants(to: Recipient, output: Output) -> bool:
    if output.model_version_id is None and output.instance_id is not None:
        return to.not_analysed  # the report that an instance was not analysed
    return output.kind in to.outputs


def _deliveries_of(session: Session, output_ids: Sequence[int]) -> defaultdict[int, list[Delivery]]:
    deliveries: defaultdict[int, list[Delivery]] = defaultdict(list)
    for delivery in session.scalars(select(Delivery).where(Delivery.output_id.in_(output_ids)).order_by(Delivery.id)):
        deliveries[delivery.output_id].append(delivery)
    return deliveries


def _missing_outputs(
    session: Session, instance_ids: Sequence[int], wanted: frozenset[OutputKind]
) -> dict[int, set[str]]:
    """Give the missing ones by instance, as "task kind".

    By task and not by version: a backfill lets another version answer and, unless told otherwise, makes no outputs.
    """
    answered = session.execute(
        select(Inference.instance_id, ModelVersion.task)
        .join(ModelVersion, ModelVersion.id == Inference.model_version_id)
        .where(Inference.instance_id.in_(instance_ids))
        .distinct()
    )
    missing = {(instance_id, task, kind) for instance_id, task in answered for kind in wanted}
    made = session.execute(
        select(Output.instance_id, ModelVersion.task, Output.kind)
        .join(ModelVersion, ModelVersion.id == Output.model_version_id)
        .where(Output.instance_id.in_(instance_ids))
        .distinct()
    )
    missing -= {(instance_id, task, kind) for instance_id, task, kind in made}
    found: defaultdict[int, set[str]] = defaultdict(set)
    for instance_id, task, kind in missing:
        found[instance_id].add(f"{task} {kind.value}")
    return found
