"""RAD-DINO (Pérez-García et al., Nature Machine Intelligence 2025): a vision transformer that learnt from radiographs.

Its weights are read from a local directory in the layout of Hugging Face (``config.json``, ``model.safetensors``); they
are published as ``microsoft/rad-dino`` under terms of their own and are not part of radstream.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from models.errors import ConfigurationError
from models.networks.network import Backbone, Step
from models.networks.torchvision_shim import prepare_torchvision

if TYPE_CHECKING:
    from transformers import Dinov2Model

IMAGE_SIZE: Final = 518
"""Side that it was fitted with, pixels: 37 patches of 14. Position codes are interpolated for other sizes."""
MEAN: Final = (0.5307, 0.5307, 0.5307)
STD: Final = (0.2583, 0.2583, 0.2583)
HOW_TO_GET: Final = "fetch the files of microsoft/rad-dino into a directory and give it with --weights DIR"


class RadDinoBackbone(Backbone):
    """The encoder; its map are the patch tokens behind the last layer norm, ``(N, 768, H/14, W/14)``.

    The class token is left out: a zone's features are to come from the zone's own places.
    """

    def __init__(self, encoder: Dinov2Model) -> None:
        super().__init__()
        self.encoder = encoder
        self.channels = int(encoder.config.hidden_size)
        self.patch = int(encoder.config.patch_size)  # type: ignore[arg-type]  # one number, for both sides

    def steps(self) -> Sequence[Step]:
        """Give the whole encoder as one step."""
        return [self._encode]

    def _encode(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.encoder(pixel_values=x).last_hidden_state[:, 1:]  # (N, h * w, K)
        size = (x.shape[2] // self.patch, x.shape[3] // self.patch)
        return torch.unflatten(tokens.transpose(1, 2), 2, size)


def rad_dino_backbone(directory: Path | None) -> RadDinoBackbone:
    """Read the encoder from a directory; nothing is fetched.

    Raises:
        ConfigurationError: there is no such directory, or it holds something else.
    """
    if directory is None:
        raise ConfigurationError(f"rad_dino: has no weights here; {HOW_TO_GET}")
    if not (directory / "config.json").is_file():
        raise ConfigurationError(f"{directory}: holds no config.json; {HOW_TO_GET}")
    prepare_torchvision()
    from safetensors import SafetensorError
    from transformers import AutoConfig, Dinov2Model

    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        if config.model_type != "dinov2":
            raise ConfigurationError(f"{directory}: holds a {config.model_type}, not a dinov2; {HOW_TO_GET}")
        encoder = Dinov2Model.from_pretrained(directory, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigurationError(f"{directory}: cannot be read ({type(error).__name__}); {HOW_TO_GET}") from error
    return RadDinoBackbone(encoder)
