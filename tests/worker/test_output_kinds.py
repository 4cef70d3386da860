"""Several outputs of one finding: who gets which, and what becomes of one that cannot be made or sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from models.errors import Reason, Skipped, Unprocessable
from models.records.dicom import Instance, InstanceState
from models.records.outputs import Delivery, DeliveryState, Output, OutputKind
from models.settings import Settings
from worker import rendering
from worker.commands import redeliver, requeue
from worker.delivery import DestinationQueue
from worker.metrics import DeliveryMetrics
from worker.outbox import Outbox
from worker.outputs.common_modules import OutputOrder
from worker.outputs.structured_report import write_structured_report
from worker.running import stage_context
from worker.sender import Sender
from worker.settings import Destination, Recipient, WorkerSettings
from worker.settlement import Settlement

Eventually = Callable[..., None]
Sessions = sessionmaker[Session]

SC, SR, PM, PR = (
    OutputKind.SECONDARY_CAPTURE,
    OutputKind.STRUCTURED_REPORT,
    OutputKind.PARAMETRIC_MAP,
    OutputKind.PRESENTATION_STATE,
)


def _deliveries(sessions: Sessions) -> list[tuple[str, str]]:
    with sessions() as session:
        rows = session.execute(select(Delivery.destination, Output.sop_instance_uid).join(Output)).all()
    return sorted((destination, uid) for destination, uid in rows)


def _outputs(sessions: Sessions) -> list[Output]:
    with sessions() as session:
        return list(session.scalars(select(Output).order_by(Output.id)))


def _with(outcome: Any, *outputs: rendering.MadeOutput) -> Any:
    (result,) = outcome.results
    return replace(outcome, results=(replace(result, outputs=outputs),))


# Settling


def test_each_destination_gets_the_kinds_that_it_wants(sessions: Sessions, outcomes: Any) -> None:
    recipients = [
        Recipient(name="archive", outputs=(SC, SR)),
        Recipient(name="viewer", outputs=(SC,)),
        Recipient(name="research", outputs=(SR, PM)),
        Recipient(name="nothing", outputs=()),
    ]
    made = [outcomes.output(f"2.25.{number}", kind) for number, kind in enumerate((SC, SR, PM), 1)]
    Settlement(sessions, "keep_first", recipients).settle([_with(outcomes.done(), *made)])
    assert [(row.kind, row.sop_instance_uid) for row in _outputs(sessions)] == [
        (SC, "2.25.1"),
        (SR, "2.25.2"),
        (PM, "2.25.3"),
    ]
    assert _deliveries(sessions) == [
        ("archive", "2.25.1"),
        ("archive", "2.25.2"),
        ("research", "2.25.2"),
        ("research", "2.25.3"),
        ("viewer", "2.25.1"),
    ]


def test_a_refusal_is_reported_to_whoever_wants_it_and_once(sessions: Sessions, outcomes: Any) -> None:
    settlement = Settlement(
        sessions, "keep_first", [Recipient(name="archive"), Recipient(name="worklist", not_analysed=True, outputs=())]
    )
    refused = replace(outcomes.refused(Unprocessable(Reason.NO_PIXEL_DATA)), reports=(outcomes.output("2.25.1", SR),))
    assert settlement.settle([refused]) == [InstanceState.FAILED]
    assert _deliveries(sessions) == [("worklist", "2.25.1")]
    (output,) = _outputs(sessions)
    assert (output.model_version_id, output.kind) == (None, SR)
    # Taken back and refused again for the same reason: the very same report, which is on its way already.
    with sessions.begin() as session:
        row = session.scalars(select(Instance)).one()
        row.state, row.reason = InstanceState.RECEIVED, None
    assert settlement.settle([refused]) == [InstanceState.FAILED]
    assert _deliveries(sessions) == [("worklist", "2.25.1")]


def test_an_output_sent_again_to_a_new_destination_is_of_a_kind_that_it_wants(
    sessions: Sessions, outcomes: Any
) -> None:
    refused = replace(
        outcomes.refused(Skipped(Reason.NO_RULE_MATCHED), "1.2.4"), reports=(outcomes.output("2.25.3", SR),)
    )
    done = _with(outcomes.done("1.2.3"), outcomes.output("2.25.1", SC), outcomes.output("2.25.2", SR))
    Settlement(sessions, "keep_first", []).settle([done, refused])

    def sent(recipient: Recipient) -> list[str]:
        asked = {"study": None, "instance": None, "destination": recipient.name, "all_dead": False}
        rows = [
            row
            for uid in ("1.2.3", "1.2.4")
            for row in redeliver(sessions, **{**asked, "instance": uid}, new_destinations=[recipient])  # type: ignore[arg-type]
        ]
        return sorted(row["output"] for row in rows)

    assert sent(Recipient(name="reports", outputs=(SR,))) == ["2.25.2"]
    assert sent(Recipient(name="pictures", outputs=(SC,))) == ["2.25.1"]
    assert sent(Recipient(name="refusals", outputs=(), not_analysed=True)) == ["2.25.3"]


# Settings


def test_kinds_are_made_that_any_destination_wants() -> None:
    def context(*destinations: dict[str, Any]) -> Any:
        given = [{"host": "pacs", "port": 104, "ae_title": "PACS", **each} for each in destinations]
        return stage_context(Settings(), WorkerSettings(destinations=given))  # type: ignore[arg-type]

    usual = context({"name": "a"})
    assert usual.kinds == {SC, SR}
    assert usual.overlay_max_side > 0
    assert not usual.reports_refusals
    reports = context(
        {"name": "a", "outputs": ["structured_report"]}, {"name": "b", "outputs": [], "not_analysed": True}
    )
    assert reports.kinds == {SR}
    assert reports.overlay_max_side == 0, "no picture, so none is prepared"
    assert reports.reports_refusals
    assert context().kinds == frozenset()


# The pipeline


def test_a_finding_gives_every_kind_that_is_wanted(lay: Any, make_source: Any, eventually: Eventually) -> None:
    line = lay(kinds=(SC, SR, PM, PR), decoders=1)
    line.pipeline.submit(line.accept(make_source()))
    eventually(lambda: line.done, timeout_s=60)
    made = {row.kind: dcmread(line.outbox.path_of(row.file_name)) for row in _outputs(line.sessions)}
    assert set(made) == {SC, SR, PM, PR}
    (library,) = (item for item in made[SR].ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "111028")
    named = [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in library.ContentSequence[0].ContentSequence
    ]
    assert named == ["1.2.3", made[SC].SOPInstanceUID]
    assert len(_deliveries(line.sessions)) == 4
    for stage in ("overlay", "write_output", "structured_report", "parametric_map", "presentation_state"):
        assert line.sample("radstream_worker_stage_seconds_count", stage=stage) == 1


def test_a_kind_that_cannot_be_made_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("of no use")

    def make(*arguments: Any) -> Any:
        return rendering.WrittenOutput("1", "2.25.1", "3", "f")

    monkeypatch.setattr(rendering, "_MAKERS", {SC: fail, SR: make, PM: lambda *arguments: None})
    monkeypatch.setattr(rendering, "read_header", lambda path: Dataset())
    order: Any = rendering.RenderOrder("", "1.2", 0, None, None, None, None, "", frozenset({SC, SR, PM}))  # type: ignore[arg-type]
    rendered = rendering.render(order)
    assert [made.kind for made in rendered.outputs] == [SR]
    assert rendered.failed == {SC: "ValueError"}


def test_what_is_not_analysed_is_reported_but_for_our_own_outputs_and_unreadable_files(
    lay: Any, make_source: Any, eventually: Eventually
) -> None:
    line = lay(kinds=(), not_analysed=True, decoders=1)
    ours = {"Manufacturer": "radstream", "ManufacturerModelName": "radstream"}
    requests = [
        line.accept(make_source("1.1", Modality="US", BodyPartExamined="ABDOMEN")),
        line.accept(make_source("1.2", PixelData=None)),
        line.accept(make_source("1.3", **ours)),
        line.accept(make_source("1.4"), calling="OUR_AI"),
        line.accept(b"\xff" * 300, "1.5"),
        line.accept(make_source("1.6")),
    ]
    for request in requests:
        line.pipeline.submit(request)
    eventually(lambda: len(line.done) == 6, timeout_s=60)
    states = {done.request.sop_instance_uid: done.state for done in line.done}
    assert states == {
        "1.1": InstanceState.SKIPPED,
        "1.2": InstanceState.FAILED,
        "1.3": InstanceState.SKIPPED,
        "1.4": InstanceState.SKIPPED,
        "1.5": InstanceState.FAILED,
        "1.6": InstanceState.DONE,
    }
    reported = {}
    for row in _outputs(line.sessions):
        report = dcmread(line.outbox.path_of(row.file_name))
        evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
        uid = str(evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        comments = [item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT"]
        reported[uid] = comments[-2]
        assert report.PatientID == "ID7"
        assert row.model_version_id is None
    reasons = {done.request.sop_instance_uid: done.reason for done in line.done}
    assert set(reported) == {"1.1", "1.2"}
    for uid, words in reported.items():
        assert f"({reasons[uid].value})" in words
    assert len(_deliveries(line.sessions)) == 2


def test_a_failed_instance_that_is_taken_back_and_fails_again_has_one_report(
    lay: Any, make_source: Any, eventually: Eventually
) -> None:
    line = lay(kinds=(), not_analysed=True, decoders=1)
    line.pipeline.submit(line.accept(make_source("1.2", PixelData=None)))
    eventually(lambda: len(line.done) == 1, timeout_s=60)
    requeue(line.sessions, line.spool, instance="1.2", reason=None, all_failed=False)
    (entry,) = line.spool.entries()
    line.pipeline.submit(line.spool.request_for(entry.key))
    eventually(lambda: len(line.done) == 2, timeout_s=60)
    assert line.done[1].state is InstanceState.FAILED
    assert len(_outputs(line.sessions)) == len(_deliveries(line.sessions)) == 1


def test_an_instance_that_killed_its_workers_is_reported_from_outside_the_pipeline(lay: Any, make_source: Any) -> None:
    line = lay(kinds=(), not_analysed=True, decoders=1)
    died = Unprocessable(Reason.WORKER_DIED, "3 workers died with it in hand")
    (report,) = line.pipeline.report_refusal(line.accept(make_source("1.2")), died)
    assert "(worker_died)" in str(dcmread(line.outbox.path_of(report.written.file_name)).ContentSequence[-2].TextValue)
    assert line.pipeline.report_refusal(line.accept(b"\xff" * 300, "1.5"), died) == ()


# Sending


def test_a_destination_that_takes_no_reports_gets_pictures_and_the_reports_are_dead_letters(
    new_archive: Any, sqlite_sessions: Sessions, outbox: Outbox, outcomes: Any, put_output: Callable[[str], Path]
) -> None:
    order = _order_of(outcomes)
    report = write_structured_report(order, [], outbox.root)
    picture = outcomes.output("2.25.1", SC)
    put_output("2.25.1")
    done = _with(outcomes.done("1.2.3"), picture, rendering.MadeOutput(SR, report))
    Settlement(sqlite_sessions, "keep_first", [Recipient(name="archive")]).settle([done])
    archive = new_archive()
    archive.start(contexts={SecondaryCaptureImageStorage: [ExplicitVRLittleEndian]})
    destination = Destination(name="archive", host="127.0.0.1", port=archive.port, ae_title="ARCHIVE")
    settings = WorkerSettings(delivery_max_refusals=1)
    sender = Sender(destination, "RADSTREAM", 5.0)
    queue = DestinationQueue(sender, sqlite_sessions, outbox, settings, DeliveryMetrics(CollectorRegistry()))
    queue._turn(threading.Event())
    with sqlite_sessions() as session:
        rows = session.execute(select(Output.kind, Delivery.state, Delivery.reason).join(Output)).all()
    assert {kind: (state, reason) for kind, state, reason in rows} == {
        SC: (DeliveryState.DELIVERED, None),
        SR: (DeliveryState.DEAD, "destination_rejected_context"),
    }
    assert [dataset.SOPInstanceUID for dataset in archive.received] == ["2.25.1"]
    assert archive.associations == 1, "one kind that is not taken costs the others no association"
    sender.release()
    archive.stop()


def test_a_report_arrives_as_it_lies_in_the_outbox(new_archive: Any, outbox: Outbox, outcomes: Any) -> None:
    report = write_structured_report(_order_of(outcomes), [], outbox.root)
    archive = new_archive()
    archive.start(contexts={Comprehensive3DSRStorage: [ExplicitVRLittleEndian]})
    sender = Sender(Destination(name="a", host="127.0.0.1", port=archive.port, ae_title="ARCHIVE"), "RADSTREAM", 5.0)
    assert sender.send(outbox.path_of(report.file_name)).reason is None
    sender.release()
    (received,) = archive.received
    sent = dcmread(outbox.path_of(report.file_name))
    del sent.file_meta
    assert received == sent


def _order_of(outcomes: Any) -> OutputOrder:
    result = outcomes.result(0.75)
    header = outcomes.make_source("1.2.3")
    return OutputOrder(header, result.manifest, result.engine, "1.2.3", 0, result.finding)
