"""The round trip of a phantom: sent like a patient's radiograph, waited for in the records, and removed again.

By default nothing of it leaves: see `worker.phantom`. Rows and files of earlier phantoms that came too late for their
doctor are removed as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pydicom.dataset import Dataset
from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from models.diagnosis.checks import Finding, failure, ok, warning
from models.diagnosis.peers import DOCTOR_AE_TITLE
from models.errors import RadstreamError
from models.records.base import utc_now
from models.records.dicom import SETTLED_STATES, Instance, InstanceState, Series, Study
from models.records.findings import delete_findings
from models.records.outputs import Delivery, DeliveryState, Output
from models.records.sessions import open_database, session_factory
from models.records.summaries import StudySummary
from models.requestor import requesting_entity, without_delay, without_races
from models.settings import Settings
from worker.outbox import AnyOutbox, open_outbox
from worker.phantom import PHANTOM_ROOT, make_phantom
from worker.sender import tls_arguments
from worker.settings import RemoteEntity

LOOK_S: Final = 0.1
LEFT_BEHIND: Final = timedelta(minutes=15)
"""A phantom settled so long ago is nobody's any more."""
OUT_OF_RESOURCES: Final = range(0xA700, 0xA800)


@dataclass(frozen=True, slots=True)
class Trip:
    """How a phantom travels.

    Attributes:
        delivered: whether its outputs go to the destinations, where they stay.
        longest_s: wait for settling, and then for delivery.
        timeout_s: of each message.
    """

    scp: RemoteEntity
    delivered: bool
    longest_s: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the records hold of a phantom."""

    state: InstanceState
    reason: str | None
    received_at: datetime
    queued_at: datetime | None
    inferred_at: datetime | None
    settled_at: datetime | None
    outputs: int
    deliveries: tuple[tuple[str, DeliveryState, str | None], ...]

    @property
    def legs(self) -> str:
        """Seconds of each leg that is done."""
        moments = {"queued": self.queued_at, "inferred": self.inferred_at, "recorded": self.settled_at}
        before, told = self.received_at, []
        for name, moment in moments.items():
            if moment is not None:
                told.append(f"{name} after {max(0.0, (moment - before).total_seconds()):.2f} s")
                before = moment
        return ", ".join(told)


def check_phantom(settings: Settings, trip: Trip) -> Iterator[Finding]:
    """Send a phantom and follow it."""
    engine = open_database(settings)
    sessions, outbox = session_factory(engine), open_outbox(settings)
    try:
        _remove(sessions, outbox, None)
        phantom = make_phantom(delivered=trip.delivered)
        uid = str(phantom.SOPInstanceUID)
        sent = _send(phantom, trip, settings)
        yield sent
        if sent.severity == "ok":
            yield from _follow(sessions, outbox, uid, trip)
    except SQLAlchemyError as error:
        yield failure(
            f"the results database does not answer ({type(error).__name__})", "python -m worker doctor --only database"
        )
    finally:
        engine.dispose()


def _send(phantom: Dataset, trip: Trip, settings: Settings) -> Finding:
    scp = trip.scp
    entity = requesting_entity(scp.calling_ae_title or DOCTOR_AE_TITLE, trip.timeout_s)
    entity.add_requested_context(phantom.SOPClassUID, [phantom.file_meta.TransferSyntaxUID])
    started = time.perf_counter()
    association = entity.associate(
        scp.host,
        scp.port,
        ae_title=scp.ae_title,
        evt_handlers=without_delay(),
        **tls_arguments(scp, "--scp: TLS files"),
    )
    place = f"{scp.ae_title} at {scp.host}:{scp.port}"
    if not association.is_established:
        association.abort()
        return failure(
            f"{place} gives no association for C-STORE", "python -m worker doctor --only scp --scp … says why"
        )
    without_races(association)
    try:
        status = association.send_c_store(phantom).get("Status")
    except (RuntimeError, ValueError, OSError):
        status = None
    finally:
        if association.is_established:
            association.release()
    seconds = time.perf_counter() - started
    if status == 0:
        return ok(f"the phantom is accepted by {place} in {seconds:.2f} s")
    if status in OUT_OF_RESOURCES:
        return failure(
            f"{place} refuses the phantom: out of space or full (0x{status:04X})", "python -m scp doctor --only disk"
        )
    told = "gives no answer to it" if status is None else f"answers 0x{status:04X}"
    return failure(f"{place} does not accept the phantom: {told}", "see the log of the SCP")


def _follow(sessions: sessionmaker[Session], outbox: AnyOutbox, uid: str, trip: Trip) -> Iterator[Finding]:
    seen = _wait(sessions, uid, trip.longest_s, lambda now: now.state in SETTLED_STATES)
    if seen is None or seen.state not in SETTLED_STATES:
        yield _not_settled(seen, uid, trip)
        return
    yield _settled(seen)
    if trip.delivered and seen.state is InstanceState.DONE:
        yield from _delivered(sessions, uid, trip)
    removed = _remove(sessions, outbox, uid)
    yield ok(f"rows and {removed} output files of the phantom are removed again")


def _not_settled(seen: _Seen | None, uid: str, trip: Trip) -> Finding:
    where = "not in the ledger" if seen is None else f"still {seen.state.value}"
    remedy = {
        None: "do the SCP and this command use one RADSTREAM_DATABASE_URL? see the log of the SCP",
        InstanceState.RECEIVED: "does the SCP reach Redis? python -m scp doctor --only redis",
    }.get(
        seen.state if seen else None, "is a worker running, with the same RADSTREAM_REDIS_URL? python -m worker status"
    )
    return failure(
        f"after {trip.longest_s:g} s the phantom is {where}",
        f"{remedy}. When it is settled: python -m worker trace {uid}; the next --phantom removes it",
    )


def _settled(seen: _Seen) -> Finding:
    if seen.state is InstanceState.DONE:
        return ok(f"the phantom is analysed: {seen.legs}; {seen.outputs} outputs made")
    text = f"the phantom came through, and was {seen.state.value} ({seen.reason}): {seen.legs}"
    if seen.state is InstanceState.SKIPPED:
        return warning(text, "it is a frontal chest CR: see RADSTREAM_WORKER_ROUTING_FILE and the active versions")
    return failure(text, "a sound image failed: see the log of the worker, then python -m worker doctor --only codecs")


def _delivered(sessions: sessionmaker[Session], uid: str, trip: Trip) -> Iterator[Finding]:
    started = time.perf_counter()
    seen = _wait(
        sessions,
        uid,
        trip.longest_s,
        lambda now: all(state is not DeliveryState.PENDING for _, state, _ in now.deliveries),
    )
    deliveries = seen.deliveries if seen is not None else ()
    if not deliveries:
        yield warning("no destination wanted an output of the phantom", "see outputs in RADSTREAM_WORKER_DESTINATIONS")
        return
    for name in sorted({destination for destination, _, _ in deliveries}):
        states = [(state, reason) for destination, state, reason in deliveries if destination == name]
        left = [reason or "waiting" for state, reason in states if state is not DeliveryState.DELIVERED]
        if left:
            yield failure(
                f"{name}: {len(left)} of {len(states)} outputs are not delivered ({', '.join(sorted(set(left)))})",
                f"python -m worker doctor --only destination; is `python -m worker deliver` running, and {name} up?",
            )
        else:
            yield ok(
                f"{name} has {len(states)} outputs of the phantom, {time.perf_counter() - started:.2f} s after settling"
            )
    study = uid.rpartition(".")[0]
    yield warning(f"the outputs stay at the destinations, as study {study}", "delete that study there")


def _wait(sessions: sessionmaker[Session], uid: str, longest_s: float, done: Callable[[_Seen], bool]) -> _Seen | None:
    deadline = time.monotonic() + longest_s
    while True:
        seen = _look(sessions, uid)
        if (seen is not None and done(seen)) or time.monotonic() > deadline:
            return seen
        time.sleep(LOOK_S)


def _look(sessions: sessionmaker[Session], uid: str) -> _Seen | None:
    with sessions() as session:
        session.connection(execution_options={"read_only": True})
        row = session.scalars(select(Instance).where(Instance.sop_instance_uid == uid)).one_or_none()
        if row is None:
            return None
        outputs = session.scalars(select(Output.id).where(Output.instance_id == row.id)).all()
        deliveries = session.execute(
            select(Delivery.destination, Delivery.state, Delivery.reason).where(Delivery.output_id.in_(outputs))
        ).all()
        return _Seen(
            row.state,
            row.reason,
            row.received_at,
            row.queued_at,
            row.inferred_at,
            row.settled_at,
            len(outputs),
            tuple((name, state, reason) for name, state, reason in deliveries),
        )


def _remove(sessions: sessionmaker[Session], outbox: AnyOutbox, uid: str | None) -> int:
    """Remove one settled phantom, or all that were left behind; give the number of output files removed."""
    phantoms = select(Instance).where(
        Instance.sop_instance_uid.startswith(f"{PHANTOM_ROOT}."), Instance.state.in_(SETTLED_STATES)
    )
    if uid is not None:
        phantoms = phantoms.where(Instance.sop_instance_uid == uid)
    else:
        phantoms = phantoms.where(Instance.settled_at < utc_now() - LEFT_BEHIND)
    with sessions.begin() as session:
        names = [name for row in session.scalars(phantoms).all() for name in _remove_one(session, row)]
    for name in names:
        try:
            outbox.discard(name)
        except (RadstreamError, OSError):
            continue  # the clean-up of the outbox takes what no record knows
    return len(names)


def _remove_one(session: Session, row: Instance) -> list[str]:
    series = session.get(Series, row.series_id) if row.series_id is not None else None
    of_phantom = Output.instance_id == row.id
    if series is not None:
        of_phantom |= Output.study_id == series.study_id
    outputs = session.execute(select(Output.id, Output.file_name).where(of_phantom)).all()
    ids = [output.id for output in outputs]
    session.execute(delete(Delivery).where(Delivery.output_id.in_(ids)))
    session.execute(delete(Output).where(Output.id.in_(ids)))
    delete_findings(session, row.id)
    session.execute(delete(Instance).where(Instance.id == row.id))
    if series is not None:
        session.execute(delete(Series).where(Series.id == series.id))
        session.execute(delete(StudySummary).where(StudySummary.study_id == series.study_id))
        session.execute(delete(Study).where(Study.id == series.study_id))
    return [output.file_name for output in outputs]
