"""The version that ships: whole, small, honest about itself, and right about real radiographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from models.engines.engine import Engine
from models.engines.providers import load_engine
from models.pixels.image_files import read_image_file
from models.pixels.radiograph import Radiograph
from models.settings import Settings
from models.store.store import ModelStore, ModelVersion
from models.tasks import Task

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "chest_xray_224" / "train"


@pytest.fixture(scope="module")
def version() -> ModelVersion:
    return ModelStore(Settings().model_store).open(Task.PNEUMONIA)


@pytest.fixture(scope="module")
def engine(version: ModelVersion) -> Engine:
    return load_engine(version, threads=1)


def test_the_shipped_version_is_small_enough_for_git(version: ModelVersion) -> None:
    assert sum(path.stat().st_size for path in version.directory.parent.rglob("*") if path.is_file()) < 12e6


def test_the_manifest_says_what_it_was_trained_on_and_what_it_reached(version: ModelVersion) -> None:
    manifest = version.manifest
    assert manifest.labels == ("NORMAL", "PNEUMONIA")
    assert manifest.positive_label == "PNEUMONIA"
    assert len(manifest.training_data["digest"]) == 64
    assert manifest.training_data["counts"]["validation"]["images"] == manifest.metrics["validation"]["n"]
    assert manifest.metrics["validation"]["roc_auc"] > 0.99
    assert manifest.metrics["validation_shifted"]["roc_auc"] > 0.99
    assert "CC BY 4.0" in manifest.licence


def test_it_answers_with_probabilities_and_a_map(version: ModelVersion, engine: Engine) -> None:
    side = version.manifest.input_spec.height
    outputs = engine.run(np.random.default_rng(0).random((3, 1, side, side), dtype=np.float32))
    assert outputs["probability"].shape == (3, 2)
    np.testing.assert_allclose(outputs["probability"].sum(axis=1), 1, atol=1e-6)
    assert outputs["cam"].shape == (3, side // 32, side // 32)
    for array in outputs.values():
        assert 0 <= array.min() <= array.max() <= 1


def test_black_and_white_images_are_answered_with_numbers(version: ModelVersion, engine: Engine) -> None:
    spec = version.manifest.input_spec
    outputs = engine.run(np.stack([np.full((1, spec.height, spec.width), grey, np.float32) for grey in (0, 1)]))
    assert all(np.isfinite(array).all() for array in outputs.values())


def test_a_real_chest_gets_the_same_answer_in_each_of_its_transfer_syntaxes(
    version: ModelVersion, engine: Engine
) -> None:
    inputs = []
    for name in ("RG1_UNCR.dcm", "RG1_J2KR.dcm", "RG1_J2KI.dcm"):
        path = get_testdata_file(name, download=False)
        assert isinstance(path, str), f"{name} comes with pydicom-data"
        inputs.append(Radiograph.read(Path(path)).to_input(version.manifest.input_spec))
    probability = engine.run(np.stack(inputs)[:, None])["probability"][:, 1]
    assert probability[1] == pytest.approx(probability[0], abs=1e-6), "lossless"
    assert probability[2] == pytest.approx(probability[0], abs=0.02), "lossy"


@pytest.mark.skipif(not REAL.is_dir(), reason="the paediatric pneumonia set is not here")
def test_it_tells_normal_from_pneumonia_in_the_set_it_was_trained_on(version: ModelVersion, engine: Engine) -> None:
    threshold = version.manifest.thresholds["PNEUMONIA"]
    for index, label in enumerate(version.manifest.labels):
        paths = sorted((REAL / label).iterdir())[::60]
        images = np.stack([read_image_file(path).to_input(version.manifest.input_spec) for path in paths])
        called = engine.run(images[:, None])["probability"][:, 1] >= threshold
        assert np.mean(called == bool(index)) >= 0.95
