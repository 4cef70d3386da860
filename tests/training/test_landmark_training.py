"""Runs of task landmarks: fitted, cross-validated, resumed, started from another run, exported, evaluated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from landmark_sets import AasceWriter, column
from torch import Tensor, nn

from models.engines.providers import load_engine
from models.errors import ConfigurationError
from models.networks.heatmap_decoding import Decoding
from models.networks.heatmap_network import HeatmapNetwork, Heatmaps
from models.networks.heatmap_table import HEATMAP_NETWORKS, HeatmapEntry
from models.pixels.spec import InputSpec, Resize
from models.spine.schemas import SCHEMAS
from models.store.store import ModelStore
from models.tasks import Task
from training.__main__ import main
from training.export import ExportRequest, export
from training.landmark_export import review_figures
from training.landmark_measure import located_of_folds
from training.landmark_run import read_landmark_predictions
from training.landmark_served import ServedLandmarks
from training.landmark_settings import LandmarkTrainSettings, landmark_plan_of, with_schema
from training.run import RunDirectory
from training.train import resume, train

AASCE = SCHEMAS["aasce68"]
IMAGES = 10


class Where(HeatmapNetwork):
    """Knows for each landmark where in the input it usually lies: enough for spines that stand in one place."""

    stride = 4

    def __init__(self, landmarks: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, landmarks, 1)
        self.usual = nn.Parameter(torch.zeros(1, landmarks, 16, 16))

    def forward(self, x: Tensor) -> Heatmaps:
        return Heatmaps(self.head(self.backbone(x)) + self.usual)


@pytest.fixture(scope="module", autouse=True)
def where() -> Iterator[None]:
    entry = HeatmapEntry(
        "where",
        lambda schema, _: Where(len(schema)),
        published=None,
        loss="softmax",
        decoding=Decoding.EXPECTATION,
        lr=0.3,
        backbone_lr=0.03,
        image_size=64,
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(HEATMAP_NETWORKS, "where", entry)
        yield


@pytest.fixture(scope="module")
def spines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Persons with one film each; spines stand in one place, a little curved."""
    aasce = AasceWriter(tmp_path_factory.mktemp("data") / "spines")
    for number in range(IMAGES):
        tilts = [2.0 * np.sin(place / 3 + number / 5) for place in range(17)]
        image = np.random.default_rng(number).integers(60, 255, (128, 64), dtype=np.uint8)
        aasce.add(column((128, 64), tilts), image, split="training", angles=(4.0, 2.0, 2.0))
    return aasce.write()


@pytest.fixture(scope="module")
def folds(spines: Path, where: None, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A cross-validation of two folds."""
    return train(_settings(spines, tmp_path_factory.mktemp("runs") / "folds", kfold=2))


def _settings(spines: Path, output: Path, **changes: Any) -> LandmarkTrainSettings:
    chosen = {"network": "where", "epochs": 40, "batch_size": 4, "augmentation": 0.0, "flip": 0.0, "ema": 0.0}
    return LandmarkTrainSettings(data_dir=spines, output_dir=output, **{**chosen, **changes})


def test_a_run_learns_and_leaves_both_best_checkpoints_measures_and_predictions(spines: Path, tmp_path: Path) -> None:
    run = train(_settings(spines, tmp_path / "run", monitor="validation_mre"))
    log = run.read_log()
    assert len(log) == 40
    assert log[-1]["train_loss"] < 0.5 * log[0]["train_loss"]
    metrics = run.read_json("metrics_validation.json")
    assert metrics["mre_px"] < 12
    assert metrics["mre_px"] == pytest.approx(min(line["validation_mre"] for line in log), abs=0.5)
    names = {path.name for path in run.checkpoints.iterdir()}
    assert names == {"best.ckpt", "last.ckpt", "best_loss.ckpt", "best_mre.ckpt"}
    assert run.is_finished
    assert run.task is Task.LANDMARKS
    located = read_landmark_predictions(run, "validation")
    assert located.points.shape == (len(located.images), 68, 2)
    assert located.measured(0)["mre_px"] == pytest.approx(metrics["mre_px"], abs=1e-3)


def test_folds_hold_everyone_out_once_and_are_exported_with_a_network_fitted_to_everyone(
    spines: Path, folds: RunDirectory, tmp_path: Path
) -> None:
    summary = folds.read_json("metrics_kfold.json")
    assert summary["splits"]["validation"]["pooled"]["n"] == IMAGES
    everyone = train(_settings(spines, tmp_path / "everyone", val_fraction=0.0))
    store = ModelStore(tmp_path / "store")
    version = export(everyone, ExportRequest("1.0.0", None, "made", "none", folds.path), store)
    manifest = version.manifest
    assert manifest.labels == AASCE.labels
    assert manifest.metrics["cross_validation"]["n"] == IMAGES
    assert manifest.review_confidence is not None
    assert manifest.input_spec.resize is Resize.LETTERBOX
    assert {"errors_cross_validation.png", "model_card.md", "parity.json"} <= {
        path.name for path in (version.directory / "report").iterdir()
    }
    outputs = load_engine(version).run(np.zeros((3, 1, 64, 64), np.float32))
    assert outputs["landmarks"].shape == (3, 68, 2)


def test_a_network_of_everyone_is_not_exported_unmeasured(spines: Path, tmp_path: Path) -> None:
    everyone = train(_settings(spines, tmp_path / "everyone", val_fraction=0.0, epochs=1))
    with pytest.raises(ConfigurationError, match="--measured-by"):
        export(everyone, ExportRequest("1.0.0", None, "", ""), ModelStore(tmp_path / "store"))


def test_folds_go_on_from_the_same_fold_of_another_cross_validation(spines: Path, tmp_path: Path) -> None:
    first = train(_settings(spines, tmp_path / "first", kfold=2, epochs=1))
    second = train(_settings(spines, tmp_path / "second", kfold=2, epochs=1, init_from=first.path, lr=1e-6))
    start = RunDirectory(second.path / "fold-1").read_settings_as(LandmarkTrainSettings).init_from
    assert start == first.path / "fold-1"
    assert len(located_of_folds(second).images) == IMAGES


def test_persons_already_learnt_from_are_not_validated_on(spines: Path, tmp_path: Path) -> None:
    first = train(_settings(spines, tmp_path / "first", epochs=1))
    with pytest.raises(ConfigurationError, match="was trained on"):
        train(_settings(spines, tmp_path / "second", epochs=1, seed=5, init_from=first.path))


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    spines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"augmentation": 0.5, "flip": 0.5, "epochs": 4, "ema": 0.9, "loss": "mse", "lr": 0.01}
    whole = train(_settings(spines, tmp_path / "whole", **changes))

    def interrupted(run: RunDirectory, line: dict[str, Any]) -> None:
        if line["epoch"] == 3:
            raise KeyboardInterrupt
        log(run, line)

    log = RunDirectory.log
    monkeypatch.setattr(RunDirectory, "log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(_settings(spines, tmp_path / "broken", **changes))
    monkeypatch.setattr(RunDirectory, "log", log)
    resumed = resume(tmp_path / "broken", {})
    for name, tensor in whole.read_weights().items():
        torch.testing.assert_close(resumed.read_weights()[name], tensor, msg=name)


def test_lateral_views_are_never_flipped() -> None:
    lateral = SCHEMAS["buu_la22"]
    settings = LandmarkTrainSettings(data_dir=Path(), output_dir=Path())
    chosen = with_schema(settings, lateral)
    assert chosen.flip == 0
    assert not chosen.mirrored
    assert with_schema(settings, AASCE).flip == 0.5
    with pytest.raises(ConfigurationError, match="never flipped"):
        with_schema(settings.model_copy(update={"flip": 0.2}), lateral)


def test_sides_of_an_input_are_multiples_of_32() -> None:
    settings = LandmarkTrainSettings(data_dir=Path(), output_dir=Path(), network="where", image_size=100)
    with pytest.raises(ConfigurationError, match="multiples of 32"):
        landmark_plan_of(settings, HEATMAP_NETWORKS["where"])


class _Bright(HeatmapNetwork):
    """One landmark to the left of the middle, one to the right: heat is what is bright on its side."""

    stride = 4

    def forward(self, x: Tensor) -> Heatmaps:
        cells = torch.nn.functional.avg_pool2d(x[:, :1], 4)
        left, right = cells.clone(), cells.clone()
        left[..., cells.shape[3] // 2 :] = -50
        right[..., : cells.shape[3] // 2] = -50
        return Heatmaps(torch.cat([left, right] * 34, dim=1))


def test_the_mirrored_view_comes_back_to_the_same_places() -> None:
    entry = HeatmapEntry("bright", lambda schema, _: _Bright(), published=None, decoding=Decoding.EXPECTATION)
    image = torch.zeros(1, 1, 64, 64)
    image[0, 0, 16:20, 8:12] = 1.0
    image[0, 0, 40:44, 52:56] = 1.0
    plain, mirrored = (
        ServedLandmarks(entry, AASCE, _Bright(), is_logits=False, mirrored=mirrored)(image)
        for mirrored in (False, True)
    )
    torch.testing.assert_close(plain[0][0, 0], torch.tensor([10.0, 18.0]), atol=0.5, rtol=0)
    torch.testing.assert_close(mirrored[0][0, :2], plain[0][0, :2], atol=0.5, rtol=0)


class _Torn(HeatmapNetwork):
    """A column down the middle, whose eighth vertebra looks rather like its neighbour below."""

    stride = 4

    def forward(self, x: Tensor) -> Heatmaps:
        height, width = x.shape[2] // 4, x.shape[3] // 4
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        maps = []
        for number in range(68):
            vertebra, corner = divmod(number, 4)
            row, column = 6 + 5 * vertebra + (1.5 if corner > 1 else -1.5), width / 2 + (4 if corner % 2 else -4)
            own = torch.exp(-0.5 * ((rows - row) ** 2 + (columns - column) ** 2))
            if vertebra == 7:
                own = 0.4 * own + 0.6 * torch.exp(-0.5 * ((rows - row - 5) ** 2 + (columns - column) ** 2))
            maps.append(torch.log(own + 1e-6))
        return Heatmaps(torch.stack(maps).expand(len(x), -1, -1, -1))


def test_a_column_read_together_answers_for_the_place_that_it_chose() -> None:
    entry = HeatmapEntry("torn", lambda schema, _: _Torn(), published=None, decoding=Decoding.EXPECTATION)
    image = torch.zeros(2, 1, 384, 96)
    alone, together = (
        ServedLandmarks(entry, AASCE, _Torn(), is_logits=True, mirrored=False, chained=chained)(image)
        for chained in (False, True)
    )
    own = 4 * (6 + 5 * 7 - 1.5 + 0.5)
    assert alone[0][0, 28, 1].item() > own + 10
    assert together[0][0, 28, 1].item() == pytest.approx(own, abs=4)
    # Most of the heat lies elsewhere, and the confidence says so.
    assert together[1][0, 28] < alone[1][0, 28]
    assert together[1][0, 28] < together[1][0, 0]


def test_the_confidence_for_review_flags_a_twentieth_of_the_sound_films(folds: RunDirectory) -> None:
    figures = review_figures(located_of_folds(folds))
    assert 0 <= figures["confidence"] <= 1
    assert figures["flagged_of_sound"] <= 0.2  # of ten films one is a tenth


def test_the_command_line_trains_evaluates_and_lists(
    spines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    common = ["--task", "landmarks", "--data-dir", str(spines), "--output-dir"]
    fitted = ["--network", "where", "--epochs", "1", "--batch-size", "4", "--freeze", "backbone.0"]
    assert main(["train", *common, str(run), *fitted]) == 0
    assert main(["evaluate", *common, str(out), "--checkpoint", str(run), "--split", "training"]) == 0
    assert json.loads((out / "metrics_training.json").read_text())["n"] == IMAGES
    assert main(["list", "--runs", str(tmp_path)]) == 0
    assert "where" in capsys.readouterr().out
    assert main(["train", *common, str(tmp_path / "x"), "--network", "where", "--freeze", "nothing"]) == 2
    assert "freeze nothing" in capsys.readouterr().err


def test_what_it_is_fed_is_written_down(spines: Path, tmp_path: Path) -> None:
    run = train(_settings(spines, tmp_path / "run", epochs=1, image_size=64, image_width=64))
    assert run.read_json("config.json")["image_width"] == 64
    assert run.read_json("data.json")["schema"] == "aasce68"
    spec = landmark_plan_of(run.read_settings_as(LandmarkTrainSettings), HEATMAP_NETWORKS["where"]).input_spec
    assert spec == InputSpec(height=64, width=64, resize=Resize.LETTERBOX)
