"""Fitting: what is kept was validated, a resumed run goes on as if uninterrupted, options do what they say."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.networks.table import network_entry
from training.classes import CLASSES
from training.datasets.labelled import read_labelled
from training.datasets.splits import Split, split_by_person
from training.evaluation import log_loss, positive_probability
from training.fit import Best, FitError, class_weights, fit
from training.fitted import Model, predict
from training.lightning_module import Loss
from training.loaders import validation_loader
from training.run import RunDirectory, load_weights, read_checkpoint
from training.settings import TrainSettings, plan_of, with_plan

Fitting = Callable[..., tuple[RunDirectory, Best]]
LABELS = ("NORMAL", "PNEUMONIA")


@pytest.fixture(scope="module")
def split(class_folders: Path) -> Split:
    return split_by_person(read_labelled(class_folders, LABELS).images, 0.34, seed=0)


@pytest.fixture
def fitting(tiny_network: str, split: Split, class_folders: Path, tmp_path: Path) -> Fitting:
    """Fit the tiny network with these settings, in a directory of this name."""

    def run_it(name: str = "run", **options: Any) -> tuple[RunDirectory, Best]:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        common: dict[str, Any] = {
            "data_dir": class_folders,
            "output_dir": directory,
            "network": tiny_network,
            "seed": 2,
        }
        settings = TrainSettings(**{**common, "epochs": 4, **options})
        entry = network_entry(tiny_network)
        plan = plan_of(settings, entry)
        run = RunDirectory(directory)
        run.write_settings(with_plan(settings, plan))
        best = fit(settings, plan, entry, split, run, classes=2)
        run.write_weights(best.weights)
        return run, best

    return run_it


def shifted_loss_of(weights: dict[str, torch.Tensor], split: Split) -> float:
    entry = network_entry("tiny")
    network = entry.build(2, False)
    load_weights(network, weights, Path("here"))
    spec = plan_of(TrainSettings(data_dir=Path("."), output_dir=Path("."), network="tiny"), entry).input_spec
    loader = validation_loader(split.validation, spec, shifted=True, seed=2)
    label, logits = predict(Model(entry, network), loader)
    return log_loss(label, positive_probability(logits, 1.0))


def test_a_separable_toy_is_learnt(fitting: Fitting) -> None:
    run, best = fitting(epochs=8, monitor="validation_loss")
    log = run.read_log()
    assert log[-1]["train_loss"] < 0.85 * log[0]["train_loss"]
    assert log[best.epoch - 1]["validation_roc_auc"] == 1.0


@pytest.mark.parametrize("ema", [0.9, 0.0], ids=["averaged", "last"])
def test_the_kept_weights_are_those_that_were_validated(fitting: Fitting, split: Split, ema: float) -> None:
    # A rate that is far too high at the end makes the last epoch worse than an earlier one.
    run, best = fitting(ema=ema, epochs=5, lr=0.05, scheduler="none")
    log = run.read_log()
    losses = [line["shifted_loss"] for line in log]
    assert best.epoch == 1 + int(np.argmin(losses))
    assert shifted_loss_of(best.weights, split) == pytest.approx(losses[best.epoch - 1], abs=1e-5)
    last = RunDirectory(run.checkpoints / "last.ckpt").read_weights()
    assert shifted_loss_of(last, split) == pytest.approx(losses[-1], abs=1e-5)
    checkpoint = read_checkpoint(run.checkpoints / "last.ckpt")
    assert ("current_model_state" in checkpoint) is bool(ema)
    assert checkpoint["epoch"] == 4


def test_the_best_epoch_is_kept_though_a_later_one_is_worse(fitting: Fitting, monkeypatch: pytest.MonkeyPatch) -> None:
    from training import lightning_module

    given = iter([0.5, 0.2, 0.9, 0.3])
    modules: list[lightning_module.ClassificationModule] = []
    kept: list[dict[str, torch.Tensor]] = []
    real_setup, real_compute = lightning_module.ClassificationModule.setup, lightning_module._compute

    def setup(module: lightning_module.ClassificationModule, stage: str) -> None:
        modules.append(module)
        real_setup(module, stage)

    def compute(metrics: Any) -> dict[str, float]:
        figures = real_compute(metrics)
        if metrics is modules[0].view_metrics[1]:
            figures["loss"] = next(given)
        return figures

    def predicted(module: lightning_module.ClassificationModule, batch: Any, *index: int) -> None:
        if index == (0, 0):
            kept.append({name: tensor.clone() for name, tensor in module.model.network.state_dict().items()})
        real_step(module, batch, *index)

    real_step = lightning_module.ClassificationModule.validation_step
    monkeypatch.setattr(lightning_module.ClassificationModule, "setup", setup)
    monkeypatch.setattr(lightning_module.ClassificationModule, "validation_step", predicted)
    monkeypatch.setattr(lightning_module, "_compute", compute)
    run, best = fitting()
    assert [line["shifted_loss"] for line in run.read_log()] == [0.5, 0.2, 0.9, 0.3]
    assert best.epoch == 2
    assert read_checkpoint(run.checkpoints / "best.ckpt")["epoch"] == 1
    floats = [name for name, tensor in kept[1].items() if tensor.is_floating_point()]
    assert all(torch.equal(best.weights[name], kept[1][name]) for name in floats)
    assert not all(torch.equal(best.weights[name], kept[3][name]) for name in floats)


@pytest.mark.parametrize(
    "options",
    [{}, {"scheduler": "plateau", "ema": 0, "mixup": 0.4}],
    ids=["one_cycle averaged", "plateau mixup"],
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    fitting: Fitting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole, expected = fitting("whole", **options)

    def interrupted(run: RunDirectory, line: dict[str, Any]) -> None:
        if line["epoch"] == 3:
            raise KeyboardInterrupt
        log(run, line)

    log = RunDirectory.log
    monkeypatch.setattr(RunDirectory, "log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fitting("first", **options)
    monkeypatch.setattr(RunDirectory, "log", log)
    shutil.move(tmp_path / "first", tmp_path / "moved")
    resumed, best = fitting("moved", **options)

    without_time = [[{**line, "seconds": 0} for line in run.read_log()] for run in (whole, resumed)]
    assert without_time[0] == without_time[1]
    assert best.epoch == expected.epoch
    assert all(torch.equal(best.weights[name], expected.weights[name]) for name in expected.weights)


def test_patience_ends_a_run_that_gets_no_better(fitting: Fitting) -> None:
    # With hardly any learning rate and no averaging nothing changes but batch-norm's statistics.
    run, best = fitting(epochs=12, lr=1e-9, scheduler="none", patience=2, monitor="validation_roc_auc", ema=0)
    epochs = len(run.read_log())
    assert epochs == best.epoch + 2 < 12


def test_a_diverging_run_says_what_to_try(fitting: Fitting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loss, "forward", lambda self, logits, label: logits.sum() * math.nan)
    with pytest.raises(FitError, match="lower --lr"):
        fitting(epochs=2, gradient_clip=0)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "bce", "label_smoothing": 0.1},
        {"mixup": 0.4},
        {"gradient_checkpointing": True},
        {"scheduler": "cosine", "optimizer": "adamw", "class_weights": False},
        {"scheduler": "plateau", "gradient_clip": 0, "flip": 0.5},
        {"precision": "bf16"},
        {"num_workers": 1},
    ],
    ids=lambda options: " ".join(options),
)
def test_every_way_of_fitting_runs(fitting: Fitting, options: dict[str, Any]) -> None:
    run, best = fitting(epochs=2, **options)
    assert 1 <= best.epoch <= 2
    assert all(math.isfinite(line["train_loss"]) for line in run.read_log())


def test_gradient_checkpointing_changes_nothing_but_memory(fitting: Fitting) -> None:
    (_, plain), (_, saving) = fitting("plain"), fitting("saving", gradient_checkpointing=True)
    for name, tensor in plain.weights.items():
        torch.testing.assert_close(saving.weights[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_frozen_backbone_stays_as_it_was(fitting: Fitting) -> None:
    _, best = fitting(epochs=2, freeze_backbone=True)
    torch.manual_seed(2)
    before = network_entry("tiny").build(2, False).state_dict()
    assert all(torch.equal(best.weights[name], before[name]) for name in before if name.startswith("backbone."))
    assert not torch.equal(best.weights["head.weight"], before["head.weight"])


def test_a_run_starts_from_another_ones_weights(fitting: Fitting) -> None:
    first, best = fitting("first", epochs=2)
    _, second = fitting("second", epochs=1, init_from=first.path, lr=1e-9, freeze_backbone=True)
    torch.testing.assert_close(second.weights["head.weight"], best.weights["head.weight"], rtol=0, atol=1e-6)


def test_two_devices_fit_one_network(class_folders: Path, tmp_path: Path) -> None:
    from training.__main__ import main

    arguments = ["train", "--data-dir", str(class_folders), "--output-dir", str(tmp_path / "run"), "--devices", "2"]
    options = ["--network", "efficientnet_lite0", "--no-pretrained", "--img-size", "32", "--epochs", "1"]
    assert main([*arguments, *options, "--accelerator", "cpu", "--threads", "1", "--batch-size", "4"]) == 0
    assert len(RunDirectory(tmp_path / "run").read_log()) == 1


def test_the_learning_rate_follows_its_schedule(fitting: Fitting) -> None:
    rates = {
        name: [line["lr"] for line in fitting(name, scheduler=name, lr=0.02)[0].read_log()]
        for name in ("none", "cosine", "one_cycle")
    }
    assert rates["none"] == [0.02] * 4
    # Half a cosine over four epochs; the rate is that after the epoch's last step.
    assert rates["cosine"] == pytest.approx([0.01 * (1 + math.cos(math.pi * k / 4)) for k in (1, 2, 3, 4)], abs=1e-6)
    assert rates["one_cycle"] == sorted(rates["one_cycle"], reverse=True)
    assert rates["one_cycle"][-1] < 0.02 * 0.02


def test_class_weights_are_inverse_frequencies(split: Split) -> None:
    positives = [image for image in split.train if image.label == 1]
    negatives = [image for image in split.train if image.label == 0]
    images = (*positives[:3], *negatives[:1])
    assert class_weights(images, 2).tolist() == pytest.approx([4 / (2 * 1), 4 / (2 * 3)])


def test_both_losses_give_what_is_worked_out_by_hand() -> None:
    logits, label = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]]), torch.tensor([1, 0])
    # Softmax: 3/4 and 1/2.
    assert float(Loss("cross-entropy", None, 0)(logits, label)) == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    # Sigmoids, image 1: 1/2 against 0 and 3/4 against 1; image 2: 1/2 against 1 and 1/2 against 0.
    first, second = (math.log(2) + math.log(4 / 3)) / 2, math.log(2)
    assert float(Loss("bce", None, 0)(logits, label)) == pytest.approx((first + second) / 2)
    weights = torch.tensor([1.0, 3.0])
    assert float(Loss("bce", weights, 0)(logits, label)) == pytest.approx((3 * first + second) / 4)
    assert float(Loss("cross-entropy", weights, 0)(logits, label)) == pytest.approx(
        (3 * math.log(4 / 3) + math.log(2)) / 4
    )


def test_tensorboard_has_curves_and_pictures(fitting: Fitting) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _ = fitting(epochs=2)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    names = {f"{figure}/{view}" for figure in ("loss", "accuracy") for view in ("train", "validation", "shifted")}
    assert {*names, "roc_auc/validation", "roc_auc/shifted", "lr"} <= set(tags["scalars"])
    assert set(tags["images"]) == {"images/train", "images/validation", "images/shifted", "grad_cam"}
    logged = [event.value for event in events.Scalars("loss/shifted")]
    assert logged == pytest.approx([line["shifted_loss"] for line in run.read_log()], abs=1e-5)
    assert [event.step for event in events.Scalars("loss/shifted")] == [1, 2]


def test_every_task_has_a_positive_class() -> None:
    assert {task.value: labels[1] for task, labels in CLASSES.items()} == {
        "pneumonia": "PNEUMONIA",
        "normality": "Abnormal",
    }
