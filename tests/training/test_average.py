"""Averages of runs: what the weights are, what is refused, and that the result serves like any run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models.store.store import ModelStore
from training.__main__ import main
from training.run import RunDirectory


@pytest.fixture
def runs(tiny_network: str, class_folders: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A run, and one that started from it; `tiny` stays in the table of networks for the test."""
    first, second = tmp_path / "a", tmp_path / "b"
    common = ["train", "--data-dir", str(class_folders), "--network", tiny_network, "--epochs", "2", "--threads", "1"]
    assert main([*common, "--output-dir", str(first)]) == 0
    assert main([*common, "--output-dir", str(second), "--init-from", str(first), "--flip", "0.5"]) == 0
    return first, second


def arguments(*runs: Path, output_dir: Path, more: tuple[str, ...] = ()) -> list[str]:
    named = [word for run in runs for word in ("--run", str(run))]
    return ["average", *named, "--output-dir", str(output_dir), "--threads", "1", *more]


def test_weights_are_the_weighted_mean(runs: tuple[Path, Path], tmp_path: Path) -> None:
    output_dir = tmp_path / "mean"
    assert main(arguments(*runs, output_dir=output_dir, more=("--share", "3", "--share", "1"))) == 0
    first, second, mean = (RunDirectory(path).read_weights() for path in (*runs, output_dir))
    assert set(mean) == set(first)
    for name, tensor in mean.items():
        expected = 0.75 * first[name] + 0.25 * second[name] if tensor.is_floating_point() else first[name]
        torch.testing.assert_close(tensor, expected)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    measured = json.loads((output_dir / "metrics_validation_shifted.json").read_text())
    assert measured["n"] == len(json.loads((output_dir / "data.json").read_text())["images"]["validation"])


def test_an_average_is_exported_with_the_settings_of_its_runs(runs: tuple[Path, Path], tmp_path: Path) -> None:
    output_dir, store = tmp_path / "mean", tmp_path / "store"
    last = runs[1] / "checkpoints" / "last.ckpt"
    assert main(arguments(runs[0], last, output_dir=output_dir, more=("--image-size", "48"))) == 0
    assert main(["export", "--run", str(output_dir), "--version", "2.0.0", "--store", str(store)]) == 0
    version = ModelStore(store).root / "pneumonia" / "2.0.0"
    manifest = json.loads((version / "manifest.json").read_text())
    assert manifest["input_spec"]["height"] == 48
    settings = json.loads((version / "report" / "settings.json").read_text())
    members = settings["average_of"]
    assert [member["weight"] for member in members] == [0.5, 0.5]
    assert [member["checkpoint"] for member in members] == [None, "last.ckpt"]
    assert members[1]["run"]["flip"] == 0.5
    assert members[1]["run"]["init_from"]["epochs"] == 2
    assert str(tmp_path) not in json.dumps(settings)


def test_runs_that_held_out_other_persons_are_refused(
    runs: tuple[Path, Path], class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    common = ["train", "--data-dir", str(class_folders), "--network", "tiny", "--epochs", "1", "--threads", "1"]
    assert main([*common, "--output-dir", str(other), "--seed", "5"]) == 0
    capsys.readouterr()
    assert main(arguments(runs[0], other, output_dir=tmp_path / "mean")) == 2
    assert f"{other}: held out other images than {runs[0]}" in capsys.readouterr().err
    assert not (tmp_path / "mean").exists()
    assert main(arguments(*runs, output_dir=tmp_path / "mean", more=("--image-size", "-5"))) == 2
    assert "image_size: Input should be greater than or equal to 32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--share", "1"), "2 runs, but 1 shares"),
        (("--share", "1", "--share", "0"), "shares must be above 0"),
        (("--share", "1", "--share", "nan"), "shares must be above 0"),
    ],
)
def test_shares_that_mean_nothing_are_refused(
    more: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path / "a", tmp_path / "b", output_dir=tmp_path / "mean", more=more)) == 2
    assert message in capsys.readouterr().err


def test_one_run_is_no_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path / "a", output_dir=tmp_path / "mean")) == 2
    assert "two runs or more" in capsys.readouterr().err
