"""The loop guard knows what is ours, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from models.pixels.header import read_header
from worker.outputs.loop_guard import is_own_output

MakeHeader = Callable[..., Dataset]


def test_our_outputs_are_known_when_they_come_back(make_header: MakeHeader, written: Callable[[Dataset], Path]) -> None:
    header = read_header(written(make_header()))
    assert is_own_output(header)
    header.Manufacturer = "ARCHIVE"  # coerced on the way
    assert is_own_output(header)
    header.SeriesDescription = "changed"
    assert not is_own_output(header)
    assert is_own_output(header, {str(header.DeviceUID)})


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"ImageType": ["DERIVED", "PRIMARY"]},  # processed radiographs are derived, too
        {"Manufacturer": "ACME", "SeriesDescription": "AI pneumonia"},
        {"Manufacturer": "radstream"},
        {"Manufacturer": b"\xff\xfe", "ContributingEquipmentSequence": [Dataset()]},
    ],
    ids=str,
)
def test_other_objects_are_not_ours(make_header: MakeHeader, attributes: dict[str, Any]) -> None:
    assert not is_own_output(make_header(**attributes))
