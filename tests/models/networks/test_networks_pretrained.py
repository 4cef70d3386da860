"""Pretrained weights: from the hub cache, from a local file, and what is said where they cannot be had."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.errors import ConfigurationError
from models.networks.table import NETWORKS, network_entry
from models.networks.torchvision_shim import prepare_torchvision

FILE = "resnet18-f37072fd.pth"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """What torchvision publishes for ResNet-18 with ImageNet's 1000 classes, but for the figures."""
    prepare_torchvision()
    from torchvision.models import resnet18

    torch.manual_seed(7)
    return dict(resnet18(weights=None).state_dict())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch looks for downloaded weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    directory = tmp_path / "torch" / "hub" / "checkpoints"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Send every request to a port that nobody listens at."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{bound.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        yield


def test_the_cache_is_used_and_the_head_is_new(cache: Path, offline: None, published: dict[str, Tensor]) -> None:
    torch.save(published, cache / FILE)
    network = network_entry("plain_resnet18").build(2, True)
    assert torch.equal(network.backbone.get_submodule("layer4.1.conv2").weight, published["layer4.1.conv2.weight"])
    assert network.head.out_features == 2


def test_a_local_file_is_used_and_attention_is_new(tmp_path: Path, published: dict[str, Tensor]) -> None:
    torch.save(published, tmp_path / "weights.pth")
    network = network_entry("resnet_cbam").build(2, True, tmp_path / "weights.pth")
    assert torch.equal(network.backbone.get_submodule("conv1").weight, published["conv1.weight"])
    assert sum(p.numel() for p in network.parameters()) == 11_221_450
    backbone = network_entry("plain_resnet18").build_backbone(True, tmp_path / "weights.pth")
    assert torch.equal(backbone.get_submodule("bn1").weight, published["bn1.weight"])


def test_alexnet_keeps_its_published_linear_layers_but_the_last(tmp_path: Path) -> None:
    prepare_torchvision()
    from torchvision.models import alexnet

    state = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in alexnet().state_dict().items()}
    torch.save({name: tensor + 0.5 for name, tensor in state.items()}, tmp_path / "alexnet.pth")
    network = network_entry("alexnet").build(2, True, tmp_path / "alexnet.pth")
    linear = [layer for layer in network.head if isinstance(layer, nn.Linear)]
    assert [bool((layer.weight == 0.5).all()) for layer in linear] == [True, True, False]


def test_offline_it_says_what_is_missing_where_it_was_looked_for_and_what_to_do(cache: Path, offline: None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        network_entry("plain_resnet18").build(2, True)
    message = str(caught.value)
    assert "\n" not in message
    for part in (FILE, str(cache), "https://download.pytorch.org/models/" + FILE, "--weights FILE", "--no-pretrained"):
        assert part in message


def test_a_broken_file_in_the_cache_is_named(cache: Path, offline: None) -> None:
    (cache / FILE).write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ConfigurationError, match=rf"{FILE}: broken; delete"):
        network_entry("plain_resnet18").build(2, True)


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04"])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"weights\.pth: not a file of weights"):
        network_entry("plain_resnet18").build(2, True, path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.pth: cannot be read: No such file"):
        network_entry("plain_resnet18").build(2, True, tmp_path / "none.pth")


class _RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must not be run",)


def test_a_file_that_runs_code_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save({"conv1.weight": _RunsCode()}, tmp_path / "weights.pth")
    with pytest.raises(ConfigurationError, match="not a file of weights"):
        network_entry("plain_resnet18").build(2, True, tmp_path / "weights.pth")
    assert "must not be run" not in capfd.readouterr().out


def test_a_checkpoint_around_the_weights_is_refused(tmp_path: Path, published: dict[str, Tensor]) -> None:
    torch.save({"epoch": 3, "state_dict": {"fc.bias": published["fc.bias"]}}, tmp_path / "weights.pth")
    with pytest.raises(ConfigurationError, match="something other than tensors"):
        network_entry("plain_resnet18").build(2, True, tmp_path / "weights.pth")


def test_weights_of_another_network_are_refused(tmp_path: Path, published: dict[str, Tensor]) -> None:
    path = tmp_path / "weights.pth"
    faults = {
        "lacks bn1.weight": {name: tensor for name, tensor in published.items() if name != "bn1.weight"},
        "has extra, which is unknown": published | {"extra": torch.zeros(1)},
        "of another size": published | {"conv1.weight": torch.zeros(64, 1, 7, 7)},
    }
    for fault, tensors in faults.items():
        torch.save(tensors, path)
        with pytest.raises(ConfigurationError, match=fault):
            network_entry("plain_resnet18").build(2, True, path)


def test_networks_from_scratch_have_no_pretrained_weights() -> None:
    assert {name for name, entry in NETWORKS.items() if entry.weights_origin is None} == {
        "custom_resnet18",
        "custom_resnet_cbam",
    }
    with pytest.raises(ConfigurationError, match="custom_resnet18: there are no pretrained weights; use --no-pretr"):
        network_entry("custom_resnet18").build(2, True)


def test_a_weights_file_without_pretraining_is_a_contradiction(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="together with --no-pretrained"):
        network_entry("plain_resnet18").build(2, False, tmp_path / "weights.pth")
