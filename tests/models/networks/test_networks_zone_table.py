"""Backbones of CSI by name: exact counts, published weights under their old names, RAD-DINO from a directory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from models.errors import ConfigurationError
from models.networks.densenet import densenet121_backbone
from models.networks.published_weights import StateDict
from models.networks.rad_dino import rad_dino_backbone
from models.networks.torchvision_shim import prepare_torchvision
from models.networks.zone_network import ZoneFeatures, ZoneNetwork
from models.networks.zone_table import ZONE_BACKBONES, zone_backbone

COUNTS = {"resnet50": 23_508_032, "chexnet": 6_953_856, "custom_cnn": 6_413_312}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_backbones_have_the_exact_number_of_parameters(name: str, count: int) -> None:
    backbone = zone_backbone(name).build(False, None)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == count


def test_the_table_names_five_and_refuses_others() -> None:
    assert set(ZONE_BACKBONES) == {*COUNTS, "rad_dino", "efficientnet_lite0"}
    with pytest.raises(ConfigurationError, match="backbone vgg: unknown; known are chexnet"):
        zone_backbone("vgg")


def test_densenet_reads_published_weights_under_their_old_names() -> None:
    torch.manual_seed(0)
    prepare_torchvision()
    from torchvision.models import densenet121

    whole = densenet121(weights=None)
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))([12]\.)")
    published = {old.sub(r"\1.\2", name): tensor for name, tensor in whole.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in published
    backbone = densenet121_backbone(StateDict("published", published)).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(image), torch.relu(whole.eval().features(image)))


@pytest.fixture
def tiny_rad_dino(tmp_path: Path) -> Path:
    """A random transformer of two layers in the layout of the real one: 28 channels, patches of 14."""
    prepare_torchvision()
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=28, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path / "rad-dino")
    return tmp_path / "rad-dino"


def test_rad_dino_gives_its_patches_as_a_map_row_by_row(tiny_rad_dino: Path) -> None:
    backbone = zone_backbone("rad_dino").build(True, tiny_rad_dino).eval()
    assert backbone.channels == 28
    image = torch.randn(1, 3, 42, 70)
    with torch.inference_mode():
        feature_map = backbone(image)
        tokens = backbone.encoder(pixel_values=image).last_hidden_state  # type: ignore[attr-defined]
    assert feature_map.shape == (1, 28, 3, 5)
    torch.testing.assert_close(feature_map[0, :, 1, 2], tokens[0, 1 + 1 * 5 + 2])


@pytest.mark.parametrize("features", [ZoneFeatures.GLOBAL, ZoneFeatures.SPATIAL])
def test_zones_learn_on_rad_dino(tiny_rad_dino: Path, features: ZoneFeatures) -> None:
    network = ZoneNetwork(rad_dino_backbone(tiny_rad_dino), features)
    logits = network(torch.randn(2, 3, 70, 70))
    assert logits.shape == (2, 6, 5)
    logits.square().sum().backward()
    first = next(network.backbone.parameters())
    assert first.grad is not None
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters() if p.grad is not None)


def test_rad_dino_says_what_to_do_where_it_cannot_be_read(tiny_rad_dino: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="give it with --weights DIR"):
        zone_backbone("rad_dino").build(True, None)
    with pytest.raises(ConfigurationError, match=r"holds no config\.json"):
        rad_dino_backbone(tmp_path)
    (tiny_rad_dino / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        rad_dino_backbone(tiny_rad_dino)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ConfigurationError, match="holds a vit, not a dinov2"):
        rad_dino_backbone(other)
