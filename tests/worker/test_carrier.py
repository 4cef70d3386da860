"""The worker with spool and outbox in a bucket: what an outage delays, and what it never costs."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from line import half_white
from prometheus_client import CollectorRegistry
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from models.errors import ObjectStoreUnavailable, Reason
from models.object_spool import ObjectSpool
from models.object_store import ObjectStore
from models.records.dicom import InstanceState, Study
from models.records.outputs import Delivery, DeliveryState, Output
from models.settings import PatientIdentity
from models.spool_places import SpoolPlace
from worker import commands
from worker.delivery import DestinationQueue
from worker.metrics import DeliveryMetrics
from worker.outbox import ObjectOutbox
from worker.sender import Sender
from worker.settings import Destination, Recipient, WorkerSettings
from worker.settlement import Settlement
from worker.settling import Done
from worker.spool_search import files_of_instance, files_of_study, find_file
from worker.summary_source import Source, SummarySource

Sessions = sessionmaker[Session]
Eventually = Callable[..., None]


@pytest.fixture
def store(s3: Any) -> ObjectStore:
    return ObjectStore(
        f"s3://{s3.bucket}/worker/{uuid.uuid4().hex}", endpoint=s3.endpoint, keys=("stand-in", "stand-in")
    )


@pytest.fixture
def spool(store: ObjectStore, tmp_path: Path) -> ObjectSpool:
    spool = ObjectSpool(tmp_path / "spool", store, cache_bytes=10**9, archives=True)
    spool.prepare()
    return spool


@pytest.fixture
def outbox(store: ObjectStore, tmp_path: Path) -> ObjectOutbox:
    outbox = ObjectOutbox(tmp_path / "outbox", store, cache_bytes=10**9)
    outbox.prepare()
    return outbox


def _copies(spool: ObjectSpool) -> list[str]:
    return [path.name for path in (spool.root / "cache").iterdir()]


def test_an_instance_of_a_bucket_is_done_and_its_output_is_for_every_host(
    lay: Any, make_source: Any, eventually: Eventually, store: ObjectStore, tmp_path: Path
) -> None:
    line = lay()
    line.pipeline.submit(line.accept(make_source("1.2.1", half_white(0.75))))
    eventually(lambda: line.done)
    assert line.probabilities() == {"1.2.1": pytest.approx(0.75)}
    assert line.pending() == []
    assert [file.sop_instance_uid for file in files_of_instance(line.spool, "1.2.1")] == ["1.2.1"], "it is kept"
    assert _copies(line.spool) == []
    with line.sessions() as session:
        name = session.scalars(select(Output.file_name)).one()
    assert name in line.outbox
    elsewhere = ObjectOutbox(tmp_path / "elsewhere", store, cache_bytes=10**9)
    elsewhere.prepare()
    assert dcmread(elsewhere.fetch(name)).PatientID == "ID7"
    elsewhere.discard(name)
    elsewhere.discard(name)  # again: no error
    assert not elsewhere.fetch(name).exists()
    assert name not in line.outbox


def test_what_cannot_be_fetched_waits_and_is_done_when_the_bucket_is_back(
    lay: Any, make_source: Any, eventually: Eventually, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.carrier.RETRY_S", 0.05)
    line = lay()
    request = line.accept(make_source("1.2.1", half_white(0.5)))
    s3.go_down()
    line.pipeline.submit(request)
    eventually(lambda: not line.pipeline.object_store_up)
    assert line.sample("radstream_worker_object_store_up") == 0
    assert line.done == []
    s3.come_back()
    eventually(lambda: line.done)
    assert line.done == [Done(request, InstanceState.DONE, None)]
    assert line.pipeline.object_store_up
    assert line.sample("radstream_worker_object_store_up") == 1


def test_after_a_while_it_is_given_back_and_never_failed(
    lay: Any, make_source: Any, eventually: Eventually, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.carrier.RETRY_S", 0.05)
    monkeypatch.setattr("worker.carrier.GIVE_BACK_S", 0.2)
    line = lay()
    request = line.accept(make_source("1.2.1"))
    s3.go_down()
    line.pipeline.submit(request)
    eventually(lambda: line.done)
    assert line.done == [Done(request, InstanceState.RECEIVED, Reason.OBJECT_STORE_UNAVAILABLE)]
    assert line.rows() == {}
    s3.come_back()
    assert line.pending() == ["1.2.1"]
    line.pipeline.submit(request)
    eventually(lambda: len(line.done) == 2)
    assert line.rows()["1.2.1"].state is InstanceState.DONE


def test_nothing_is_settled_before_the_bucket_has_its_outputs(
    lay: Any, make_source: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.carrier.RETRY_S", 0.05)
    monkeypatch.setattr("worker.carrier.GIVE_BACK_S", 0.2)
    line = lay()
    publish = line.outbox.publish

    def away(file_names: Any) -> None:
        raise ObjectStoreUnavailable(detail=f"put: {len(list(file_names))}")

    monkeypatch.setattr(line.outbox, "publish", away)
    request = line.accept(make_source("1.2.1"))
    line.pipeline.submit(request)
    eventually(lambda: line.done)
    assert line.done[0].state is InstanceState.RECEIVED
    assert line.rows() == {}
    monkeypatch.setattr(line.outbox, "publish", publish)
    line.pipeline.submit(request)
    eventually(lambda: len(line.done) == 2)
    assert line.rows()["1.2.1"].state is InstanceState.DONE


def test_an_object_that_is_gone_fails_as_a_missing_file_and_a_bad_one_is_set_aside(
    lay: Any, make_source: Any, eventually: Eventually
) -> None:
    line = lay()
    gone, bad = line.accept(make_source("1.2.1")), line.accept(b"not a dataset", uid="1.2.2")
    line.spool.finish(gone.spool_key)
    for request in (gone, bad):
        line.pipeline.submit(request)
    eventually(lambda: len(line.done) == 2)
    reasons = {done.request.sop_instance_uid: done.reason for done in line.done}
    assert reasons == {"1.2.1": Reason.SPOOL_FILE_MISSING, "1.2.2": Reason.MALFORMED_DATASET}
    assert line.set_aside() == ["1.2.2"]
    assert commands.requeue(line.sessions, line.spool, instance="1.2.2", reason=None, all_failed=False) == [
        {"sop_instance_uid": "1.2.2", "now": "pending again"}
    ]
    assert line.pending() == ["1.2.2"]


def test_a_bucket_that_goes_away_at_the_end_leaves_a_result_and_a_file_to_finish(
    lay: Any, make_source: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = lay()

    def away(key: str, *, keep: bool = False) -> None:
        raise ObjectStoreUnavailable(detail="delete")

    monkeypatch.setattr(line.spool, "finish", away)
    line.pipeline.submit(line.accept(make_source("1.2.1")))
    eventually(lambda: line.done)
    assert line.rows()["1.2.1"].state is InstanceState.DONE
    assert line.pending() == ["1.2.1"], "the sweeper finds it, and that it is settled"


def test_a_trace_reads_headers_in_the_bucket(lay: Any, make_source: Any) -> None:
    line = lay()
    request = line.accept(make_source("1.2.1"))
    study = str(make_source("1.2.1").StudyInstanceUID)
    ((found, of_study),) = files_of_study(line.spool, "ACC1", lambda: None)
    assert (found.key, of_study) == (request.spool_key, study)
    line.spool.set_aside(request.spool_key)
    ((found, _),) = files_of_study(line.spool, study, lambda: None)
    assert (found.place, found.location) == (
        SpoolPlace.SET_ASIDE,
        f"{line.spool.store.url}/set_aside/{request.spool_key}.dcm",
    )
    line.spool.finish(request.spool_key)
    assert find_file(line.spool, request.spool_key) == found


def test_a_summary_finds_its_patient_in_outputs_and_in_the_spool(
    lay: Any, make_source: Any, eventually: Eventually, s3: Any
) -> None:
    line = lay()
    request = line.accept(make_source("1.2.1"))
    line.pipeline.submit(request)
    eventually(lambda: line.done)
    source = SummarySource(line.outbox, line.spool, PatientIdentity.NONE)
    with line.sessions() as session:
        sources = source.sources(session, session.scalars(select(Study.id)).one())
        name = session.scalars(select(Output.file_name)).one()
    assert sources == [Source(name, is_output=True), Source(request.spool_key, is_output=False)]

    study = Study(study_instance_uid=str(make_source("1.2.1").StudyInstanceUID))
    line.outbox.discard(name)
    header = source.header(sources, study)
    assert header is not None
    assert header.PatientID == "ID7"
    s3.go_down()
    with pytest.raises(ObjectStoreUnavailable):
        source.header([replace(sources[1], name="1.2.9_0123456789abcdef")], study)


def test_what_was_rendered_and_not_published_is_cleaned_away(outbox: ObjectOutbox) -> None:
    (outbox.root / "1.2.3.dcm").write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        outbox.publish(["1.2.4.dcm"])
    outbox.publish(["1.2.3.dcm"])
    outbox.publish(["1.2.3.dcm"])  # again: no error
    (outbox.root / "1.2.5.dcm").write_bytes(b"never published")
    assert outbox.file_names(1) == []
    assert outbox.file_names(4e9) == ["1.2.3.dcm"]
    outbox.discard_unfinished(1)
    assert (outbox.root / "1.2.5.dcm").exists()
    outbox.discard_unfinished(4e9)
    assert [path.name for path in outbox.root.iterdir()] == ["cache"]
    assert outbox.fetch("1.2.3.dcm").read_bytes() == b"old"


@pytest.mark.parametrize("name", ["../x", ".hidden", "a/b"])
def test_hostile_names_never_become_keys(outbox: ObjectOutbox, name: str) -> None:
    for act in (outbox.fetch, outbox.discard, outbox.__contains__, lambda name: outbox.publish([name])):
        with pytest.raises(ValueError, match="not an outbox file name"):
            act(name)


def test_a_delivery_waits_for_the_bucket_and_arrives_from_another_host(
    outbox: ObjectOutbox,
    store: ObjectStore,
    sqlite_sessions: Sessions,
    outcomes: Any,
    s3: Any,
    archive: Any,
    make_source: Any,
    tmp_path: Path,
    eventually: Eventually,
) -> None:
    make_source("1.2.9", SOPClassUID=SecondaryCaptureImageStorage).save_as(
        outbox.root / "1.2.9.dcm", enforce_file_format=True
    )
    outbox.publish(["1.2.9.dcm"])
    Settlement(sqlite_sessions, "keep_first", [Recipient(name="archive")]).settle([outcomes.done(output_uid="1.2.9")])
    settings = WorkerSettings(delivery_timeout_s=3, delivery_first_retry_s=0.05, delivery_longest_retry_s=0.05)
    to = Destination(name="archive", host="127.0.0.1", port=archive.port, ae_title="ARCHIVE")
    elsewhere = ObjectOutbox(tmp_path / "elsewhere", store, cache_bytes=10**9)
    elsewhere.prepare()
    sender = Sender(to, "RADSTREAM", 3)
    queue = DestinationQueue(sender, sqlite_sessions, elsewhere, settings, DeliveryMetrics(CollectorRegistry()))
    stopping = threading.Event()
    s3.go_down()
    thread = threading.Thread(target=queue.run, args=[stopping])
    thread.start()
    try:
        eventually(lambda: _delivery(sqlite_sessions).reason == "object_store_unavailable")
        assert _delivery(sqlite_sessions).state is DeliveryState.PENDING
        s3.come_back()
        eventually(lambda: _delivery(sqlite_sessions).state is DeliveryState.DELIVERED)
    finally:
        stopping.set()
        thread.join(30)


def _delivery(sessions: Sessions) -> Delivery:
    with sessions() as session:
        return session.scalars(select(Delivery)).one()
