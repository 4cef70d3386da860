"""Cross-validation and resuming by command, and how settings and a network's recipe make a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from models.networks.table import network_entry
from training.__main__ import main
from training.datasets.labelled import LabelledImage
from training.folds import summarise
from training.results import results_of_store
from training.run import RunDirectory
from training.settings import TrainSettings, plan_of, with_plan

LABELS = ("NORMAL", "PNEUMONIA")


def arguments(data: Path, run: Path, *more: str) -> list[str]:
    common = ["--data-dir", str(data), "--output-dir", str(run), "--network", "tiny", "--epochs", "2", "--threads", "1"]
    return ["train", *common, *more]


def settings(**options: Any) -> TrainSettings:
    return TrainSettings(data_dir=Path("data"), output_dir=Path("run"), **options)


def persons_of(run: Path) -> tuple[set[str], set[str]]:
    images = json.loads((run / "data.json").read_text())["images"]
    train, validation = ({image["person"] for image in images[side]} for side in ("train", "validation"))
    return train, validation


def test_folds_share_no_person_and_cover_everyone(tiny_network: str, class_folders: Path, tmp_path: Path) -> None:
    run = tmp_path / "folds"
    assert main(arguments(class_folders, run, "--kfold", "2")) == 0
    held_out = []
    for fold in ("fold-0", "fold-1"):
        train, validation = persons_of(run / fold)
        assert not train & validation
        held_out.append(validation)
        assert json.loads((run / fold / "data.json").read_text())["split"]["by"] == "person"
    assert not held_out[0] & held_out[1]
    assert len(held_out[0] | held_out[1]) == 24

    summary = json.loads((run / "metrics_kfold.json").read_text())
    assert (summary["folds"], summary["of"]) == ([0, 1], 2)
    figures = summary["splits"]["validation"]
    each = [fold["roc_auc"] for fold in figures["per_fold"]]
    assert figures["mean"]["roc_auc"] == pytest.approx(sum(each) / 2, abs=1e-6)
    assert figures["standard_deviation"]["roc_auc"] == pytest.approx(abs(each[0] - each[1]) / 2**0.5, abs=1e-6)
    assert figures["pooled"]["n"] == 24
    assert len(figures["pooled"]["intervals"]["roc_auc"]) == 2
    assert cv2.imread(str(run / "calibration_validation_shifted.png")) is not None

    store = tmp_path / "store"
    assert main(["export", "--run", str(run), "--version", "folds", "--store", str(store), "--report-only"]) == 0
    kept = {result.split: result for result in results_of_store(store)}
    assert kept["validation"].metrics == figures["pooled"]
    assert (kept["validation"].kind, kept["validation"].epochs) == ("cross-validation", 2)
    assert not any(str(class_folders) in path.read_text() for path in store.rglob("*.json"))


def test_cross_validation_goes_on_with_the_folds_that_lack(
    tiny_network: str, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "folds"
    log = RunDirectory.log

    def interrupted(fold: RunDirectory, line: dict[str, Any]) -> None:
        if fold.path.name == "fold-1" and line["epoch"] == 2:
            raise KeyboardInterrupt
        log(fold, line)

    monkeypatch.setattr(RunDirectory, "log", interrupted)
    assert main(arguments(class_folders, run, "--kfold", "3", "--folds", "0,1")) == 130
    before = (run / "fold-0" / "weights.pt").stat().st_mtime_ns
    monkeypatch.setattr(RunDirectory, "log", log)
    assert main(["train", "--resume", str(run)]) == 0
    assert (run / "fold-0" / "weights.pt").stat().st_mtime_ns == before
    assert [line["epoch"] for line in RunDirectory(run / "fold-1").read_log()] == [1, 2]
    assert not (run / "fold-2").exists()
    assert json.loads((run / "metrics_kfold.json").read_text())["folds"] == [0, 1]


def test_a_finished_run_is_not_resumed(
    tiny_network: str, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(arguments(class_folders, run)) == 0
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 2
    assert "finished already" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path)]) == 2
    assert "is this a finished run?" in capsys.readouterr().err


def test_pooled_figures_are_those_of_all_answers(tmp_path: Path) -> None:
    answers = [([0, 1], [0.2, 0.9], 0.5), ([0, 1], [0.6, 0.7], 0.3)]
    runs = []
    for fold, (label, probability, threshold) in enumerate(answers):
        run = RunDirectory.create(tmp_path / f"fold-{fold}")
        images = [
            LabelledImage(Path(f"{fold}{i}"), value, f"{fold}{i}", "", f"{fold}{i}") for i, value in enumerate(label)
        ]
        for split in ("validation", "validation_shifted"):
            run.write_predictions(split, images, LABELS, np.array(probability))
            measured = dict.fromkeys(
                (
                    *("accuracy", "roc_auc", "average_precision", "precision", "recall", "f1"),
                    *("sensitivity", "specificity", "ppv", "npv", "ece", "log_loss"),
                ),
                0.5,
            )
            run.write_json(f"metrics_{split}.json", measured)
        run.write_json("calibration.json", {"temperature": 1.0, "threshold": threshold, "best_epoch": 1})
        runs.append(run)
    pooled = summarise(runs, (0, 1), 2, LABELS)["splits"]["validation"]["pooled"]
    # The mean threshold is 0.4: of 0.2, 0.9, 0.6, 0.7 the third is called falsely.
    assert pooled["confusion_matrix"] == {"tn": 1, "fp": 1, "fn": 0, "tp": 2}
    assert (pooled["roc_auc"], pooled["threshold"]) == (1.0, 0.4)


def test_what_is_not_given_comes_from_the_recipe() -> None:
    vgg = network_entry("vgg16")
    plan = plan_of(settings(network="vgg16"), vgg)
    assert (plan.lr, plan.batch_size, plan.epochs, plan.scheduler, plan.optimizer) == (1e-4, 16, 50, "plateau", "adam")
    assert (plan.pretrained, plan.input_spec.height) == (True, 224)
    assert plan_of(settings(network="vgg16", pretrained=False), vgg).epochs == 70
    given = settings(network="vgg16", lr=0.5, weight_decay=0.0, class_weights=False, image_size=64)
    plan = plan_of(given, vgg)
    assert (plan.lr, plan.weight_decay, plan.class_weights, plan.input_spec.width) == (0.5, 0.0, False, 64)
    assert not plan_of(settings(), network_entry("custom_resnet18")).pretrained


def test_saved_settings_are_complete_and_come_back(tmp_path: Path) -> None:
    entry = network_entry("efficientnet_lite0")
    asked = settings(network="efficientnet_lite0", lr=1e-3)
    decided = with_plan(asked, plan_of(asked, entry))
    run = RunDirectory.create(tmp_path / "run")
    run.write_settings(decided)
    again = run.read_settings()
    assert again == decided
    assert plan_of(again, entry) == plan_of(asked, entry)
    assert None not in (again.epochs, again.batch_size, again.optimizer, again.scheduler, again.pretrained)


def test_the_log_is_cut_where_a_run_goes_on(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    for epoch in (1, 2, 3):
        run.log({"epoch": epoch})
    run.shorten_log(2)
    assert run.read_log() == [{"epoch": 1}, {"epoch": 2}]
