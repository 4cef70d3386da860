"""The table of landmark networks: what ``--network`` may name, how each is built, fed and best fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from models.errors import ConfigurationError
from models.networks import heatmap_hrnet
from models.networks.heatmap_decoding import Decoding
from models.networks.heatmap_hrnet import HeatmapHrNet
from models.networks.heatmap_network import HeatmapNetwork
from models.networks.heatmap_resnet import HeatmapResNet
from models.networks.maht_net import MahtNet
from models.networks.published_weights import PublishedWeights, StateDict, read_weights_file, torchvision_weights
from models.networks.resnet import torchvision_resnet_backbone
from models.networks.spine_lite import SpineLite
from models.networks.table import IMAGENET_MEAN, IMAGENET_STD, network_entry
from models.networks.unet import UNet
from models.spine.schemas import LandmarkSchema

LandmarkLossKind = Literal["mse", "adaptive_wing", "maht", "softmax"]
"""What heatmaps are fitted by. After ``softmax`` they are logits over the cells, after the others heat itself."""


@dataclass(frozen=True, slots=True)
class HeatmapEntry:
    """One landmark network of the table.

    Attributes:
        name: as on the command line.
        make: builds it for a schema, from published weights or at random.
        published: pretrained weights of the backbone; None for networks that are always fitted from scratch.
        loss, decoding: defaults of fitting, and of reading a place from a heatmap.
        lr: learning rate of everything outside of the backbone, with AdamW.
        backbone_lr: of the backbone, where it begins with published weights.
        freeze: prefixes of what stays as published.
        mean, std: of the three channels that it wants, for images in [0, 1].
        image_size: side of the letterboxed input that it was designed for, pixels; it takes others.
    """

    name: str
    make: Callable[[LandmarkSchema, StateDict | None], HeatmapNetwork]
    published: PublishedWeights | None
    loss: LandmarkLossKind = "mse"
    decoding: Decoding = Decoding.DARK
    lr: float = 1e-4
    backbone_lr: float = 1e-5
    freeze: tuple[str, ...] = ()
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    image_size: int = 512

    @property
    def weights_origin(self) -> str | None:
        """Where pretrained weights come from and their licence, for manifests."""
        return None if self.published is None else self.published.origin

    def build(self, schema: LandmarkSchema, pretrained: bool, weights: Path | None = None) -> HeatmapNetwork:
        """Build the network, on the CPU; nothing is frozen yet.

        Args:
            schema: its landmarks, one heatmap each.
            pretrained: begin with published weights, otherwise at random (torch's generator).
            weights: local file of the published weights; without it the publisher's package or cache is asked.

        Raises:
            ConfigurationError: there are no such weights, they cannot be had, or the file holds others.
        """
        return self.make(schema, self._published(pretrained, weights))

    def _published(self, pretrained: bool, weights: Path | None) -> StateDict | None:
        if not pretrained:
            if weights is not None:
                raise ConfigurationError(f"{weights}: given as pretrained weights together with --no-pretrained")
            return None
        if self.published is None:
            raise ConfigurationError(f"network {self.name}: there are no pretrained weights; use --no-pretrained")
        return self.published.read() if weights is None else read_weights_file(weights)


_ENTRIES: Final = (
    HeatmapEntry("unet", lambda schema, _: UNet(len(schema)), published=None),
    HeatmapEntry(
        "resnet50_heatmap",
        lambda schema, weights: HeatmapResNet(torchvision_resnet_backbone(50, weights), len(schema)),
        published=network_entry("resnet50").published,
        freeze=("conv1", "layer1"),
    ),
    HeatmapEntry(
        "hrnet_w32",
        lambda schema, weights: HeatmapHrNet(len(schema), weights),
        published=heatmap_hrnet.PUBLISHED,
    ),
    HeatmapEntry(
        "maht_net",
        MahtNet,
        published=torchvision_weights("EfficientNet_V2_S_Weights", "IMAGENET1K_V1"),
        loss="maht",
    ),
    HeatmapEntry(
        "spine_lite",
        lambda schema, weights: SpineLite(len(schema), weights),
        published=network_entry("efficientnet_lite0").published,
        loss="softmax",
        decoding=Decoding.EXPECTATION,
        lr=2e-3,
        backbone_lr=1e-3,
        freeze=("_conv_stem", "_bn0", "_blocks.0"),  # half of the time of a step, and edges are edges
    ),
)

HEATMAP_NETWORKS: Final[dict[str, HeatmapEntry]] = {entry.name: entry for entry in _ENTRIES}
"""Every landmark network by name."""


def heatmap_entry(name: str) -> HeatmapEntry:
    """Look a landmark network up.

    Raises:
        ConfigurationError: no landmark network has this name.
    """
    try:
        return HEATMAP_NETWORKS[name]
    except KeyError:
        known = ", ".join(sorted(HEATMAP_NETWORKS))
        raise ConfigurationError(f"landmark network {name}: unknown; known are {known}") from None
