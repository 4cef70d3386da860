"""The shipped version of task csi: whole, small, honest about itself, and right about sides on a real radiograph."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.data import get_testdata_file

from models.engines.engine import Engine
from models.engines.providers import load_engine
from models.pixels.radiograph import Radiograph
from models.pixels.spec import Framing
from models.settings import Settings
from models.store.store import ModelStore, ModelVersion
from models.tasks import Task
from models.zones import CLASS_NAMES, MIRRORED_ORDER, ZONES, Zone, grade_zones


@pytest.fixture(scope="module")
def version() -> ModelVersion:
    return ModelStore(Settings().model_store).open(Task.CSI)


@pytest.fixture(scope="module")
def engine(version: ModelVersion) -> Engine:
    return load_engine(version, threads=1)


@pytest.fixture(scope="module")
def chest(version: ModelVersion) -> NDArray[np.float32]:
    """The input made of a real chest radiograph, ``(H, W)``."""
    path = get_testdata_file("RG1_UNCR.dcm", download=False)
    assert isinstance(path, str), "comes with pydicom-data"
    radiograph = Radiograph.read(Path(path))
    assert radiograph.lung_fields.found
    return radiograph.to_input(version.manifest.input_spec)


def test_all_shipped_versions_together_are_small_enough_for_git() -> None:
    store = Settings().model_store
    assert sum(path.stat().st_size for path in store.rglob("*.onnx")) < 60e6


def test_the_manifest_says_what_it_was_trained_on_and_what_it_reached(version: ModelVersion) -> None:
    manifest = version.manifest
    assert manifest.labels == CLASS_NAMES
    assert manifest.input_spec.framing is Framing.LUNGS
    assert manifest.training_data["counts"]["train"]["images"] == 139
    measured = manifest.metrics["cross_validation"]
    assert measured["n"] == 139
    low, high = measured["intervals"]["kappa_quadratic"]
    assert low < measured["kappa_quadratic"] < high
    assert measured["kappa_quadratic"] > 0.7
    assert measured["second_reader"]["kappa_quadratic"] == pytest.approx(0.801, abs=0.001)
    for text in (manifest.licence, (version.directory / "report" / "model_card.md").read_text(encoding="utf-8")):
        assert "research-only data, Brixia severity read as CSI" in text


def test_it_answers_every_zone_with_probabilities_and_a_map_within_it(
    version: ModelVersion, engine: Engine, chest: NDArray[np.float32]
) -> None:
    outputs = engine.run(np.stack([chest, 1 - chest, np.zeros_like(chest)])[:, None])
    assert outputs["probability"].shape == (3, 6, 5)
    np.testing.assert_allclose(outputs["probability"].sum(axis=2), 1, atol=1e-5)
    maps = outputs["cam"]
    assert maps.shape[:2] == (3, 6)
    assert 0 <= maps.min() <= maps.max() <= 1
    rows, columns = maps.shape[2] // 3, maps.shape[3] // 2
    for place in range(len(ZONES)):
        row, column = divmod(place, 2)
        inside = maps[:, place, row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
        np.testing.assert_allclose(inside.sum(), maps[:, place].sum(), rtol=1e-5)


def _with_opacity(image: NDArray[np.float32], zone: Zone) -> NDArray[np.float32]:
    """Lay a cloud with texture over the middle of a zone, soft at its edge."""
    height, width = image.shape
    row, column = divmod(ZONES.index(zone), 2)
    centre = (round((column + 0.5) * width / 2), round((row + 0.5) * height / 3))
    cover = np.zeros_like(image)
    cv2.ellipse(cover, centre, (round(0.2 * width), round(0.15 * height)), 0, 0, 360, (1.0,), -1)
    cover = cv2.GaussianBlur(cover, (0, 0), 0.03 * width)
    noise = np.random.default_rng(0).standard_normal((height, width)).astype(np.float32)
    texture = cv2.GaussianBlur(noise, (0, 0), width / 96)
    strength = np.clip(0.75 + 0.25 * texture / texture.std(), 0, 1)
    return np.clip(image + cover * strength * (0.95 - image), 0, 1).astype(np.float32)


# The zones of this chest that are all but clear: there is room for a higher score.
@pytest.mark.parametrize("zone", [Zone.RIGHT_SUP, Zone.LEFT_SUP, Zone.LEFT_MID, Zone.LEFT_INF])
def test_an_opacity_on_one_side_is_found_on_that_side_and_in_the_mirror_image_on_the_other(
    engine: Engine, chest: NDArray[np.float32], zone: Zone
) -> None:
    for flipped in (False, True):
        images = np.stack([chest, _with_opacity(chest, zone)])
        if flipped:
            images = images[..., ::-1]
        expected = grade_zones(engine.run(np.ascontiguousarray(images)[:, None])["probability"]).expected
        rise = expected[1] - expected[0]
        wanted = zone.mirrored if flipped else zone
        assert ZONES[int(rise.argmax())] is wanted, (flipped, dict(zip(ZONES, rise.round(2).tolist(), strict=True)))
        assert rise[ZONES.index(wanted)] > rise[MIRRORED_ORDER[ZONES.index(wanted)]] + 0.5
