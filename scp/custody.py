"""What we can commit to: instances whose bytes lie in the spool, and those that the ledger knows as settled.

radstream is no archive. It commits to have accepted an instance and to have analysed or reported it; the bytes go
once it is settled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from migrations.compatibility import SchemaMismatch
from models.any_spool import AnySpool
from models.errors import Unprocessable
from models.queues import chunks
from models.records.dicom import SETTLED_STATES, Instance
from scp.commitment_messages import FailureReason
from scp.commitment_transactions import Reference, Verdict
from scp.registrar import Dependency

GROUP = 500
"""UIDs in one statement."""


@dataclass(frozen=True, slots=True)
class _Row:
    sop_class_uid: str
    spool_key: str
    is_settled: bool


class Custody:
    """Judges references by spool and ledger.

    Args:
        check_schema: as of `scp.registrar.Registrar`.
    """

    def __init__(
        self,
        spool: AnySpool,
        sessions: sessionmaker[Session],
        database: Dependency,
        check_schema: Callable[[], None] = lambda: None,
    ) -> None:
        self._spool = spool
        self._check_schema = check_schema
        self._sessions = sessions
        self._database = database

    def judge(self, references: Sequence[Reference]) -> Verdict | None:
        """Say what we commit to; None while the database, which is needed for it, is away.

        What lies in the spool is known without the database.

        Raises:
            OSError: the spool cannot be read.
        """
        uids = list(dict.fromkeys(reference.sop_instance_uid for reference in references))
        classes = self._in_ledger(uids)
        unknown = [uid for uid in uids if uid not in (classes or {})]
        in_spool = self._in_spool(unknown)
        if classes is None and len(in_spool) < len(unknown):
            return None
        return _verdict(references, {**(classes or {}), **in_spool})

    def _in_ledger(self, uids: list[str]) -> dict[str, str] | None:
        """Give the SOP classes of the instances that are settled, or pending with their file there."""
        try:
            self._check_schema()
            rows = self._rows(uids)
            held = {uid: row for uid, row in rows.items() if row.is_settled or row.spool_key in self._spool}
            # Between the two looks a worker may have settled one and finished its file.
            late = self._rows([uid for uid in rows if uid not in held])
        except (SQLAlchemyError, SchemaMismatch) as error:
            self._database.down(error)
            return None
        self._database.up()
        held |= {uid: row for uid, row in late.items() if row.is_settled}
        return {uid: row.sop_class_uid for uid, row in held.items()}

    def _rows(self, uids: list[str]) -> dict[str, _Row]:
        rows: dict[str, _Row] = {}
        if not uids:
            return rows
        with self._sessions() as session:
            session.connection(execution_options={"read_only": True})
            for group in chunks(uids, GROUP):
                statement = select(
                    Instance.sop_instance_uid, Instance.sop_class_uid, Instance.content_sha256, Instance.state
                ).where(Instance.sop_instance_uid.in_(group))
                for uid, sop_class_uid, digest, state in session.execute(statement):
                    rows[uid] = _Row(sop_class_uid, f"{uid}_{digest[:16]}", state in SETTLED_STATES)
        return rows

    def _in_spool(self, uids: Iterable[str]) -> dict[str, str]:
        wanted = set(uids)
        found: dict[str, str] = {}
        if not wanted:
            return found
        for entry in self._spool.entries():
            if entry.sop_instance_uid in wanted:
                try:
                    found[entry.sop_instance_uid] = self._spool.request_for(entry.key).sop_class_uid
                except Unprocessable:
                    continue  # finished meanwhile, or no file of ours
        return found


def _verdict(references: Sequence[Reference], classes: dict[str, str]) -> Verdict:
    committed, failed = [], []
    for reference in references:
        sop_class_uid = classes.get(reference.sop_instance_uid)
        if sop_class_uid is None:
            failed.append((reference, int(FailureReason.NO_SUCH_INSTANCE)))
        elif sop_class_uid != reference.sop_class_uid:
            failed.append((reference, int(FailureReason.CLASS_CONFLICT)))
        else:
            committed.append(reference)
    return Verdict(tuple(committed), tuple(failed))
