"""HRNet-W32 (Sun et al., CVPR 2019) of timm, whose finest branch stays at a quarter of the input throughout."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor, nn
from torch.nn import functional

from models.errors import ConfigurationError
from models.networks.heatmap_network import HeatmapNetwork, Heatmaps
from models.networks.published_weights import PublishedWeights, StateDict, load_all_but_last_layer
from models.networks.torchvision_shim import prepare_torchvision

_NAME: Final = "hrnet_w32"
_PUBLISHED_NAME: Final = "hrnet_w32.ms_in1k"
_WIDTH: Final = 256
_DROPOUT: Final = 0.1
_QUARTER: Final = 4
_BRANCH_CHANNELS: Final = 128
_CLASSIFIER_ALONE: Final = ("downsamp_modules.", "final_layer.", "classifier.")
"""Published parts that lead from the branches to ImageNet's classes."""


class HeatmapHrNet(HeatmapNetwork):
    """The quarter branch, 128 to 256 to 256 to K, and upsampling to heatmaps as large as the input.

    timm's features come from all four branches. What leads to the other three alone is kept, so that weights load
    and counts compare, but it is not fitted: no answer depends on it.

    Args:
        landmarks: K, how many heatmaps.
        weights: for the backbone; None is random.

    Raises:
        ConfigurationError: `weights` are those of another network.
    """

    stride = 1
    backbone: Any

    def __init__(self, landmarks: int, weights: StateDict | None = None) -> None:
        super().__init__()
        prepare_torchvision()  # timm imports it
        import timm

        self.backbone = timm.create_model(_NAME, pretrained=False, features_only=True)
        if weights is not None:
            _load(self.backbone, weights)
        self._leave_out_unused()
        self.head = nn.Sequential(
            nn.Conv2d(_BRANCH_CHANNELS, _WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(_WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(_WIDTH),
            nn.ReLU(inplace=True),
            nn.Dropout2d(_DROPOUT),
            nn.Conv2d(_WIDTH, landmarks, 1),
        )

    def forward(self, x: Tensor) -> Heatmaps:
        """Give the heatmaps of ``(N, 3, H, W)``; sides are multiples of 32."""
        branch = self.quarter_branch(x)
        heat = functional.interpolate(
            self.head(branch), scale_factor=float(_QUARTER), mode="bilinear", align_corners=False
        )
        return Heatmaps(heat)

    def quarter_branch(self, x: Tensor) -> Tensor:
        """Give the finest branch, ``(N, 128, H / 4, W / 4)``, as timm's features do."""
        net = self.backbone
        value = net.act1(net.bn1(net.conv1(x)))
        value = net.act2(net.bn2(net.conv2(value)))
        branch: Tensor = net.incre_modules[0](net.stages(value)[0])
        return branch

    def _leave_out_unused(self) -> None:
        net = self.backbone
        unused = [*net.incre_modules[1:], *net.stage4[-1].fuse_layers[1:]]
        for module in unused:
            module.requires_grad_(False)


def _load(backbone: nn.Module, weights: StateDict) -> None:
    tensors = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith(_CLASSIFIER_ALONE)}
    load_all_but_last_layer(backbone, StateDict(weights.source, tensors), "classifier")


def _from_timm() -> StateDict:
    prepare_torchvision()
    import timm

    try:
        network = timm.create_model(_PUBLISHED_NAME, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigurationError(
            f"pretrained weights {_PUBLISHED_NAME} are not in the cache of huggingface_hub and cannot be fetched "
            f"({type(error).__name__}); get pytorch_model.bin of https://huggingface.co/timm/{_PUBLISHED_NAME} and "
            "give it with --weights FILE, or train with --no-pretrained"
        ) from error
    return StateDict(_PUBLISHED_NAME, dict(network.state_dict()))


PUBLISHED: Final = PublishedWeights(
    f"ImageNet weights {_PUBLISHED_NAME} of timm (MIT; ImageNet: non-commercial research)", _from_timm
)
