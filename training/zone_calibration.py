"""Calibration of zone scores: how sure a network is, and how strict the reader is whom it answers like.

A network that learns the mean of two readers calls grades lower or higher than the one it is measured against. Two
figures put that right: the logits of the four grades are divided by a temperature, and each grade gets a bonus in
proportion to itself. More figures, one per grade say, fitted a set of 139 films no better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from models.zones import GRADED, Congestion

Probabilities = NDArray[np.float64]
"""``(N, 6, 5)``, sums to 1 over the classes."""

_GRADES: Final = np.arange(len(GRADED), dtype=np.float64)
_LEAST: Final = 1e-9  # probability, before its logarithm is taken
_RIDGE: Final = 1e-3  # so that a set that tells nothing changes nothing
_BOUNDS: Final = ((-1.5, 1.5), (-3.0, 3.0))
_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class ZoneCalibration:
    """What turns a network's probabilities into answers.

    Attributes:
        temperature: logits of the grades are divided by it.
        shift: nats per grade that are added to them; above 0 calls zones graver.
    """

    temperature: float = 1.0
    shift: float = 0.0


UNCALIBRATED: Final = ZoneCalibration()


def calibrated(probability: Probabilities, calibration: ZoneCalibration) -> Probabilities:
    """Give calibrated probabilities; that of ungradable stays as it is."""
    graded = probability[..., : len(GRADED)]
    logits = np.log(np.maximum(graded, _LEAST)) / calibration.temperature + calibration.shift * _GRADES
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares *= graded.sum(axis=-1, keepdims=True) / shares.sum(axis=-1, keepdims=True)
    return np.concatenate([shares, probability[..., len(GRADED) :]], axis=-1)


def fit_zone_calibration(probability: Probabilities, truth: NDArray[np.int64]) -> ZoneCalibration:
    """Fit both figures by the log-loss against a reader's gradable zones.

    Args:
        probability: of images that the network was not fitted to.
        truth: ``(N, 6)`` of the reader.
    """
    known = truth != Congestion.UNGRADABLE
    zones, grades = probability[known], truth[known]  # (M, 5), (M)
    if not len(grades):
        return UNCALIBRATED

    def loss(figures: NDArray[Any]) -> float:
        answers = calibrated(zones, _of(figures))[:, : len(GRADED)]
        held = answers[np.arange(len(grades)), grades] / np.maximum(answers.sum(axis=1), _LEAST)
        return float(-np.log(np.maximum(held, _LEAST)).mean() + _RIDGE * (figures**2).sum())

    found = _of(minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=_BOUNDS).x)
    return ZoneCalibration(round(found.temperature, _DIGITS), round(found.shift, _DIGITS))


def _of(figures: NDArray[Any]) -> ZoneCalibration:
    return ZoneCalibration(float(np.exp(figures[0])), float(figures[1]))
