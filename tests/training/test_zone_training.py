"""Runs of task csi: fitted, cross-validated, resumed, averaged, started from another task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from zone_runs import settings
from zone_sets import ZoneSetWriter

from models.errors import ConfigurationError
from models.networks.torchvision_shim import prepare_torchvision
from models.networks.zone_table import ZONE_BACKBONES, ZoneBackbone
from models.pixels.spec import Framing, InputSpec
from models.zones import Congestion, grade_zones
from training.__main__ import main
from training.run import RunDirectory
from training.train import resume, train
from training.zone_calibration import UNCALIBRATED, ZoneCalibration, calibrated, fit_zone_calibration
from training.zone_evaluation import quadratic_kappa
from training.zone_fitted import load_fitted_zones, weights_of_members
from training.zone_run import read_zone_predictions, read_zone_settings
from training.zone_settings import zone_plan_of

pytestmark = pytest.mark.usefixtures("brightness")


def uncalibrated_kappa(run: RunDirectory) -> float:
    predictions = read_zone_predictions(run, "validation")
    return quadratic_kappa(predictions.truth.ravel(), grade_zones(predictions.probability).graded.ravel())


def test_what_zones_show_is_learnt_and_measured_on_who_was_held_out(zones: Path, tmp_path: Path) -> None:
    run = train(settings(zones, tmp_path / "run", val_fraction=0.25))
    log = run.read_log()
    assert len(log) == 12
    assert log[-1]["measured_on"] == "validation"
    assert log[-1]["train_loss"] < log[0]["train_loss"]
    metrics = run.read_json("metrics_validation.json")
    assert metrics["kappa_quadratic"] > 0.4
    assert metrics["second_reader"]["kappa_quadratic"] > 0.9
    predictions = read_zone_predictions(run, "validation")
    assert predictions.probability.shape == (metrics["n"], 6, 5)
    assert predictions.probability.sum(axis=2) == pytest.approx(1, abs=1e-4)
    held = {row["person"] for row in run.read_json("data.json")["images"]["validation"]}
    assert set(predictions.persons) == held
    assert not held & {row["person"] for row in run.read_json("data.json")["images"]["train"]}
    assert run.is_finished


def test_kept_weights_give_the_figures_of_the_last_epoch(zones: Path, tmp_path: Path) -> None:
    run = train(settings(zones, tmp_path / "run", epochs=3, ema=0.9))
    assert uncalibrated_kappa(run) == pytest.approx(run.read_log()[-1]["validation_kappa"], abs=1e-4)


def test_a_monitored_run_keeps_its_best_epoch(zones: Path, tmp_path: Path) -> None:
    run = train(settings(zones, tmp_path / "run", epochs=5, lr=0.2, monitor="validation_kappa"))
    best = max(line["validation_kappa"] for line in run.read_log())
    assert uncalibrated_kappa(run) == pytest.approx(best, abs=1e-4)


def test_shared_heads_stay_equal_and_own_heads_do_not(zones: Path, tmp_path: Path) -> None:
    for shared in (True, False):
        run = train(settings(zones, tmp_path / f"run-{shared}", epochs=2, shared_heads=shared))
        (weights,) = weights_of_members(run)
        equal = [torch.equal(weights["heads.0.weight"], weights[f"heads.{zone}.weight"]) for zone in range(1, 6)]
        assert equal == [shared] * 5


def test_batch_norm_of_the_backbone_is_kept_as_it_was(zones: Path, tmp_path: Path) -> None:
    run = train(settings(zones, tmp_path / "run", epochs=1, freeze_batch_norm=True))
    (weights,) = weights_of_members(run)
    assert weights["backbone.mix.1.running_mean"].tolist() == [0] * 8
    (moved,) = weights_of_members(train(settings(zones, tmp_path / "moved", epochs=1)))
    assert moved["backbone.mix.1.running_mean"].abs().sum() > 0


def test_a_cross_validation_holds_everyone_out_once_and_stands_beside_the_second_reader(
    zones: Path, tmp_path: Path
) -> None:
    run = train(settings(zones, tmp_path / "folds", kfold=3, epochs=4))
    summary = run.read_json("metrics_kfold.json")
    pooled = summary["splits"]["validation"]["pooled"]
    assert pooled["n"] == 30
    low, high = pooled["intervals"]["kappa_quadratic"]
    assert low < pooled["kappa_quadratic"] < high
    assert pooled["second_reader"]["mae_zone"] < 0.3
    assert [fold["fold"] for fold in summary["splits"]["validation"]["per_fold"]] == [0, 1, 2]


def test_members_differ_in_draws_and_answer_with_their_mean(zones: Path, tmp_path: Path) -> None:
    run = train(settings(zones, tmp_path / "run", epochs=2, members=2))
    image = torch.rand(2, 1, 48, 48)
    paths = [run.path, *(run.path / f"member-{number}" for number in range(2))]
    with torch.inference_mode():
        together, first, second = (load_fitted_zones(path, UNCALIBRATED).served(image)[0] for path in paths)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(together, (first + second) / 2)
    assert len(load_fitted_zones(run.path).served.members) == 2


def test_an_interrupted_run_ends_as_if_it_had_not_been(zones: Path, tmp_path: Path) -> None:
    whole = train(settings(zones, tmp_path / "whole", epochs=3))
    broken = RunDirectory(tmp_path / "broken")
    shutil.copytree(whole.path, broken.path)
    for name in ("weights.pt", "metrics_validation.json"):
        (broken.path / name).unlink()
    resume(broken.path, {})  # after the last epoch: nothing is left but to measure
    for name, tensor in whole.read_weights().items():
        assert torch.equal(tensor, broken.read_weights()[name]), name
    with pytest.raises(ConfigurationError, match="finished already"):
        resume(broken.path, {})
    with pytest.raises(ConfigurationError, match="--dropout: cannot change"):
        resume(broken.path, {"dropout": 0.5})


def test_a_run_can_start_from_another_run_or_from_a_network_of_two_classes(
    zones: Path, tmp_path: Path, class_folders: Path, tiny_network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.networks.table import NETWORKS
    from training.settings import TrainSettings

    first = train(settings(zones, tmp_path / "first", epochs=2))
    with pytest.raises(ConfigurationError, match="was trained on"):
        train(settings(zones, tmp_path / "other", epochs=1, seed=5, init_from=first.path))
    still = {"epochs": 1, "lr": 1e-9, "backbone_lr": 1e-9, "freeze_batch_norm": True}
    again = train(settings(zones, tmp_path / "again", init_from=first.path, **still))
    for name, tensor in first.read_weights().items():
        torch.testing.assert_close(again.read_weights()[name], tensor, msg=name)

    entry = NETWORKS[tiny_network]
    monkeypatch.setitem(
        ZONE_BACKBONES, "tiny", ZoneBackbone("tiny", lambda p, w: entry.make_backbone(None), False, image_size=48)
    )
    classes = train(TrainSettings(data_dir=class_folders, output_dir=tmp_path / "classes", network="tiny", epochs=1))
    run = train(settings(zones, tmp_path / "run", backbone="tiny", init_from=classes.path, **still))
    (weights,) = weights_of_members(run)
    torch.testing.assert_close(weights["backbone.first.0.weight"], classes.read_weights()["backbone.first.0.weight"])
    with pytest.raises(ConfigurationError, match="its network is tiny, but --backbone is brightness"):
        train(settings(zones, tmp_path / "wrong", init_from=classes.path))
    assert not (tmp_path / "wrong").exists()


def test_excluded_and_unknown_names(zones: Path, tmp_path: Path) -> None:
    run = train(settings(zones, tmp_path / "run", epochs=1, exclude=("images/i00.png", "images/i01.png")))
    data = run.read_json("data.json")
    assert data["excluded"] == ["images/i00.png", "images/i01.png"]
    assert sum(len(rows) for rows in data["images"].values()) == 28
    with pytest.raises(ConfigurationError, match=r"exclude: the table names no nobody\.png"):
        train(settings(zones, tmp_path / "other", exclude=("nobody.png",)))


def test_rad_dino_learns_from_a_directory_and_is_loaded_again(zones: Path, tmp_path: Path) -> None:
    prepare_torchvision()
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    tiny = Dinov2Config(hidden_size=28, num_hidden_layers=1, num_attention_heads=2, image_size=42, patch_size=14)
    Dinov2Model(tiny).save_pretrained(tmp_path / "rad-dino")
    given = {"backbone": "rad_dino", "weights": tmp_path / "rad-dino", "image_size": 42, "epochs": 1}
    run = train(settings(zones, tmp_path / "run", freeze_backbone=True, **given))
    assert load_fitted_zones(run.path).input_spec.height == 42
    before = Dinov2Model.from_pretrained(tmp_path / "rad-dino").state_dict()
    after = run.read_weights()
    assert all(torch.equal(after[f"0.backbone.encoder.{name}"], tensor) for name, tensor in before.items())


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    for options, message in (
        ({"val_fraction": 0, "monitor": "validation_kappa"}, "needs somebody held out"),
        ({"patience": 3}, "patience needs monitor"),
        ({"first_reader": 0}, "greater than 0"),
        ({"task": "pneumonia"}, "csi"),
    ):
        with pytest.raises(ValueError, match=message):
            settings(tmp_path, tmp_path / "run", **options)
    plan = zone_plan_of(settings(tmp_path, tmp_path / "run", lr=None, backbone_lr=None), ZONE_BACKBONES["brightness"])
    assert plan.backbone_lr < plan.lr
    assert plan.input_spec == InputSpec(height=48, width=48, framing=Framing.WHOLE)


def test_the_command_trains_searches_and_says_what_is_not_of_the_task(
    zones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--data-dir", str(zones), "--framing", "whole", "--epochs", "2", "--image-size", "48"]
    search = ["search", *common, "--backbones", "brightness", "--trials", "3", "--val-fraction", "0.3"]
    assert main([*search, "--output-dir", str(tmp_path / "search")]) == 0
    found = json.loads((tmp_path / "search" / "search.json").read_text())
    assert len(found["trials"]) == 3
    assert found["settings"]["backbone"] == "brightness"
    assert 1e-5 <= found["settings"]["lr"] <= 1e-2
    assert 0.1 <= found["settings"]["dropout"] <= 0.7
    assert (tmp_path / "search" / "search.png").is_file()
    # The same command again has nothing left to do, and a larger one goes on.
    assert main([*search, "--output-dir", str(tmp_path / "search")]) == 0
    assert main([*search[:-3], "4", *search[-2:], "--output-dir", str(tmp_path / "search")]) == 0
    assert len(json.loads((tmp_path / "search" / "search.json").read_text())["trials"]) == 4

    chosen = ["train", "--task", "csi", "--data-dir", str(zones), "--from", str(tmp_path / "search" / "search.json")]
    assert main([*chosen, "--epochs", "1", "--output-dir", str(tmp_path / "run")]) == 0
    run = read_zone_settings(RunDirectory(tmp_path / "run"))
    best = json.loads((tmp_path / "search" / "search.json").read_text())["settings"]
    assert (run.lr, run.dropout, run.epochs) == (best["lr"], best["dropout"], 1)

    assert main(["train", "--task", "csi", "--data-dir", str(zones), "--output-dir", "x", "--mixup", "0.2"]) == 2
    assert "--mixup: not of task csi" in capsys.readouterr().err
    assert main(["train", "--data-dir", str(zones), "--output-dir", "x", "--backbone", "chexnet"]) == 2
    assert "--backbone: not of task pneumonia" in capsys.readouterr().err
    assert main(["train", "--task", "spine", "--data-dir", str(zones), "--output-dir", "x"]) == 2
    assert "task spine: unknown" in capsys.readouterr().err
    (tmp_path / "broken.json").write_text("[]")
    assert main([*chosen[:-1], str(tmp_path / "broken.json"), "--output-dir", "x"]) == 2
    assert "not a JSON file of `search`" in capsys.readouterr().err
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "file").touch()
    assert main([*search, "--output-dir", str(foreign)]) == 2
    assert "not empty and no search" in capsys.readouterr().err


def test_ungradable_zones_count_less_and_are_called(zone_set: ZoneSetWriter, tmp_path: Path) -> None:
    for number in range(24):
        zone_set.add([number % 4] * 4 + [4, 4], [number % 4] * 4 + [4, 4])
    data_dir = zone_set.write_csi()
    run = train(settings(data_dir, tmp_path / "run", epochs=15, shared_heads=False, flip=0.0))
    predictions = read_zone_predictions(run, "validation")
    assert (predictions.truth[:, 4:] == Congestion.UNGRADABLE).all()
    assert (predictions.probability[:, 4:].argmax(axis=2) == Congestion.UNGRADABLE).all()
    assert run.read_json("metrics_validation.json")["gradable"] == 4 * len(predictions.files)


def test_calibration_finds_the_reader_s_strictness_and_leaves_ungradable_alone() -> None:
    random = np.random.default_rng(0)
    probability = np.concatenate([random.dirichlet([1.0] * 4, (400, 6)) * 0.9, np.full((400, 6, 1), 0.1)], axis=2)
    stricter = calibrated(probability, ZoneCalibration(temperature=0.8, shift=0.7))
    assert stricter.sum(axis=2) == pytest.approx(1)
    assert stricter[..., 4] == pytest.approx(0.1)
    shares = stricter[..., :4] / 0.9
    truth = (shares.cumsum(axis=2) < random.random((400, 6, 1))).sum(axis=2)
    found = fit_zone_calibration(probability, truth)
    assert found.temperature == pytest.approx(0.8, abs=0.1)
    assert found.shift == pytest.approx(0.7, abs=0.1)
    assert fit_zone_calibration(probability, np.full((400, 6), 4)) == UNCALIBRATED
    assert calibrated(probability, UNCALIBRATED) == pytest.approx(probability)
