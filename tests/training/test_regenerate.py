"""`python -m training regenerate` end to end on a tiny network, and what it says and keeps when a step fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import write_class_folders

from models.engines.built import engines_of
from models.errors import ConfigurationError
from models.store.store import ModelStore
from models.tasks import Task
from training import engine_speed, plots, regenerate
from training.__main__ import main
from training.commands.regenerate import settings_of_steps
from training.regenerate import next_version

TASK = Task.PNEUMONIA


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time every engine by single runs, and draw no curves: neither is what these tests look at."""
    monkeypatch.setattr(engine_speed, "LEAST_S", 0.0)
    monkeypatch.setattr(plots, "save", lambda figure, path: path.write_bytes(b""))


def arguments(data: Path, root: Path, name: str, *more: str) -> list[str]:
    where = ["--data-dir", str(data), "--output-dir", str(root / name), "--store", str(root / "store")]
    network = ["--network", "tiny", "--threads", "1", "--cache-mb", "0"]
    engine = ["--precision", "fp32", "--golden-images", "8"]
    return ["regenerate", "--task", "pneumonia", *where, *network, *engine, *more]


def state_of(root: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((root / name / "regenerate.json").read_text())
    return document


@pytest.mark.usefixtures("tiny_network")
def test_images_become_a_live_engine_and_a_worse_version_does_not_take_over(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path / "store")
    fitted = ("--epochs", "8", "--val-fraction", "0.34", "--promote")
    # 1. Nothing serves: the first version does, proven.
    assert main(arguments(class_folders, tmp_path, "first", *fitted)) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(store.root / TASK / "1.0.0")
    assert "pneumonia 1.0.0 serves" in printed.err
    first = store.open(TASK)
    assert [engine.precision for engine in engines_of(first)] == ["fp32"]
    assert state_of(tmp_path, "first")["comparison"]["basis"] == "nothing serves"
    assert first.manifest.metrics["validation"]["roc_auc"] == 1.0

    # 2. Again: nothing is done twice.
    with monkeypatch.context() as context:
        for step in ("train", "resume", "export", "build_and_publish"):
            context.setattr(regenerate, step, None)
        assert main(arguments(class_folders, tmp_path, "first", *fitted)) == 0
    assert "serves already" in capsys.readouterr().err

    # 3. Another that learns nothing, on the same persons.
    blind = ("--epochs", "1", "--lr", "1e-12", "--val-fraction", "0.34", "--promote")
    assert main(arguments(class_folders, tmp_path, "second", *blind)) == 1
    printed = capsys.readouterr()
    assert "WORSE" in printed.err
    assert "pneumonia 1.1.0 is not promoted, it is worse than 1.0.0; to let it serve all the same: " in printed.err
    assert f"python -m training promote --task pneumonia --version 1.1.0 --store {store.root}" in printed.err
    assert (store.active(TASK), store.versions(TASK)) == ("1.0.0", ("1.0.0", "1.1.0"))
    told = state_of(tmp_path, "second")
    assert (told["promoted"], told["comparison"]["basis"]) == (False, "recorded")
    assert told["comparison"]["images"] == first.manifest.metrics["validation"]["n"]
    assert told["comparison"]["figures"][0]["active"] == 1.0

    # 4. One of other images: the active version answers the persons that it held out.
    others = write_class_folders(tmp_path / "others", 8, seed=5)
    assert main(arguments(others, tmp_path, "third", *fitted, "--version", "7.0")) == 0
    told = state_of(tmp_path, "third")
    assert (told["promoted"], told["comparison"]["basis"], told["comparison"]["active"]) == (True, "measured", "1.0.0")
    assert told["comparison"]["figures"][0]["active"] == 1.0
    assert store.activation(TASK).previous == ("1.0.0",)
    assert store.active(TASK) == "7.0"


@pytest.mark.usefixtures("tiny_network")
def test_a_step_that_fails_is_named_and_the_same_command_goes_on_after_it(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = arguments(class_folders, tmp_path, "run", "--epochs", "1")

    def fails(*given: Any) -> None:
        raise ConfigurationError("disk full")

    with monkeypatch.context() as context:
        context.setattr(regenerate, "export", fails)
        assert main(asked) == 2
    told = capsys.readouterr().err
    assert "step export: disk full; mend it and give the same command with --output-dir" in told
    assert f"{tmp_path / 'run'} --version 1.0.0" in told
    assert main([*asked[:-1], "2"]) == 2
    assert "was begun with another settings" in capsys.readouterr().err
    monkeypatch.setattr(regenerate, "train", fails)
    assert main(asked) == 0
    told = capsys.readouterr().err
    assert "going on with version 1.0.0" in told
    assert "to let it serve: python -m training promote --task pneumonia --version 1.0.0" in told
    assert ModelStore(tmp_path / "store").active(TASK) is None, "only with --promote"


@pytest.mark.usefixtures("tiny_network")
def test_settings_that_were_wrong_before_anything_was_trained_can_be_mended(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(arguments(class_folders, tmp_path, "run", "--network", "no-such")) == 2
    assert "step train: " in capsys.readouterr().err

    def stops(settings: Any) -> None:
        raise ConfigurationError(f"reached with {settings.network}")

    monkeypatch.setattr(regenerate, "train", stops)
    assert main(arguments(class_folders, tmp_path, "run")) == 2
    assert "reached with tiny" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "expected"),
    [((), "1.0.0"), (("1.9.3", "1.10.0"), "1.11.0"), (("2.0", "1.5.0"), "2.1.0"), (("trial",), "1.0.0")],
)
def test_the_next_version_is_the_next_minor_of_the_newest(
    tmp_path: Path, names: tuple[str, ...], expected: str
) -> None:
    for name in names:
        (tmp_path / "csi" / name).mkdir(parents=True)
        (tmp_path / "csi" / name / "manifest.json").write_text("{}")
    assert next_version(ModelStore(tmp_path), Task.CSI) == expected


@pytest.mark.parametrize("task", [Task.CSI, Task.LANDMARKS])
def test_zones_and_landmarks_are_measured_by_folds_and_fitted_to_everyone(task: Task, tmp_path: Path) -> None:
    given = {"task": task, "data_dir": tmp_path, "epochs": 3, "folds": "0"}
    fit, folds = settings_of_steps(task, given, tmp_path / "out")
    assert folds is not None
    assert (fit.kfold, fit.val_fraction, fit.output_dir) == (None, 0, tmp_path / "out" / "run")
    assert (folds.kfold, folds.chosen_folds, folds.output_dir) == (5, (0,), tmp_path / "out" / "folds")
    assert fit.epochs == folds.epochs == 3
    with pytest.raises(ConfigurationError, match="--val-fraction"):
        settings_of_steps(task, {**given, "val_fraction": 0.2}, tmp_path)


def test_two_classes_are_measured_on_held_out_persons(tmp_path: Path) -> None:
    fit, folds = settings_of_steps(TASK, {"task": TASK, "data_dir": tmp_path}, tmp_path / "out")
    assert (fit.kfold, fit.val_fraction, folds) == (None, 0.2, None)
    with pytest.raises(ConfigurationError, match="--kfold"):
        settings_of_steps(TASK, {"task": TASK, "data_dir": tmp_path, "kfold": 5}, tmp_path / "out")


def test_the_help_has_an_example_and_without_images_it_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["regenerate", "--help"])
    assert "python -m training regenerate --task pneumonia --data-dir" in capsys.readouterr().out
    assert main(["regenerate", "--task", "csi"]) == 2
    assert "--data-dir" in capsys.readouterr().err
