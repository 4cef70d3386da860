"""The tasks: what a network answers. One closed set for routing, store, records and metrics."""

from __future__ import annotations

from enum import StrEnum


class Task(StrEnum):
    """What a network answers."""

    PNEUMONIA = "pneumonia"
    NORMALITY = "normality"
    CSI = "csi"
    LANDMARKS = "landmarks"
