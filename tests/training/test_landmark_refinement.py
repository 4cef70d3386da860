"""Fitting what looks again along a column: what it learns from, and a run of it from films to the served graph."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from landmark_sets import AasceWriter, column
from torch import Tensor, nn

from models.errors import ConfigurationError
from models.networks import efficientnet_lite, vertebra_refinement
from models.networks.heatmap_decoding import Decoding
from models.networks.heatmap_network import HeatmapNetwork, Heatmaps
from models.networks.heatmap_table import HEATMAP_NETWORKS, HeatmapEntry
from models.networks.refined_network import RefinedNetwork, refined
from models.networks.vertebra_frames import Frames
from models.spine.schemas import SCHEMAS
from training.datasets.landmark_radiographs import LandmarkBatch
from training.landmark_fitted import LandmarkModel, empty_landmark_network, load_fitted_landmarks
from training.landmark_refinement import SHIFT, SIZE, TURN_DEG, RefinementModule, disturbed, refinement_loss
from training.landmark_run import read_landmark_predictions
from training.landmark_settings import LandmarkTrainSettings, landmark_plan_of
from training.run import RunDirectory
from training.train import resume, train

AASCE = SCHEMAS["aasce68"]
SIZE_OF_FILM = (128, 64)
FILMS = 12


class Straight(HeatmapNetwork):
    """Finds the straight column of `landmark_sets.column` on every film.

    Args:
        landmarks: how many.
        slipped: by how many pixels vertebrae from the tenth on are found too low.
    """

    stride = 4

    def __init__(self, landmarks: int, slipped: float = 0.0) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1, landmarks, 1, 1))
        rows, columns = (torch.arange(side // 4) * 4.0 + 2 for side in SIZE_OF_FILM)
        x, y = torch.from_numpy(column(SIZE_OF_FILM)).float().T[..., None, None]
        y[4 * 9 :] += slipped
        self.register_buffer("heat", -((columns - x).square() + (rows[:, None] - y).square())[None] / 8)

    def forward(self, x: Tensor) -> Heatmaps:
        return Heatmaps((self.heat + self.offset).expand(len(x), -1, -1, -1))


@pytest.fixture(autouse=True)
def straight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network above, and a refiner of three blocks for small cut-outs."""
    entry = HeatmapEntry(
        "straight",
        lambda schema, _: Straight(len(schema)),
        published=None,
        loss="softmax",
        decoding=Decoding.EXPECTATION,
    )
    monkeypatch.setitem(HEATMAP_NETWORKS, "straight", entry)
    smaller: dict[str, Any] = {"_BLOCKS": 3, "_CHANNELS": 24, "_SHRINKS": 4, "_REDUCED": 8, "PATCH": (24, 32)}
    for name, value in smaller.items():
        monkeypatch.setattr(vertebra_refinement, name, value)
    # A backbone of random weights needs the statistics of its batch-norms sooner than a fitted one.
    monkeypatch.setattr(efficientnet_lite, "_BATCH_NORM_MOMENTUM", 0.3)


@pytest.fixture
def spines(aasce: AasceWriter) -> Path:
    """Persons with one film each, on which every vertebra is white and tilted by its own angle."""
    random = np.random.default_rng(0)
    for _ in range(FILMS):
        points = column(SIZE_OF_FILM, random.uniform(-12, 12, 17))
        image = random.integers(30, 60, SIZE_OF_FILM, dtype=np.uint8)
        for body in points.reshape(17, 4, 2)[:, [0, 1, 3, 2]]:
            cv2.fillPoly(image, [np.round((body - 0.5) * 16).astype(np.int32)], 230, cv2.LINE_AA, 4)
        aasce.add(points, image, split="training")
    return aasce.write()


def _settings(spines: Path, output: Path, **changes: Any) -> LandmarkTrainSettings:
    usual = {"network": "straight", "image_size": 128, "image_width": 64, "batch_size": 4, "epochs": 1, "ema": 0.5}
    return LandmarkTrainSettings(data_dir=spines, output_dir=output, **{**usual, "augmentation": 0.0, **changes})


def _tilt_error(run: RunDirectory) -> float:
    located = read_landmark_predictions(run, "validation")
    true = np.stack([image.points for image in located.images])
    found, wanted = (np.degrees(np.arctan2(*_across(points).T)) for points in (located.points, true))
    return float(np.abs(found - wanted).mean())


def _too_low(run: RunDirectory) -> list[float]:
    """Give how far below its body each vertebra is found, pixels of the film, on average."""
    located = read_landmark_predictions(run, "validation")
    true = np.stack([image.points for image in located.images])
    return [float(each) for each in (located.points - true)[..., 1].reshape(-1, 17, 4).mean(axis=(0, 2))]


def _across(points: Any) -> Any:
    corners = points.reshape(-1, 4, 2)
    return (corners[:, 1] - corners[:, 0] + corners[:, 3] - corners[:, 2])[:, ::-1]


def _frames(films: int) -> Frames:
    right = torch.tensor([1.0, 0.0]).expand(films, 17, 2)
    return Frames(torch.zeros(films, 17, 2), right, torch.full((films, 17), 20.0))


def test_frames_are_moved_turned_and_resized_as_far_as_is_said() -> None:
    torch.manual_seed(0)
    moved = disturbed(_frames(4000))
    turn = torch.rad2deg(torch.atan2(moved.right[..., 1], moved.right[..., 0]))
    assert float(turn.std()) == pytest.approx(TURN_DEG * (1 + 0.5**2) ** 0.5, rel=0.05)
    assert float(turn.mean()) == pytest.approx(0, abs=0.1)
    shift = moved.middle / 20.0
    assert shift.std(dim=(0, 1)).tolist() == pytest.approx([SHIFT * (1 + 0.6**2) ** 0.5] * 2, rel=0.05)
    size = torch.log(moved.width / 20)
    assert float(size.std()) == pytest.approx((SIZE**2 + 0.03**2) ** 0.5, rel=0.05)
    assert float(size.std(dim=1).mean()) == pytest.approx(0.03, rel=0.1), "one size for a whole film"
    alike = torch.corrcoef(torch.stack((turn[:, 5], turn[:, 6], turn[:, 12])))
    assert float(alike[0, 1]) == pytest.approx(0.8 / 1.25, abs=0.05), "four of five drawn numbers are common"
    assert float(alike[0, 2]) == pytest.approx(0, abs=0.05)
    torch.testing.assert_close(moved.right.norm(dim=2), torch.ones(4000, 17))


def test_the_loss_counts_corners_in_widths_and_tilts_in_radians() -> None:
    true = torch.tensor([[-0.5, -0.2], [0.5, -0.2], [-0.5, 0.2], [0.5, 0.2]]).expand(2, 17, 4, 2)
    assert float(refinement_loss(true, true)) == 0
    assert float(refinement_loss(true + 0.1, true)) == pytest.approx(10 * 0.1), "moved, not turned"
    angle = torch.tensor(0.2)
    turned = torch.stack(
        (
            angle.cos() * true[..., 0] - angle.sin() * true[..., 1],
            angle.sin() * true[..., 0] + angle.cos() * true[..., 1],
        ),
        dim=-1,
    )
    assert float(refinement_loss(turned, true)) == pytest.approx(10 * (0.2 + float((turned - true).abs().mean())))


def test_films_that_their_changes_have_cut_are_left_out(tmp_path: Path) -> None:
    settings = LandmarkTrainSettings(data_dir=tmp_path, output_dir=tmp_path, init_from=tmp_path, refine=True)
    entry = HEATMAP_NETWORKS["straight"]
    model = LandmarkModel(entry, AASCE, refined(Straight(len(AASCE)), AASCE))
    module = RefinementModule(settings, landmark_plan_of(settings, entry), model, "validation").eval()
    films, points = torch.rand(2, 1, *SIZE_OF_FILM), torch.from_numpy(np.stack([column(SIZE_OF_FILM)] * 2)).float()
    points[0, 5] = torch.nan
    unit = torch.ones(2)

    def loss(chosen: slice) -> Tensor:
        torch.manual_seed(0)
        return module.training_step(LandmarkBatch(films[chosen], points[chosen], unit[chosen]), 0)

    torch.testing.assert_close(loss(slice(None)), loss(slice(1, 2)))
    nothing = loss(slice(0, 1))
    nothing.backward()
    assert nothing.detach() == 0


def test_a_refined_run_turns_vertebrae_to_their_own_end_plates_and_keeps_what_finds_them(
    spines: Path, tmp_path: Path
) -> None:
    first = train(_settings(spines, tmp_path / "first", lr=1e-9))
    assert _tilt_error(first) > 5, "a straight column: the tilts are 6 degrees on average"
    second = train(
        _settings(spines, tmp_path / "second", init_from=first.path, refine=True, epochs=16, batch_size=2, lr=3e-3)
    )
    assert _tilt_error(second) < 0.8 * _tilt_error(first)
    log = second.read_log()
    assert log[-1]["validation_loss"] < 0.8 * log[0]["validation_loss"]
    assert log[-1]["validation_mre"] == pytest.approx(second.read_json("metrics_validation.json")["mre_px"], abs=0.01)
    kept, before = second.read_weights(), first.read_weights()
    for name, weight in before.items():
        torch.testing.assert_close(kept[f"coarse.{name}"], weight)


def test_a_refined_run_puts_vertebrae_that_have_slipped_back_onto_their_bodies(
    spines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = dataclasses.replace(
        HEATMAP_NETWORKS["straight"], name="slipped", make=lambda schema, _: Straight(len(schema), 3.4)
    )
    monkeypatch.setitem(HEATMAP_NETWORKS, "slipped", entry)
    usual: dict[str, Any] = {"network": "slipped", "batch_size": 2}
    first = train(_settings(spines, tmp_path / "first", lr=1e-9, **usual))
    assert _too_low(first)[9:] == pytest.approx([3.4] * 8, abs=0.3), "half of the way to the next"
    second = train(
        _settings(spines, tmp_path / "second", init_from=first.path, refine=True, epochs=12, lr=3e-3, **usual)
    )
    # So short a run does not learn that no vertebra lies on the edge of the film, above the first one.
    assert _too_low(second)[1:] == pytest.approx([0.0] * 16, abs=1.0)


def test_a_resumed_refinement_ends_as_an_uninterrupted_one(
    spines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(_settings(spines, tmp_path / "first", lr=1e-9))
    whole = train(_settings(spines, tmp_path / "whole", init_from=first.path, refine=True, epochs=3, lr=1e-4))
    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        log = RunDirectory.log

        def stop(run: RunDirectory, line: dict[str, Any]) -> None:
            log(run, line)
            if line["epoch"] == 2:
                raise KeyboardInterrupt

        patch.setattr(RunDirectory, "log", stop)
        with pytest.raises(KeyboardInterrupt):
            train(_settings(spines, broken, init_from=first.path, refine=True, epochs=3, lr=1e-4))
    resumed = resume(broken, {})
    for line, other in zip(whole.read_log(), resumed.read_log(), strict=True):
        assert line["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3), "the same frames were drawn"
        assert line["validation_mre"] == pytest.approx(other["validation_mre"], abs=1e-3)


def test_what_is_served_of_a_refined_run_is_the_refined_answer(spines: Path, tmp_path: Path) -> None:
    first = train(_settings(spines, tmp_path / "first", lr=1e-9))
    second = train(_settings(spines, tmp_path / "second", init_from=first.path, refine=True))
    served = load_fitted_landmarks(second.path).served
    film = torch.rand(2, 1, *SIZE_OF_FILM)
    network = served.network
    assert isinstance(network, RefinedNetwork)
    with torch.no_grad():
        points, confidence, spread = served(film)
        found, _, wide = served.found(film)
        better, sure = network.again(film, found, True)
    torch.testing.assert_close((points, spread), (better, wide))
    torch.testing.assert_close(confidence.reshape(2, 17, 4), sure[..., None].expand(-1, -1, 4))
    assert (points - found).abs().max() > 0.01


def test_refining_needs_a_network_that_finds_vertebrae_of_a_frontal_column(spines: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give init-from"):
        _settings(spines, tmp_path / "run", refine=True)
    with pytest.raises(ValueError, match="freeze is given"):
        _settings(spines, tmp_path / "run", refine=True, init_from=tmp_path, freeze=("heat",))
    first = train(_settings(spines, tmp_path / "first"))
    refine = _settings(spines, tmp_path / "second", refine=True, init_from=first.path)
    with pytest.raises(ConfigurationError, match="generic40 has no long column"):
        empty_landmark_network(refine, SCHEMAS["generic40"])
    second = train(refine)
    with pytest.raises(ConfigurationError, match="is refined already"):
        train(_settings(spines, tmp_path / "third", init_from=second.path))
    again = train(_settings(spines, tmp_path / "fourth", init_from=second.path, refine=True))
    assert again.is_finished
