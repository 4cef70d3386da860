"""A feed without processes, for tests: real spool, ledger, queues and outbox, in which the test puts what it wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from models.queues import Queues
from models.records.base import utc_now
from models.records.dicom import Instance
from models.records.ledger import mark_queued, register
from models.records.outputs import Delivery, DeliveryState, OutputKind
from models.requests import InferenceRequest, Lane
from models.spool import Spool
from worker.outbox import Outbox
from worker.settings import Recipient
from worker.settlement import Settlement

SENDER = "CT_ROOM_1"


class StillFeed:
    """What the processes of a feed would have done by now."""

    def __init__(
        self,
        root: Path,
        sessions: sessionmaker[Session],
        redis_url: str,
        outcomes: Any,
        put_output: Callable[[str], Path],
    ) -> None:
        self.root, self.sessions, self.outcomes = root, sessions, outcomes
        self.spool = Spool(root / "spool", archives=True)
        self.spool.prepare()
        self.outbox = Outbox(root / "outbox")
        self.outbox.prepare()
        self.queues = Queues(redis_url)
        self.redis = Redis.from_url(redis_url)
        self.recipients = [Recipient(name="pacs1", outputs=(OutputKind.SECONDARY_CAPTURE,))]
        self._put_output = put_output

    def close(self) -> None:
        self.queues.close()
        self.redis.close()

    # What the SCP does

    def accept(self, uid: str, lane: Lane = Lane.ROUTINE, **attributes: Any) -> InferenceRequest:
        """Spool an instance; `attributes` are those of its dataset."""
        writer = self.spool.begin(
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
            sop_instance_uid=uid,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            calling_ae_title=SENDER,
            called_ae_title="RADSTREAM",
            lane=lane,
        )
        with writer:
            writer.write(_encoded(self.outcomes.make_source(uid, **attributes)))
            return self.spool.request_for(writer.commit())

    def register(self, request: InferenceRequest) -> InferenceRequest:
        with self.sessions.begin() as session:
            register(session, [request], "keep_first")
        return request

    def enqueue(self, request: InferenceRequest) -> InferenceRequest:
        self.queues.enqueue([request])
        with self.sessions.begin() as session:
            mark_queued(session, [request.sop_instance_uid])
        return request

    def received(self, uid: str, **attributes: Any) -> InferenceRequest:
        return self.register(self.accept(uid, **attributes))

    def queued(self, uid: str, **attributes: Any) -> InferenceRequest:
        return self.enqueue(self.received(uid, **attributes))

    # What the worker does

    def take(self, request: InferenceRequest, worker: str) -> None:
        """Let a worker have it in hand."""
        queue = Queue(request.lane.value, connection=self.redis, serializer=JSONSerializer)
        queue.remove(request.job_id)
        job = Job.fetch(request.job_id, connection=self.redis, serializer=JSONSerializer)
        with self.redis.pipeline() as pipeline:
            job.prepare_for_execution(worker, pipeline)
            pipeline.execute()

    def settle(self, request: InferenceRequest, refusal: Any = None, output: str | None = None) -> None:
        """Record a result, or a refusal; nothing else happens to the spool file or the job."""
        facts = self.outcomes.facts(request.sop_instance_uid)
        if refusal is None:
            outcome = self.outcomes.done(request.sop_instance_uid, output_uid=output, facts=facts)
        else:
            outcome = self.outcomes.refused(refusal, request.sop_instance_uid, facts)
        Settlement(self.sessions, "keep_first", self.recipients).settle([replace(outcome, request=request)])

    def done(self, uid: str, output: str | None = None, **attributes: Any) -> InferenceRequest:
        """An instance that is done, in good order; `output` is the UID of its one output, which is not sent yet."""
        request = self.received(uid, **attributes)
        if output is not None:
            self._put_output(output)
        self.settle(request, output=output)
        self.spool.finish(request.spool_key, keep=True)
        return request

    # What the delivery process does

    def deliver(self, output: str, **values: Any) -> None:
        """Let the deliveries of an output have come to something; delivered, unless told otherwise."""
        values = {
            "state": DeliveryState.DELIVERED,
            "attempts": 1,
            "delivered_at": utc_now(),
            "last_status": 0,
            **values,
        }
        with self.sessions.begin() as session:
            for row in session.scalars(select(Delivery)):
                if row.output.sop_instance_uid == output:
                    for name, value in values.items():
                        setattr(row, name, value)

    # Looking

    def row(self, uid: str) -> Instance:
        with self.sessions() as session:
            return session.scalars(select(Instance).where(Instance.sop_instance_uid == uid)).one()

    def change(self, uid: str, **values: Any) -> None:
        with self.sessions.begin() as session:
            row = session.scalars(select(Instance).where(Instance.sop_instance_uid == uid)).one()
            for name, value in values.items():
                setattr(row, name, value)

    def job_ids(self, lane: Lane = Lane.ROUTINE) -> list[str]:
        return Queue(lane.value, connection=self.redis, serializer=JSONSerializer).job_ids

    def deliveries(self) -> list[tuple[str, str, str]]:
        """Output, destination and state of each."""
        with self.sessions() as session:
            rows = session.scalars(select(Delivery).order_by(Delivery.id))
            return [(row.output.sop_instance_uid, row.destination, row.state.value) for row in rows]


def _encoded(dataset: Dataset) -> bytes:
    encoded = DicomBytesIO()
    encoded.is_little_endian, encoded.is_implicit_VR = True, False
    write_dataset(encoded, dataset)
    return encoded.getvalue()
