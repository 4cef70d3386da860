"""The checkpoint of a run of task landmarks: asked through the module that is exported, described without paths."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.errors import ConfigurationError
from models.pixels.spec import InputSpec, Resize
from models.spine.schemas import SCHEMAS
from training import landmark_checkpoint
from training.landmark_checkpoint import CheckpointLandmarkSubject


class Served(nn.Module):
    """Puts every landmark where the mean brightness says, and fails in training mode."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert not self.training
        mean = image.mean(dim=(1, 2, 3))
        confidence = mean[:, None].expand(-1, 20)
        return confidence[..., None].expand(-1, -1, 2) * 10, confidence, confidence + 1


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory whose network is `Served`."""
    directory = tmp_path / "spine-1"
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "checkpoints" / "best_mre.ckpt").touch()
    config = {"task": "landmarks", "network": "tiny", "pretrained": True}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "data.json").write_text('{"digest": "d1", "schema": "buu_ap20"}')
    (directory / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    spec = InputSpec(height=32, width=32, resize=Resize.LETTERBOX)
    fitted = SimpleNamespace(served=Served().train(), schema=SCHEMAS["buu_ap20"], input_spec=spec)
    monkeypatch.setattr(landmark_checkpoint, "load_fitted_landmarks", lambda _: fitted)
    return directory


def test_it_answers_as_the_exported_module(run: Path) -> None:
    subject = CheckpointLandmarkSubject(run, threads=torch.get_num_threads())
    outputs = subject.answer(np.stack([np.zeros((1, 32, 32), np.float32), np.full((1, 32, 32), 0.5, np.float32)]))
    assert [part.shape for part in outputs] == [(2, 20, 2), (2, 20), (2, 20)]
    assert outputs.landmarks[:, 3].tolist() == [[0, 0], [5, 5]]
    assert outputs.confidence[:, 0].tolist() == [0, 0.5]
    assert (subject.schema.name, subject.input_spec.height) == ("buu_ap20", 32)


def test_it_is_described_by_its_run_without_paths(run: Path) -> None:
    described = CheckpointLandmarkSubject(run).describe()
    assert described == {
        "subject": "spine-1",
        "kind": "checkpoint",
        "dropout_passes": None,
        "task": "landmarks",
        "network": "tiny",
        "schema": "buu_ap20",
        "pretrained": True,
        "epochs": 2,
        "training_data_digest": "d1",
    }
    assert CheckpointLandmarkSubject(run / "checkpoints" / "best_mre.ckpt").name == "spine-1 (best_mre)"


def test_a_run_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such run directory or checkpoint"):
        CheckpointLandmarkSubject(tmp_path / "nowhere")


def test_passes_with_dropout_scatter(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dropping(nn.Module):
        dropout = nn.Dropout(0.5)

        def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean = self.dropout(image.mean(dim=(2, 3)).expand(-1, 20))
            return mean[..., None].expand(-1, -1, 2) * 10, mean, mean * 0

    spec = InputSpec(height=32, width=32, resize=Resize.LETTERBOX)
    fitted = SimpleNamespace(served=Dropping(), schema=SCHEMAS["buu_ap20"], input_spec=spec)
    monkeypatch.setattr(landmark_checkpoint, "load_fitted_landmarks", lambda _: fitted)
    image = np.full((1, 1, 32, 32), 0.5, np.float32)
    assert CheckpointLandmarkSubject(run).answer(image).spread.max() == 0
    torch.manual_seed(0)
    scattered = CheckpointLandmarkSubject(run, dropout_passes=64).answer(image)
    # Each pass gives 0 or 10 with equal chance: mean 5, standard deviation 5.
    assert scattered.landmarks.mean() == pytest.approx(5, abs=1)
    assert scattered.spread.mean() == pytest.approx(5, abs=0.3)
    with pytest.raises(ConfigurationError, match="at least 2"):
        CheckpointLandmarkSubject(run, dropout_passes=1)
