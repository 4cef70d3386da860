"""Every network of the table: size, shapes, gradients, closed-form Grad-CAM, and the backbone that tasks share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from models.errors import ConfigurationError
from models.networks.network import ClassificationNetwork, FullyConnectedNetwork, Normalise, PooledNetwork
from models.networks.resnet import custom_resnet18
from models.networks.table import CATEGORIES, NETWORKS, network_entry

PARAMETERS = {
    "alexnet": 57_012_034,
    "vgg16": 134_268_738,
    "plain_resnet18": 11_177_538,
    "resnet_cbam": 11_221_450,
    "custom_resnet18": 11_177_538,
    "custom_resnet_cbam": 11_221_450,
    "resnet50": 23_512_130,
    "efficientnet_lite0": 3_373_570,
}
MAPS = {"alexnet": (256, 3), "vgg16": (512, 4), "resnet50": (2048, 2), "efficientnet_lite0": (1280, 2)}
"""Channels and side of the map at 64 pixels; the four ResNet-18 have 512 and 2."""


@pytest.fixture(scope="module", params=PARAMETERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def network(name: str) -> ClassificationNetwork:
    torch.manual_seed(0)
    return network_entry(name).build(2, False)


def test_the_table_holds_the_eight_networks() -> None:
    assert set(NETWORKS) == set(PARAMETERS)
    assert all(entry.name == name for name, entry in NETWORKS.items())


def test_it_has_exactly_the_parameters_of_its_architecture(network: ClassificationNetwork, name: str) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


def test_it_gives_a_map_logits_and_an_explanation(network: ClassificationNetwork, name: str) -> None:
    network.eval()
    channels, side = MAPS.get(name, (512, 2))
    with torch.inference_mode():
        image = torch.rand(3, 3, 64, 64)
        feature_map = network.features(image)
        logits = network.classify(feature_map)
        cam = network.grad_cam(feature_map, 1)
    assert feature_map.shape == (3, channels, side, side)
    assert network.backbone.channels == channels
    assert logits.shape == (3, 2)
    assert cam.shape == (3, side, side)
    assert float(cam.min()) >= 0
    with torch.inference_mode():
        torch.testing.assert_close(network(image), logits)


def test_every_parameter_gets_a_finite_gradient(network: ClassificationNetwork) -> None:
    torch.manual_seed(1)
    network.train()
    loss = nn.functional.cross_entropy(network(torch.rand(4, 3, 64, 64)), torch.tensor([0, 1, 0, 1]))
    loss.backward()
    bad = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any() or not parameter.grad.isfinite().all()
    ]
    network.zero_grad(set_to_none=True)
    assert bad == []


def test_batch_norm_is_told_where_it_is(network: ClassificationNetwork, name: str) -> None:
    has = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert network_entry(name).batch_norm == has


def test_head_and_backbone_share_no_parameter_and_leave_none_out(network: ClassificationNetwork) -> None:
    backbone, head = ({id(p) for p in part.parameters()} for part in (network.backbone, network.head))
    assert not backbone & head
    assert backbone | head == {id(p) for p in network.parameters()}


# The seam for other tasks


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet50", 23_508_032), ("efficientnet_lite0", 3_371_008), ("resnet_cbam", 11_220_424)]
)
def test_a_backbone_is_built_alone(name: str, parameters: int) -> None:
    backbone = network_entry(name).build_backbone(False)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters
    with torch.inference_mode():
        assert backbone.eval()(torch.rand(1, 3, 64, 64)).shape[1] == backbone.channels


# Grad-CAM in closed form, against its definition by autograd


def small_fully_connected() -> FullyConnectedNetwork:
    """AlexNet's kind of head on 5 channels: overlapping max-pooling, a grid of 3, two hidden layers."""
    backbone = custom_resnet18(2).backbone
    backbone.layer4 = nn.Sequential(nn.Conv2d(256, 5, 1), nn.ReLU())
    backbone.channels = 5
    layers = [nn.Dropout(0.5), nn.Linear(45, 20), nn.ReLU(True), nn.Dropout(), nn.Linear(20, 12), nn.ReLU(True)]
    head = nn.Sequential(*layers, nn.Linear(12, 3))
    return FullyConnectedNetwork(backbone, nn.MaxPool2d(3, 2), 3, head)


@pytest.mark.parametrize("make", [small_fully_connected, lambda: PooledNetwork(custom_resnet18(2).backbone, 3)])
@pytest.mark.parametrize("size", [(13, 13), (9, 14)], ids=["square", "oblong"])
def test_closed_form_is_the_gradient(make: Callable[[], ClassificationNetwork], size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    network = make().eval()
    feature_map = torch.relu(torch.randn(4, network.backbone.channels, *size)).requires_grad_(True)
    for positive in range(3):
        logits = network.classify(feature_map)
        (gradient,) = torch.autograd.grad(logits[:, positive].sum(), feature_map)
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        expected = torch.relu((weights * feature_map).sum(dim=1))
        assert expected.detach().max() > 0
        torch.testing.assert_close(network.grad_cam(feature_map, positive), expected, rtol=1e-4, atol=1e-7)


# Gradient checkpointing


@pytest.mark.parametrize("name", ["custom_resnet_cbam", "efficientnet_lite0", "alexnet"])
def test_checkpointing_changes_neither_gradients_nor_running_statistics(name: str) -> None:
    torch.manual_seed(0)
    network = network_entry(name).build(2, False).train()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    image = torch.rand(4, 3, 64, 64)
    outcomes = []
    for checkpointing in (False, True):
        network.load_state_dict(before)
        network.zero_grad()
        network.backbone.checkpointing = checkpointing
        torch.manual_seed(1)  # stochastic depth and dropout draw alike
        nn.functional.cross_entropy(network(image), torch.tensor([0, 1, 1, 0])).backward()
        gradients = {key: parameter.grad.clone() for key, parameter in network.named_parameters()}
        outcomes.append(gradients | {key: tensor.clone() for key, tensor in network.named_buffers()})
    for key, plain in outcomes[0].items():
        torch.testing.assert_close(outcomes[1][key], plain, msg=lambda text, key=key: f"{key}: {text}")


# Entries


@pytest.mark.parametrize(
    ("name", "lr", "batch_size"),
    [
        ("alexnet", 1e-3, 32),
        ("vgg16", 1e-4, 16),
        ("plain_resnet18", 1e-3, 32),
        ("custom_resnet_cbam", 1e-3, 32),
        ("resnet50", 1e-4, 32),
    ],
)
def test_recipes_are_those_of_the_source_projects(name: str, lr: float, batch_size: int) -> None:
    recipe = network_entry(name).recipe
    assert (recipe.lr, recipe.batch_size, recipe.optimizer, recipe.scheduler) == (lr, batch_size, "adam", "plateau")
    assert (recipe.weight_decay, recipe.betas, recipe.class_weights) == (1e-4, (0.9, 0.999), True)
    assert (recipe.epochs_pretrained, recipe.epochs_scratch) == (50, 70)


def test_each_comparison_has_its_rows() -> None:
    rows = {
        category: {name for name, entry in NETWORKS.items() if category in entry.category} for category in CATEGORIES
    }
    assert rows == {
        "history": {"alexnet", "vgg16", "plain_resnet18"},
        "attention": {"plain_resnet18", "resnet_cbam"},
        "ablation": {"custom_resnet18", "custom_resnet_cbam"},
        "transfer": {"plain_resnet18", "resnet_cbam", "custom_resnet18", "custom_resnet_cbam"},
    }


def test_an_unknown_network_is_refused_with_the_known_names() -> None:
    with pytest.raises(ConfigurationError, match=r"network resnet: unknown; known are alexnet, .*, vgg16"):
        network_entry("resnet")


def test_normalise_replicates_the_channel() -> None:
    entry = network_entry("vgg16")
    assert Normalise(entry.mean, entry.std)(torch.rand(2, 1, 5, 4)).shape == (2, 3, 5, 4)
