"""The shipped version of task landmarks: whole, small, honest about itself, and the same for a spine and its mirror."""

from __future__ import annotations

import numpy as np
import pytest

from models.engines.engine import Engine
from models.engines.providers import load_engine
from models.pixels.spec import Framing, Resize
from models.settings import Settings
from models.spine.schemas import SCHEMAS, schema_of_labels
from models.store.store import ModelStore, ModelVersion
from models.tasks import Task

AASCE = SCHEMAS["aasce68"]


@pytest.fixture(scope="module")
def version() -> ModelVersion:
    return ModelStore(Settings().model_store).open(Task.LANDMARKS)


@pytest.fixture(scope="module")
def engine(version: ModelVersion) -> Engine:
    return load_engine(version, threads=1)


def test_it_is_small_enough_for_git(version: ModelVersion) -> None:
    assert (version.directory / "network.onnx").stat().st_size <= 16e6


def test_the_manifest_says_what_it_was_trained_on_and_what_it_reached(version: ModelVersion) -> None:
    manifest = version.manifest
    assert schema_of_labels(manifest.labels) is AASCE
    assert (manifest.input_spec.framing, manifest.input_spec.resize) == (Framing.WHOLE, Resize.LETTERBOX)
    assert manifest.review_confidence is not None
    assert "research" in manifest.licence.lower()
    (metrics,) = manifest.metrics.values()
    assert metrics["n"] >= 90
    for name in ("mre_px", "sdr_24", "cobb_smape"):
        low, high = metrics["intervals"][name]
        assert low < metrics[name] < high
    assert metrics["cobb_smape"] < 25
    assert (version.directory / "report" / "model_card.md").is_file()


def test_no_path_of_the_training_machine_is_in_the_report(version: ModelVersion) -> None:
    for path in (version.directory / "report").glob("*.json*"):
        text = path.read_text()
        assert "/tmp" not in text
        assert "/home" not in text
        assert "data_dir" not in text


def test_answers_do_not_depend_on_the_batch(version: ModelVersion, engine: Engine) -> None:
    spec = version.manifest.input_spec
    images = np.random.default_rng(0).random((3, 1, spec.height, spec.width), dtype=np.float32)
    together = engine.run(images)
    alone = engine.run(images[1:2])
    for name in version.manifest.output_names:
        np.testing.assert_allclose(together[name][1], alone[name][0], atol=0.05)
        assert np.isfinite(together[name]).all()


def test_the_mirror_image_of_a_film_has_mirrored_landmarks(version: ModelVersion, engine: Engine) -> None:
    spec = version.manifest.input_spec
    rows, columns = np.mgrid[: spec.height, : spec.width]
    middle = spec.width / 2 + 12 * np.sin(rows / spec.height * 6)
    film = np.exp(-0.5 * ((columns - middle) / 10) ** 2) * (0.6 + 0.3 * np.sin(rows / spec.height * 17 * 2 * np.pi))
    image = film.astype(np.float32)[None, None]
    plain, mirrored = engine.run(image), engine.run(np.ascontiguousarray(image[..., ::-1]))
    back = mirrored["landmarks"][0][list(AASCE.mirrored_order)] * [-1, 1] + [spec.width, 0]
    assert version.manifest.training_data["mirrored"]
    assert np.median(np.abs(back - plain["landmarks"][0])) < 1.0
