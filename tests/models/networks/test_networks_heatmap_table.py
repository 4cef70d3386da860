"""Landmark networks by name: exact counts, schemas, published weights, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.errors import ConfigurationError
from models.networks.efficientnet_lite import published_imagenet_weights
from models.networks.heatmap_table import HEATMAP_NETWORKS, heatmap_entry
from models.networks.resnet import torchvision_resnet
from models.spine.schemas import SCHEMAS, landmark_schema

# By NETWORKS.md section 4, with 40 maps.
COUNTS = {
    "unet": 17_265_512,
    "resnet50_heatmap": 36_103_784,
    "hrnet_w32": 31_777_896,
    "maht_net": 38_207_059,
    "spine_lite": 3_149_096,
}
FORTY = landmark_schema("generic40")


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_networks_have_the_exact_number_of_parameters(name: str, count: int) -> None:
    assert parameters(heatmap_entry(name).build(FORTY, pretrained=False)) == count


def test_the_last_layer_of_resnet50_makes_up_what_the_source_project_counted() -> None:
    whole = torchvision_resnet(1000, None, depth=50)
    assert COUNTS["resnet50_heatmap"] + parameters(whole.head) == 38_152_784


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("name", ["spine_lite", "maht_net"])
def test_a_network_has_one_map_for_each_landmark_of_its_schema(name: str, schema: str) -> None:
    landmarks = landmark_schema(schema)
    network = heatmap_entry(name).build(landmarks, pretrained=False).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 32)).heatmaps.shape == (1, len(landmarks), 16, 8)


def test_the_table_names_five_and_refuses_others() -> None:
    assert set(HEATMAP_NETWORKS) == set(COUNTS)
    with pytest.raises(ConfigurationError, match="landmark network vgg: unknown; known are hrnet_w32, maht_net"):
        heatmap_entry("vgg")


def test_the_shipped_network_begins_with_published_weights() -> None:
    network = heatmap_entry("spine_lite").build(FORTY, pretrained=True)
    published = published_imagenet_weights().tensors
    ours = network.backbone.state_dict()  # type: ignore[union-attr]  # spine_lite has one
    assert ours.keys() == {name for name in published if not name.startswith(("_conv_head.", "_bn1.", "_fc."))}
    assert all(torch.equal(tensor, published[name]) for name, tensor in ours.items())


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="network unet: there are no pretrained weights"):
        heatmap_entry("unet").build(FORTY, pretrained=True)
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(1)}, other)
    with pytest.raises(ConfigurationError, match="together with --no-pretrained"):
        heatmap_entry("spine_lite").build(FORTY, pretrained=False, weights=other)
    for name in ("resnet50_heatmap", "hrnet_w32", "maht_net", "spine_lite"):
        with pytest.raises(ConfigurationError, match="not the weights of"):
            heatmap_entry(name).build(FORTY, pretrained=True, weights=other)


def test_published_weights_are_named_with_their_licence() -> None:
    assert heatmap_entry("unet").weights_origin is None
    assert all("ImageNet" in (heatmap_entry(name).weights_origin or "") for name in COUNTS if name != "unet")
