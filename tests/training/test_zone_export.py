"""Exports of task csi: what is measured and published, and graphs that answer as the fitted networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from zone_runs import Brightness, settings

from models.engines.providers import load_engine
from models.errors import ConfigurationError
from models.networks.torchvision_shim import prepare_torchvision
from models.networks.zone_network import ZoneFeatures, ZoneNetwork
from models.networks.zone_table import ZONE_BACKBONES
from models.pixels.spec import InputSpec
from models.store.store import ModelStore
from models.tasks import Task
from models.zones import MIRRORED_ORDER, ZONES
from training.export import ExportRequest, export
from training.onnx_file import export_onnx
from training.served import OUTPUT_NAMES
from training.train import train
from training.zone_calibration import ZoneCalibration, calibrated
from training.zone_checkpoint import CheckpointZoneSubject
from training.zone_fitted import assemble
from training.zone_run import read_zone_calibration
from training.zone_served import ServedZoneNetwork
from training.zone_settings import ZoneTrainSettings

pytestmark = pytest.mark.usefixtures("brightness")


def test_a_network_fitted_to_everyone_is_measured_by_folds_fitted_likewise(zones: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    folds = train(settings(zones, tmp_path / "folds", kfold=2, epochs=2))
    run = train(settings(zones, tmp_path / "all", val_fraction=0, epochs=2))
    assert run.read_log()[0]["measured_on"] == "train"
    with pytest.raises(ConfigurationError, match="fitted to everyone"):
        export(run, ExportRequest("1.0.0", None, "note", "licence"), store)
    other = train(settings(zones, tmp_path / "otherwise", val_fraction=0, epochs=2, dropout=0.2))
    with pytest.raises(ConfigurationError, match=r"fitted otherwise than .*: dropout"):
        export(other, ExportRequest("1.0.0", None, "note", "licence", folds.path), store)
    started = train(settings(zones, tmp_path / "started", val_fraction=0, epochs=2, init_from=run.path))
    with pytest.raises(ConfigurationError, match=r"fitted otherwise than .*: init_from"):
        export(started, ExportRequest("1.0.0", None, "note", "licence", folds.path), store)
    (started.path / "metrics_train.json").unlink()
    with pytest.raises(ConfigurationError, match="not a finished run"):
        export(started, ExportRequest("1.0.0", None, "note", "licence", folds.path), store)
    version = export(run, ExportRequest("1.0.0", None, "synthetic zones", "test", folds.path), store)
    manifest = version.manifest
    assert manifest.task is Task.CSI
    assert set(manifest.metrics) == {"cross_validation"}
    pooled = folds.read_json("metrics_kfold.json")["splits"]["validation"]["pooled"]
    assert manifest.metrics["cross_validation"] == pooled
    card = (version.directory / "report" / "model_card.md").read_text()
    assert "fitted, and calibrated, likewise without that person" in card
    assert "has not learnt when to refuse" in card
    assert "quadratic kappa per zone" in card
    assert str(tmp_path) not in "".join(p.read_text() for p in version.directory.rglob("*.json"))
    engine = load_engine(version)
    subject = CheckpointZoneSubject(run.path)
    images = np.random.default_rng(0).random((3, 1, 48, 48)).astype(np.float32)
    answers, plain = engine.run(images), subject.answer(images)
    assert answers["probability"].shape == (3, 6, 5)
    expected = calibrated(plain.probability.astype(np.float64), read_zone_calibration(folds))
    assert answers["probability"] == pytest.approx(expected, abs=5e-3)
    assert plain.cam.shape == answers["cam"].shape
    assert subject.describe()["network"] == "brightness"


def test_a_run_with_held_out_persons_is_measured_on_the_exported_file(zones: Path, tmp_path: Path) -> None:
    run = train(settings(zones, tmp_path / "run", epochs=2))
    version = export(run, ExportRequest("1.0.0", None, "note", "licence"), ModelStore(tmp_path / "store"))
    measured = version.manifest.metrics["validation"]
    assert measured["kappa_quadratic"] == pytest.approx(
        run.read_json("metrics_validation.json")["kappa_quadratic"], abs=0.05
    )
    assert (version.directory / "report" / "agreement_validation.png").is_file()


@pytest.mark.parametrize("features", ZoneFeatures)
def test_the_mirror_image_gets_the_mirrored_answer(features: ZoneFeatures) -> None:
    torch.manual_seed(0)
    network = ZoneNetwork(Brightness(), features).eval()
    served = ServedZoneNetwork(ZONE_BACKBONES["brightness"], [network], mirrored=True).eval()
    image = torch.rand(2, 1, 48, 48)
    with torch.inference_mode():
        probability, cam = served(image)
        mirrored, mirrored_cam = served(image.flip(3))
    order = list(MIRRORED_ORDER)
    torch.testing.assert_close(mirrored, probability[:, order])
    torch.testing.assert_close(mirrored_cam, cam[:, order].flip(3))
    alone = ServedZoneNetwork(ZONE_BACKBONES["brightness"], [network], mirrored=False).eval()
    with torch.inference_mode():
        assert not torch.allclose(alone(image.flip(3))[0], alone(image)[0][:, order])


@pytest.mark.parametrize("features", ZoneFeatures)
def test_the_exported_graph_answers_batches_of_any_size(features: ZoneFeatures) -> None:
    import onnxruntime

    torch.manual_seed(0)
    members = [ZoneNetwork(Brightness(), features).eval() for _ in range(2)]
    served = ServedZoneNetwork(ZONE_BACKBONES["brightness"], members, mirrored=True).eval()
    proto = export_onnx(served, InputSpec(height=48, width=48), OUTPUT_NAMES)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    images = np.random.default_rng(0).random((5, 1, 48, 48)).astype(np.float32)
    with torch.inference_mode():
        probability, cam = (output.numpy() for output in served(torch.from_numpy(images)))
    for count in (1, 2, 5):
        answers = session.run(None, {"image": images[:count]})
        assert answers[0] == pytest.approx(probability[:count], abs=1e-5)
        assert answers[1] == pytest.approx(cam[:count], abs=1e-3)


def test_every_map_lies_in_its_zone_and_has_one_place_of_full_heat() -> None:
    torch.manual_seed(0)
    network = ZoneNetwork(Brightness(), ZoneFeatures.SPATIAL).eval()
    served = ServedZoneNetwork(ZONE_BACKBONES["brightness"], [network], mirrored=True).eval()
    with torch.inference_mode():
        _, cam = served(torch.rand(1, 1, 48, 48))
    assert cam.shape == (1, 6, 12, 12)
    for place in range(len(ZONES)):
        row, column = divmod(place, 2)
        inside = cam[0, place, 4 * row : 4 * row + 4, 6 * column : 6 * column + 6]
        torch.testing.assert_close(inside.sum(), cam[0, place].sum())
        assert cam[0, place].max() in (0.0, 1.0)


def test_chexnet_and_rad_dino_are_exported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_torchvision()
    from torchvision import models
    from transformers import Dinov2Config, Dinov2Model

    def shallow(weights: None) -> torch.nn.Module:
        """Four blocks as in DenseNet-121 of two layers each: the exporter takes most of a minute for all 121."""
        return models.DenseNet(growth_rate=32, block_config=(2, 2, 2, 2), num_init_features=64)

    monkeypatch.setattr(models, "densenet121", shallow)

    torch.manual_seed(0)
    tiny = Dinov2Config(hidden_size=28, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14)
    Dinov2Model(tiny).save_pretrained(tmp_path / "rad-dino")
    for name, weights, side in (("chexnet", None, 64), ("rad_dino", tmp_path / "rad-dino", 70)):
        given = {"backbone": name, "weights": weights, "pretrained": weights is not None}
        chosen = ZoneTrainSettings(data_dir=tmp_path, output_dir=tmp_path, **given)
        entry = ZONE_BACKBONES[name]
        network = assemble(chosen, entry.build(weights is not None, weights)).eval()
        served = ServedZoneNetwork(entry, [network], mirrored=name == "rad_dino").eval()
        proto = export_onnx(served, InputSpec(height=side, width=side), OUTPUT_NAMES, foldable=entry.foldable)
        import onnxruntime

        session = onnxruntime.InferenceSession(proto.SerializeToString())
        images = np.random.default_rng(0).random((2, 1, side, side)).astype(np.float32)
        probability, _ = session.run(None, {"image": images})
        with torch.inference_mode():
            expected = served(torch.from_numpy(images))[0].numpy()
        assert probability == pytest.approx(expected, abs=1e-4), name


def test_the_exported_module_calibrates_as_the_measures_do() -> None:
    torch.manual_seed(0)
    network, calibration = ZoneNetwork(Brightness()).eval(), ZoneCalibration(0.7, 0.4)
    entry, image = ZONE_BACKBONES["brightness"], torch.rand(3, 1, 48, 48)
    with torch.inference_mode():
        plain = ServedZoneNetwork(entry, [network], mirrored=False).eval()(image)[0].double().numpy()
        served = ServedZoneNetwork(entry, [network], mirrored=False, calibration=calibration).eval()(image)[0].numpy()
    assert served == pytest.approx(calibrated(plain, calibration), abs=1e-5)
