"""Published weights: where they come from, how they are read, and what to do where they cannot be had.

Files are read with ``weights_only=True``: a weights file from elsewhere never runs code.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from models.errors import ConfigurationError
from models.networks.torchvision_shim import prepare_torchvision


@dataclass(frozen=True, slots=True)
class StateDict:
    """Weights that were read.

    Attributes:
        source: file or publisher, for messages.
        tensors: by the publisher's parameter names.
    """

    source: str
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """Weights that somebody published for a network.

    Attributes:
        origin: what they are and their licence, for manifests.
        read: gets them; raises `ConfigurationError` where they cannot be had.
    """

    origin: str
    read: Callable[[], StateDict]


def read_weights_file(path: Path) -> StateDict:
    """Read a local state dict, as ``torch.save`` wrote it.

    Raises:
        ConfigurationError: there is no such file, or it holds something else.
    """
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror or 'input or output error'}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ConfigurationError(f"{path}: not a file of weights (a state dict of torch.save)") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ConfigurationError(f"{path}: holds something other than tensors by parameter name")
    return StateDict(str(path), tensors)


def torchvision_weights(enumeration: str, member: str) -> PublishedWeights:
    """Give ImageNet weights of torchvision.

    Args:
        enumeration: e.g. ``ResNet18_Weights``.
        member: e.g. ``IMAGENET1K_V1``.
    """
    origin = f"ImageNet weights {enumeration}.{member} of torchvision (BSD-3-Clause; ImageNet: non-commercial research)"
    return PublishedWeights(origin, lambda: _from_torchvision(enumeration, member))


def _from_torchvision(enumeration: str, member: str) -> StateDict:
    prepare_torchvision()
    from torchvision import models

    weights = getattr(models, enumeration)[member]
    file_name = Path(urlparse(weights.url).path).name
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    try:
        tensors = weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        if cached.is_file():
            raise ConfigurationError(f"pretrained weights {cached}: broken; delete the file and try again") from error
        # No address, no answer, no room, or another hash than the file's name says.
        raise ConfigurationError(
            f"pretrained weights {file_name} are not in {cached.parent} and cannot be fetched from {weights.url} "
            f"({type(error).__name__}); get the file and give it with --weights FILE, or train with --no-pretrained"
        ) from error
    return StateDict(file_name, tensors)


def load_all_but_last_layer(module: nn.Module, weights: StateDict, last_layer: str) -> None:
    """Load published weights in place; the last layer, which knows the publisher's classes, stays as it is.

    Args:
        module: has the publisher's parameter names.
        last_layer: its name, e.g. ``fc``.

    Raises:
        ConfigurationError: they are not the weights of this module.
    """
    prefix = f"{last_layer}."
    tensors = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith(prefix)}
    tensors |= {name: tensor for name, tensor in module.state_dict().items() if name.startswith(prefix)}
    kind = type(module).__name__
    try:
        missing, unexpected = module.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ConfigurationError(f"{weights.source}: weights of another size than {kind} has") from error
    if missing or unexpected:
        fault = f"lacks {missing[0]}" if missing else f"has {unexpected[0]}, which is unknown"
        raise ConfigurationError(f"{weights.source}: not the weights of {kind}: {fault}")
