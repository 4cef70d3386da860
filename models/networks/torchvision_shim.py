"""Importing torchvision beside a torch that it was not compiled for.

torchvision's wheel on PyPI belongs to the CUDA build of torch. Beside the CPU build its compiled operators (detection's
non-maximum suppression, JPEG decoding) cannot be loaded. It goes on without them, except that its import describes
``torchvision::nms`` and ``torchvision::qnms``, and torch refuses to describe an operator that does not exist. We use
only its networks, which need no such operator, so the two are declared, without an implementation, and the import is
tried again. Where the builds match nothing is declared.
"""

from __future__ import annotations

import importlib
import sys
from functools import lru_cache
from typing import Final

import torch

_SCHEMA: Final = "{}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS: Final = ("nms", "qnms")


@lru_cache(maxsize=1)
def _declared() -> torch.library.Library:
    # Kept for the life of the process: with the object the declarations would go.
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch leaves it
    for name in _OPERATORS:
        library.define(_SCHEMA.format(name))  # type: ignore[no-untyped-call]  # as above
    return library


def prepare_torchvision() -> None:
    """Make ``import torchvision`` work; call it before torchvision, grad-cam or anything else that imports it.

    Raises:
        ImportError: torchvision is not installed.
    """
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _declared()
        importlib.import_module("torchvision")
