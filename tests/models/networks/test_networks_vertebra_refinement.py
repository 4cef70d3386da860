"""The second look at vertebrae: frames, cut-outs, and what a refiner keeps of a network and of what it found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.networks.vertebra_frames import Frames, flipped
from models.networks.vertebra_refinement import PATCH, SPAN, VertebraRefiner
from models.spine.schemas import SCHEMAS

AASCE = SCHEMAS["aasce68"]
VERTEBRAE = 17


def _frames(middle: tuple[float, float], degrees: float, width: float) -> Frames:
    angle = torch.tensor(np.radians(degrees), dtype=torch.float32)
    right = torch.stack((angle.cos(), angle.sin()))
    return Frames(torch.tensor([[middle]]), right[None, None], torch.tensor([[width]]))


def _column(degrees: float = 0.0, width: float = 20.0) -> Tensor:
    """17 vertebrae in the middle of a film of 400 x 200 pixels, each turned by so many degrees, ``(1, 68, 2)``."""
    angle = np.radians(degrees)
    corners = np.array([[-0.5, -0.2], [0.5, -0.2], [-0.5, 0.2], [0.5, 0.2]]) * width
    turned = corners @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middles = np.stack([np.full(VERTEBRAE, 100.0), 20 + 22.0 * np.arange(VERTEBRAE)], axis=1)
    return torch.tensor((middles[:, None] + turned).reshape(1, -1, 2), dtype=torch.float32)


def _refiner() -> VertebraRefiner:
    """Random weights, and batch-norms that have seen a film: with other statistics nothing comes through."""
    torch.manual_seed(0)
    refiner = VertebraRefiner(VERTEBRAE)
    torch.nn.init.normal_(refiner.head.weight, std=0.05)
    for module in refiner.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    refiner(torch.rand(2, 1, 400, 200), torch.cat([_column(), _column(10)]))
    return refiner.eval()


def test_a_frame_is_the_middle_the_direction_and_the_width_of_its_vertebra() -> None:
    # Turned by 90 degrees, the left side of a vertebra is up and its top looks to the right.
    corners = torch.tensor([[[[11.0, 3.0], [11.0, 7.0], [9.0, 3.0], [9.0, 7.0]]]])
    frames = Frames.of_corners(corners)
    torch.testing.assert_close(frames.middle, torch.tensor([[[10.0, 5.0]]]))
    torch.testing.assert_close(frames.right, torch.tensor([[[0.0, 1.0]]]))
    torch.testing.assert_close(frames.width, torch.tensor([[4.0]]))
    own = frames.from_image(corners)[0, 0]
    torch.testing.assert_close(own, torch.tensor([[-0.5, -0.25], [0.5, -0.25], [-0.5, 0.25], [0.5, 0.25]]))
    torch.testing.assert_close(frames.to_image(own[None, None]), corners)


def test_widths_are_levelled_over_five_vertebrae() -> None:
    width = torch.full((1, VERTEBRAE), 10.0)
    width[0, 8] = 20.0
    frames = Frames(torch.zeros(1, VERTEBRAE, 2), torch.ones(1, VERTEBRAE, 2), width).levelled()
    assert frames.width[0].tolist() == pytest.approx([10.0] * 6 + [12.0] * 5 + [10.0] * 6)


def test_a_cut_out_shows_what_lies_about_the_middle() -> None:
    # A film whose grey is its column: half a pixel in is 0.5 / 200.
    film = ((torch.arange(200) + 0.5) / 200).expand(1, 1, 100, 200)
    refiner = VertebraRefiner(1)
    seen = refiner.cut_out(film, _frames((100.0, 50.0), 0.0, 30.0))[0, 0]
    step = SPAN * 30.0 / PATCH[1]
    expected = (100 + step * (torch.arange(PATCH[1]) + 0.5 - PATCH[1] / 2)) / 200
    torch.testing.assert_close(seen, expected.expand(PATCH), atol=1e-4, rtol=0)
    # Turned by a quarter, the columns of the film are the rows of the cut-out, from the right to the left.
    turned = refiner.cut_out(film, _frames((100.0, 50.0), 90.0, 30.0))[0, 0]
    down = (100 - step * (torch.arange(PATCH[0]) + 0.5 - PATCH[0] / 2)) / 200
    torch.testing.assert_close(turned, down[:, None].expand(PATCH), atol=1e-4, rtol=0)


def test_beyond_the_film_a_cut_out_is_black() -> None:
    seen = VertebraRefiner(1).cut_out(torch.ones(1, 1, 100, 200), _frames((0.0, 50.0), 0.0, 30.0))[0, 0]
    assert seen[:, : PATCH[1] // 2 - 1].max() == 0
    assert seen[:, PATCH[1] // 2 + 1 :].min() == pytest.approx(1, abs=1e-5)


def test_a_refiner_that_learnt_nothing_gives_a_vertebra_of_usual_shape_where_one_was_found() -> None:
    refiner = VertebraRefiner(VERTEBRAE).eval()
    points = _column(degrees=12)
    with torch.no_grad():
        torch.testing.assert_close(refiner(torch.rand(1, 1, 400, 200), points), points)


def test_with_the_mirror_image_the_answer_to_the_mirror_image_is_the_mirrored_answer() -> None:
    film = torch.rand(1, 1, 400, 200, generator=torch.Generator().manual_seed(1))
    points, order = _column(degrees=12), list(AASCE.mirrored_order)
    opposite = points[:, order] * torch.tensor([-1.0, 1.0]) + torch.tensor([200.0, 0.0])
    refiner = _refiner()
    with torch.no_grad():
        answer, other = refiner(film, points, True), refiner(film.flip(3), opposite, True)
        alone = refiner(film, points)
    back = other[:, order] * torch.tensor([-1.0, 1.0]) + torch.tensor([200.0, 0.0])
    torch.testing.assert_close(answer, back, atol=0.01, rtol=0)
    assert (answer - alone).abs().max() > 0.1, "the mirror image says something of its own"
    corners = points.reshape(1, VERTEBRAE, 4, 2)
    torch.testing.assert_close(flipped(corners), corners[:, :, [1, 0, 3, 2]] * torch.tensor([-1.0, 1.0]))


def test_a_film_is_answered_as_it_is_by_itself_whatever_else_is_in_the_batch() -> None:
    films = torch.rand(3, 1, 400, 200, generator=torch.Generator().manual_seed(2))
    points = torch.cat([_column(degrees) for degrees in (0.0, 10.0, -8.0)])
    refiner = _refiner()
    with torch.no_grad():
        together = refiner(films, points, True)
        alone = torch.cat([refiner(films[i : i + 1], points[i : i + 1], True) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=0)


def test_what_a_cut_out_shows_counts_for_the_neighbours_and_not_for_the_other_end() -> None:
    film = torch.rand(1, 1, 400, 200)
    changed = film.clone()
    changed[:, :, :30] = 0.5  # about the first vertebra
    refiner, points = _refiner(), _column()
    with torch.no_grad():
        moved = (refiner(film, points) - refiner(changed, points)).abs().reshape(VERTEBRAE, -1).amax(dim=1)
    assert moved[2] > 1e-3, "its own cut-out does not reach so far"
    assert moved[-1] == 0


def test_a_black_film_and_vertebrae_without_a_width_get_finite_answers() -> None:
    refiner = _refiner()
    with torch.no_grad():
        for points in (_column(), torch.full((1, 4 * VERTEBRAE, 2), 50.0), _column() + 1e4):
            assert torch.isfinite(refiner(torch.zeros(1, 1, 400, 200), points, True)).all()
