"""A network with what looks again along the column that it finds: what of it learns, and in which order it looks."""

from __future__ import annotations

import torch
from torch import Tensor

from models.networks.refined_network import RefinedNetwork, refined
from models.networks.spine_lite import SpineLite
from models.networks.unet import UNet
from models.networks.vertebra_counting import Counted
from models.spine.schemas import SCHEMAS

AASCE = SCHEMAS["aasce68"]


def test_the_refined_network_stays_and_its_first_layers_look_at_vertebrae_too() -> None:
    torch.manual_seed(0)
    coarse = SpineLite(len(AASCE))
    network = refined(coarse, AASCE)
    for name, weight in network.refiner.backbone.state_dict().items():
        torch.testing.assert_close(weight, coarse.backbone.state_dict()[name])
    kept = ("coarse", *(f"refiner.backbone.{part}" for part in ("_conv_stem", "_bn0", "_blocks.0.")))
    learning = {id(weight): name for name, weight in network.named_parameters() if not name.startswith(kept)}
    backbone, head = (
        {id(weight) for weight in part()} for part in (network.backbone_parameters, network.head_parameters)
    )
    assert backbone | head == set(learning)
    assert all(learning[each].startswith("refiner.backbone.") for each in backbone)
    assert any(learning[each].startswith("counter.") for each in head)
    assert not any(weight.requires_grad for weight in coarse.parameters())
    network.train()
    norms = [module for module in coarse.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms), "its statistics stay too"
    assert network.refiner.reduce[1].training


def test_a_network_of_another_kind_is_refined_from_random_weights() -> None:
    network = refined(UNet(len(AASCE)), AASCE)
    assert isinstance(network, RefinedNetwork)
    assert network.stride == 1
    assert all(weight.requires_grad for weight in network.refiner.parameters())


def test_vertebrae_are_counted_before_they_are_looked_at() -> None:
    network = refined(UNet(len(AASCE)), AASCE)
    seen: list[tuple[str, Tensor, bool]] = []

    sure = torch.rand(1, 17)

    def count(image: Tensor, points: Tensor, mirrored: bool) -> Counted:
        seen.append(("counted", points, mirrored))
        return Counted(points + 1.0, sure)

    def refine(image: Tensor, points: Tensor, mirrored: bool) -> Tensor:
        seen.append(("refined", points, mirrored))
        return points + 0.5

    network.counter.forward = count  # type: ignore[assignment,method-assign]
    network.refiner.forward = refine  # type: ignore[assignment,method-assign]
    points = torch.rand(1, 68, 2)
    torch.testing.assert_close(network.again(torch.rand(1, 1, 64, 32), points, True), Counted(points + 1.5, sure))
    assert [name for name, _, _ in seen] == ["counted", "refined"]
    assert all(mirrored for _, _, mirrored in seen)
