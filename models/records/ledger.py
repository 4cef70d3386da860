"""The ledger: which instances were accepted, and what became of each.

`register` is idempotent, so that the registrar, the sweeper and a worker may all call it for one instance, in any
order and at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from models.records.base import from_posix, insert_ignoring, utc_now
from models.records.dicom import SETTLED_STATES, Instance, InstanceState
from models.records.findings import delete_findings
from models.requests import InferenceRequest

DuplicatePolicy = Literal["keep_first", "replace"]


class Registration(Enum):
    """What the ledger knew of an instance."""

    NEW = auto()
    """First seen: queue it."""
    PENDING = auto()
    """The same bytes are known and not settled: see that it is queued."""
    ALREADY_SETTLED = auto()
    """The same bytes have a result: finish the spool file, make no second one."""
    CONFLICT_KEPT = auto()
    """Other bytes hold this UID and are kept, or were received later: finish the spool file, make no result."""
    REPLACED = auto()
    """Other bytes held this UID and were replaced: queue it."""

    @property
    def to_be_queued(self) -> bool:
        """Whether there is work to do."""
        return self in {Registration.NEW, Registration.PENDING, Registration.REPLACED}


def register(
    session: Session, requests: Sequence[InferenceRequest], policy: DuplicatePolicy
) -> dict[str, Registration]:
    """Write accepted instances to the ledger, within the caller's transaction.

    Args:
        session: an open transaction; the caller commits.
        requests: accepted instances; the same one may occur twice.
        policy: what to do when other bytes come under a known UID.

    Returns:
        What the ledger knew, by spool key.
    """
    found: dict[str, Registration] = {}
    # One order for all, or the groups of two SCPs with the same instances could wait for each other.
    for request in sorted(requests, key=lambda request: request.sop_instance_uid):
        result = _register_one(session, request, policy)
        # One instance twice in one group: the second says PENDING, which must not hide NEW.
        found[request.spool_key] = found.get(request.spool_key, result)
    return found


def _register_one(session: Session, request: InferenceRequest, policy: DuplicatePolicy) -> Registration:
    row = _locked(session, request.sop_instance_uid)
    if row is None:
        statement = insert_ignoring(session, Instance).values(
            sop_instance_uid=request.sop_instance_uid,
            revision=0,
            duplicates=0,
            conflicts=0,
            attempts=0,
            **_told(request),
        )
        if session.scalar(statement.returning(Instance.id)) is not None:
            return Registration.NEW
        row = _locked(session, request.sop_instance_uid)  # another process was quicker
        if row is None:
            return Registration.PENDING
    if row.content_sha256 == request.content_sha256:
        # A sweep or a redelivery tells the same arrival again; only another arrival time is a duplicate.
        if from_posix(request.received_at) != row.received_at:
            row.duplicates += 1
        return Registration.ALREADY_SETTLED if row.state in SETTLED_STATES else Registration.PENDING
    if policy == "replace" and from_posix(request.received_at) <= row.received_at:
        # Replaced meanwhile, and a worker still had the old bytes in hand: they must not replace the new ones.
        return Registration.CONFLICT_KEPT
    row.conflicts += 1
    if policy == "keep_first":
        return Registration.CONFLICT_KEPT
    _replace(session, row, request)
    return Registration.REPLACED


def _locked(session: Session, sop_instance_uid: str) -> Instance | None:
    return session.scalars(
        select(Instance).where(Instance.sop_instance_uid == sop_instance_uid).with_for_update()
    ).one_or_none()


def _told(request: InferenceRequest) -> dict[str, object]:
    return {
        "sop_class_uid": request.sop_class_uid,
        "transfer_syntax_uid": request.transfer_syntax_uid,
        "content_sha256": request.content_sha256,
        "calling_ae_title": request.calling_ae_title,
        "lane": request.lane,
        "state": InstanceState.RECEIVED,
        "received_at": from_posix(request.received_at),
    }


def _replace(session: Session, row: Instance, request: InferenceRequest) -> None:
    delete_findings(session, row.id)
    for name, value in _told(request).items():
        setattr(row, name, value)
    row.revision += 1
    row.reason = row.reason_detail = None
    row.attempts = 0
    row.queued_at = row.inferred_at = row.settled_at = row.delivered_at = row.committed_at = None
    session.flush()


def mark_queued(session: Session, sop_instance_uids: Sequence[str]) -> None:
    """Note that instances are in a queue; settled ones are left as they are.

    So is one that another transaction has in hand: a worker is about to settle it, and to wait for it could be to wait
    for each other.
    """
    free = (
        select(Instance.id)
        .where(Instance.sop_instance_uid.in_(sop_instance_uids), Instance.state == InstanceState.RECEIVED)
        .with_for_update(skip_locked=True)
    )
    session.execute(
        update(Instance)
        .where(Instance.id.in_(session.scalars(free).all()))
        .values(state=InstanceState.QUEUED, queued_at=utc_now())
    )
