"""`python -m training evaluate --task csi`, with a version whose every answer is known beforehand."""

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
from sklearn.metrics import cohen_kappa_score
from zone_sets import ZoneSetWriter, write_csi_version

from models.pixels.radiograph import Radiograph
from models.pixels.spec import InputSpec, Resize
from models.zones import ZONES
from training.__main__ import main
from training.datasets.zone_images import read_zone_images
from training.evaluate_zones import choose_samples, frame_of_input
from training.zone_evaluation import HEADLINES, ZoneAnswers, zone_metrics
from training.zone_subjects import EngineZoneSubject

SHOWN = ([0, 1, 2, 3, 0, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [3, 3, 3, 3, 3, 2])
SENIOR = ([0, 1, 2, 3, 0, 1], [1, 1, 1, 1, 1, 3], [0, 0, 0, 0, 0, 0], [3, 3, 3, 3, 3, 3])
JUNIOR = ([0, 1, 2, 3, 0, 0], [1, 1, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0], [3, 3, 3, 3, 3, 3])
PICTURES = ("confusion_matrix", "confusion_matrix_zones", "mean_csi", "agreement")


def fill(writer: ZoneSetWriter) -> ZoneSetWriter:
    """Add four images of four persons; the network will see `SHOWN` in them."""
    for shown, senior, junior in zip(SHOWN, SENIOR, JUNIOR, strict=True):
        writer.add(shown, senior, junior)
    return writer


@pytest.fixture
def four(zone_set: ZoneSetWriter) -> ZoneSetWriter:
    """Four images, to which more may be added."""
    return fill(zone_set)


@pytest.fixture(scope="module")
def evaluation(csi_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation of the four."""
    directory = tmp_path_factory.mktemp("evaluation")
    data = fill(ZoneSetWriter(directory / "zones")).write_brixia()
    assert main(arguments(csi_store, data, directory / "out", "--format", "brixia")) == 0
    return directory / "out"


def arguments(store: Path, data: Path, output: Path, *more: str) -> list[str]:
    subject = ("--task", "csi", "--version", "active", "--store", str(store))
    options = ("--bootstrap", "40", "--samples", "2", "--threads", "1")
    return ["evaluate", *subject, "--data-dir", str(data), "--output-dir", str(output), *options, *more]


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def grades(rows: list[dict[str, str]], what: str) -> np.ndarray:
    return np.array([[int(row[f"{what}_{zone}"]) for zone in ZONES] for row in rows])


def test_measures_are_those_worked_out_by_hand(evaluation: Path) -> None:
    metrics = read(evaluation / "metrics_test.json")
    assert list(metrics)[:8] == [*HEADLINES, "per_zone"]
    # Two grades off in one zone and one in another, of 24; the means are off by 0, 1/3, 0 and 1/6.
    assert metrics["mae_zone"] == pytest.approx(3 / 24)
    assert metrics["accuracy"] == pytest.approx(22 / 24, abs=1e-6)
    assert metrics["mean_csi_mae"] == pytest.approx((1 / 3 + 1 / 6) / 4)
    assert metrics["mean_csi_rmse"] == pytest.approx(((1 / 9 + 1 / 36) / 4) ** 0.5, abs=1e-6)
    expected = cohen_kappa_score(np.ravel(SENIOR), np.ravel(SHOWN), weights="quadratic")
    assert metrics["kappa_quadratic"] == pytest.approx(expected, abs=1e-6)
    assert metrics["per_zone"]["left_inf"]["mae_zone"] == pytest.approx(3 / 4)
    assert set(metrics["intervals"]) == set(HEADLINES)


def test_every_file_is_written_and_every_picture_shows_something(evaluation: Path) -> None:
    names = {f"{name}_test.png" for name in PICTURES}
    documents = {"metrics_test.json", "evaluation_test.json", "predictions_test.csv"}
    assert {path.name for path in evaluation.iterdir()} == {*names, *documents, "grad_cam_samples"}
    for path in evaluation.rglob("*.png"):
        picture = cv2.imread(str(path))
        assert min(picture.shape[:2]) > 400
        assert picture.std() > 10


def test_what_is_bright_in_the_top_left_of_the_image_is_graded_in_right_sup(
    csi_store: Path, zone_set: ZoneSetWriter, tmp_path: Path
) -> None:
    zone_set.add([0] * 6, [3, 0, 0, 0, 0, 0])
    path = zone_set.directory / "images" / "i00.png"
    image = np.zeros((96, 64), np.uint8)
    image[:32, :32] = 191
    cv2.imwrite(str(path), image)
    assert main(arguments(csi_store, zone_set.write_brixia(), tmp_path / "out")) == 0
    (row,) = rows_of(tmp_path / "out" / "predictions_test.csv")
    assert {zone.value: row[f"called_{zone}"] for zone in ZONES} == {
        **{zone.value: "0" for zone in ZONES},
        "right_sup": "3",
    }
    assert row["reader_right_sup"] == "3"


def test_images_of_the_training_are_said_to_be_such(
    csi_store: Path, four: ZoneSetWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = four.write_brixia()
    digest = read_zone_images(data).digest
    write_csi_version(tmp_path / "store" / "csi" / "1.0.0", training_data={"digest": digest})
    (tmp_path / "store" / "csi" / "active.json").write_text('{"active": "1.0.0", "shadow": null}')
    for store, warned in ((tmp_path / "store", True), (csi_store, False)):
        assert main(arguments(store, data, tmp_path / "out")) == 0
        assert ("the images of its training" in capsys.readouterr().err) is warned


def test_measures_can_be_made_anew_from_the_predictions(csi_store: Path, four: ZoneSetWriter, tmp_path: Path) -> None:
    four.add([4, 1, 2, 1, 1, 0], [2, 1, 2, 1, 1, 1], person="p0")  # a zone that the network cannot judge
    assert main(arguments(csi_store, four.write_brixia(), tmp_path / "out")) == 0
    rows = rows_of(tmp_path / "out" / "predictions_test.csv")
    assert grades(rows, "called")[4].tolist() == [4, 1, 2, 1, 1, 0]
    answers = ZoneAnswers(grades(rows, "called"), grades(rows, "graded"))
    persons = [row["person"] for row in rows]
    again = zone_metrics(grades(rows, "reader"), answers, groups=persons, bootstrap=40)
    assert again == read(tmp_path / "out" / "metrics_test.json")
    assert rows[1]["expected_right_sup"] == f"{4 * 64 / 255:.6f}"
    assert (rows[1]["mean_csi"], rows[1]["reader_mean_csi"]) == ("1.000000", f"{8 / 6:.6f}")
    assert (rows[0]["second_reader_left_inf"], rows[4]["second_reader_left_inf"]) == ("0", "")


def test_the_same_images_give_the_same_bytes_wherever_they_lie(
    evaluation: Path, csi_store: Path, four: ZoneSetWriter, tmp_path: Path
) -> None:
    assert main(arguments(csi_store, four.write_brixia(), tmp_path / "out", "--num-workers", "1")) == 0
    written = sorted(path.relative_to(evaluation) for path in evaluation.rglob("*") if path.is_file())
    assert len(written) == 9
    for name in written:
        assert (evaluation / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name
    texts = "".join(path.read_text() for path in evaluation.iterdir() if path.suffix in (".json", ".csv"))
    assert str(evaluation.parent) not in texts


def test_the_second_reader_is_measured_beside_the_network(csi_store: Path, four: ZoneSetWriter, tmp_path: Path) -> None:
    four.add([2] * 6, [0] * 6)  # nobody read it for a second time
    assert main(arguments(csi_store, four.write_brixia(), tmp_path / "out")) == 0
    described = read(tmp_path / "out" / "evaluation_test.json")
    second, network = described["second_reader"], described["network_on_images_of_second_reader"]
    assert (second["n"], network["n"]) == (4, 4)
    assert second["mae_zone"] == pytest.approx(2 / 24, abs=1e-6)
    assert network["mae_zone"] == pytest.approx(3 / 24)
    assert set(second["intervals"]) == set(network["intervals"]) == set(HEADLINES)
    assert read(tmp_path / "out" / "metrics_test.json")["n"] == 5


def test_one_reader_is_enough(csi_store: Path, zone_set: ZoneSetWriter, tmp_path: Path) -> None:
    for shown, senior in zip(SHOWN, SENIOR, strict=True):
        zone_set.add(shown, senior)
    assert main(arguments(csi_store, zone_set.write_brixia("S"), tmp_path / "out")) == 0
    assert "second_reader" not in read(tmp_path / "out" / "evaluation_test.json")
    assert (tmp_path / "out" / "agreement_test.png").is_file()
    (header, *_) = (tmp_path / "out" / "predictions_test.csv").read_text().splitlines()
    assert "second_reader" not in header


def test_missing_and_unreadable_images_are_named_and_left_out(
    csi_store: Path, four: ZoneSetWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    four.add_row("images/gone.png", [0] * 6)
    (four.directory / "images" / "broken.png").write_bytes(b"\x89PNG no image")
    four.add_row("images/broken.png", [0] * 6)
    assert main(arguments(csi_store, four.write_brixia(), tmp_path / "out", "--samples", "0")) == 0
    error = capsys.readouterr().err
    assert "1 unreadable files left out, e.g. images/broken.png" in error
    assert "1 files named by the table, but missing, e.g. images/gone.png" in error
    data = read(tmp_path / "out" / "evaluation_test.json")["data"]
    assert (data["images"], data["unreadable"], data["missing"]) == (4, ["images/broken.png"], ["images/gone.png"])


def test_a_table_of_csi_is_measured_over_its_gradable_zones(
    csi_store: Path, zone_set: ZoneSetWriter, tmp_path: Path
) -> None:
    zone_set.add([1, 1, 1, 1, 1, 1], [1, 4, 1, 1, 1, 3])
    zone_set.add([0] * 6, [4] * 6)
    zone_set.add([2] * 6, [0] * 6)
    zone_set.add([2] * 6, [0] * 6)
    listed = tmp_path / "leave_out.txt"
    listed.write_text("# too dark\ni02\n\n")
    more = ("--format", "csi", "--exclude", str(listed), "--exclude", "i03")
    assert main(arguments(csi_store, zone_set.write_csi(), tmp_path / "out", *more)) == 0
    metrics, described = (read(tmp_path / "out" / f"{name}_test.json") for name in ("metrics", "evaluation"))
    assert (metrics["n"], metrics["gradable"]) == (2, 5)
    assert metrics["mae_zone"] == pytest.approx(2 / 5)
    assert described["data"]["excluded"] == ["i02", "i03"]
    assert described["data"]["zones"] == {"normal": 0, "mild": 4, "moderate": 0, "severe": 1, "ungradable": 7}
    rows = rows_of(tmp_path / "out" / "predictions_test.csv")
    assert [row["reader_mean_csi"] for row in rows] == [f"{7 / 5:.6f}", ""]
    assert len(list((tmp_path / "out" / "grad_cam_samples").iterdir())) == 1, "an image without a score has no error"


def test_samples_go_from_the_worst_to_the_best_and_old_ones_go(
    csi_store: Path, four: ZoneSetWriter, tmp_path: Path
) -> None:
    (tmp_path / "out" / "grad_cam_samples").mkdir(parents=True)
    (tmp_path / "out" / "grad_cam_samples" / "sample_09_old.png_cam.png").touch()
    assert main(arguments(csi_store, four.write_brixia(), tmp_path / "out", "--samples", "3")) == 0
    names = sorted(path.name for path in (tmp_path / "out" / "grad_cam_samples").iterdir())
    assert names == ["sample_00_i01.png_cam.png", "sample_01_i00.png_cam.png", "sample_02_i02.png_cam.png"]


def test_samples_are_spread_over_the_errors() -> None:
    error = np.array([0.5, np.nan, 0.0, 2.0, 1.0])
    assert choose_samples(error, 9) == [3, 4, 0, 2]
    assert choose_samples(error, 2) == [3, 2]
    assert choose_samples(error, 1) == [3]
    assert choose_samples(error, 0) == []


def test_a_limit_is_of_the_whole_set_and_a_split_names_the_files(
    csi_store: Path, four: ZoneSetWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--limit", "2", "--split", "hospital-b", "--samples", "0")
    assert main(arguments(csi_store, four.write_brixia(), tmp_path / "out", *more)) == 0
    rows = rows_of(tmp_path / "out" / "predictions_hospital-b.csv")
    assert [row["file"] for row in rows] == ["images/i00.png", "images/i03.png"]
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out' / 'metrics_hospital-b.json'}\n"
    assert "csi 1.0.0 on hospital-b: 2 images of 2 persons, 12 zones graded by the reader" in captured.err
    assert "second radiologist 0.0833" in captured.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data-dir", "/nonexistent"], "/nonexistent: no such directory"),
        (["--format", "nih-csv"], "format nih-csv: unknown; known are auto, csi, brixia"),
        (["--format", "csi"], "neither a table of CSI"),
        (["--version", "9.9.9"], "no version 9.9.9"),
        (["--cam-method", "gradcam++"], "--cam-method and --cam-layer: not of task csi"),
        (["--split", "../up"], "letters, digits"),
        (["--exclude", "i99"], "--exclude: the table names no i99"),
        (["--exclude", "none.txt"], "none.txt: cannot be read as a list of names"),
        (["--task", "pneumonia", "--exclude", "i00"], "--exclude: of tasks csi and landmarks only"),
        (["--limit", "0"], "--limit: at least 1"),
    ],
    ids=["data", "format", "other-format", "version", "method", "split", "unknown", "list", "exclude", "limit"],
)
def test_a_wrong_argument_is_one_line_and_writes_nothing(
    csi_store: Path,
    four: ZoneSetWriter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    assert main(arguments(csi_store, four.write_brixia(), tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_table_is_one_line(
    csi_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    assert main(arguments(csi_store, tmp_path / "pictures", tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert "neither a table of CSI" in error
    assert error.count("\n") == 1


@pytest.fixture
def csi_run(tmp_path: Path, csi_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory of task csi, whose checkpoint answers as the version of the store."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"task": "csi"}')
    module = ModuleType("training.zone_checkpoint")

    def open_run(path: Path, *, threads: int | None = None) -> EngineZoneSubject:
        assert path == tmp_path / "run"
        return EngineZoneSubject.open(csi_store, "active", threads=threads)

    module.__dict__["CheckpointZoneSubject"] = open_run
    monkeypatch.setitem(sys.modules, "training.zone_checkpoint", module)
    return tmp_path / "run"


def test_a_run_of_the_task_is_known_by_its_settings(csi_run: Path, four: ZoneSetWriter, tmp_path: Path) -> None:
    options = ["--data-dir", str(four.write_brixia()), "--output-dir", str(tmp_path / "out"), "--samples", "0"]
    assert main(["evaluate", "--checkpoint", str(csi_run), *options, "--bootstrap", "0"]) == 0
    assert read(tmp_path / "out" / "metrics_test.json")["mae_zone"] == pytest.approx(3 / 24)


def test_a_run_of_another_task_is_one_line(
    csi_run: Path, four: ZoneSetWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data-dir", str(four.write_brixia()), "--output-dir", str(tmp_path / "out")]
    assert main(["evaluate", "--task", "pneumonia", "--checkpoint", str(csi_run), *options]) == 2
    assert "is a run of task csi, not pneumonia" in capsys.readouterr().err
    (csi_run / "config.json").write_text('{"task": "pneumonia"}')
    assert main(["evaluate", "--task", "csi", "--checkpoint", str(csi_run), *options]) == 2
    assert "is a run of task pneumonia, not csi" in capsys.readouterr().err


def test_the_frame_of_a_padded_input_reaches_beyond_the_image() -> None:
    radiograph = Radiograph.from_grayscale(np.zeros((100, 50), np.uint8))
    whole = frame_of_input(radiograph, InputSpec(height=40, width=40))
    assert (whole.left, whole.top, whole.right, whole.bottom) == (0, 0, 1, 1)
    # 40 x 20 of the input is the image: a half of its width is padded on either side.
    padded = frame_of_input(radiograph, InputSpec(height=40, width=40, resize=Resize.LETTERBOX))
    assert (padded.left, padded.top, padded.right, padded.bottom) == (-0.5, 0, 1.5, 1)
