"""Phantoms in the records: what is made of them goes to nobody, and is removed without touching anything else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from models.pixels.radiograph import Radiograph
from models.records.base import utc_now
from models.records.dicom import Instance, Study
from models.records.findings import ClassificationFinding
from models.records.outputs import Delivery, Output, OutputKind
from models.records.summaries import StudySummary
from models.tasks import Task
from worker.commands import add_missing_deliveries
from worker.doctor.phantom import LEFT_BEHIND, _remove
from worker.outbox import Outbox
from worker.phantom import DELIVERED, KEPT, is_phantom, make_phantom, stays_here
from worker.routing import Routing
from worker.settings import Recipient
from worker.settlement import Settlement

PATIENT = "1.2.3"
EVERYTHING = Recipient(name="archive", outputs=tuple(OutputKind), not_analysed=True)


@pytest.fixture
def settle(sessions: sessionmaker[Session], outcomes: Any, outbox: Outbox) -> Callable[[str], None]:
    """Settle an analysed instance with one output, for a destination that wants everything, summaries too."""
    settlement = Settlement(sessions, "keep_first", [EVERYTHING])

    def write(uid: str) -> None:
        output = f"9.{uid}"[:64]
        outbox.path_of(f"{output}.dcm").write_bytes(b"output")
        settlement.settle([outcomes.done(uid, output_uid=output)])

    return write


def _count(sessions: sessionmaker[Session], *kinds: Any) -> list[int]:
    with sessions() as session:
        return [session.scalar(select(func.count()).select_from(kind)) or 0 for kind in kinds]


@pytest.mark.parametrize("delivered", [False, True])
def test_a_phantom_is_a_frontal_chest_of_nobody_that_decodes(delivered: bool, tmp_path: Any) -> None:
    phantom = make_phantom(delivered=delivered)
    assert (is_phantom(phantom.SOPInstanceUID), stays_here(phantom.SOPInstanceUID)) == (True, not delivered)
    assert all(len(uid) <= 64 for uid in (phantom.SOPInstanceUID, phantom.SeriesInstanceUID, phantom.StudyInstanceUID))
    assert (phantom.PatientID, str(phantom.PatientName)) == ("RADSTREAM-PHANTOM", "RADSTREAM^PHANTOM")
    assert Routing.read(None).tasks_for(phantom) == (Task.PNEUMONIA, Task.CSI)
    phantom.save_as(tmp_path / "phantom.dcm", enforce_file_format=True)
    assert Radiograph.read(tmp_path / "phantom.dcm").stored.shape == (512, 512)
    assert make_phantom(delivered=delivered).SOPInstanceUID != phantom.SOPInstanceUID


def test_uids_of_patients_are_none_of_phantoms() -> None:
    assert not is_phantom(PATIENT)
    assert not is_phantom(KEPT.rstrip(".0") + "1.5")
    assert not stays_here(f"{DELIVERED}5")


def test_what_is_made_of_a_phantom_goes_to_nobody(settle: Callable[[str], None], sessions: Any) -> None:
    settle(f"{KEPT}7.2")
    assert _count(sessions, Instance, ClassificationFinding, Output) == [1, 1, 1]
    assert _count(sessions, Delivery, StudySummary) == [0, 0]
    with sessions.begin() as session:  # as `redeliver --destination` and `reconcile --mend` do
        add_missing_deliveries(session, select(Output.id).outerjoin(Instance), EVERYTHING)
    assert _count(sessions, Delivery) == [0]


def test_a_phantom_to_be_delivered_goes_to_destinations_and_into_no_summary(
    settle: Callable[[str], None], sessions: Any
) -> None:
    settle(f"{DELIVERED}7.2")
    assert _count(sessions, Delivery, StudySummary) == [1, 0]
    settle(PATIENT)
    assert _count(sessions, Delivery, StudySummary) == [2, 1]


def test_removing_a_phantom_takes_its_rows_and_files_and_nothing_else(
    settle: Callable[[str], None], sessions: Any, outbox: Outbox
) -> None:
    for uid in (PATIENT, f"{DELIVERED}7.2", f"{KEPT}8.2"):
        settle(uid)
    assert _remove(sessions, outbox, f"{DELIVERED}7.2") == 1
    assert _count(sessions, Study, Instance, ClassificationFinding, Output, Delivery) == [2, 2, 2, 2, 1]
    assert _remove(sessions, outbox, PATIENT) == 0

    assert _remove(sessions, outbox, None) == 0  # another doctor may be waiting for it
    with sessions.begin() as session:
        session.execute(update(Instance).values(settled_at=utc_now() - LEFT_BEHIND - timedelta(seconds=1)))
    assert _remove(sessions, outbox, None) == 1
    assert _count(sessions, Study, Instance, ClassificationFinding, Output, Delivery) == [1, 1, 1, 1, 1]
    assert [path.name for path in outbox.root.iterdir()] == [f"9.{PATIENT}.dcm"]
