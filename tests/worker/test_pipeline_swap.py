"""Engines that are swapped under a running pipeline: with real decoding processes, spool and database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stand_in_gpu
from line import half_white
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless
from sqlalchemy import select
from stand_in_gpu import StandInGpu
from stand_in_version import write_version

from models.engines.built import EngineKey, network_sha256
from models.engines.tensorrt import TensorRTEngine
from models.errors import Reason, Transient
from models.pixels.radiograph import Radiograph
from models.pixels.spec import InputSpec
from models.records.dicom import Instance, InstanceState
from models.records.outputs import Output
from models.records.shadow import ShadowFinding
from models.store.activation import in_canary
from models.tasks import Task
from worker import stages
from worker.source_image import SourceImage
from worker.task_plan import Candidate, TaskPlan

Eventually = Callable[..., None]


class Sized:
    """An engine of one version and input size, whose probability is a part of the mean grey; it may be held back."""

    def __init__(self, manifest: Any, info: Any, version: str, side: int = 16, part: float = 1.0) -> None:
        spec = InputSpec(height=side, width=side)
        self.manifest = manifest.model_copy(update={"version": version, "input_spec": spec})
        self.info = info
        self.closed = False
        self.batches: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self._side, self._part = side, part

    def run(self, image: Any) -> Any:
        assert not self.closed
        assert image.shape[1:] == (1, self._side, self._side), "prepared for another version"
        self.batches.append(len(image))
        assert self.go.wait(30)
        positive = image.mean(axis=(1, 2, 3)) * self._part
        return {"probability": np.stack([1 - positive, positive], axis=1), "cam": image[:, 0, ::2, ::2].copy()}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def version(manifest: Any, engine_info: Any) -> Callable[..., Sized]:
    """Make an engine of a version."""
    return lambda name, **options: Sized(manifest, engine_info, name, **options)


def test_what_was_prepared_for_a_version_is_answered_by_it_and_what_comes_after_by_the_next(
    lay: Any, make_source: Any, version: Callable[..., Sized], eventually: Eventually
) -> None:
    old, new = version("1"), version("2", side=32)
    line = lay(engine=old, decoders=1)
    old.go.clear()
    before = [line.accept(make_source(f"1.{number}", half_white(0.5))) for number in range(4)]
    for request in before:
        line.pipeline.submit(request)
    eventually(lambda: old.batches, timeout_s=60)
    line.serve(new)  # between two batches: one is being inferred, the rest is being decoded
    after = [line.accept(make_source(f"2.{number}", half_white(0.5))) for number in range(4)]
    for request in after:
        line.pipeline.submit(request)
    assert line.engines.close_retired() == [], "instances hold it"
    old.go.set()
    eventually(lambda: len(line.done) == 8, timeout_s=60)
    assert {done.state for done in line.done} == {InstanceState.DONE}
    expected = {f"{number}.{index}": str(number) for number in (1, 2) for index in range(4)}
    assert line.versions() == expected
    assert sum(old.batches) == sum(new.batches) == 4
    assert line.engines.close_retired() == [old]
    with line.sessions() as session:
        names = dict(
            session.execute(
                select(Instance.sop_instance_uid, Output.file_name).join(Output, Output.instance_id == Instance.id)
            ).all()
        )
    described = {uid: dcmread(line.outbox.path_of(name)).SeriesDescription for uid, name in names.items()}
    assert described == {uid: f"AI pneumonia overlay {number}" for uid, number in expected.items()}


def test_a_canary_answers_for_whole_studies_and_the_active_version_for_the_others(
    lay: Any, make_source: Any, version: Callable[..., Sized], eventually: Eventually
) -> None:
    active, canary = version("1"), version("2", side=32)
    line = lay(engine=active, decoders=1, outputs=False)
    line.serve(active, canary=canary, percent=50)
    studies = {f"1.{study}.{image}": f"9.8.{study}" for study in range(10) for image in (1, 2)}
    for uid, study in studies.items():
        line.pipeline.submit(line.accept(make_source(uid, half_white(0.5), StudyInstanceUID=study)))
    eventually(lambda: len(line.done) == len(studies), timeout_s=60)
    assert {done.state for done in line.done} == {InstanceState.DONE}
    found = line.versions()
    assert found == {uid: "2" if in_canary(study, 50) else "1" for uid, study in studies.items()}
    assert set(found.values()) == {"1", "2"}


def test_where_a_canary_fails_the_active_version_answers_and_no_job_is_failed_or_lost(
    lay: Any, make_source: Any, version: Callable[..., Sized], eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    active, canary = version("1"), version("2", side=32)
    line = lay(engine=active, decoders=1)
    line.serve(active, canary=canary, percent=100)
    run, failing = canary.run, [False, True, True]

    def fails_at_times(image: Any) -> Any:
        if failing and failing.pop(0):
            raise Transient(Reason.ENGINE_UNAVAILABLE, "out of memory")
        return run(image)

    monkeypatch.setattr(canary, "run", fails_at_times)
    for number in range(4):  # one by one: a batch each
        line.pipeline.submit(line.accept(make_source(f"1.{number}", half_white(0.5))))
        eventually(lambda number=number: len(line.done) == number + 1, timeout_s=60)
    assert {done.state for done in line.done} == {InstanceState.DONE}
    assert line.versions() == {"1.0": "2", "1.1": "1", "1.2": "1", "1.3": "2"}
    assert line.probabilities() == {uid: pytest.approx(0.5, abs=1e-3) for uid in line.versions()}
    assert line.sample("radstream_worker_canary_fallbacks_total", task="pneumonia") == 2
    assert line.pending() == line.set_aside() == []


def test_a_lost_gpu_ends_the_pipeline_and_leaves_every_instance_in_the_spool(
    lay: Any, make_source: Any, eventually: Eventually, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.inference.PROBE_PAUSE_S", 0.0)
    gpu, written = StandInGpu(), write_version(tmp_path / "version", b"never run", thresholds={"PNEUMONIA": 0.5})
    key = EngineKey(network_sha256(written), "tensorrt", stand_in_gpu.RELEASE, "fp16", stand_in_gpu.CAPABILITY)
    line = lay(engine=TensorRTEngine(written, key, stand_in_gpu.PLAN, gpu), decoders=1, outputs=False)
    line.pipeline.submit(line.accept(make_source("1.1", half_white(0.5))))
    eventually(lambda: len(line.done) == 1, timeout_s=60)
    gpu.failing.update({"launch", "synchronize", "free_device"})  # as every call after the context is lost
    for number in range(2, 6):
        line.pipeline.submit(line.accept(make_source(f"1.{number}", half_white(0.5))))
    eventually(lambda: not line.pipeline.alive, timeout_s=60)
    assert [(done.request.sop_instance_uid, done.state) for done in line.done] == [("1.1", InstanceState.DONE)]
    assert line.pending() == [f"1.{number}" for number in range(2, 6)]
    assert line.set_aside() == []


def test_a_task_that_goes_out_of_service_and_comes_back_skips_what_comes_between(
    lay: Any, make_source: Any, version: Callable[..., Sized], eventually: Eventually, tmp_path: Path
) -> None:
    engine = version("1")
    line = lay(engine=engine, decoders=1, outputs=False)
    for uid, engines in (("1.1", (engine,)), ("1.2", ()), ("1.3", (engine,))):
        line.serve(*engines)
        line.pipeline.submit(line.accept(make_source(uid)))
    eventually(lambda: len(line.done) == 3, timeout_s=60)
    told = {done.request.sop_instance_uid: (done.state, done.reason) for done in line.done}
    done = (InstanceState.DONE, None)
    assert told == {"1.1": done, "1.2": (InstanceState.SKIPPED, Reason.NO_ACTIVE_VERSION), "1.3": done}


def test_refused_instances_hold_no_engine(
    lay: Any, make_source: Any, version: Callable[..., Sized], eventually: Eventually
) -> None:
    old = version("1")
    line = lay(engine=old, decoders=1, outputs=False)
    line.pipeline.submit(line.accept(make_source("1.1", Modality="CT")))
    line.pipeline.submit(line.accept(b"not DICOM at all", "1.2"))
    line.serve(version("2"))
    eventually(lambda: len(line.done) == 2, timeout_s=60)
    eventually(lambda: line.engines.close_retired() == [old])


@pytest.mark.parametrize("side", [16, 32], ids=["same input", "another input"])
def test_a_shadow_sees_what_was_answered_and_is_believed_in_nothing(
    lay: Any, make_source: Any, version: Callable[..., Sized], eventually: Eventually, side: int
) -> None:
    shadow = version("2", side=side, part=0.5)
    line = lay(engine=version("1"), decoders=1, shadow=shadow)
    shares = {f"1.{number}": number / 8 for number in range(1, 9)}
    for uid, share in shares.items():
        line.pipeline.submit(line.accept(make_source(uid, half_white(share))))
    line.pipeline.submit(line.accept(make_source("2.1", Modality="CT")))
    eventually(lambda: len(line.done) == 9, timeout_s=60)
    eventually(lambda: sum(shadow.batches) == 8)
    name = "radstream_worker_shadow_findings_total"
    eventually(lambda: line.sample(name, task="pneumonia", outcome="recorded") == 8)
    assert line.probabilities() == {uid: pytest.approx(share, abs=1e-3) for uid, share in shares.items()}
    assert set(line.versions().values()) == {"1"}
    assert line.sample("radstream_worker_inferences_total", task="pneumonia") == 8
    with line.sessions() as session:
        assert len(list(session.scalars(select(Output)))) == 8
        rows = list(session.scalars(select(ShadowFinding)))
    assert sorted(row.shadow_score for row in rows) == pytest.approx([share / 2 for share in shares.values()], abs=1e-3)
    assert {(row.live_version, row.shadow_version) for row in rows} == {("1", "2")}


def test_a_shadow_that_hangs_or_fails_delays_and_fails_nobody(
    lay: Any, make_source: Any, version: Callable[..., Sized], eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow = version("2")
    line = lay(engine=version("1"), decoders=1, outputs=False, shadow=shadow)
    shadow.go.clear()
    for number in range(6):
        line.pipeline.submit(line.accept(make_source(f"1.{number}")))
    eventually(lambda: len(line.done) == 6, timeout_s=60)
    eventually(lambda: shadow.batches)

    def fail(image: Any) -> Any:
        raise Transient(Reason.ENGINE_UNAVAILABLE, "out of memory")

    monkeypatch.setattr(shadow, "run", fail)
    shadow.go.set()
    for number in range(6):
        line.pipeline.submit(line.accept(make_source(f"2.{number}")))
    eventually(lambda: len(line.done) == 12, timeout_s=60)
    assert {done.state for done in line.done} == {InstanceState.DONE}
    eventually(lambda: line.sample("radstream_worker_shadow_findings_total", task="pneumonia", outcome="failed") > 0)


def test_a_shadow_that_wants_finer_detail_than_was_decoded_is_left_out(make_source: Any, tmp_path: Path) -> None:
    pytest.importorskip("openjpeg", reason="pylibjpeg-openjpeg, which encodes JPEG 2000, is not installed")
    source = make_source("1.1", np.random.default_rng(1).integers(0, 256, (512, 512), np.uint8))
    source.compress(JPEG2000Lossless, generate_instance_uid=False)
    source.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    radiograph = Radiograph.read(tmp_path / "film.dcm", smallest_side=64)
    assert radiograph.halvings > 0, "else this test means nothing"
    assert _fed(radiograph, InputSpec(height=32, width=32)) == [(32, 32)]
    assert _fed(radiograph, InputSpec(height=256, width=256)) == []


def _fed(radiograph: Radiograph, wanted: InputSpec) -> list[tuple[int, ...]]:
    """The shapes of what a shadow gets that wants this, beside a version that wants 16 x 16."""
    spec = InputSpec(height=16, width=16)
    inputs, image = {Task.PNEUMONIA: radiograph.to_input(spec)}, SourceImage.of(radiograph, {})
    plans = {Task.PNEUMONIA: TaskPlan(Candidate("1", spec), shadow=wanted)}
    found = stages._for_shadows(radiograph, inputs, image, {Task.PNEUMONIA: spec}, plans)
    assert all(each.spec == wanted for each in found.values())
    return [each.array.shape for each in found.values()]
