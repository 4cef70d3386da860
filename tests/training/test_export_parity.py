"""The comparison of an exported graph with the fitted network, before anything is published."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.export import ExportError, LandmarkTolerance, check_parity

TOLERANCE = LandmarkTolerance(landmarks=1.0, confidence=0.05, spread=1.0)
CONFIDENCE = [0.9, 0.05]
"""Of a landmark that has a place, and of one whose heat lies all over the film."""


class Fitted(nn.Module):
    """Two landmarks at (10, 20) and (30, 40)."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count = len(image)
        points = torch.tensor([[10.0, 20.0], [30.0, 40.0]]).expand(count, 2, 2)
        return points, torch.tensor(CONFIDENCE).expand(count, 2), torch.ones(count, 2)


class Exported:
    """An engine that answers the same but for what is given."""

    def __init__(self, **differing: list[Any]) -> None:
        alike = {"landmarks": [[10, 20], [30, 40]], "confidence": CONFIDENCE, "spread": [1, 1]}
        self._answers = {name: np.array(value, np.float32) for name, value in {**alike, **differing}.items()}

    def run(self, image: Any) -> dict[str, Any]:
        return {name: np.stack([value] * len(image)) for name, value in self._answers.items()}

    def close(self) -> None:
        """Nothing to give back."""


def compare(**differing: list[Any]) -> dict[str, float]:
    engine: Any = Exported(**differing)
    batches = [(torch.zeros(2, 1, 8, 8),), (torch.zeros(1, 1, 8, 8),)]
    told = check_parity(Fitted().eval(), engine, batches, TOLERANCE)
    assert told["images"] == 3
    worst: dict[str, float] = told["largest_difference"]
    return worst


def test_a_landmark_without_a_place_may_lie_anywhere() -> None:
    assert compare(landmarks=[[10.5, 20], [200, 300]])["landmarks"] == 0.5


@pytest.mark.parametrize(
    ("differing", "told"),
    [
        ({"landmarks": [[10, 22], [30, 40]]}, "landmarks by 2 "),
        ({"confidence": [0.9, 0.5]}, "confidence by 0.45 "),
        ({"spread": [1, 9]}, "spread by 8 "),
    ],
)
def test_a_graph_that_differs_otherwise_is_refused(differing: dict[str, list[Any]], told: str) -> None:
    with pytest.raises(ExportError, match=told):
        compare(**differing)
