"""Storage commitment asked of us: what lies in the spool or is settled is committed to, and the report arrives."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.transport import ThreadedAssociationServer

from deploy.launcher import free_port
from models.commitment_reports import CommitmentReport, ReportFolder
from scp.commitment_transactions import TransactionFolder
from scp.contexts import supported_contexts

PUSH = "1.2.840.10008.1.20.1"
PUSH_INSTANCE = "1.2.840.10008.1.20.1.1"
CR = str(ComputedRadiographyImageStorage)
NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0112, 0x0119

Report = tuple[int, Dataset]


class Modality:
    """A sender that asks for commitment, and takes reports on its own port and on its own associations."""

    def __init__(self) -> None:
        self.port = free_port()
        self.reports: list[Report] = []
        self.statuses: list[int] = []
        self.roles: list[tuple[Any, Any]] = []
        self._server: Any = None

    def listen(self) -> None:
        ae = AE("MODALITY")
        ae.add_supported_context(PUSH, [ExplicitVRLittleEndian], scu_role=False, scp_role=True)
        self._server = ae.make_server(
            ("127.0.0.1", self.port), evt_handlers=self.handlers(), server_class=ThreadedAssociationServer
        )
        ae._servers.append(self._server)
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def handlers(self) -> list[Any]:
        return [(evt.EVT_N_EVENT_REPORT, self._take)]

    def _take(self, event: evt.Event) -> tuple[int, None]:
        status = self.statuses.pop(0) if self.statuses else 0x0000
        self.reports.append((event.event_type, event.event_information))
        return status, None


@pytest.fixture
def modality() -> Iterator[Modality]:
    modality = Modality()
    yield modality
    modality.close()


@pytest.fixture(scope="module")
def committing_scp(
    tmp_path_factory: pytest.TempPathFactory, running_scp: Callable[..., Any], sqlite_template: Path
) -> Iterator[Any]:
    directory = tmp_path_factory.mktemp("commitment") / "data"
    directory.mkdir()
    shutil.copy(sqlite_template, directory / "radstream.db")
    names = ("COMMITMENT", "COMMITMENT_REPORTS")
    scp = running_scp(directory, {f"RADSTREAM_SCP_{name}": "true" for name in names})
    scp.start()
    yield scp
    assert scp.stop() == 0
    assert not scp.events("commitment_turn_failed")


def _associate(port: int, handlers: list[Any] | None = None, *syntaxes: str, **options: Any) -> Association:
    contexts = [
        build_context(CR, [ExplicitVRLittleEndian]),
        build_context(PUSH, list(syntaxes) or [ExplicitVRLittleEndian]),
    ]
    return AE("MODALITY").associate(
        "127.0.0.1", port, contexts, ae_title="RADSTREAM", evt_handlers=handlers or [], **options
    )


def _ask(
    association: Association,
    references: list[tuple[str, str]],
    uid: str = "",
    instance: str = PUSH_INSTANCE,
    action: int = 1,
) -> int:
    request = Dataset()
    request.TransactionUID = uid or str(generate_uid())
    request.ReferencedSOPSequence = []
    for sop_class_uid, sop_instance_uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
        request.ReferencedSOPSequence.append(item)
    answer, _ = association.send_n_action(request, action, PUSH, instance)
    return int(answer.Status)


def _uids(report: Report) -> list[str]:
    return [str(item.ReferencedSOPInstanceUID) for item in report[1].get("ReferencedSOPSequence") or ()]


def _failures(report: Report) -> dict[str, int]:
    items = report[1].get("FailedSOPSequence") or ()
    return {str(item.ReferencedSOPInstanceUID): int(item.FailureReason) for item in items}


def _transactions(scp: Any) -> list[str]:
    return TransactionFolder(scp.spool.root).keys()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_report_comes_on_the_same_association_while_it_is_open(
    committing_scp: Any, modality: Modality, instance: Callable[..., Dataset], eventually: Any, syntax: str
) -> None:
    association = _associate(committing_scp.port, modality.handlers(), syntax)
    stored, other = instance(), instance()
    assert association.send_c_store(stored).Status == 0
    assert association.send_c_store(other).Status == 0
    asked = [
        (CR, str(stored.SOPInstanceUID)),
        (CR, "2.25.404"),
        ("1.2.840.10008.5.1.4.1.1.2", str(other.SOPInstanceUID)),
    ]
    assert _ask(association, asked, "2.25.77") == 0
    eventually(lambda: modality.reports)
    (report,) = modality.reports
    assert (report[0], report[1].TransactionUID) == (2, "2.25.77")  # failures exist
    assert _uids(report) == [stored.SOPInstanceUID]
    assert _failures(report) == {"2.25.404": NO_SUCH_INSTANCE, str(other.SOPInstanceUID): CLASS_CONFLICT}
    eventually(lambda: not _transactions(committing_scp))
    assert association.send_c_store(instance()).Status == 0  # and the association goes on
    association.release()


@pytest.fixture
def start_committing(start_scp: Callable[..., Any], modality: Modality) -> Callable[[], Any]:
    def start() -> Any:
        return start_scp(
            SCP_COMMITMENT="true",
            SCP_COMMITMENT_PEERS=f'{{"MODALITY": {{"host": "127.0.0.1", "port": {modality.port}}}}}',
            SCP_COMMITMENT_FIRST_RETRY_S="0.1",
        )

    return start


def test_without_an_association_or_a_database_it_is_reported_on_a_new_one_again_and_again(
    start_committing: Callable[[], Any], modality: Modality, instance: Callable[..., Dataset], eventually: Any
) -> None:
    # No database was ever made here: what lies in the spool is known without one.
    scp = start_committing()
    modality.statuses = [0x0110]
    association = _associate(scp.port)
    stored = instance()
    assert association.send_c_store(stored).Status == 0
    assert _ask(association, [(CR, str(stored.SOPInstanceUID))]) == 0
    association.release()
    eventually(lambda: scp.metrics().get('radstream_scp_commitment_reports_total{outcome="retry"}', 0) >= 1)
    assert not modality.reports  # nobody listened

    # The process dies, and another one goes on.
    assert len(_transactions(scp)) == 1
    scp.kill()
    scp = start_committing()
    modality.listen()
    eventually(lambda: len(modality.reports) == 2, 30)  # the first was refused
    assert [_uids(report) for report in modality.reports] == [[stored.SOPInstanceUID]] * 2
    assert [report[0] for report in modality.reports] == [1, 1]
    eventually(lambda: not _transactions(scp))
    assert scp.metrics()['radstream_scp_commitment_reports_total{outcome="reported"}'] == 1


def test_requests_that_are_none_are_refused(committing_scp: Any) -> None:
    association = _associate(committing_scp.port)
    reference = [(CR, "2.25.1")]
    assert _ask(association, reference, instance="1.2.3") == 0x0112
    assert _ask(association, reference, action=2) == 0x0123
    assert _ask(association, []) == 0x0115
    assert _ask(association, [(CR, "1.2")] * 2, uid="1" * 64) == 0
    association.release()


def test_a_request_with_uids_that_are_paths_is_refused(committing_scp: Any) -> None:
    association = _associate(committing_scp.port)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about what is planted here
        assert _ask(association, [(CR, "../../etc")]) == 0x0115
        assert _ask(association, [(CR, "1.2")], uid="../x") == 0x0115
    association.release()


def test_a_broken_dataset_is_refused_and_a_stray_response_ends_the_association(
    committing_scp: Any, raw_peer: Callable[..., Any], speech: Any
) -> None:
    def command(field: int, *more: bytes) -> bytes:
        element = speech.element
        body = element(0x0100, field.to_bytes(2, "little")) + b"".join(more)
        return bytes(element(0x0000, len(body).to_bytes(4, "little")) + body)

    peer = raw_peer(committing_scp)
    peer.associate(sop_class=PUSH)
    action = command(
        0x0130,
        speech.element(0x0110, b"\x07\x00"),
        speech.element(0x0800, b"\x01\x00"),
        speech.element(0x1001, PUSH_INSTANCE.encode()),
        speech.element(0x1008, b"\x01\x00"),
    )
    last = speech.LAST
    peer.send(speech.pdu(speech.pdv(speech.COMMAND | last, action), speech.pdv(last, b"\xff" * 40)))
    assert peer.status() == 0x0115
    stray = command(
        0x8100,
        speech.element(0x0120, b"\x07\x00"),
        speech.element(0x0800, b"\x01\x01"),
        speech.element(0x0900, b"\0\0"),
    )
    peer.send(speech.pdu(speech.pdv(speech.COMMAND | last, stray)))
    assert peer.receive()[0] == "abort"


def test_the_service_is_offered_only_where_it_is_switched_on() -> None:
    assert PUSH not in {context.abstract_syntax for context in supported_contexts(True)}
    assert PUSH in {context.abstract_syntax for context in supported_contexts(False, commitment=True)}


def test_a_report_on_our_outputs_is_kept_for_the_deliverer(committing_scp: Any) -> None:
    role = build_role(PUSH, scu_role=False, scp_role=True)
    association = _associate(committing_scp.port, None, ext_neg=[role])
    report = Dataset()
    report.TransactionUID = "2.25.9"
    kept, lost = Dataset(), Dataset()
    kept.ReferencedSOPClassUID = lost.ReferencedSOPClassUID = CR
    kept.ReferencedSOPInstanceUID, lost.ReferencedSOPInstanceUID, lost.FailureReason = "1.1", "1.2", 0x0110
    report.ReferencedSOPSequence, report.FailedSOPSequence = [kept], [lost]
    answer, _ = association.send_n_event_report(report, 2, PUSH, PUSH_INSTANCE)
    assert answer.Status == 0
    answer, _ = association.send_n_event_report(report, 3, PUSH, PUSH_INSTANCE)
    assert answer.Status == 0x0113
    association.release()
    ((_, found),) = ReportFolder(committing_scp.spool.root).waiting()
    assert found == CommitmentReport("2.25.9", ("1.1",), (("1.2", 0x0110),))
