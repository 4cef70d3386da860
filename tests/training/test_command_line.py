"""`python -m training`: help that answers at once, clear refusals, and one small run from images to a served answer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from models.engines.providers import load_engine
from models.pixels.image_files import read_image_file
from models.store.store import ModelStore
from models.tasks import Task
from training.__main__ import main


def train_arguments(data: Path, run: Path) -> list[str]:
    return [
        "train",
        *("--data-dir", str(data), "--output-dir", str(run), "--img-size", "64", "--threads", "1", "--seed", "3"),
        *("--epochs", "3", "--batch-size", "4", "--lr", "2e-3", "--val-fraction", "0.25"),
    ]


@pytest.fixture(scope="module")
def run(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "first"
    assert main(train_arguments(class_folders, directory)) == 0
    return directory


@pytest.fixture(scope="module")
def graphs() -> list[ModelProto]:
    """Holds the exported graph of `run` once a test has exported it; exporting takes by far the most time."""
    return []


@pytest.fixture
def quick_export(graphs: list[ModelProto], monkeypatch: pytest.MonkeyPatch) -> None:
    import training.export as export_module
    from training.onnx_file import export_onnx as real

    def export_once(*arguments: Any) -> ModelProto:
        if not graphs:
            graphs.append(real(*arguments))
        return graphs[0]

    monkeypatch.setattr(export_module, "export_onnx", export_once)


def test_a_run_leaves_everything_that_export_and_people_need(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {
        *("config.json", "data.json", "log.jsonl", "weights.pt", "calibration.json", "checkpoints", "tensorboard"),
        *("metrics_validation.json", "metrics_validation_shifted.json"),
        *("predictions_validation.csv", "predictions_validation_shifted.csv"),
    }
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    config = json.loads((run / "config.json").read_text())
    assert (config["task"], config["pretrained"], config["image_size"], config["seed"]) == ("pneumonia", True, 64, 3)
    assert (config["optimizer"], config["scheduler"], config["weight_decay"]) == ("adamw", "one_cycle", 0.01)
    assert config["environment"]["packages"]["torch"]
    metrics = json.loads((run / "metrics_validation.json").read_text())
    assert metrics["n"] == sum(metrics["confusion_matrix"].values()) == 6
    assert len((run / "log.jsonl").read_text().splitlines()) == 3


def test_a_run_gives_its_network_back(run: Path, class_folders: Path) -> None:
    import torch

    from training.run import RunDirectory

    fitted = RunDirectory(run).load_network()
    assert (fitted.labels, fitted.input_spec.height) == (("NORMAL", "PNEUMONIA"), 64)
    assert not fitted.network.training
    image = read_image_file(next(class_folders.rglob("*.jpeg"))).to_input(fitted.input_spec)
    best = RunDirectory(run / "checkpoints" / "best.ckpt").load_network()
    with torch.inference_mode():
        tensor = torch.from_numpy(image)[None, None]
        assert torch.equal(fitted.model(tensor), best.model(tensor))


def test_a_foreign_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    import torch

    from models.errors import ConfigurationError
    from training.run import RunDirectory

    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("tensorboard", "*.pt"))
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    torch.save({"state_dict": {"model.network.other": torch.zeros(1)}}, checkpoint)
    with pytest.raises(ConfigurationError, match="another network"):
        RunDirectory(checkpoint).load_network()
    checkpoint.write_bytes(b"nonsense")
    with pytest.raises(ConfigurationError, match="cannot be read as a checkpoint"):
        RunDirectory(checkpoint).load_network()


def test_a_report_is_kept_without_weights_and_without_paths(run: Path, class_folders: Path, tmp_path: Path) -> None:
    from training.results import results_of_store

    arguments = ["export", "--run", str(run), "--version", "first", "--store", str(tmp_path), "--report-only"]
    assert main(arguments) == 0
    report = tmp_path / "pneumonia" / "reports" / "first"
    assert sum(path.stat().st_size for path in report.iterdir()) < 20_000
    assert not any(str(place) in path.read_text() for path in report.iterdir() for place in (class_folders, run))
    results = {result.split: result for result in results_of_store(tmp_path)}
    assert set(results) == {"validation", "validation_shifted"}
    assert results["validation"].metrics == json.loads((run / "metrics_validation.json").read_text())
    assert (results["validation"].network, results["validation"].epochs) == ("efficientnet_lite0", 3)
    assert ModelStore(tmp_path).versions(Task.PNEUMONIA) == ()
    assert main(arguments) == 2


@pytest.mark.usefixtures("quick_export")
def test_export_publishes_a_version_that_the_engine_serves(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", "--run", str(run), "--version", "0.1.0", "--store", str(tmp_path), "--activate"]
    assert main([*arguments, "--data-note", "synthetic discs", "--licence", "none"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "pneumonia" / "0.1.0")
    version = ModelStore(tmp_path).open(Task.PNEUMONIA)
    manifest = version.manifest
    assert manifest.training_data["description"] == "synthetic discs"
    assert manifest.training_data["digest"] == json.loads((run / "data.json").read_text())["digest"]
    assert manifest.metrics["validation"]["n"] == 6
    assert manifest.thresholds["PNEUMONIA"] == json.loads((run / "calibration.json").read_text())["threshold"]
    assert len(manifest.metrics["validation_shifted"]["intervals"]["accuracy"]) == 2
    assert {"report/model_card.md", "report/roc_curve_validation.png", "report/calibration_validation_shifted.png"} <= (
        set(manifest.files)
    )
    everything = b"".join(path.read_bytes() for path in version.directory.rglob("*") if path.is_file())
    assert str(class_folders).encode() not in everything
    assert str(run).encode() not in everything

    engine = load_engine(version, threads=1)
    images = [read_image_file(path).to_input(manifest.input_spec) for path in sorted(class_folders.rglob("*.jpeg"))]
    outputs = engine.run(np.stack(images)[:, None])
    np.testing.assert_allclose(outputs["probability"].sum(axis=1), 1, atol=1e-6)
    assert outputs["cam"].shape == (24, 2, 2)

    assert main(arguments) == 2
    assert "stands already" in capsys.readouterr().err


@pytest.mark.usefixtures("quick_export")
def test_export_refuses_a_graph_that_answers_otherwise(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from onnx import numpy_helper

    import training.export as export_module

    def spoil(proto: ModelProto) -> ModelProto:
        stem = next(tensor for tensor in proto.graph.initializer if "_conv_stem.weight" in tensor.name)
        stem.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stem) * 3, stem.name))
        return proto

    monkeypatch.setattr(export_module, "store_in_half_precision", spoil)
    arguments = ["export", "--run", str(run), "--version", "0.2.0", "--store", str(tmp_path)]
    assert main(arguments) == 1
    assert "differs from the fitted network" in capsys.readouterr().err
    assert ModelStore(tmp_path).versions(Task.PNEUMONIA) == ()


def test_export_refuses_images_that_changed(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(class_folders, data)
    name = json.loads((run / "data.json").read_text())["images"]["validation"][0]["file"]
    other = next(path for path in sorted((data / name).parent.iterdir()) if path.name != Path(name).name)
    shutil.copy(other, data / name)
    arguments = ["export", "--run", str(run), "--version", "1", "--store", str(tmp_path), "--data-dir", str(data)]
    assert main(arguments) == 2
    assert "other pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--epochs", "0"], "EPOCHS"),
        (["--network", "resnet"], "network resnet: unknown"),
        (["--task", "csi"], "neither a table of CSI"),
        (["--task", "landmarks"], "no landmarks in a known format"),
        (["--data-dir", "/nonexistent"], "/nonexistent: no such directory"),
        (["--optimizer", "sgd"], "OPTIMIZER"),
        (["--folds", "0"], "folds are given without kfold"),
        (["--kfold", "3", "--folds", "0,3"], "folds count from 0 to 2"),
        (["--kfold", "20"], "too few for 20 folds"),
        (["--accelerator", "cpu", "--precision", "16"], "take 32"),
        (["--accelerator", "gpu", "--devices", "99"], "99 GPUs are asked for"),
        (["--network", "custom_resnet18", "--pretrained"], "--no-pretrained"),
        (["--init-from", "/nonexistent"], "is this a finished run?"),
        (["--resume", "/nonexistent"], "cannot change in a resumed run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_one_line(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], message: str
) -> None:
    assert main([*train_arguments(class_folders, tmp_path / "run"), *changes]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_start_from_weights_that_know_its_held_out_persons(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = train_arguments(class_folders, tmp_path / "run")
    assert main([*arguments, "--init-from", str(run), "--seed", "4"]) == 2
    assert "that would be held out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_directory_in_use_is_not_written_into(
    run: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "config.json").read_bytes()
    assert main(train_arguments(class_folders, run)) == 2
    assert "not empty" in capsys.readouterr().err
    assert (run / "config.json").read_bytes() == before


def test_export_of_no_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--run", str(tmp_path), "--version", "1", "--store", str(tmp_path)]) == 2
    assert "is this a finished run?" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["train"], ["export"]], ids=["training", "train", "export"])
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    code = (
        "import contextlib, io, sys\nfrom training.__main__ import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):\n"
        f"    main({[*command, '--help']!r})\n"
        "heavy = {'torch', 'cv2', 'onnx', 'onnxruntime', 'numpy', 'rq', 'pynetdicom'} & set(sys.modules)\n"
        "print(heavy or '', 'example' in text.getvalue())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == [str(bool(command))]


def test_training_loads_neither_the_queue_nor_the_dicom_network() -> None:
    code = "import sys, training.train, training.export; print({'rq', 'pynetdicom', 'redis'} & set(sys.modules) or '')"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == ""
