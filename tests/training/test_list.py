"""`python -m training list`: versions, which serves, which is damaged; and runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from models.store.store import ModelStore
from models.tasks import Task
from training.__main__ import main

SHIPPED = Path(__file__).parents[2] / "models" / "store" / "shipped"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The active shipped version alone."""
    version = ModelStore(SHIPPED).open(Task.PNEUMONIA)
    target = tmp_path / "store" / "pneumonia" / version.manifest.version
    shutil.copytree(version.directory, target)
    ModelStore(tmp_path / "store").activate(Task.PNEUMONIA, version.manifest.version)
    return tmp_path / "store"


def test_versions_are_listed_with_what_serves(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--store", str(store)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "efficientnet_lite0" in line)
    manifest = ModelStore(store).open(Task.PNEUMONIA).manifest
    assert "active" in line
    assert manifest.version in line
    assert manifest.created.date().isoformat() in line


def test_json_has_every_measure_and_the_sizes(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--store", str(store), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["versions"]
    opened = ModelStore(store).open(Task.PNEUMONIA)
    assert row["metrics"] == json.loads(opened.manifest.model_dump_json())["metrics"]
    assert row["network_bytes"] == opened.network_path.stat().st_size < row["size_bytes"]
    assert (row["task"], row["serves"], row["fault"]) == ("pneumonia", "active", None)


def test_a_damaged_version_is_listed_as_such(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = ModelStore(store).open(Task.PNEUMONIA).network_path
    network.write_bytes(network.read_bytes()[:-1])
    assert main(["list", "--store", str(store)]) == 0
    assert "DAMAGED: network.onnx" in capsys.readouterr().out
    assert main(["list", "--store", str(store), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["versions"]
    assert "SHA-256" in row["fault"]


def test_one_task_alone(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--store", str(store), "--task", "csi"]) == 0
    assert "no version" in capsys.readouterr().out


def test_runs_below_a_directory(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"network": "alexnet", "pretrained": true}')
    (run / "metrics_validation.json").write_text('{"n": 12, "accuracy": 0.75, "roc_auc": 0.8}')
    assert main(["list", "--store", str(store), "--runs", str(tmp_path / "runs")]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "first" in line)
    assert "alexnet" in line
    assert "0.7500" in line
    assert main(["list", "--store", str(store), "--runs", str(tmp_path / "runs"), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["runs"]
    assert (result["name"], result["split"], result["metrics"]["n"]) == ("first", "validation", 12)


def test_no_store_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--store", str(tmp_path / "none")]) == 2
    assert "no such model store" in capsys.readouterr().err
