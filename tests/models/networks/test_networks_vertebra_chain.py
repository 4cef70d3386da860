"""Reading a column of vertebrae as a whole: hand-made heat of six vertebrae, each five cells below the one before."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from models.networks.heatmap_decoding import decode_argmax, decode_expectation
from models.networks.vertebra_chain import heat_of_column
from models.pixels.spec import InputSpec
from training.onnx_file import export_onnx

VERTEBRAE, DISTANCE, FIRST = 6, 5.0, 10.0
HEIGHT, WIDTH, MIDDLE = 48, 24, 12.0
STRIDE = 4
HALF_WIDTH, HALF_HEIGHT = 4.0, 1.5


def corners(vertebra: int, tilt: float = 0.0) -> list[tuple[float, float]]:
    """Give x and y of the corners in cells; `tilt` is how far the right side lies below the middle."""
    y = FIRST + DISTANCE * vertebra
    return [
        (MIDDLE + side * HALF_WIDTH, y + end * HALF_HEIGHT + side * tilt)
        for end in (-1, 1)
        for side in (-1, 1)
    ]  # fmt: skip


def blob(x: float, y: float) -> Tensor:
    columns, rows = torch.arange(WIDTH), torch.arange(HEIGHT)[:, None]
    heat = torch.exp(-0.5 * ((columns - x) ** 2 + (rows - y) ** 2))
    return heat / heat.sum()


def column(tilt: float = 0.0) -> Tensor:
    """Give heat ``(1, 24, h, w)`` of which each map is sure of its corner."""
    return torch.stack([blob(x, y) for vertebra in range(VERTEBRAE) for x, y in corners(vertebra, tilt)])[None]


def places(tilt: float = 0.0) -> Tensor:
    cells = [place for vertebra in range(VERTEBRAE) for place in corners(vertebra, tilt)]
    return (torch.tensor(cells) + 0.5) * STRIDE


def read(heat: Tensor) -> Tensor:
    return decode_expectation(heat_of_column(heat), STRIDE)[0]


@pytest.mark.parametrize("tilt", [0.0, -3.0, 5.0])
def test_corners_that_are_sure_stay_within_a_third_of_a_cell(tilt: float) -> None:
    assert (read(column(tilt)) - places(tilt)).norm(dim=1).max() < STRIDE / 3


def test_a_vertebra_that_is_rather_taken_for_the_next_keeps_its_own_place() -> None:
    heat = column()
    heat[0, 8:12] = 0.4 * heat[0, 8:12] + 0.6 * heat[0, 12:16]
    alone = decode_argmax(heat, STRIDE)[0, 8:12]
    assert (alone - places()[12:16]).norm(dim=1).max() < STRIDE  # each by itself, it falls on its neighbour
    assert (read(heat)[8:12] - places()[8:12]).norm(dim=1).max() < STRIDE


def test_a_single_corner_taken_from_the_neighbour_is_put_back() -> None:
    heat = column()
    heat[0, 9] = 0.3 * heat[0, 9] + 0.7 * heat[0, 13]
    assert (decode_argmax(heat, STRIDE)[0, 9] - places()[13]).norm() < STRIDE
    assert (read(heat)[9] - places()[9]).norm() < STRIDE


def test_names_that_are_all_one_too_low_are_left_so() -> None:
    # The chain says that vertebrae follow each other, never which one is the first.
    heat = torch.cat([column()[:, 4:], torch.stack([blob(x, y) for x, y in corners(VERTEBRAE)])[None]], dim=1)
    shifted = places() + torch.tensor([0.0, DISTANCE * STRIDE])
    assert (read(heat) - shifted).norm(dim=1).max() < STRIDE / 3


def test_vertebrae_never_swap_and_never_fall_together() -> None:
    maps = column()[0].unflatten(0, (VERTEBRAE, 4))
    swaps = ([1, 0, 3, 2, 5, 4], [0, 2, 1, 4, 3, 5], [1, 1, 3, 3, 5, 5], [0, 0, 2, 2, 4, 4])
    heat = torch.stack([0.45 * maps + 0.55 * maps[swap] for swap in swaps]).flatten(1, 2)
    alone, together = (
        decode(part, STRIDE).unflatten(1, (VERTEBRAE, 4)).mean(dim=2)[..., 1].diff(dim=1)
        for decode, part in ((decode_argmax, heat), (decode_expectation, heat_of_column(heat)))
    )
    assert bool((alone <= 0).any())
    assert bool((together > STRIDE).all())


def test_heat_too_coarse_for_a_chain_is_left_as_it_is() -> None:
    heat = torch.nn.functional.avg_pool2d(column(), 2)  # two and a half cells from one vertebra to the next
    torch.testing.assert_close(heat_of_column(heat), heat)


@pytest.mark.parametrize("value", [0.0, 1.0 / (HEIGHT * WIDTH), -1.0])
def test_heat_that_says_nothing_gives_finite_heat(value: float) -> None:
    assert bool(torch.isfinite(heat_of_column(torch.full((2, 24, HEIGHT, WIDTH), value))).all())


def test_images_of_a_batch_do_not_touch_each_other() -> None:
    both = torch.cat([column(), column(3.0)])
    torch.testing.assert_close(heat_of_column(both)[1:], heat_of_column(column(3.0)))


class Reading(nn.Module):
    """Heat by repeating rows of the image, one map per landmark, as read in a graph."""

    def forward(self, image: Tensor) -> Tensor:
        heat = torch.cat([torch.roll(image, 2 * shift, dims=2) for shift in range(24)], dim=1)
        return heat_of_column(heat)


def test_the_graph_reads_what_torch_reads_for_any_number_of_images() -> None:
    module = Reading()
    graph = export_onnx(module, InputSpec(height=HEIGHT, width=WIDTH), ("heat",))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.rand((3, 1, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0)) ** 8
    (given,) = session.run(None, {"image": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(given), module(images), atol=1e-5, rtol=1e-4)
