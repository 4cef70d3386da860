"""Landmark networks: shapes, that every fitted weight learns, what freezing keeps, and MAHT-Net's queries and skips."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.errors import ConfigurationError
from models.networks.heatmap_network import HeatmapNetwork, Heatmaps
from models.networks.heatmap_table import HEATMAP_NETWORKS, heatmap_entry
from models.networks.maht_net import SIGMA_RANGE, MahtNet
from models.spine.schemas import LandmarkSchema, SpineView, landmark_schema

TWO = LandmarkSchema("two", SpineView.FRONTAL, ("L1", "L2"), has_levels=True)
STRIDES = {"unet": 1, "resnet50_heatmap": 1, "hrnet_w32": 1, "maht_net": 4, "spine_lite": 4}
FROZEN = {
    "resnet50_heatmap": ("conv1", "bn1", "layer1"),
    "hrnet_w32": ("conv1", "bn1", "layer1"),
    "maht_net": ("features.0", "features.1"),
    "spine_lite": ("_conv_stem", "_bn0", "_blocks.0"),
}


def build(name: str) -> HeatmapNetwork:
    torch.manual_seed(0)
    return heatmap_entry(name).build(TWO, pretrained=False)


def total(output: Heatmaps) -> Tensor:
    """A loss on which every output has a part, unlike its neighbours."""
    torch.manual_seed(1)
    loss = (output.heatmaps - torch.randn_like(output.heatmaps)).square().mean()
    return loss if output.sigma is None else loss + (output.sigma * torch.rand_like(output.sigma)).mean()


@pytest.mark.parametrize("name", HEATMAP_NETWORKS)
def test_every_fitted_weight_gets_a_gradient_and_each_landmark_a_map(name: str) -> None:
    network = build(name)
    output = network(torch.randn(2, 3, 64, 96))
    assert network.stride == STRIDES[name]
    assert output.heatmaps.shape == (2, 8, 64 // network.stride, 96 // network.stride)
    total(output).backward()
    for parameter_name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        # What is added to every key moves no softmax: its gradient is rounding alone.
        assert parameter.grad.abs().sum() > 0 or parameter_name.endswith("key.bias"), parameter_name


def test_the_unused_branches_of_hrnet_are_not_fitted() -> None:
    network = build("hrnet_w32")
    kept = {name.removeprefix("backbone.") for name, p in network.named_parameters() if not p.requires_grad}
    assert kept
    assert all(name.startswith(("incre_modules.", "stage4.2.fuse_layers.")) for name in kept)
    assert not any(name.startswith(("incre_modules.0.", "stage4.2.fuse_layers.0.")) for name in kept)


@pytest.mark.parametrize("name", HEATMAP_NETWORKS)
def test_each_weight_is_fitted_at_one_of_two_rates(name: str) -> None:
    network = build(name)
    backbone, head = list(network.backbone_parameters()), list(network.head_parameters())
    fitted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter in fitted} == {id(parameter) for parameter in (*backbone, *head)}
    assert len(fitted) == len(backbone) + len(head)
    assert bool(backbone) == (heatmap_entry(name).published is not None)


@pytest.mark.parametrize(("name", "prefixes"), FROZEN.items())
def test_what_is_frozen_stays_as_it_is_while_the_rest_learns(name: str, prefixes: tuple[str, ...]) -> None:
    network = build(name)
    network.freeze(prefixes)
    places = tuple(f"backbone.{prefix}." for prefix in prefixes)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.eval()
    network.train()
    optimizer = torch.optim.SGD([*network.backbone_parameters(), *network.head_parameters()], lr=0.1)
    total(network(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    after = network.state_dict()
    frozen = [key for key in before if key.startswith(places)]
    assert any("running_mean" in key for key in frozen)
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    norms = {key for key in before if key.endswith("running_mean") and not key.startswith(places)}
    assert any(not torch.equal(before[key], after[key]) for key in norms)


def test_a_prefix_ends_where_a_name_ends() -> None:
    network = build("spine_lite")
    network.freeze(["_blocks.1"])
    frozen = {name.split(".")[2] for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"1"}  # not 10 to 15
    with pytest.raises(ConfigurationError, match="freeze conv1: no weight of SpineLite has such a name"):
        network.freeze(["conv1"])


def test_spine_lite_takes_tall_images_and_square_ones() -> None:
    network = build("spine_lite").eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 256, 128)).heatmaps.shape == (1, 8, 64, 32)
        assert network(torch.zeros(2, 3, 96, 96)).heatmaps.shape == (2, 8, 24, 24)


def test_spine_lite_sees_the_whole_column_from_every_place() -> None:
    network = build("spine_lite").eval()
    image = torch.randn(1, 3, 256, 128, requires_grad=True)
    network(image).heatmaps[0, 0, 2, 16].backward()  # near the top
    assert image.grad is not None
    assert image.grad[0, :, 224:].abs().sum() > 0  # the lowest eighth


@pytest.fixture
def maht() -> MahtNet:
    torch.manual_seed(0)
    return MahtNet(landmark_schema("buu_la22"))


def test_each_query_of_maht_net_predicts_its_own_uncertainty_within_the_range(maht: MahtNet) -> None:
    with torch.inference_mode():
        sigma = maht.eval()(torch.randn(2, 3, 64, 64)).sigma
    assert sigma is not None
    assert sigma.shape == (2, 22, 2)
    assert bool((sigma >= SIGMA_RANGE[0]).all())
    assert bool((sigma <= SIGMA_RANGE[1]).all())
    assert len(sigma[0, :, 0].unique()) == 22  # not pooled over landmarks


def test_sigma_reaches_towards_both_ends_of_its_range(maht: MahtNet) -> None:
    last = [module for module in maht.sigma if isinstance(module, nn.Linear)][-1]
    image = torch.zeros(1, 3, 64, 64)
    for bias, expected in ((-20.0, SIGMA_RANGE[0]), (0.0, 5.0), (20.0, SIGMA_RANGE[1])):
        with torch.no_grad():
            last.weight.zero_()
            last.bias.fill_(bias)
            sigma = maht.eval()(image).sigma
        assert sigma is not None
        assert sigma.flatten().tolist() == pytest.approx([expected] * 44, rel=1e-4)


def test_the_map_of_a_landmark_changes_with_its_own_query_alone_before_queries_meet(maht: MahtNet) -> None:
    queries = torch.randn(1, 22, 256)
    pixels = torch.randn(1, 256, 4, 4)
    changed = queries.clone()
    changed[0, 3] += 1.0
    with torch.inference_mode():
        moved = (maht.eval()._heat(changed, pixels) - maht._heat(queries, pixels)).abs().sum(dim=(0, 2, 3))
    assert moved.nonzero().flatten().tolist() == [3]


def test_an_embedding_is_shared_by_the_corners_of_a_vertebra_and_by_alike_corners(maht: MahtNet) -> None:
    before = maht.identity().detach()
    with torch.no_grad():
        maht.identity.vertebra[5] += 1.0  # S1, which has its top corners alone
        assert (maht.identity() - before).abs().sum(dim=1).nonzero().flatten().tolist() == [20, 21]
        maht.identity.vertebra[5] -= 1.0
        maht.identity.corner[2] += 1.0  # bottom left, of L1 to L5
        moved = (maht.identity() - before).abs().sum(dim=1) > 1e-3
    assert moved.nonzero().flatten().tolist() == [2, 6, 10, 14, 18]


def test_skips_of_maht_net_meet_maps_of_their_own_level(maht: MahtNet) -> None:
    maps = maht.backbone(torch.zeros(1, 3, 128, 64))
    assert [tuple(value.shape[1:]) for value in maps] == [(48, 32, 16), (64, 16, 8), (160, 8, 4), (256, 4, 2)]
    seen: list[tuple[int, ...]] = []
    for step in maht.up:
        step.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[1:])))
    with torch.inference_mode():
        maht.eval()(torch.zeros(1, 3, 128, 64))
    # A 16th, an 8th and a quarter: the skip's channels and those from below.
    assert seen == [(160 + 256, 8, 4), (64 + 640, 16, 8), (48 + 384, 32, 16)]
