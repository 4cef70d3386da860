"""The pipeline with real decoding processes, a real spool and a real database; only the network is a stand-in."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import stand_in_spine
from line import Line, half_white
from numpy.typing import NDArray
from prometheus_client import generate_latest
from pydicom import dcmread
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from migrations.schema import migrate
from models.errors import Reason, Transient
from models.pixels import lung_fields
from models.pixels.limits import PixelLimits
from models.pixels.radiograph import Radiograph
from models.records.dicom import Instance, InstanceState
from models.records.findings import ZoneFinding, ZoneSummary
from models.records.inference import Inference
from models.records.outputs import Delivery, Output
from models.records.sessions import open_database, session_factory
from models.records.spine import CobbFinding, Landmark, SpineSummary
from models.requests import InferenceRequest, Lane
from models.settings import Settings
from models.zones import ZONES
from worker import settling
from worker.routing import Routing
from worker.settling import Done

Sessions = sessionmaker[Session]
Eventually = Callable[..., None]

AVERAGE_CHEST = Path(lung_fields.__file__).with_name("average_chest.png")


def test_a_chest_is_analysed_recorded_drawn_and_taken_out_of_the_spool(
    lay: Any, make_source: Any, eventually: Eventually
) -> None:
    line = lay()
    request = line.accept(make_source("1.2.3", half_white(0.75)))
    line.pipeline.submit(request)
    eventually(lambda: line.done, timeout_s=60)
    assert line.done == [Done(request, InstanceState.DONE, None)]
    assert line.probabilities() == {"1.2.3": pytest.approx(0.75, abs=1e-3)}
    assert line.pending() == line.set_aside() == []
    row = line.rows()["1.2.3"]
    assert (row.state, row.reason, row.view_position) == (InstanceState.DONE, None, "PA")
    assert row.inferred_at is not None
    with line.sessions() as session:
        (output,) = session.scalars(select(Output))
        (delivery,) = session.scalars(select(Delivery))
    assert (delivery.destination, delivery.state.value) == ("archive", "pending")
    capture = dcmread(line.outbox.path_of(output.file_name))
    assert capture.SOPInstanceUID == output.sop_instance_uid
    assert capture.PatientID == "ID7"
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3"
    assert "pneumonia 0.75" in capture.DerivationDescription


def test_every_instance_of_a_batch_gets_its_own_answer(lay: Any, make_source: Any, eventually: Eventually) -> None:
    line = lay(max_delay_s=5.0, outputs=False)
    shares = {f"1.2.{number}": number / 16 for number in range(1, 13)}
    requests = [line.accept(make_source(uid, half_white(share))) for uid, share in shares.items()]
    for request in requests:
        line.pipeline.submit(request)
    eventually(lambda: len(line.done) == len(shares), timeout_s=60)
    assert line.probabilities() == {uid: pytest.approx(share, abs=1e-3) for uid, share in shares.items()}
    assert sum(line.engine.batches) == len(shares)
    assert max(line.engine.batches) <= 8
    assert len(line.engine.batches) < len(shares), "instances that are decoded together are inferred together"
    assert list(line.outbox.root.iterdir()) == [], "no destination, no outputs"


def test_a_lone_instance_is_not_held_back_for_a_fuller_batch(
    lay: Any, make_source: Any, eventually: Eventually
) -> None:
    line = lay(max_delay_s=60.0, outputs=False)
    line.pipeline.submit(line.accept(make_source()))
    eventually(lambda: len(line.done) == 1, timeout_s=30)


def test_bad_neighbours_end_with_their_reasons_and_harm_nobody(
    lay: Any, make_source: Any, eventually: Eventually
) -> None:
    line = lay(limits=PixelLimits(max_rows_columns=100_000), outputs=False)
    big = np.zeros((400, 300), np.uint8)
    cases: dict[str, tuple[InferenceRequest, InstanceState, Reason | None]] = {}

    def add(uid: str, request: InferenceRequest, state: InstanceState, reason: Reason | None) -> None:
        cases[uid] = (request, state, reason)

    failed, skipped = InstanceState.FAILED, InstanceState.SKIPPED
    add("1.1", line.accept(make_source("1.1")), InstanceState.DONE, None)
    add("1.2", line.accept(b"not DICOM at all", "1.2"), failed, Reason.MALFORMED_DATASET)
    add("1.3", line.accept(make_source("9.9"), "1.3"), failed, Reason.UID_MISMATCH)
    add("1.4", line.accept(make_source("1.4", PixelData=None)), failed, Reason.NO_PIXEL_DATA)
    add("1.5", line.accept(make_source("1.5", big)), failed, Reason.TOO_LARGE)
    add("1.6", line.accept(make_source("1.6", StudyInstanceUID=None)), failed, Reason.MALFORMED_DATASET)
    add("1.7", line.accept(make_source("1.7", Modality="CT")), skipped, Reason.NO_RULE_MATCHED)
    add("1.8", line.accept(make_source("1.8", ViewPosition="LL")), skipped, Reason.EXCLUDED_BY_RULE)
    add("1.9", line.accept(make_source("1.9"), calling="OUR_AI"), skipped, Reason.OWN_OUTPUT)
    add("1.10", line.accept(make_source("1.10")), InstanceState.DONE, None)
    gone = line.accept(make_source("1.11"))
    line.spool.finish(gone.spool_key)
    add("1.11", gone, failed, Reason.SPOOL_FILE_MISSING)
    for request, _, _ in cases.values():
        line.pipeline.submit(request)
    eventually(lambda: len(line.done) == len(cases), timeout_s=60)
    told = {done.request.sop_instance_uid: (done.state, done.reason) for done in line.done}
    assert told == {uid: (state, reason) for uid, (_, state, reason) in cases.items()}
    recorded = {uid: (row.state, row.reason) for uid, row in line.rows().items()}
    assert recorded == told
    assert line.rows()["1.8"].reason_detail == "lateral or oblique chest"
    assert line.pending() == []
    assert line.set_aside() == ["1.2", "1.3", "1.4", "1.5", "1.6"], "kept for requeue; the skipped are not"
    assert line.sample("radstream_worker_instances_total", outcome="failed", reason="too_large") == 1
    assert line.sample("radstream_worker_instances_total", outcome="done", reason="") == 2


def test_a_task_without_an_active_version_is_skipped_as_such(
    lay: Any, make_source: Any, eventually: Eventually, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nname = "spine"\ntasks = ["csi", "landmarks"]')
    line = lay(routing=Routing.read(rules))
    line.pipeline.submit(line.accept(make_source()))
    eventually(lambda: line.done, timeout_s=60)
    row = line.rows()["1.2.3"]
    assert (row.state, row.reason, row.reason_detail) == (
        InstanceState.SKIPPED,
        "no_active_version",
        "csi, landmarks",
    )


# Codecs that hang or crash


def _hang(line: Line, make_source: Any, uid: str) -> InferenceRequest:
    """Accept an instance whose file blocks whoever opens it: a FIFO that nobody writes to."""
    request = line.accept(make_source(uid))
    path = line.spool.path_of(request.spool_key)
    path.unlink()
    os.mkfifo(path)
    return request


def test_a_decode_that_hangs_is_given_up_and_the_others_go_on(
    lay: Any, make_source: Any, eventually: Eventually
) -> None:
    line = lay(decode_timeout_s=4.0, outputs=False)
    line.pipeline.submit(_hang(line, make_source, "1.1"))
    line.pipeline.submit(line.accept(make_source("1.2")))
    eventually(lambda: len(line.done) == 2, timeout_s=60)
    told = {done.request.sop_instance_uid: (done.state, done.reason) for done in line.done}
    assert told == {"1.1": (InstanceState.FAILED, Reason.DECODE_TIMEOUT), "1.2": (InstanceState.DONE, None)}
    assert line.rows()["1.1"].reason_detail == "after 4 s"


def test_a_decoder_that_crashes_takes_only_its_own_instance_with_it(
    lay: Any, make_source: Any, eventually: Eventually
) -> None:
    line = lay(decoders=1, outputs=False)
    first = line.accept(make_source("1.1"))
    line.pipeline.submit(first)
    eventually(lambda: line.done, timeout_s=60)
    before = set(_children(line))
    line.pipeline.submit(_hang(line, make_source, "1.2"))
    line.pipeline.submit(line.accept(make_source("1.3")))
    time.sleep(0.5)
    for pid in before:
        os.kill(pid, signal.SIGSEGV)
    eventually(lambda: len(line.done) == 3, timeout_s=60)
    told = {done.request.sop_instance_uid: (done.state, done.reason) for done in line.done}
    assert told["1.2"] == (InstanceState.FAILED, Reason.DECODER_CRASHED)
    assert told["1.3"] == (InstanceState.DONE, None)


def test_a_decoder_that_is_killed_while_idle_ends_the_pipeline_and_fails_no_instance(
    lay: Any, make_source: Any, eventually: Eventually
) -> None:
    line = lay(decoders=1, outputs=False)
    line.pipeline.submit(line.accept(make_source("1.1")))
    eventually(lambda: line.done, timeout_s=60)
    for pid in _children(line):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not line.pipeline.alive)
    line.pipeline.submit(line.accept(make_source("1.2")))
    time.sleep(0.2)
    assert len(line.done) == 1
    assert line.pending() == ["1.2"]


def _children(line: Line) -> list[int]:
    return list(line.pipeline._pool._pool_manager.worker_manager.workers)


# Engines that fail


def test_an_engine_that_fails_on_a_batch_is_asked_for_each_instance_alone(
    lay: Any, make_source: Any, eventually: Eventually, mean_engine: Any
) -> None:
    line = lay(max_delay_s=5.0, outputs=False)
    out_of_memory = Transient(Reason.ENGINE_UNAVAILABLE, "out of memory")
    mean_engine.failures = [out_of_memory, out_of_memory]  # the batch, and the first of it alone
    requests = [line.accept(make_source(f"1.{number}", half_white(0.25))) for number in range(1, 5)]
    for request in requests:
        line.pipeline.submit(request)
    eventually(lambda: len(line.done) == 4, timeout_s=60)
    if mean_engine.batches[0] == 1:
        pytest.skip("the first instance was alone in its batch")
    states = sorted(done.state.value for done in line.done if done.state)
    assert states == ["done", "done", "done", "failed"]
    (failure,) = [done for done in line.done if done.state is InstanceState.FAILED]
    assert failure.reason is Reason.ENGINE_UNAVAILABLE
    assert line.set_aside() == [failure.request.sop_instance_uid]


def test_an_answer_that_is_no_probability_is_a_failure_not_a_finding(
    lay: Any, make_source: Any, eventually: Eventually, mean_engine: Any
) -> None:
    line = lay()
    mean_engine.run = lambda image: {"probability": np.full((len(image), 2), np.nan, np.float32)}
    line.pipeline.submit(line.accept(make_source()))
    eventually(lambda: line.done, timeout_s=60)
    assert (line.done[0].state, line.done[0].reason) == (InstanceState.FAILED, Reason.INTERNAL_ERROR)
    assert line.probabilities() == {}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_breaks_ends_the_pipeline_and_leaves_the_instance_pending(
    lay: Any, make_source: Any, eventually: Eventually, mean_engine: Any
) -> None:
    line = lay()
    mean_engine.failures = [RuntimeError("a bug")]
    line.pipeline.submit(line.accept(make_source()))
    eventually(lambda: not line.pipeline.alive, timeout_s=60)
    assert line.done == []
    assert line.pending() == ["1.2.3"]


# Six zones


def _chest(*bright: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(480, 480) uint8, a chest whose lungs are found; zones with these numbers are white, the others dark."""
    average = cv2.imread(str(AVERAGE_CHEST), cv2.IMREAD_GRAYSCALE)
    chest = (cv2.resize(average, (480, 480), interpolation=cv2.INTER_CUBIC) * 0.6).astype(np.uint8)
    frame = Radiograph.from_grayscale(chest).lung_fields.frame
    for number in bright:
        row, column = divmod(number, 2)
        top, left = (frame.top + frame.height * row / 3) * 480, (frame.left + frame.width * column / 2) * 480
        bottom, right = top + frame.height / 3 * 480, left + frame.width / 2 * 480
        area = chest[round(top) : round(bottom), round(left) : round(right)]
        area[...] = np.minimum(area.astype(int) + 150, 255)
    return chest


def _scores(line: Line, uid: str = "1.2.3") -> dict[str, int | None]:
    with line.sessions() as session:
        statement = (
            select(ZoneFinding.zone, ZoneFinding.score)
            .join(Inference, Inference.id == ZoneFinding.inference_id)
            .join(Instance, Instance.id == Inference.instance_id)
            .where(Instance.sop_instance_uid == uid)
        )
        return {zone.value: score for zone, score in session.execute(statement)}


def test_a_severe_zone_left_above_in_the_image_is_right_sup_in_records_output_and_picture(
    lay: Any, make_source: Any, eventually: Eventually, csi_engine: Any
) -> None:
    line = lay(others=(csi_engine,))
    line.pipeline.submit(line.accept(make_source("1.2.3", _chest(0))))
    line.pipeline.submit(line.accept(make_source("1.2.4", _chest())))
    eventually(lambda: len(line.done) == 2, timeout_s=60)
    assert {done.state for done in line.done} == {InstanceState.DONE}
    normal = dict.fromkeys(ZONES, 0)
    assert _scores(line) == {**normal, "right_sup": 3}
    assert _scores(line, "1.2.4") == normal
    with line.sessions() as session:
        statement = select(ZoneSummary).join(Inference).join(Instance).order_by(Instance.sop_instance_uid)
        summary = session.scalars(statement).first()
        files = {output.file_name for output in session.scalars(select(Output))}
    assert summary is not None
    assert (summary.mean_csi, summary.gradable_zones, summary.lungs_found) == (0.5, 6, True)
    frame = (summary.frame_left, summary.frame_top, summary.frame_right, summary.frame_bottom)
    assert frame == pytest.approx((38, 44, 447, 412), abs=15), "pixels of the image of 480 x 480"
    captures = [dcmread(line.outbox.path_of(name)) for name in files]
    assert len(captures) == 4, "two tasks, two instances"
    (severe,) = [capture for capture in captures if "right_sup 3" in capture.DerivationDescription]
    assert "mean CSI 0.50, right_sup 3, left_sup 0," in severe.DerivationDescription
    assert severe.SeriesDescription == "AI csi overlay 3.0.0"
    film = severe.pixel_array[:512, :512].astype(int)
    coloured = np.argwhere(np.ptp(film, axis=-1) > 30)
    assert len(coloured) > 1000
    assert (coloured.max(axis=0) < 270).all(), "heat only above and left in the picture"


# Landmarks of spines


def _spine(shape: tuple[int, int], middle: tuple[float, float], grey: int = 255) -> NDArray[np.uint8]:
    """A film with the known spine, as large as the film is high."""
    landmarks = stand_in_spine.corners(*middle, max(shape) / stand_in_spine.SIDE)
    return np.asarray(stand_in_spine.draw(shape, landmarks, grey), np.uint8)


def test_a_spine_gets_landmarks_where_it_lies_and_a_chest_gets_none(
    lay: Any, make_source: Any, eventually: Eventually, spine_engine: Any
) -> None:
    line = lay(others=(spine_engine,))
    of_spine = {"BodyPartExamined": "SPINE", "ViewPosition": "AP"}
    line.pipeline.submit(line.accept(make_source("1.2.3", _spine((512, 300), (170, 250)), **of_spine)))
    line.pipeline.submit(line.accept(make_source("1.2.4", _spine((512, 300), (170, 250)))))
    eventually(lambda: len(line.done) == 2, timeout_s=60)
    assert {done.state for done in line.done} == {InstanceState.DONE}
    assert list(line.probabilities()) == ["1.2.4"], "the chest; no spine has a probability of pneumonia"
    with line.sessions() as session:
        landmarks = list(session.scalars(select(Landmark)))
        (uid,) = session.scalars(
            select(Instance.sop_instance_uid)
            .join(Inference, Inference.instance_id == Instance.id)
            .join(SpineSummary, SpineSummary.inference_id == Inference.id)
        )
        angles = {
            row.curve.value: (round(row.degrees), row.upper_vertebra, row.lower_vertebra)
            for row in session.scalars(select(CobbFinding))
        }
        files = [output.file_name for output in session.scalars(select(Output))]
    assert uid == "1.2.3"
    assert angles == stand_in_spine.ANGLES
    found = {(row.vertebra, row.corner): (row.x, row.y) for row in landmarks}
    expected = stand_in_spine.corners(170, 250, 4.0)
    assert np.array([found[point] for point in stand_in_spine.SCHEMA.points]) == pytest.approx(expected, abs=2)
    captures = [dcmread(line.outbox.path_of(name)) for name in files]
    (capture,) = [each for each in captures if each.SeriesDescription == "AI landmarks overlay 5.0.0"]
    assert "Cobb main 25.0 deg T4-T11" in capture.DerivationDescription
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3"
    coloured = np.argwhere(np.ptp(capture.pixel_array.astype(int), axis=-1) > 60)
    assert len(coloured) > 1000


def test_spines_to_be_reviewed_are_counted(
    lay: Any, make_source: Any, eventually: Eventually, spine_engine: Any
) -> None:
    line = lay(others=(spine_engine,), outputs=False)
    of_spine = {"BodyPartExamined": "SPINE", "ViewPosition": "AP"}
    # The network is as sure as the film is bright.
    for uid, grey in (("1.2.3", 255), ("1.2.4", 100)):
        line.pipeline.submit(line.accept(make_source(uid, _spine((256, 160), (80, 128), grey), **of_spine)))
    eventually(lambda: len(line.done) == 2, timeout_s=60)
    assert line.sample("radstream_worker_inferences_total", task="landmarks") == 2
    assert line.sample("radstream_worker_reviews_total", task="landmarks") == 1
    assert line.sample("radstream_worker_score_sum", task="landmarks") == pytest.approx(0.9 + 0.9 * 100 / 255, abs=0.02)
    with line.sessions() as session:
        reasons = {row.review_reasons for row in session.scalars(select(SpineSummary))}
    assert reasons == {None, "low_confidence"}


def test_lungs_that_are_not_found_are_counted_and_the_zones_divide_the_image(
    lay: Any, make_source: Any, eventually: Eventually, csi_engine: Any
) -> None:
    line = lay(others=(csi_engine,), outputs=False)
    pixels = np.zeros((60, 40), np.uint8)
    pixels[40:, 20:] = 255  # below and right
    line.pipeline.submit(line.accept(make_source("1.2.3", pixels)))
    line.pipeline.submit(line.accept(make_source("1.2.4", _chest(0))))
    eventually(lambda: len(line.done) == 2, timeout_s=60)
    assert _scores(line) == {**dict.fromkeys(ZONES, 0), "left_inf": 3}
    with line.sessions() as session:
        (summary,) = session.scalars(select(ZoneSummary).where(ZoneSummary.lungs_found.is_(False)))
    frame = (summary.frame_left, summary.frame_top, summary.frame_right, summary.frame_bottom)
    assert frame == (0, 0, 40, 60)
    assert line.sample("radstream_worker_lungs_not_found_total") == 1
    assert line.sample("radstream_worker_inferences_total", task="csi") == 2
    assert line.sample("radstream_worker_score_sum", task="csi") == pytest.approx(2 * 0.5 / 3)


def test_one_instance_whose_zones_are_no_probabilities_fails_alone(
    lay: Any, make_source: Any, eventually: Eventually, csi_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = csi_engine.run

    def spoilt(image: Any) -> Any:
        outputs = run(image)
        outputs["probability"][image.mean(axis=(1, 2, 3)) > 0.9, 4] = np.nan
        return outputs

    monkeypatch.setattr(csi_engine, "run", spoilt)
    line = lay(others=(csi_engine,), max_delay_s=5.0, outputs=False)
    shares = {"1.1": 0.25, "1.2": 1.0, "1.3": 0.5}
    for request in [line.accept(make_source(uid, half_white(share))) for uid, share in shares.items()]:
        line.pipeline.submit(request)
    eventually(lambda: len(line.done) == 3, timeout_s=60)
    told = {done.request.sop_instance_uid: (done.state, done.reason) for done in line.done}
    done = (InstanceState.DONE, None)
    assert told == {"1.1": done, "1.2": (InstanceState.FAILED, Reason.INTERNAL_ERROR), "1.3": done}
    assert line.probabilities() == {uid: pytest.approx(shares[uid], abs=1e-3) for uid in ("1.1", "1.3")}
    assert [len(_scores(line, uid)) for uid in shares] == [6, 0, 6]


def test_a_worker_without_a_csi_version_leaves_that_task_out(
    lay: Any, make_source: Any, eventually: Eventually
) -> None:
    line = lay(outputs=False)
    line.pipeline.submit(line.accept(make_source()))
    eventually(lambda: line.done, timeout_s=60)
    assert line.done[0].state is InstanceState.DONE
    assert len(line.probabilities()) == 1
    assert _scores(line) == {}
    assert line.sample("radstream_worker_lungs_not_found_total") == 0, "nobody looked for them"


# Outputs


def test_a_finding_stands_when_its_output_cannot_be_made(lay: Any, make_source: Any, eventually: Eventually) -> None:
    line = lay()
    line.outbox.root.rmdir()
    line.pipeline.submit(line.accept(make_source()))
    eventually(lambda: line.done, timeout_s=60)
    assert line.done[0].state is InstanceState.DONE
    assert len(line.probabilities()) == 1
    with line.sessions() as session:
        assert list(session.scalars(select(Output))) == []
    assert line.sample("radstream_worker_outputs_failed_total", task="pneumonia") == 1


# Settling


def test_an_instance_that_is_done_already_stays_as_it_is(lay: Any, make_source: Any, eventually: Eventually) -> None:
    line = lay()
    source = make_source("1.2.3", half_white(0.75))
    first = line.accept(source)
    line.pipeline.submit(first)
    eventually(lambda: len(line.done) == 1, timeout_s=60)
    line.pipeline.submit(line.accept(source))  # the same bytes came again
    eventually(lambda: len(line.done) == 2)
    line.pipeline.submit(first)  # a job that was queued twice; its file is gone
    eventually(lambda: len(line.done) == 3)
    assert [done.state for done in line.done] == [InstanceState.DONE, None, None]
    assert line.rows()["1.2.3"].state is InstanceState.DONE
    assert len(line.probabilities()) == 1
    assert line.pending() == line.set_aside() == []
    with line.sessions() as session:
        assert len(list(session.scalars(select(Output)))) == 1


def test_a_database_that_is_away_is_waited_for_and_the_file_stays_until_then(
    lay: Any,
    make_source: Any,
    eventually: Eventually,
    bare_database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settling, "SETTLE_RETRY_S", 0.1)
    engine = open_database(Settings(database_url=bare_database_url))
    line = lay(sessions=session_factory(engine), outputs=False)
    line.pipeline.submit(line.accept(make_source()))
    eventually(lambda: generate_latest(line.registry) and line.engine.batches, timeout_s=60)
    time.sleep(0.3)
    assert line.done == []
    assert line.pending() == ["1.2.3"]
    assert line.sample("radstream_worker_database_up") == 0
    migrate(engine)  # until now it had no tables
    eventually(lambda: line.done)
    assert line.pending() == []
    assert line.rows()["1.2.3"].state is InstanceState.DONE
    assert line.sample("radstream_worker_database_up") == 1
    line.pipeline.stop(10)
    engine.dispose()


def test_stopping_while_the_database_is_away_leaves_the_work_to_others(
    lay: Any, make_source: Any, eventually: Eventually, tmp_path: Path
) -> None:
    engine = open_database(Settings(database_url=f"sqlite:///{tmp_path / 'empty.db'}"))
    line = lay(sessions=session_factory(engine), outputs=False)
    line.pipeline.submit(line.accept(make_source()))
    eventually(lambda: line.engine.batches, timeout_s=60)
    started = time.monotonic()
    line.pipeline.stop(10)
    assert time.monotonic() - started < 8
    assert line.done == []
    assert line.pending() == ["1.2.3"]
    assert line.engine.closed
    engine.dispose()


def test_the_file_is_finished_after_the_commit_never_before(
    lay: Any, make_source: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = lay(outputs=False)
    seen: list[InstanceState | None] = []
    finish = line.spool.finish

    def noted(key: str, **how: bool) -> None:
        seen.append(line.rows()["1.2.3"].state)
        finish(key, **how)

    monkeypatch.setattr(line.spool, "finish", noted)
    line.pipeline.submit(line.accept(make_source()))
    eventually(lambda: line.done, timeout_s=60)
    assert seen == [InstanceState.DONE]


# What operations see


def test_the_metrics_show_every_stage_and_no_uid(lay: Any, make_source: Any, eventually: Eventually) -> None:
    line = lay()
    line.pipeline.submit(line.accept(make_source("1.2.3.4.5")))
    eventually(lambda: line.done, timeout_s=60)
    text = generate_latest(line.registry).decode()
    for stage in ("read", "decode", "resize", "infer_pneumonia", "overlay", "write_output", "settle"):
        assert line.sample("radstream_worker_stage_seconds_count", stage=stage) == 1, stage
    assert line.sample("radstream_worker_feed_latency_seconds_count") == 1
    assert line.sample("radstream_worker_score_count", task="pneumonia") == 1
    assert "1.2.3.4.5" not in text
    assert "Doe" not in text


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI:UserWarning")
def test_nothing_of_the_patient_is_in_the_reason_of_a_failure(
    lay: Any, make_source: Any, eventually: Eventually, capfd: pytest.CaptureFixture[str]
) -> None:
    line = lay()
    source = make_source("1.2.3", PatientName="Planted^Name", PatientID="Planted")
    source.Rows = 65535
    line.pipeline.submit(line.accept(source))
    line.pipeline.submit(line.accept(make_source("1.2.4", StudyInstanceUID="Planted", PatientName="Planted^Name")))
    eventually(lambda: len(line.done) == 2, timeout_s=60)
    rows = line.rows()
    assert {row.state for row in rows.values()} == {InstanceState.FAILED}
    assert "Planted" not in "".join(str(row.reason_detail) for row in rows.values())
    assert "Planted" not in "".join(capfd.readouterr())


# Real radiographs


@pytest.mark.parametrize("name", ["RG1_UNCR.dcm", "RG1_J2KR.dcm"])
def test_a_real_chest_radiograph_is_analysed(lay: Any, eventually: Eventually, name: str) -> None:
    package = find_spec("data_store")
    if package is None or not package.submodule_search_locations:
        pytest.skip("the pydicom-data wheel is not installed")
    path = Path(package.submodule_search_locations[0]) / "data" / name
    line = lay()
    source = dcmread(path)
    syntax = str(source.file_meta.TransferSyntaxUID)
    data = path.read_bytes()
    length = 132 + 12 + source.file_meta.FileMetaInformationGroupLength
    writer = line.spool.begin(
        sop_class_uid=str(source.SOPClassUID),
        sop_instance_uid=str(source.SOPInstanceUID),
        transfer_syntax_uid=syntax,
        calling_ae_title="MODALITY",
        called_ae_title="RADSTREAM",
        lane=Lane.ROUTINE,
    )
    with writer:
        writer.write(data[length:])
        request = line.spool.request_for(writer.commit())
    line.pipeline.submit(request)
    eventually(lambda: line.done, timeout_s=60)
    assert line.done[0].state is InstanceState.DONE
    (probability,) = line.probabilities().values()
    assert 0.05 < probability < 0.95, "its mean grey"
    with line.sessions() as session:
        (output,) = session.scalars(select(Output))
    capture = dcmread(line.outbox.path_of(output.file_name))
    assert capture.PatientID == source.PatientID
    assert capture.StudyInstanceUID == source.StudyInstanceUID
    assert capture.pixel_array.std() > 10


def test_a_pipeline_that_had_nothing_to_do_stops_at_once(lay: Any) -> None:
    for ask in (False, True):
        line = lay()
        assert not ask or line.pipeline.alive
        started = time.monotonic()
        line.pipeline.stop(10)
        assert time.monotonic() - started < 8
        assert line.engine.closed


def test_many_threads_may_submit(lay: Any, make_source: Any, eventually: Eventually) -> None:
    line = lay(outputs=False)
    requests = [line.accept(make_source(f"1.{number}", half_white(0.5))) for number in range(1, 13)]
    threads = [threading.Thread(target=line.pipeline.submit, args=[request]) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: len(line.done) == 12, timeout_s=60)
    assert {done.state for done in line.done} == {InstanceState.DONE}
