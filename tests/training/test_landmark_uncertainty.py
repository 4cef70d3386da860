"""Monte-Carlo dropout: what scatters, what must not, and that the network is as before afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.networks.heatmap_decoding import decode_argmax
from models.networks.heatmap_table import heatmap_entry
from models.spine.schemas import landmark_schema
from training.landmark_served import ServedLandmarks
from training.landmark_uncertainty import monte_carlo


class Jump(nn.Module):
    """Lights cell 0, and cell 8 twice as high unless that is dropped: a landmark at 0.5 or at 8.5."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.dropout = nn.Dropout(probability)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        kept = self.dropout(torch.ones(len(x), 1))
        heat = torch.zeros(len(x), 1, 1, 16)
        heat[:, 0, 0, 0] = 1.0
        heat[:, :, 0, 8] = 2.0 * kept
        self.norm(torch.randn(4, 2, 3, 3))
        return (decode_argmax(heat, 1),)


def test_passes_scatter_as_often_as_something_drops_out() -> None:
    torch.manual_seed(0)
    scatter = monte_carlo(Jump(0.5), torch.zeros(64, 3, 4, 4), passes=10)
    assert scatter.mean.shape == scatter.deviation.shape == (64, 1, 2)
    # Half of the passes give 0.5, half 8.5: a mean of 4.5 and a deviation of 4 (times √(10/9), of ten).
    assert scatter.mean[..., 0].mean().item() == pytest.approx(4.5, abs=0.5)
    assert scatter.deviation[..., 0].mean().item() == pytest.approx(4.2, abs=0.3)
    assert scatter.deviation[..., 1].abs().sum() == 0


def test_nothing_scatters_without_dropout() -> None:
    scatter = monte_carlo(Jump(0.0), torch.zeros(2, 3, 4, 4))
    assert scatter.mean[0, 0].tolist() == [8.5, 0.5]
    assert scatter.deviation.abs().sum() == 0


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_keeps_its_statistics_and_every_part_its_mode(training: bool) -> None:
    network = Jump(0.5).train(training)
    network.norm.eval()  # as a frozen one is
    before = network.norm.running_mean
    assert before is not None
    kept = before.clone()
    monte_carlo(network, torch.zeros(2, 3, 4, 4), passes=3)
    assert torch.equal(before, kept)
    assert network.training is network.dropout.training is training
    assert network.norm.training is False


@pytest.mark.parametrize("name", ["spine_lite", "maht_net"])
def test_networks_of_the_table_scatter(name: str) -> None:
    torch.manual_seed(0)
    entry, schema = heatmap_entry(name), landmark_schema("buu_ap20")
    network = entry.build(schema, pretrained=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # one pass gives the statistics, without which hardly anything comes through
    network(torch.randn(2, 3, 64, 64))
    served = ServedLandmarks(entry, schema, network, is_logits=entry.loss == "softmax", mirrored=False)
    scatter = monte_carlo(served, torch.rand(1, 1, 64, 64), passes=3)
    assert scatter.deviation.shape == (1, 20, 2)
    assert bool((scatter.deviation > 0).any())
