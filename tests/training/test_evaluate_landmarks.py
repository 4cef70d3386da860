"""`python -m training evaluate --task landmarks`, with a version whose every answer is known beforehand."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from landmark_sets import SIZE, AasceWriter, column, noise, write_landmark_version
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from training.__main__ import main
from training.datasets.landmark_images import read_landmark_images
from training.landmark_evaluation import HEADLINES
from training.landmark_subjects import EngineLandmarkSubject

# Of the input a half is the image and a half is padding, so a grey of 51 / 255 has a mean of 0.1 there: the network is
# off by 1 pixel of the input in x and y, which are 4 of the original and 8 of 512.
GREY = 51
OFF_PX = 8 * 2**0.5


def fill(writer: AasceWriter) -> AasceWriter:
    """Add three images: found exactly; found beside it; and with angles that are not those of its landmarks."""
    writer.add()
    writer.add(image=np.full(SIZE, GREY, np.uint8))
    writer.add(angles=(30.0, 20.0, 10.0))
    return writer


@pytest.fixture(scope="module")
def evaluation(landmark_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation of the three."""
    directory = tmp_path_factory.mktemp("evaluation")
    data = fill(AasceWriter(directory / "spines")).write()
    assert main(arguments(landmark_store, data, directory / "out", "--format", "aasce")) == 0
    return directory / "out"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures of the whole split, which take most of the time."""
    monkeypatch.setattr("training.evaluate_landmarks._draw", lambda *_: [])


def arguments(store: Path, data: Path, output: Path, *more: str) -> list[str]:
    subject = ("--task", "landmarks", "--version", "active", "--store", str(store))
    options = ("--split", "test", "--bootstrap", "40", "--samples", "2", "--threads", "1")
    return ["evaluate", *subject, "--data-dir", str(data), "--output-dir", str(output), *options, *more]


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_measures_are_those_worked_out_by_hand(evaluation: Path) -> None:
    metrics = read(evaluation / "metrics_test.json")
    assert list(metrics)[: len(HEADLINES) + 1] == [*HEADLINES, "per_vertebra"]
    assert metrics["mre_px"] == pytest.approx(OFF_PX / 3, abs=1e-3)
    assert metrics["sdr_6"] == pytest.approx(200 / 3, abs=1e-6)
    assert metrics["sdr_12"] == 100
    assert metrics["mre_mm"] is None
    # The answers are straight; of the three images one has angles, of which each is missed wholly.
    assert metrics["cobb_smape"] == pytest.approx(100 / 3, abs=1e-4)
    assert metrics["cobb_mae"] == pytest.approx(60 / 9, abs=1e-3)
    assert metrics["per_vertebra"]["L5"]["mre_px"] == pytest.approx(OFF_PX / 3, abs=1e-3)
    assert (metrics["n"], metrics["landmarks"], metrics["with_angles"]) == (3, 204, 3)


def test_every_file_is_written_and_every_picture_shows_something(evaluation: Path) -> None:
    documents = {"metrics_test.json", "evaluation_test.json", "predictions_test.csv", "angles_test.csv"}
    pictures = {f"{name}_test.png" for name in ("errors", "vertebrae", "cobb")}
    assert {path.name for path in evaluation.iterdir()} == {*documents, *pictures, "landmark_samples"}
    for path in evaluation.rglob("*.png"):
        picture = cv2.imread(str(path))
        assert min(picture.shape[:2]) > 300
        assert picture.std() > 10


def test_faulty_rows_count_and_are_left_out_of_a_second_set_of_figures(evaluation: Path) -> None:
    described = read(evaluation / "evaluation_test.json")
    assert described["data"]["faulty"] == ["test/set-01-002 A AP.png"]
    figures = described["figures"]
    assert (figures["all"]["n"], figures["without_faulty"]["n"]) == (3, 2)
    assert figures["without_faulty"]["cobb_mae"] == pytest.approx(0, abs=1e-3)
    assert figures["without_faulty"]["mre_px"] == pytest.approx(OFF_PX / 2, abs=1e-3)
    assert set(figures["without_faulty"]["intervals"]) == set(HEADLINES)
    assert (described["subject"], described["schema"]) == ("landmarks 1.0.0", "aasce68")


def test_predictions_are_in_pixels_of_the_original_and_measures_can_be_made_of_them(evaluation: Path) -> None:
    rows = rows_of(evaluation / "predictions_test.csv")
    assert len(rows) == 3 * 68
    first, beside = rows[0], rows[68]
    assert (first["file"], first["person"], first["landmark"]) == (
        *("test/set-01-000 A AP.png", "set-01-000"),
        "T1:top_left",
    )
    x, y = column()[0]
    for row, off in ((first, 0), (beside, 4)):
        assert (float(row["x"]), float(row["y"])) == pytest.approx((x + off, y + off), abs=1e-3)
        assert (float(row["true_x"]), float(row["true_y"])) == pytest.approx((x, y), abs=1e-3)
    assert (first["confidence"], first["spread"]) == ("0.900000", "8.000000")  # 2 of the input are 8 of the original
    errors = np.array([float(row["error_px"]) for row in rows])
    metrics = read(evaluation / "metrics_test.json")
    assert metrics["mre_px"] == pytest.approx(errors.mean(), abs=1e-5)
    assert metrics["sdr_6"] == pytest.approx(100 * (errors <= 6).mean(), abs=1e-5)
    angles = rows_of(evaluation / "angles_test.csv")
    assert [row["true_main"] for row in angles] == ["0.000000", "0.000000", "30.000000"]
    assert [float(row["main"]) for row in angles] == pytest.approx([0, 0, 0], abs=1e-3)


def test_the_same_images_give_the_same_bytes_wherever_they_lie(
    evaluation: Path, landmark_store: Path, aasce: AasceWriter, tmp_path: Path
) -> None:
    data = fill(aasce).write()
    assert main(arguments(landmark_store, data, tmp_path / "out", "--num-workers", "1")) == 0
    written = sorted(path.relative_to(evaluation) for path in evaluation.rglob("*") if path.is_file())
    assert len(written) == 9
    for name in written:
        assert (evaluation / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name
    texts = "".join(path.read_text() for path in evaluation.iterdir() if path.suffix in (".json", ".csv"))
    assert str(evaluation.parent) not in texts


@pytest.mark.usefixtures("undrawn")
def test_samples_go_from_the_worst_to_the_best_and_old_ones_go(
    landmark_store: Path, aasce: AasceWriter, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "landmark_samples"
    folder.mkdir(parents=True)
    (folder / "sample_09_old.png_landmarks.png").touch()
    assert main(arguments(landmark_store, fill(aasce).write(), tmp_path / "out")) == 0
    names = sorted(path.name for path in folder.iterdir())
    assert [name.split("_")[1:3] for name in names] == [["00", "set-01-001-A-AP.png"], ["01", names[1].split("_")[2]]]


def test_a_set_without_angles_has_no_figures_of_them(
    landmark_store: Path, aasce: AasceWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aasce.add()
    data = aasce.write(angles=False)
    assert main(arguments(landmark_store, data, tmp_path / "out", "--samples", "1")) == 0
    assert read(tmp_path / "out" / "metrics_test.json")["cobb_smape"] is None
    assert not list((tmp_path / "out").glob("*cobb*"))
    assert not list((tmp_path / "out").glob("angles*"))
    told = capsys.readouterr().err
    assert "cobb_smape   not defined" in told
    assert "columns      1 named right, 0 a level off, 0 slipped" in told


@pytest.mark.usefixtures("undrawn")
def test_missing_and_unreadable_images_and_rows_are_named_and_left_out(
    landmark_store: Path, aasce: AasceWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aasce.add()
    aasce.add_row("gone.png", ["0.5"] * 136)
    aasce.add(name="short.png")
    aasce._rows["test"][-1] = ("short.png", "0.5,0.5", "0,0,0")
    (aasce.directory / "test" / "broken.png").write_bytes(b"\x89PNG no image")
    aasce.add_row("broken.png", ["0.5"] * 136)
    assert main(arguments(landmark_store, aasce.write(), tmp_path / "out", "--samples", "0")) == 0
    data = read(tmp_path / "out" / "evaluation_test.json")["data"]
    assert (data["images"], data["missing"]) == (1, ["gone.png"])
    assert data["unreadable"] == ["test/broken.png", "test/short.png"]
    error = capsys.readouterr().err
    assert "2 unreadable files left out, e.g. test/broken.png" in error
    assert "1 files named by the table, but missing, e.g. gone.png" in error


@pytest.mark.usefixtures("undrawn")
def test_vertebrae_out_of_order_are_measured_too(
    landmark_store: Path, aasce: AasceWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = column().reshape(17, 4, 2)
    twice[5] = twice[4]  # nobody can tell which vertebra is missing
    aasce.add(twice.reshape(-1, 2))
    aasce.add(image=noise(1))
    assert main(arguments(landmark_store, aasce.write(), tmp_path / "out", "--samples", "2")) == 0
    described = read(tmp_path / "out" / "evaluation_test.json")
    assert described["figures"]["all"]["n"] == 2
    assert described["data"]["faulty"] == ["test/set-01-000 A AP.png"]
    assert "1 images whose landmarks or angles are faulty" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_millimetres_are_those_of_the_header(landmark_store: Path, aasce: AasceWriter, tmp_path: Path) -> None:
    aasce.add(name="a.png")
    write_dicom(aasce.directory / "test" / "b.dcm", PixelSpacing=[0.25, 0.25])
    points = (column() + np.array([3, 4])) / SIZE[::-1]  # 5 pixels off
    aasce.add_row("b.dcm", [f"{value:.9f}" for value in points.T.ravel()])
    assert main(arguments(landmark_store, aasce.write(), tmp_path / "out", "--samples", "0")) == 0
    metrics = read(tmp_path / "out" / "metrics_test.json")
    assert metrics["with_spacing"] == 1
    assert metrics["mre_mm"] == pytest.approx(5 * 0.25, abs=1e-3)


def write_dicom(path: Path, **attributes: Any) -> None:
    dataset = Dataset()
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = SIZE
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = np.zeros(SIZE, "<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.usefixtures("undrawn")
def test_images_of_the_training_are_said_to_be_such(
    landmark_store: Path, aasce: AasceWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = fill(aasce).write()
    digest = read_landmark_images(data, split="test").digest
    write_landmark_version(tmp_path / "store" / "landmarks" / "1.0.0", training_data={"digest": digest})
    (tmp_path / "store" / "landmarks" / "active.json").write_text('{"active": "1.0.0", "shadow": null}')
    for store, warned in ((tmp_path / "store", True), (landmark_store, False)):
        assert main(arguments(store, data, tmp_path / "out", "--samples", "0")) == 0
        assert ("the images of its training" in capsys.readouterr().err) is warned


@pytest.mark.usefixtures("undrawn")
def test_a_limit_is_of_the_split_and_excluded_images_are_named(
    landmark_store: Path, aasce: AasceWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--limit", "1", "--exclude", "set-01-002 A AP", "--samples", "0")
    assert main(arguments(landmark_store, fill(aasce).write(), tmp_path / "out", *more)) == 0
    described = read(tmp_path / "out" / "evaluation_test.json")
    assert (described["data"]["images"], described["data"]["excluded"]) == (1, ["set-01-002 A AP"])
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out' / 'metrics_test.json'}\n"
    assert "landmarks 1.0.0 on test: 1 images of 1 persons, 68 landmarks" in captured.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data-dir", "/nonexistent"], "/nonexistent: no such directory"),
        (["--format", "brixia"], "format brixia: unknown; known are auto, aasce, buu-ap, buu-la, generic40"),
        (["--split", "validation"], "no landmarks of split validation; there are: test"),
        (["--version", "9.9.9"], "no version 9.9.9"),
        (["--cam-method", "gradcam++"], "--cam-method and --cam-layer: not of task landmarks, which has no maps"),
        (["--labels-csv", "labels.csv"], "--labels-csv: not of task landmarks"),
        (["--split", "../up"], "letters, digits"),
        (["--exclude", "i99"], "--exclude: the table names no i99"),
        (["--limit", "0"], "--limit: at least 1"),
    ],
    ids=["data", "format", "split", "version", "method", "labels", "split-name", "unknown", "limit"],
)
def test_a_wrong_argument_is_one_line_and_writes_nothing(
    landmark_store: Path,
    aasce: AasceWriter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    assert main(arguments(landmark_store, fill(aasce).write(), tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_set_with_other_landmarks_is_refused(
    landmark_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lumbar").mkdir()
    cv2.imwrite(str(tmp_path / "lumbar" / "0001-F-037Y0.png"), noise(0))
    lines = [f"40,{20 * place + 20},80,{20 * place + 20},0" for place in range(10)]
    (tmp_path / "lumbar" / "0001-F-037Y0.csv").write_text("\n".join(lines))
    assert main(arguments(landmark_store, tmp_path / "lumbar", tmp_path / "out", "--split", "train")) == 2
    assert "has landmarks buu_ap20; landmarks 1.0.0 finds aasce68" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def landmark_run(tmp_path: Path, landmark_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory of task landmarks, whose checkpoint answers as the version of the store."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"task": "landmarks"}')
    module = ModuleType("training.landmark_checkpoint")

    def open_run(path: Path, *, threads: int | None = None, dropout_passes: int | None = None) -> EngineLandmarkSubject:
        assert path == tmp_path / "run"
        return EngineLandmarkSubject.open(landmark_store, "active", threads=threads)

    module.__dict__["CheckpointLandmarkSubject"] = open_run
    monkeypatch.setitem(sys.modules, "training.landmark_checkpoint", module)
    return tmp_path / "run"


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_the_task_is_known_by_its_settings(landmark_run: Path, aasce: AasceWriter, tmp_path: Path) -> None:
    options = ["--data-dir", str(fill(aasce).write()), "--output-dir", str(tmp_path / "out"), "--samples", "0"]
    assert main(["evaluate", "--checkpoint", str(landmark_run), *options, "--bootstrap", "0"]) == 0
    assert read(tmp_path / "out" / "metrics_test.json")["mre_px"] == pytest.approx(OFF_PX / 3, abs=1e-3)


def test_a_run_of_another_task_is_one_line(
    landmark_run: Path, aasce: AasceWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data-dir", str(fill(aasce).write()), "--output-dir", str(tmp_path / "out")]
    assert main(["evaluate", "--task", "csi", "--checkpoint", str(landmark_run), *options]) == 2
    assert "is a run of task landmarks, not csi" in capsys.readouterr().err
