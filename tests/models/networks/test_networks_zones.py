"""Zone networks: counts, where each zone looks, that each head learns, and what the maps are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.networks.densenet import densenet121_backbone
from models.networks.network import Backbone, Step
from models.networks.plain_cnn import PlainCnnBackbone
from models.networks.table import network_entry
from models.networks.zone_network import PARTLY, ZoneFeatures, ZoneNetwork, median_score, zone_grid
from models.zones import (
    MIRRORED_ORDER,
    ZONES,
    Congestion,
    HeartFailureClass,
    Zone,
    grade_zones,
    heart_failure_class,
    mean_csi,
)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class Shrink(Backbone):
    """Gives the image itself, averaged over blocks of four by four pixels: what a zone sees can be worked out."""

    channels = 3

    def steps(self) -> list[Step]:
        return [nn.AvgPool2d(4)]


def test_backbones_and_heads_have_the_exact_numbers_of_parameters() -> None:
    resnet = network_entry("resnet50").build_backbone(False)
    assert parameters(resnet) == 23_508_032
    assert parameters(ZoneNetwork(resnet)) - parameters(resnet) == 61_470
    assert parameters(densenet121_backbone(None)) == 6_953_856
    assert parameters(PlainCnnBackbone()) == 6_413_312
    assert network_entry("efficientnet_lite0").build_backbone(False).channels == 1280


@pytest.mark.parametrize("features", ZoneFeatures)
def test_every_head_gets_a_gradient_and_so_does_the_backbone(features: ZoneFeatures) -> None:
    torch.manual_seed(0)
    network = ZoneNetwork(PlainCnnBackbone(), features)
    logits = network(torch.randn(2, 3, 128, 128))
    assert logits.shape == (2, 6, 5)
    logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # A bias before batch-norm is taken off again: its gradient is rounding alone.
        assert parameter.grad.abs().sum() > 0 or name.endswith("0.bias"), name


def test_the_grid_shares_the_places_on_a_border_by_area() -> None:
    grid = zone_grid(7, 7)
    assert grid.shape == (6, 7, 7)
    torch.testing.assert_close(grid.sum(dim=0), torch.ones(7, 7))
    torch.testing.assert_close(grid.sum(dim=(1, 2)), torch.full((6,), 49 / 6))
    # Row 2 ends at 3/7; the border of the upper third lies at 2 1/3 rows.
    assert grid[0, 2, 0].item() == pytest.approx(1 / 3)
    assert grid[0, 0, 3].item() == pytest.approx(0.5)


def lit(zone: Zone) -> Tensor:
    """One image, dark but for one zone of the grid: 24 pixels high, 16 wide."""
    image = torch.zeros(1, 3, 24, 16)
    row, column = divmod(ZONES.index(zone), 2)
    image[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1.0
    return image


@pytest.mark.parametrize("features", [ZoneFeatures.SPATIAL, ZoneFeatures.MASKED])
@pytest.mark.parametrize("zone", ZONES)
def test_a_zone_is_answered_from_its_own_place(features: ZoneFeatures, zone: Zone) -> None:
    network = ZoneNetwork(Shrink(), features).eval()
    with torch.inference_mode():
        moved = (network(lit(zone)) - network(torch.zeros(1, 3, 24, 16))).abs().sum(dim=2)[0]
    assert [ZONES[index] for index in moved.nonzero().flatten().tolist()] == [zone]


def test_partly_masked_passes_still_show_the_rest_faintly() -> None:
    network = ZoneNetwork(Shrink(), ZoneFeatures.MASKED, attenuation=PARTLY)
    maps = network.maps(torch.ones(1, 3, 24, 16))
    assert maps[0, 0, 0, 0, 0].item() == pytest.approx(1.0)
    assert maps[0, 0, 0, -1, -1].item() == pytest.approx(1 - PARTLY)


def test_a_flipped_image_gives_the_mirrored_zones() -> None:
    torch.manual_seed(0)
    network = ZoneNetwork(Shrink(), ZoneFeatures.SPATIAL).eval()
    shared = network.heads[0].state_dict()
    for head in network.heads:
        head.load_state_dict(shared)
    image = torch.rand(1, 3, 24, 16)
    with torch.inference_mode():
        plain, flipped = network(image), network(image.flip(3))
    torch.testing.assert_close(flipped, plain[:, list(MIRRORED_ORDER)])
    assert not torch.allclose(flipped, plain)


def test_zones_follow_the_fields_that_are_given() -> None:
    network = ZoneNetwork(Shrink(), ZoneFeatures.SPATIAL).eval()
    fields = torch.zeros(1, 6, 24, 16)
    fields[:, :, 16:, 8:] = 1.0  # all six where the grid has left_inf
    with torch.inference_mode():
        moved = (network(lit(Zone.LEFT_INF), fields) - network(lit(Zone.RIGHT_SUP), fields)).abs().sum(dim=2)[0]
    assert bool((moved > 0).all())


def test_the_map_of_a_zone_is_the_gradient_times_the_map() -> None:
    torch.manual_seed(0)
    network = ZoneNetwork(Shrink(), ZoneFeatures.SPATIAL).eval()
    maps = network.maps(torch.rand(2, 3, 24, 16)).clone().requires_grad_()
    logits = network.classify(maps)
    scores = median_score(logits.softmax(dim=2))
    heat = network.explain(maps, scores)
    called = grade_zones(logits.softmax(dim=2).detach().numpy()).graded
    assert scores.tolist() == called.tolist()
    for zone in range(6):
        chosen = logits[torch.arange(2), zone, torch.from_numpy(called[:, zone])].sum()
        (gradient,) = torch.autograd.grad(chosen, maps, retain_graph=True)
        torch.testing.assert_close(heat[:, zone], torch.relu((gradient * maps)[:, zone].sum(dim=1)))


def test_zones_mirror_in_pairs_and_the_order_is_row_by_row() -> None:
    assert [zone.value for zone in ZONES] == [
        *("right_sup", "left_sup", "right_mid", "left_mid", "right_inf", "left_inf")
    ]
    assert Zone.RIGHT_MID.mirrored is Zone.LEFT_MID
    assert all(zone.mirrored.mirrored is zone and zone.mirrored is not zone for zone in ZONES)


def test_the_mean_leaves_ungradable_zones_out() -> None:
    grades = dict.fromkeys(ZONES, Congestion.MILD) | {Zone.LEFT_INF: Congestion.UNGRADABLE}
    grades[Zone.RIGHT_SUP] = Congestion.SEVERE
    assert mean_csi(grades) == pytest.approx(7 / 5)
    assert mean_csi(dict.fromkeys(ZONES, Congestion.UNGRADABLE)) is None
    assert heart_failure_class(None) is None
    classes = [heart_failure_class(mean) for mean in (0.0, 1.3, 1.31, 2.2, 2.21)]
    low, medium, high = HeartFailureClass
    assert classes == [low, low, medium, medium, high]
