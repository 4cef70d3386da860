"""`python -m training evaluate`: the shipped engine and a checkpoint on images with known answers."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.store.store import ModelStore
from models.tasks import Task
from training.__main__ import main
from training.datasets.labelled import read_labelled
from training.datasets.splits import split_by_person
from training.evaluate import choose_samples
from training.evaluation import classification_metrics
from training.run import RunDirectory
from training.settings import TrainSettings
from training.subjects import EngineSubject

LABELS = ("NORMAL", "PNEUMONIA")
SHIPPED = Path(__file__).parents[2] / "models" / "store" / "shipped"
ISSUE_KEYS = {
    *("accuracy", "roc_auc", "average_precision", "precision", "recall", "f1", "sensitivity", "specificity", "ppv"),
    *("npv", "confusion_matrix", "classification_report", "threshold", "ece"),
}


def arguments(data: Path, output: Path, *more: str) -> list[str]:
    options = ("--bootstrap", "40", "--samples", "2", "--threads", "1")
    return ["evaluate", "--data-dir", str(data), "--split", "test", "--output-dir", str(output), *options, *more]


def shipped(data: Path, output: Path, *more: str) -> list[str]:
    return arguments(data, output, "--task", "pneumonia", "--version", "active", "--store", str(SHIPPED), *more)


@pytest.fixture(scope="module")
def split_set(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images per class below ``test``, others below ``train``."""
    directory = tmp_path_factory.mktemp("split")
    for split, chosen in (("test", slice(0, 4)), ("train", slice(4, 7))):
        for label in LABELS:
            (directory / split / label).mkdir(parents=True)
            for path in sorted((class_folders / label).iterdir())[chosen]:
                shutil.copy(path, directory / split / label)
    return directory


@pytest.fixture(scope="module")
def evaluation(split_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluation") / "shipped"
    assert main(shipped(split_set, output)) == 0
    return output


def test_the_shipped_engine_leaves_measures_pictures_and_answers(evaluation: Path) -> None:
    pictures = {f"{name}_test.png" for name in ("confusion_matrix", "roc_curve", "pr_curve", "calibration")}
    documents = {"metrics_test.json", "evaluation_test.json", "predictions_test.csv", "grad_cam_samples"}
    assert {path.name for path in evaluation.iterdir()} == pictures | documents
    metrics = json.loads((evaluation / "metrics_test.json").read_text())
    assert set(metrics) >= ISSUE_KEYS
    assert metrics["n"] == sum(metrics["confusion_matrix"].values()) == 8
    assert set(metrics["intervals"]) <= ISSUE_KEYS
    for name in pictures:
        picture = cv2.imread(str(evaluation / name))
        assert min(picture.shape[:2]) > 400
        assert picture.std() > 10
    description = json.loads((evaluation / "evaluation_test.json").read_text())
    manifest = ModelStore(SHIPPED).open(Task.PNEUMONIA).manifest
    assert description["engine"]["file_sha256"] == manifest.files["network.onnx"]
    assert (description["network"], description["data"]["images"]) == (manifest.network, 8)


def test_measures_can_be_made_anew_from_the_predictions(evaluation: Path) -> None:
    with (evaluation / "predictions_test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    metrics = json.loads((evaluation / "metrics_test.json").read_text())
    again = classification_metrics(
        np.array([LABELS.index(row["label"]) for row in rows]),
        np.array([float(row["probability"]) for row in rows]),
        metrics["threshold"],
        labels=LABELS,
        groups=[row["person"] for row in rows],
        bootstrap=40,
    )
    assert again == metrics


def test_predictions_are_those_of_the_engine(evaluation: Path, split_set: Path) -> None:
    from models.pixels.image_files import read_image_file

    subject = EngineSubject.open(SHIPPED, Task.PNEUMONIA, "active", threads=1)
    with (evaluation / "predictions_test.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["label"] == "PNEUMONIA")
    image = read_image_file(split_set / row["file"]).to_input(subject.input_spec)
    assert float(row["probability"]) == pytest.approx(float(subject.answer(image[None, None]).probability[0]), abs=1e-5)


def test_samples_show_original_heat_and_overlay(evaluation: Path) -> None:
    names = sorted(path.name for path in (evaluation / "grad_cam_samples").iterdir())
    assert len(names) == 2
    assert all(name.startswith(f"sample_{i:02d}_") and name.endswith(".jpeg_cam.png") for i, name in enumerate(names))
    picture = cv2.imread(str(evaluation / "grad_cam_samples" / names[0]))
    assert picture.shape[1] > 2 * picture.shape[0]


def test_folders_without_a_split_give_the_same_bytes(evaluation: Path, split_set: Path, tmp_path: Path) -> None:
    assert main(shipped(split_set / "test", tmp_path / "flat")) == 0
    for name in ("metrics_test.json", "evaluation_test.json", "roc_curve_test.png", "calibration_test.png"):
        assert (tmp_path / "flat" / name).read_bytes() == (evaluation / name).read_bytes(), name
    files = "".join(path.read_text() for path in (tmp_path / "flat").glob("*.json"))
    assert str(tmp_path) not in files
    assert str(split_set) not in files


def test_an_evaluation_repeated_in_place_leaves_no_old_samples(split_set: Path, tmp_path: Path) -> None:
    for count in ("3", "1"):
        assert main(shipped(split_set, tmp_path, "--samples", count)) == 0
    assert len(list((tmp_path / "grad_cam_samples").iterdir())) == 1


def test_unreadable_files_are_named_and_left_out(
    split_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(split_set / "test", data)
    (data / "NORMAL" / "broken.png").write_bytes(b"\x89PNG no image")
    assert main(shipped(data, tmp_path / "out", "--samples", "0")) == 0
    assert "1 unreadable files left out, e.g. broken.png" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "evaluation_test.json").read_text())["data"]["unreadable"] == ["broken.png"]
    assert json.loads((tmp_path / "out" / "metrics_test.json").read_text())["n"] == 8


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--version", "9.9.9"], "no version 9.9.9"),
        (["--task", "normality"], "no active version"),
        (["--data-dir", "/nonexistent"], "/nonexistent: no such directory"),
        (["--split", "../up"], "letters, digits"),
        (["--split", "val"], "no split val"),
        (["--cam-method", "gradcam++"], "need --checkpoint"),
        (["--checkpoint", "/nonexistent"], "not both"),
        (["--limit", "0"], "--limit: at least 1"),
    ],
    ids=["version", "task", "data", "unsafe-split", "no-split", "method", "both", "limit"],
)
def test_a_wrong_argument_is_one_line_and_writes_nothing(
    split_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(shipped(split_set, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_samples_are_wrong_answers_first_and_of_every_outcome() -> None:
    #                  0    1    2    3    4    5    6    7    8    9
    label = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0])
    score = np.array([0.9, 0.6, 0.1, 0.2, 0.3, 0.8, 0.9, 0.7, 0.95, 0.4])
    # Wrong positives 0, 1; wrong negative 4; the surest right positive is 8, the surest right negative 2.
    assert choose_samples(label, score, 0.5, 4) == [0, 2, 4, 8]
    assert choose_samples(label, score, 0.5, 1) == [0]
    assert choose_samples(label, score, 0.5, 50) == list(range(10))
    assert choose_samples(label, score, 0.5, 0) == []


@pytest.fixture
def tiny_run(tiny_network: str, class_folders: Path, tmp_path: Path) -> Path:
    """A finished run of the tiny network, as `train` leaves it, with weights that were never fitted."""
    import torch

    from models.networks.table import network_entry

    torch.manual_seed(0)
    run = RunDirectory.create(tmp_path / "run")
    options = {"network": tiny_network, "pretrained": False, "image_size": 64}
    run.write_settings(TrainSettings(data_dir=class_folders, output_dir=run.path, **options))
    images = read_labelled(class_folders, LABELS)
    run.write_data(images, split_by_person(images.images, 0.25, 0), {"by": "person"})
    run.log({"epoch": 1})
    run.write_weights(network_entry(tiny_network).build(2, False).state_dict())
    run.write_json("calibration.json", {"temperature": 1.5, "threshold": 0.5, "best_epoch": 1})
    return run.path


def test_a_checkpoint_is_measured_and_its_map_compared(
    tiny_run: Path, split_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(split_set, tmp_path / "out", "--checkpoint", str(tiny_run), "--samples", "4")) == 0
    assert "map in the graph against the grad-cam package: least correlation" in capsys.readouterr().err
    description = json.loads((tmp_path / "out" / "evaluation_test.json").read_text())
    assert (description["kind"], description["network"], description["epochs"]) == ("checkpoint", "tiny", 1)
    assert description["cam"]["least_correlation"] >= 0.99
    assert json.loads((tmp_path / "out" / "metrics_test.json").read_text())["threshold"] == 0.5


@pytest.mark.parametrize(
    "more",
    [["--cam-method", "gradcam++", "--cam-layer", "first"], ["--cam-method", "saliency"]],
    ids=["layer", "pixels"],
)
def test_a_checkpoint_can_be_explained_otherwise(
    tiny_run: Path, split_set: Path, tmp_path: Path, more: list[str]
) -> None:
    assert main(arguments(split_set, tmp_path / "out", "--checkpoint", str(tiny_run), *more)) == 0
    description = json.loads((tmp_path / "out" / "evaluation_test.json").read_text())
    assert description["cam"]["method"].startswith(more[1])
    assert len(list((tmp_path / "out" / "grad_cam_samples").iterdir())) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--cam-method", "magic"], "magic: unknown"),
        (["--task", "normality"], "is a run of task pneumonia"),
    ],
    ids=["method", "task"],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(
    tiny_run: Path, split_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(arguments(split_set, tmp_path / "out", "--checkpoint", str(tiny_run), *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_run_is_one_line(split_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(split_set, tmp_path / "out", "--checkpoint", str(tmp_path / "none"))) == 2
    assert "no such run directory or checkpoint" in capsys.readouterr().err
