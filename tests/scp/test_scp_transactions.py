"""Commitment requests as files, and what we can commit to."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import Gauge
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from pynetdicom.dsutils import encode
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from models.errors import Reason
from models.records.base import utc_now
from models.records.dicom import Instance, InstanceState
from models.requests import Lane
from models.spool import Spool
from scp import commands, commitment_desk
from scp.commitment_desk import CommitmentDesk, CommitmentTalk
from scp.commitment_transactions import Reference, Transaction, TransactionFolder, Verdict
from scp.custody import Custody
from scp.registrar import Dependency
from scp.scoreboard import Scoreboard, Slot

CR = str(ComputedRadiographyImageStorage)
NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0112, 0x0119


# Transactions


def _transaction(uid: str = "1.2.3", *instances: str) -> Transaction:
    return Transaction(uid, "MODALITY", 12.5, tuple(Reference(CR, each) for each in instances or ("1.1",)))


@pytest.fixture
def folder(tmp_path: Path) -> TransactionFolder:
    folder = TransactionFolder(tmp_path)
    folder.prepare()
    return folder


def test_a_transaction_is_the_parents_only_when_its_association_let_go(folder: TransactionFolder) -> None:
    held = folder.ask(_transaction())
    (key,) = folder.keys()
    assert folder.hold(key) is None
    held.release()
    held.release()
    again = folder.hold(key)
    assert again is not None
    assert again.transaction == _transaction()
    again.done()
    assert folder.keys() == []
    assert folder.hold(key) is None


def test_a_verdict_is_read_as_it_was_written_and_goes_with_its_transaction(
    folder: TransactionFolder, tmp_path: Path
) -> None:
    held = folder.ask(_transaction())
    assert held.verdict() is None
    verdict = Verdict((Reference(CR, "1.1"),), ((Reference(CR, "1.2"), NO_SUCH_INSTANCE),))
    folder.decide(held.transaction.key, verdict)
    assert held.verdict() == verdict
    held.done()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_same_request_again_takes_the_place_of_the_first(folder: TransactionFolder) -> None:
    first = folder.ask(_transaction("1.2.3", "1.1"))
    folder.decide(first.transaction.key, Verdict())
    second = folder.ask(_transaction("1.2.3", "1.1", "1.2"))
    assert second.verdict() is None
    first.done()
    (key,) = folder.keys()
    read = folder.read(key)
    assert read is not None
    assert len(read.references) == 2
    second.done()
    assert folder.keys() == []


def test_a_file_that_is_no_transaction_is_passed_over(folder: TransactionFolder, tmp_path: Path) -> None:
    (tmp_path / "commitments" / "x.asked.json").write_text("[]")
    assert folder.read("x") is None
    assert folder.hold("x") is None
    assert folder.verdict("x") is None


def test_one_association_holds_only_so_many_and_only_so_many_wait(
    folder: TransactionFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment_desk, "MAX_HELD", 2)
    monkeypatch.setattr(commitment_desk, "MAX_OPEN", 4)
    talk = CommitmentTalk(CommitmentDesk(folder, None, Slot(Scoreboard(1), 0)))
    values = {
        commands.COMMAND_FIELD: b"\x30\x01",
        commands.MESSAGE_ID: b"\x01\x00",
        commands.COMMAND_DATA_SET_TYPE: b"\x00\x00",
        0x1001: b"1.2.840.10008.1.20.1.1",
        0x1008: b"\x01\x00",
    }
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CR, "1.1"
    statuses = []
    for number in range(5):
        request = Dataset()
        request.TransactionUID, request.ReferencedSOPSequence = f"1.2.{number}", [item]
        encoded = encode(request, False, True)
        assert encoded is not None
        answer = talk.serve(values, 1, ExplicitVRLittleEndian, "MODALITY", encoded)
        statuses.append(int.from_bytes(commands.elements(answer)[commands.STATUS], "little"))
    assert statuses == [0, 0, 0, 0, 0x0213]
    free = [held for key in folder.keys() if (held := folder.hold(key)) is not None]  # noqa: SIM118
    assert len(free) == 2
    for held in free:
        held.release()
    talk.end()
    left = [folder.hold(key) for key in folder.keys()]  # noqa: SIM118
    assert len(left) == 4
    assert None not in left
    for held in left:
        held.release()  # type: ignore[union-attr]


# Custody


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


def _dependency() -> Dependency:
    return Dependency(Gauge("test_up", "", registry=None), Reason.DATABASE_UNAVAILABLE)


def _put(spool: Spool, uid: str) -> str:
    with spool.begin(
        sop_class_uid=CR,
        sop_instance_uid=uid,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        calling_ae_title="A",
        called_ae_title="B",
        lane=Lane.ROUTINE,
    ) as writer:
        writer.write(uid.encode())
        writer.commit()
        return writer.content_sha256


def _row(uid: str, state: InstanceState, digest: str = "0" * 64) -> Instance:
    return Instance(
        sop_instance_uid=uid,
        sop_class_uid=CR,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_sha256=digest,
        calling_ae_title="A",
        lane=Lane.ROUTINE,
        state=state,
        received_at=utc_now(),
    )


def test_settled_and_pending_instances_are_committed_to_and_lost_ones_are_not(
    spool: Spool, sessions: sessionmaker[Session]
) -> None:
    pending = _put(spool, "1.4")
    _put(spool, "1.6")  # accepted a moment ago: the ledger does not know it yet
    with sessions.begin() as session:
        session.add_all([_row("1.1", InstanceState.DONE), _row("1.2", InstanceState.SKIPPED)])
        session.add_all([_row("1.3", InstanceState.FAILED), _row("1.4", InstanceState.QUEUED, pending)])
        session.add(_row("1.5", InstanceState.QUEUED))  # its file is gone
    references = [Reference(CR, f"1.{number}") for number in range(1, 8)] + [Reference("1.2.3", "1.1")]
    verdict = Custody(spool, sessions, _dependency()).judge(references)
    assert verdict is not None
    assert [item.sop_instance_uid for item in verdict.committed] == ["1.1", "1.2", "1.3", "1.4", "1.6"]
    assert [(item.sop_instance_uid, reason) for item, reason in verdict.failed] == [
        ("1.5", NO_SUCH_INSTANCE),
        ("1.7", NO_SUCH_INSTANCE),
        ("1.1", CLASS_CONFLICT),
    ]


def test_without_the_database_only_what_lies_in_the_spool_is_known(spool: Spool, tmp_path: Path) -> None:
    _put(spool, "1.1")
    engine = create_engine(f"sqlite:///{tmp_path / 'nowhere' / 'x.db'}")
    custody = Custody(spool, sessionmaker(engine), _dependency())
    assert custody.judge([Reference(CR, "1.1")]) == Verdict((Reference(CR, "1.1"),))
    assert custody.judge([Reference(CR, "1.1"), Reference(CR, "1.2")]) is None
    engine.dispose()
