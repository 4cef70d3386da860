"""The published conformance statement is the one that the code says, and leaves nothing out that a peer could meet."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.ae import ApplicationEntity

from deploy.conformance import __main__ as command
from deploy.conformance.attribute_docs import member_docs
from deploy.conformance.codes import used_codes
from deploy.conformance.contexts import Entity, accepted, proposed
from deploy.conformance.observations import observe
from deploy.conformance.samples import Sample, samples, samples_of
from deploy.conformance.standard_modules import module_of, modules_in
from models.diagnosis import peers
from models.diagnosis.peers import Peer
from models.errors import Reason, Transient
from models.records.outputs import OutputKind
from models.settings import Settings
from models.tasks import Task
from scp.commitment_messages import FailureReason, ServiceStatus
from scp.commitment_reporter import CommitmentReporter
from scp.contexts import supported_contexts
from scp.settings import CommitmentPeer, ScpSettings
from scp.statuses import Rejection, StoreStatus
from scp.stow.answer import ANSWERS
from worker import commitment
from worker.commitment import Asker, reporting_entity
from worker.commitment_records import Asked
from worker.doctor import phantom as phantom_trip
from worker.doctor.phantom import Trip
from worker.pacs_query import PacsQuery
from worker.phantom import make_phantom
from worker.retrieval import Retriever
from worker.sender import OUTPUT_STORAGE_CLASSES, Sender
from worker.settings import Destination, RemoteEntity, WorkerSettings

ROOT = Path(command.__file__).parents[2]
CR = "1.2.840.10008.5.1.4.1.1.1"
ARCHIVE = Destination(name="archive", host="127.0.0.1", port=1, ae_title="ARCHIVE")


@pytest.fixture(scope="module")
def text() -> str:
    """The published one, which the first test compares with what the code says."""
    return command.TARGET.read_text(encoding="utf-8")


def test_the_published_statement_is_what_the_command_writes_on_any_machine() -> None:
    elsewhere = {"PYTHONHASHSEED": "7", "TZ": "Asia/Kathmandu", "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-m", "deploy.conformance", "--check"], cwd="/", env=elsewhere, capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("conformance.md is up to date\n", 0), done.stderr


def test_an_older_file_is_found_and_written_anew(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "render", lambda: text)
    monkeypatch.setattr(command, "TARGET", tmp_path / "conformance.md")
    assert command.main(["--check"]) == 1
    assert command.main([]) == 0
    assert command.main(["--check"]) == 0
    (tmp_path / "conformance.md").write_text("older")
    assert command.main(["--check"]) == 1
    assert "run python -m deploy.conformance" in capsys.readouterr().out


def test_tables_are_whole_and_links_lead_somewhere(text: str) -> None:
    width = 0
    for line in text.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (width and cells) or cells == width, line
        width = cells
    headings = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.M)
    }
    links = re.findall(r"\]\(#([^)]+)\)", text)
    assert len(links) > 40
    assert set(links) <= headings


def test_nothing_of_this_machine_is_in_it(text: str) -> None:
    assert str(ROOT) not in text
    assert "| `RADSTREAM_MODEL_STORE` | `models/store/shipped` |" in text
    assert "| `RADSTREAM_SCP_PROCESSES` | by the machine | at least 1, at most 64 | Receiving processes. |" in text


# SOP classes


def test_every_sop_class_that_is_accepted_is_named(text: str) -> None:
    contexts = [*supported_contexts(True, commitment=True), *reporting_entity("ANY").supported_contexts]
    assert len(contexts) > 100
    assert [each.abstract_syntax for each in contexts if f"| `{each.abstract_syntax}` |" not in text] == []
    told = {(each.abstract_syntax, each.transfer_syntaxes) for each in accepted()}
    for context in [*supported_contexts(False, commitment=True), *reporting_entity("ANY").supported_contexts]:
        assert (context.abstract_syntax, tuple(context.transfer_syntax)) in told


def test_whoever_accepts_associations_answers_c_echo() -> None:
    verification = "1.2.840.10008.1.1"  # PS3.2 7.1
    for entity in {each.entity for each in accepted()}:
        assert verification in {each.abstract_syntax for each in accepted() if each.entity is entity}


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """What was proposed so far, to a network on which nobody answers."""
    told: list[tuple[str, tuple[str, ...]]] = []

    def associate(ae: AE, host: str, port: int, contexts: Any = None, **more: Any) -> Any:
        told.extend(
            (str(each.abstract_syntax), tuple(map(str, each.transfer_syntax)))
            for each in contexts or ae.requested_contexts
        )
        return SimpleNamespace(
            is_established=False, is_aborted=False, is_rejected=False, rejected_contexts=[], abort=lambda: None
        )

    monkeypatch.setattr(ApplicationEntity, "associate", associate)
    return told


def _send_outputs(tmp_path: Path) -> None:
    sample = samples_of(OutputKind.PRESENTATION_STATE)[0]
    sample.dataset.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    Sender(ARCHIVE, "US", 1).send(tmp_path / "one.dcm")


def _ask_for_commitment(tmp_path: Path) -> None:
    asker = Asker(ARCHIVE, "US", WorkerSettings())
    asker.ask(Asked("2.25.1", ((CR, "2.25.2"),)), lambda report: None, Event())


def _look_for_outputs(tmp_path: Path) -> None:
    with pytest.raises(Transient):
        PacsQuery(ARCHIVE, "US", 1).instances_of("2.25.1", "2.25.2")


def _fetch_instances(tmp_path: Path) -> None:
    request = SimpleNamespace(sop_class_uid=CR, sop_instance_uid="2.25.3", transfer_syntax_uid="1.2.840.10008.1.2.1")
    candidate: Any = SimpleNamespace(request=request, study_instance_uid="2.25.1", series_instance_uid="2.25.2")
    with pytest.raises(Transient):
        Retriever(ARCHIVE, "US", 1, [candidate]).fetch(candidate, tmp_path / "one.dcm")


def _ask_peers(tmp_path: Path) -> None:
    classes = {uid: uid for uid in (*OUTPUT_STORAGE_CLASSES, commitment.PUSH_MODEL)}
    list(peers._associate(Peer("127.0.0.1", 1, "ANY", "US", "", storage_classes=classes), 1))


def _send_a_phantom(tmp_path: Path) -> None:
    trip = Trip(RemoteEntity(host="127.0.0.1", port=1, ae_title="ANY"), delivered=False, longest_s=1, timeout_s=1)
    phantom_trip._send(make_phantom(delivered=False), trip, Settings())


def _report_on_commitment(tmp_path: Path) -> None:
    peer = CommitmentPeer(host="127.0.0.1", port=1)
    nothing: Any = None
    settings = ScpSettings(commitment_peers={"CR1": peer})
    CommitmentReporter(nothing, nothing, "US", settings, CollectorRegistry())._associate("CR1", peer)


@pytest.mark.parametrize(
    ("act", "activity"),
    [
        (_send_outputs, "send outputs"),
        (_ask_for_commitment, "ask for commitment"),
        (_look_for_outputs, "look for outputs"),
        (_fetch_instances, "fetch instances"),
        (_report_on_commitment, "report on commitment"),
        (_ask_peers, "ask peers"),
        (_send_a_phantom, "send a phantom"),
    ],
)
def test_what_is_really_proposed_is_named(
    act: Callable[[Path], None], activity: str, offered: list[tuple[str, tuple[str, ...]]], tmp_path: Path
) -> None:
    act(tmp_path)
    told = {(each.abstract_syntax, each.transfer_syntaxes) for each in proposed() if each.activity == activity}
    if activity == "fetch instances":
        of_instances = {each.transfer_syntaxes for each in proposed() if each.activity == "take instances"}
        exact = (CR, ("1.2.840.10008.1.2.1",))  # the one in which it was received, then any
        told |= {exact} | {(CR, syntaxes) for syntaxes in of_instances}
    assert set(offered) == told


def test_every_place_that_makes_an_application_entity_is_described() -> None:
    makers = {
        path.relative_to(ROOT).as_posix()
        for package in ("scp", "worker", "models")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"\b(AE|ApplicationEntity|requesting_entity)\(", path.read_text(encoding="utf-8"))
    }
    assert makers == {
        "models/diagnosis/peers.py",
        "models/requestor.py",  # for the others
        "scp/commitment_reporter.py",
        "scp/receiver.py",
        "worker/commitment.py",
        "worker/doctor/phantom.py",
        "worker/pacs_query.py",
        "worker/retrieval.py",
        "worker/sender.py",
    }, "describe the new one in deploy/conformance/contexts.py, and let it propose above"


def test_the_tables_of_contexts_have_every_entity_and_syntax(text: str) -> None:
    assert {each.entity for each in [*accepted(), *proposed()]} == set(Entity)
    for each in [*accepted(), *proposed()]:
        assert f"| {each.activity} | " in text
        assert all(f"| `{uid}` |" in text for uid in each.transfer_syntaxes)
    send = "| send outputs | Parametric Map Storage | `1.2.840.10008.5.1.4.1.1.30` | list D | SCU | none |"
    assert send in text
    assert commitment.PUSH_MODEL == "1.2.840.10008.1.20.1"


# Objects


def test_every_kind_of_output_and_every_task_has_samples() -> None:
    assert {sample.kind for sample in samples()} == set(OutputKind)
    told = " ".join(sample.content for sample in samples())
    assert all(task.value in told for task in Task)
    assert {str(sample.dataset.SOPClassUID) for sample in samples()} == set(map(str, OUTPUT_STORAGE_CLASSES))


def test_attributes_are_told_with_module_type_presence_and_source(text: str) -> None:
    for line in (
        "| **SC Equipment Module** (Equipment, M) |  |  |  |  |  |",
        "| Patient's Name | (0010,0010) | PN | 2 | VNAP | COPY |",
        "| Body Part Examined | (0018,0015) | CS | 3 | ANAP | COPY |",
        "| Conversion Type | (0008,0064) | CS | 1 | ALWAYS | FIXED `WSD` |",
        "| Verification Flag | (0040,A493) | CS | 1 | ALWAYS | FIXED `UNVERIFIED` |",
        "| Content Qualification | (0018,9004) | CS | 1 | ALWAYS | FIXED `RESEARCH` |",
        "| Device UID | (0018,1002) | UI | 3 | ALWAYS | AUTO |",
        "| > Referenced SOP Instance UID | (0008,1155) | UI | 1 | ALWAYS | COPY of `SOPInstanceUID` |",
        "| Acquisition Context Sequence | (0040,0555) | SQ | 2 | EMPTY |  |",
        "| >>> Probability (122157, DCM) | CONTAINS | NUM | 1 | unit % |",
    ):
        assert line in text.splitlines()


def test_no_object_has_private_attributes_or_such_that_its_iod_does_not_know() -> None:
    for kind in OutputKind:
        seen = observe(samples_of(kind), frozenset({"ContentSequence"}))
        assert [each for each in seen if (each.tag >> 16) % 2] == []
        top = {each.path[0] for each in seen}
        modules = modules_in(str(samples_of(kind)[0].dataset.SOPClassUID), top)
        homeless = {keyword for keyword in top if module_of(keyword, modules) is None}
        assert homeless <= {"OtherPatientIDs"}, kind  # retired, and kept where the source has it


def _sample(variant: int, source: dict[str, Any], output: dict[str, Any]) -> Sample:
    datasets = [Dataset(), Dataset()]
    for dataset, values in zip(datasets, ({"StudyInstanceUID": f"2.25.{variant}"} | source, output), strict=True):
        for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
            if dataset is datasets[0]:
                setattr(dataset, keyword, f"2.25.9{variant}")
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
    return Sample(OutputKind.SECONDARY_CAPTURE, "made", variant, *datasets)


def test_sources_and_presence_are_seen_in_what_varies() -> None:
    made = [
        _sample(0, {"InstanceNumber": 4}, {"Modality": "OT", "InstanceNumber": 4, "SeriesNumber": 7, "StudyID": None}),
        _sample(
            1, {"InstanceNumber": 5}, {"Modality": "OT", "InstanceNumber": 5, "SeriesNumber": 8, "ContentLabel": "A"}
        ),
        _sample(2, {}, {"Modality": "OT", "InstanceNumber": 1, "StationName": "", "ContentLabel": "B"}),
    ]
    seen = {each.path[0]: (each.presence, each.source) for each in observe(made, frozenset())}
    assert seen == {
        "Modality": ("ALWAYS", "FIXED `OT`"),
        "InstanceNumber": ("ALWAYS", "COPY, else AUTO"),
        "SeriesNumber": ("ANAP", "AUTO"),
        "StudyID": ("ANAP", ""),
        "StationName": ("ANAP", ""),
        "ContentLabel": ("ANAP", "AUTO"),
    }


def test_every_code_is_named(text: str) -> None:
    codes = used_codes()
    assert len(codes) > 150
    lines = set(text.splitlines())
    for code in codes:
        assert {
            f"| `{code.value}` | {code.meaning} |",
            f"| {code.scheme_designator} | `{code.value}` | {code.meaning} |",
        } & lines


# Statuses, reasons, settings


def test_every_status_and_reason_is_named_with_its_meaning(text: str) -> None:
    lines = text.splitlines()
    for enumeration in (StoreStatus, ServiceStatus, FailureReason):
        docs = member_docs(enumeration)
        for each in enumeration:
            assert any(line.startswith(f"| {each:04X} |") and line.endswith(f" {docs[each.name]} |") for line in lines)
    for name, words in member_docs(Reason).items():
        assert f"| `{Reason[name]}` | {words} |" in lines
    assert set(member_docs(Reason)) == {each.name for each in Reason}
    assert set(member_docs(Rejection)) == {each.name for each in Rejection}
    assert "| A700 to A7FF | again (`destination_refused`) |" in lines
    assert "| 0111 | delivered |" in lines
    assert "| 401 | again, pause (`destination_unauthorised`) |" in lines


def _http_statuses(path: Path) -> Iterator[int]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and type(node.value) is int and 200 <= node.value <= 599:
            yield node.value


def test_every_http_status_that_the_entry_gives_is_named(text: str) -> None:
    given = {
        status for name in ("service", "answer") for status in _http_statuses(ROOT / "scp" / "stow" / f"{name}.py")
    }
    assert {200, 401, 503} < given
    assert given | {404, 405} == set(ANSWERS)  # these two by the framework
    assert all(f"| {status} | {ANSWERS[status]} |" in text for status in ANSWERS)


def test_every_setting_of_the_receiver_and_of_destinations_is_named(text: str) -> None:
    for name in ScpSettings.model_fields:
        assert f"| `RADSTREAM_SCP_{name.upper()}` |" in text
    for name in ("destinations", "commitment_port", "delivery_give_up_s", "backfill_source"):
        assert f"| `RADSTREAM_WORKER_{name.upper()}` |" in text
    assert (
        "| `commitment` | `false` |  |"
        " ask it to commit to what was delivered (storage commitment, PS3.4 annex J). |" in text
    )
