"""`python -m training compare`: rows from every kind of directory, the best accuracy first."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from training.__main__ import main
from training.compare import CATEGORIES, parameters_of
from training.evaluation import classification_metrics, write_metrics

SHIPPED = Path(__file__).parents[2] / "models" / "store" / "shipped"


def measures(right: int, of: int = 50) -> dict[str, Any]:
    """Measures of answers of which `right` are right; half of the images are positive."""
    label = np.arange(of) % 2
    probability = np.where(np.arange(of) < right, label, 1 - label).astype(float)
    return classification_metrics(label, probability, 0.5, labels=("NORMAL", "PNEUMONIA"), bootstrap=50)


def write_run(directory: Path, network: str, pretrained: bool, **splits: int) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"network": network, "pretrained": pretrained}))
    (directory / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    for split, right in splits.items():
        write_metrics(directory / f"metrics_{split}.json", measures(right))
    return directory


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs, an evaluation, and a cross-validation whose folds do not count by themselves."""
    runs = tmp_path / "runs"
    write_run(runs / "plain", "plain_resnet18", True, validation=44, validation_shifted=40)
    write_run(runs / "cbam", "resnet_cbam", True, validation=47)
    folds = write_run(runs / "folds", "custom_resnet18", False)
    for fold in (0, 1):
        write_run(folds / f"fold-{fold}", "custom_resnet18", False, validation=10)
    pooled = {"validation": {"pooled": measures(45)}}
    (folds / "metrics_kfold.json").write_text(json.dumps({"folds": [0, 1], "of": 5, "splits": pooled}))
    evaluation = runs / "evaluation"
    evaluation.mkdir()
    write_metrics(evaluation / "metrics_test.json", measures(49))
    facts = {"subject": "mine", "network": "vgg16", "pretrained": True, "epochs": 7, "data": {"digest": "abc"}}
    (evaluation / "evaluation_test.json").write_text(json.dumps(facts))
    return runs


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / "comparison.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_kind_of_result_is_a_row_and_the_most_accurate_is_first(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs), "--output-dir", str(tmp_path / "out")]) == 0
    rows = rows_of(tmp_path / "out")
    assert [(row["run"], row["split"], float(row["accuracy"])) for row in rows] == [
        ("mine", "test", 0.98),
        ("cbam", "validation", 0.94),
        ("folds (2 folds)", "validation", 0.9),
        ("plain", "validation", 0.88),
        ("plain", "validation_shifted", 0.8),
    ]
    assert [row["parameters"] for row in rows[:3]] == ["134268738", "11221450", "11177538"]
    assert [row["category"] for row in rows[:3]] == ["history", "attention transfer", "ablation transfer"]
    assert [row["epochs"] for row in rows[:3]] == ["7", "2", "2"]
    assert [row["pretrained"] for row in rows[:3]] == ["True", "True", "False"]
    assert float(rows[1]["accuracy_low"]) < 0.94 < float(rows[1]["accuracy_high"])
    printed = capsys.readouterr().out
    assert "folds (2 folds)" in printed
    assert "Not all rows" in printed


def test_the_document_answers_each_question_that_has_two_rows(runs: Path, tmp_path: Path) -> None:
    assert main(["compare", str(runs), "--output-dir", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert f"## {CATEGORIES['attention']}" in text
    assert f"## {CATEGORIES['transfer']}" in text
    assert f"## {CATEGORIES['ablation']}" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 2 + 5


def test_the_plot_has_a_line_per_row(runs: Path, tmp_path: Path) -> None:
    heights = []
    for number, more in enumerate([[], ["--split", "validation"]]):
        assert main(["compare", str(runs), "--output-dir", str(tmp_path / str(number)), *more]) == 0
        heights.append(cv2.imread(str(tmp_path / str(number) / "comparison.png")).shape[0])
    assert heights[0] > heights[1] > 200


def test_one_split_of_one_directory(runs: Path, tmp_path: Path) -> None:
    arguments = ["compare", str(runs / "plain"), "--split", "validation_shifted", "--output-dir", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert [(row["run"], row["split"]) for row in rows_of(tmp_path / "out")] == [("plain", "validation_shifted")]


def test_a_store_gives_its_versions_and_the_reports_it_keeps(tmp_path: Path) -> None:
    assert main(["compare", "--store", str(SHIPPED), "--output-dir", str(tmp_path / "shipped")]) == 0
    versions = [row for row in rows_of(tmp_path / "shipped") if row["kind"] == "version"]
    assert {row["network"] for row in versions} == {"efficientnet_lite0"}
    write_run(tmp_path / "store" / "pneumonia" / "reports" / "alexnet-short", "alexnet", True, validation=41)
    assert main(["compare", "--store", str(tmp_path / "store"), "--output-dir", str(tmp_path / "out")]) == 0
    assert [row["run"] for row in rows_of(tmp_path / "out")] == ["alexnet-short"]


def test_a_network_that_nobody_knows_still_has_a_row(tmp_path: Path) -> None:
    write_run(tmp_path / "old", "forgotten", False, validation=30)
    assert main(["compare", str(tmp_path / "old"), "--output-dir", str(tmp_path / "out")]) == 0
    row = rows_of(tmp_path / "out")[0]
    assert (row["network"], row["parameters"], row["category"]) == ("forgotten", "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["/nonexistent"], "/nonexistent: no such directory"), (["."], "nothing to compare")],
    ids=["missing", "empty"],
)
def test_nothing_to_compare_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments, "--output-dir", "out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_broken_file_is_named(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "cbam" / "metrics_validation.json").write_text("{")
    assert main(["compare", str(runs), "--output-dir", str(tmp_path / "out")]) == 2
    assert "metrics_validation.json: is not JSON" in capsys.readouterr().err


def test_parameters_are_counted_without_memory() -> None:
    assert parameters_of("efficientnet_lite0") == 3_373_570
    assert parameters_of(None) is None
