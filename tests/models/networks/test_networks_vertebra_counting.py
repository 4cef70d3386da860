"""Counting the bodies of a column: the strip along it, the rows that its vertebrae take, and films with made bodies."""

from __future__ import annotations

import math

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from models.networks.vertebra_counting import (
    ABOVE,
    BELOW,
    GAP,
    Reading,
    VertebraCounter,
    counted,
    rows_of,
    straightened,
    sureness,
)
from models.networks.vertebra_frames import Frames
from models.pixels.spec import InputSpec
from training.onnx_file import export_onnx

VERTEBRAE, DISTANCE, FIRST, MIDDLE, WIDTH = 6, 20.0, 50.0, 60.0, 24.0
FILM = (256, 128)
SCHEMA_ORDER = [[-0.5, -0.2], [0.5, -0.2], [-0.5, 0.2], [0.5, 0.2]]


def points_of(middles: Tensor) -> Tensor:
    """Give upright corners ``(1, 4 V, 2)`` about middles ``(V, 2)``."""
    return (middles[:, None] + WIDTH * torch.tensor(SCHEMA_ORDER)).reshape(1, -1, 2)


def upright(first: float = FIRST, distance: float = DISTANCE) -> Tensor:
    rows = first + distance * torch.arange(VERTEBRAE)
    return torch.stack((torch.full_like(rows, MIDDLE), rows), dim=1)


def frames_of(middles: Tensor) -> Frames:
    return Frames.of_corners(points_of(middles).unflatten(1, (-1, 4)))


def reading_of(rows: list[float], level: Tensor | None = None) -> Reading:
    """Give a reading that is sure of bodies at read rows, and knows how far apart they are; of `VERTEBRAE` levels."""
    number = torch.arange(rows_of(VERTEBRAE) // 2, dtype=torch.float32)
    nearest = (number[:, None] - torch.tensor(rows)).abs().amin(dim=1)
    body = 8 * torch.exp(-0.5 * nearest.square()) - 4
    gap = torch.log(torch.full_like(number, rows[1] - rows[0]) / GAP)
    return Reading(body[None], torch.zeros(1, VERTEBRAE, len(number)) if level is None else level[None], gap[None])


def test_a_strip_goes_down_an_upright_column_in_equal_steps() -> None:
    strip = straightened(frames_of(upright()))
    rows = rows_of(VERTEBRAE)
    assert rows == 2 * round(16 * (5 + ABOVE + BELOW) / 2)
    step = (5 + ABOVE + BELOW) * DISTANCE / rows
    assert strip.step.item() == pytest.approx(step)
    expected = FIRST - ABOVE * DISTANCE + step * (torch.arange(rows) + 0.5)
    # The curve is averaged over 17 rows, and ends three distances beyond the column.
    inner = slice(8, -8)
    torch.testing.assert_close(strip.middle[0, inner, 1], expected[inner], atol=1e-3, rtol=0)
    torch.testing.assert_close(strip.middle[0, :, 0], torch.full((rows,), MIDDLE))
    torch.testing.assert_close(strip.right[0], torch.tensor([1.0, 0.0]).expand(rows, 2))
    torch.testing.assert_close(strip.width[0], torch.full((rows,), WIDTH), atol=1e-3, rtol=0)


def test_a_strip_turns_with_the_column_and_begins_where_it_is_told() -> None:
    down = torch.tensor([0.6, 0.8])  # to the lower right: what is right of the column lies higher
    strip = straightened(
        frames_of(torch.tensor([30.0, 40.0]) + DISTANCE * torch.arange(VERTEBRAE)[:, None] * down), 1.0
    )
    torch.testing.assert_close(strip.right[0], torch.tensor([0.8, -0.6]).expand(rows_of(VERTEBRAE), 2))
    rows = torch.tensor([[40.5, 60.25]])
    step = (5 + 1.0 + BELOW) * DISTANCE / rows_of(VERTEBRAE)
    along = step * (rows[0] + 0.5) - 1.0 * DISTANCE
    expected = torch.tensor([30.0, 40.0]) + along[:, None] * down
    torch.testing.assert_close(strip.at(rows).middle[0], expected, atol=1e-2, rtol=0)
    torch.testing.assert_close(strip.at(rows).width[0], torch.full((2,), WIDTH), atol=1e-3, rtol=0)


def test_on_its_strip_a_bent_spine_stands_upright() -> None:
    rows = torch.arange(FILM[0]) + 0.5
    spine = 64 + 20 * torch.sin(rows / 40)
    film = torch.exp(-0.5 * ((torch.arange(FILM[1]) + 0.5 - spine[:, None]) / 4).square())[None, None]
    height = torch.linspace(60, 200, VERTEBRAE)
    middles = torch.stack((64 + 20 * torch.sin(height / 40), height), dim=1)
    counter = VertebraCounter(VERTEBRAE)
    seen = counter.cut_out(film, straightened(frames_of(middles)))[0, 0]
    inside = seen[40:-40]
    columns = torch.arange(seen.shape[1]) + 0.5 - seen.shape[1] / 2
    share = (inside - inside.amin(dim=1, keepdim=True)).clamp_min(0)
    off = (share * columns).sum(dim=1) / share.sum(dim=1)
    pixels = 4 * WIDTH / seen.shape[1]
    assert (off * pixels).abs().max() < 4, "the film's spine goes 40 pixels from side to side"


def test_vertebrae_take_the_rows_of_bodies_one_after_the_other() -> None:
    rows = [18.0 + 8.5 * number for number in range(VERTEBRAE)]
    torch.testing.assert_close(counted(reading_of(rows))[0], 2 * torch.tensor(rows) + 0.5, atol=0.1, rtol=0)


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_levels_decide_which_of_the_bodies_is_the_first_one(levels: int) -> None:
    rows = [10.0 + 8.0 * number for number in range(VERTEBRAE + 2)]
    level = torch.zeros(VERTEBRAE, rows_of(VERTEBRAE) // 2)
    level[2, int(rows[levels + 2])] = 4.0  # one body alone knows its level
    expected = torch.tensor(rows[levels : levels + VERTEBRAE])
    torch.testing.assert_close(counted(reading_of(rows, level))[0], 2 * expected + 0.5, atol=0.1, rtol=0)


def test_no_body_is_left_out_where_both_ends_count_differently() -> None:
    rows = [10.0 + 8.0 * number for number in range(VERTEBRAE + 1)]
    level = torch.zeros(VERTEBRAE, rows_of(VERTEBRAE) // 2)
    for vertebra in range(VERTEBRAE):  # the upper half is sure of one count, the lower one surer of the next
        level[vertebra, int(rows[vertebra if vertebra < 3 else vertebra + 1])] = 4.0 if vertebra < 3 else 5.0
    expected = torch.tensor(rows[1:])
    torch.testing.assert_close(counted(reading_of(rows, level))[0], 2 * expected + 0.5, atol=0.1, rtol=0)


def test_a_vertebra_is_as_sure_as_its_body_is_and_as_the_levels_of_the_column_are() -> None:
    rows = [10.0 + 8.0 * number for number in range(VERTEBRAE)]
    body, _, gap = reading_of(rows)
    body[0, int(rows[1])] = 0.0  # one body is seen with probability 0.5, the others with that of a logit of 4
    level = torch.zeros(1, VERTEBRAE, body.shape[1])
    level[0, 3, int(rows[3])] = 2.0
    sure = sureness(Reading(body, level, gap), 2 * torch.tensor([rows]) + 0.5)[0]
    named = (5 / 6 + math.exp(2) / (math.exp(2) + 5)) / 6
    seen = 1 / (1 + math.exp(-4))
    wanted = [named * (0.5 if number == 1 else seen) for number in range(VERTEBRAE)]
    assert sure.tolist() == pytest.approx(wanted, rel=1e-4)


def _bodies(middles: Tensor) -> Tensor:
    """A film with a white body about each middle."""
    film = torch.zeros(1, 1, *FILM)
    for x, y in middles.tolist():
        film[0, 0, round(y - 6) : round(y + 6), round(x - 12) : round(x + 12)] = 1.0
    return film


class _Bright(VertebraCounter):
    """Reads a body where the strip is bright, in the middle of what is."""

    def read(self, cut_outs: Tensor, mirrored: bool = False) -> Reading:
        bright = (cut_outs[:, 0, :, 24:40].mean(dim=2) > 0).float()[:, None]
        smooth = nn.functional.avg_pool1d(bright, 9, stride=2, padding=4, count_include_pad=False)[:, 0]
        level = torch.zeros(len(smooth), self.vertebrae, smooth.shape[1])
        level[:, 0] = torch.linspace(0, -40, smooth.shape[1])  # the first one is the uppermost
        return Reading(20 * (smooth - 0.5), level, torch.zeros_like(smooth))


def test_a_column_that_has_slipped_by_half_a_body_falls_onto_the_bodies() -> None:
    true = upright()
    slipped = true.clone()
    slipped[3:, 1] += 0.5 * DISTANCE
    found = _Bright(VERTEBRAE)(_bodies(true), points_of(slipped)).points.reshape(VERTEBRAE, 4, 2)
    torch.testing.assert_close(found.mean(dim=1), true, atol=1.5, rtol=0)
    torch.testing.assert_close(found[:, 1, 0] - found[:, 0, 0], torch.full((VERTEBRAE,), WIDTH), atol=0.1, rtol=0)


def _fitted() -> VertebraCounter:
    """Random weights, and batch-norms that have seen a film."""
    torch.manual_seed(0)
    counter = VertebraCounter(VERTEBRAE)
    for module in counter.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None
    counter(torch.rand(2, 1, *FILM), torch.cat([points_of(upright())] * 2))
    return counter.eval()


def test_a_mirror_image_is_counted_like_its_film() -> None:
    film, points = torch.rand(1, 1, *FILM, generator=torch.Generator().manual_seed(1)), points_of(upright())
    order = [4 * (index // 4) + (1, 0, 3, 2)[index % 4] for index in range(4 * VERTEBRAE)]
    opposite = points[:, order] * torch.tensor([-1.0, 1.0]) + torch.tensor([FILM[1], 0.0])
    counter = _fitted()
    with torch.no_grad():
        (answer, sure), (other, also) = counter(film, points, True), counter(film.flip(3), opposite, True)
    back = other[:, order] * torch.tensor([-1.0, 1.0]) + torch.tensor([FILM[1], 0.0])
    torch.testing.assert_close(answer, back, atol=0.01, rtol=0)
    torch.testing.assert_close(sure, also, atol=1e-4, rtol=0)


def test_a_film_is_counted_as_it_is_by_itself_whatever_else_is_in_the_batch() -> None:
    films = torch.rand(3, 1, *FILM, generator=torch.Generator().manual_seed(2))
    points = torch.cat([points_of(upright(first, distance)) for first, distance in ((50, 20), (30, 25), (70, 15))])
    counter = _fitted()
    with torch.no_grad():
        together = counter(films, points, True)
        alone = [counter(films[i : i + 1], points[i : i + 1], True) for i in range(3)]
    torch.testing.assert_close(together.points, torch.cat([each.points for each in alone]), atol=1e-2, rtol=0)
    torch.testing.assert_close(together.confidence, torch.cat([each.confidence for each in alone]), atol=1e-4, rtol=0)


def test_a_black_film_and_a_column_without_a_length_get_finite_answers() -> None:
    counter = _fitted()
    with torch.no_grad():
        for points in (points_of(upright()), torch.full((1, 4 * VERTEBRAE, 2), 50.0), points_of(upright()) + 1e4):
            for film in (torch.zeros(1, 1, *FILM), torch.ones(1, 1, *FILM)):
                answer, sure = counter(film, points, True)
                assert torch.isfinite(answer).all()
                assert bool(((sure >= 0) & (sure <= 1)).all())


class _Counted(nn.Module):
    """The counter behind a column that is slipped by as much as the film is bright, so that the graph has one input."""

    def __init__(self) -> None:
        super().__init__()
        self.counter = _fitted()
        self.register_buffer("points", points_of(upright()))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.counter(image, self.points + 10 * image.mean(dim=(2, 3))[..., None], True)


def test_an_exported_graph_counts_as_torch_does() -> None:
    network = _Counted().eval()
    proto = export_onnx(network, InputSpec(height=FILM[0], width=FILM[1]), ("landmarks", "confidence"))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    films = torch.rand(3, 1, *FILM, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = network(films)
    answers = session.run(None, {session.get_inputs()[0].name: films.numpy()})
    for answer, wanted, apart in zip(answers, expected, (0.02, 1e-3), strict=True):
        torch.testing.assert_close(torch.from_numpy(answer), wanted, atol=apart, rtol=0)
