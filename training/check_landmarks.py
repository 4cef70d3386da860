"""`python -m training check-data --task landmarks`: what a set of landmarks holds and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from models.errors import ConfigurationError
from models.pixels.spec import InputSpec
from training.check_data import print_problems, sizes_in_words, unread
from training.datasets.exclusions import check_exclusions
from training.datasets.landmark_images import AUTO, LandmarkImage, LandmarkImages, read_landmark_images
from training.datasets.landmark_rows import LandmarkFormat
from training.datasets.problems import Level, Problem, counted, gravest_first
from training.datasets.reading import Unreadable, read_each, read_radiograph
from training.landmark_agreement import label_agreement
from training.landmark_measure import describe_landmarks
from training.landmark_problems import SEVERITIES, find_landmark_problems, near_duplicates, severity_of

Progress = Callable[[Sequence[Path]], Iterable[Path]]
"""Wraps the paths of a set to show how far the reading is."""

_THUMBNAIL: Final = InputSpec(height=64, width=64)
_SLIP_NAMES: Final = ("normal", "left", "right", "antero", "retro")  # labels of BUU-LSPINE, see LandmarkRow


@dataclass(frozen=True, slots=True)
class LandmarkCounts:
    """What one split holds.

    Attributes:
        split: its name, "" where the set has none.
        images: readable ones.
        persons: of those.
        severity: images by the severity of their main Cobb angle; None where the set gives no angles.
        slips: endplates by how their vertebra has slipped; None where the set does not say.
    """

    split: str
    images: int
    persons: int
    severity: dict[str, int] | None
    slips: dict[str, int] | None


@dataclass(frozen=True, slots=True)
class LandmarkDataReport:
    """What a set holds. Sizes are rows x columns, pixels.

    Attributes:
        directory: where it lies.
        format: by which it was read.
        schema: name of that of its landmarks.
        images: readable ones, those with faulty landmarks among them.
        persons: of those.
        usable: images that are trained on.
        smallest, median, largest: sizes, by their area.
        counts: by split.
        vertebrae: in how many images each is there, with one corner at least.
        agreement: of the labels of radiographs that are there twice, see `training.landmark_agreement`; None where
            there are none.
        problems: gravest first.
    """

    directory: Path
    format: LandmarkFormat
    schema: str
    images: int
    persons: int
    usable: int
    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    counts: tuple[LandmarkCounts, ...]
    vertebrae: dict[str, int]
    agreement: dict[str, Any] | None
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> int:
        """Number of problems of the gravest level."""
        return sum(problem.level is Level.ERROR for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Give the whole report, every file named, as a JSON object."""
        return {**asdict(self), "directory": str(self.directory), "format": self.format.value}


def check_landmarks(
    data_dir: Path,
    *,
    format: str = AUTO,
    split: str | None = None,
    limit: int | None = None,
    exclude: Sequence[str] = (),
    progress: Progress = iter,
) -> LandmarkDataReport:
    """Read every image of a set, of all its splits unless one is named.

    Args:
        data_dir: directory of the set.
        format: see `training.datasets.landmark_images.read_landmark_images`.
        split: this one alone.
        limit: at most this many images, spread evenly over the sorted names.
        exclude: names of files to leave out.
        progress: wraps the paths while they are read.

    Raises:
        ConfigurationError: the set is of none of the formats, has no such split, no image can be read, or it has not a
            name that is to be left out.
    """
    found = read_landmark_images(
        data_dir, format=format, split=split, exclude=frozenset(exclude), keep_faulty=True, progress=progress
    )
    check_exclusions(exclude, found.excluded)
    images, deviations, lost = _look_at(found.limited(limit).images)
    if not images:
        raise ConfigurationError(f"{data_dir}: its images cannot be read any more")
    sizes = sorted((image.size for image in images), key=lambda size: size[0] * size[1])
    vertebrae = _count_vertebrae(images, found)
    looked_at = {image.source for image in images}
    pairs = [pair for pair in found.near_duplicates if {pair.first.source, pair.second.source} <= looked_at]
    problems = [
        *unread([*found.unreadable, *lost], found.missing, data_dir),
        *find_landmark_problems(images, deviations, vertebrae),
        *near_duplicates(pairs),
        *_excluded(found),
    ]
    return LandmarkDataReport(
        data_dir,
        found.format,
        found.schema.name,
        len(images),
        len({image.person for image in images}),
        sum(image.usable for image in images),
        *(sizes[0], sizes[len(sizes) // 2], sizes[-1]),
        tuple(_count(images, name) for name in sorted({image.split for image in images})),
        vertebrae,
        label_agreement(pairs, found.schema),
        gravest_first(problems),
    )


def look_at(path: Path) -> float:
    """Give the standard deviation of a film's grey levels in [0, 1].

    Raises:
        Unprocessable, OSError: it cannot be read.
    """
    return float(read_radiograph(path, smallest_side=_THUMBNAIL.needed_side).to_input(_THUMBNAIL).std())


def _look_at(images: Sequence[LandmarkImage]) -> tuple[list[LandmarkImage], list[float], list[Unreadable]]:
    """Give the images that can still be read with the deviations of their greys, and the others."""
    seen, deviations, lost = [], [], []
    for image, outcome in zip(images, read_each([image.path for image in images], look_at), strict=True):
        if isinstance(outcome, Unreadable):
            lost.append(outcome)
        else:
            seen.append(image)
            deviations.append(outcome)
    return seen, deviations, lost


def _count_vertebrae(images: Sequence[LandmarkImage], found: LandmarkImages) -> dict[str, int]:
    visible = np.array([image.visible for image in images])
    schema = found.schema
    return {name: int(visible[:, list(schema.landmarks_of(name))].any(axis=1).sum()) for name in schema.vertebrae}


def _count(images: Sequence[LandmarkImage], split: str) -> LandmarkCounts:
    chosen = [image for image in images if image.split == split]
    severities = Counter(name for image in chosen if (name := severity_of(image)) is not None)
    slips = Counter(slip for image in chosen for slip in image.slips or ())
    return LandmarkCounts(
        split,
        len(chosen),
        len({image.person for image in chosen}),
        {name: severities[name] for name in SEVERITIES} if severities else None,
        {name: slips[label] for label, name in enumerate(_SLIP_NAMES)} if slips else None,
    )


def _excluded(images: LandmarkImages) -> Iterable[Problem]:
    if images.excluded:
        names = tuple((name,) for name in images.excluded)
        yield Problem(Level.NOTE, "excluded", f"{counted(len(names), 'image')} excluded on request.", names)


def print_report(report: LandmarkDataReport, console: Console) -> None:
    """Write the report for people."""
    sizes = sizes_in_words(report.smallest, report.median, report.largest)
    what = f"{counted(report.images, 'image')} of {counted(report.persons, 'person')}, {sizes}"
    console.print(
        f"{report.directory}: {report.format.value}, landmarks {report.schema}, {what}; {report.usable} to train on",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_count_table(report))
    if len(set(report.vertebrae.values())) > 1:
        there = ", ".join(f"{name} {number}" for name, number in report.vertebrae.items())
        console.print(f"Images that each vertebra is in: {there}.", highlight=False)
    if report.agreement is not None:
        agreement = describe_landmarks("Labels of the same radiographs against each other", report.agreement)
        console.print(f"{agreement}.", highlight=False)
    print_problems(report.problems, console)


def _count_table(report: LandmarkDataReport) -> Table:
    severity = any(count.severity for count in report.counts)
    slips = any(count.slips for count in report.counts)
    title = "Images by main Cobb angle" if severity else "Endplates by slip" if slips else "Images"
    table = Table(title=title, title_justify="left", box=SIMPLE)
    names = (*(SEVERITIES if severity else ()), *(_SLIP_NAMES if slips else ()))
    table.add_column("split", no_wrap=True)
    for name in ("images", "persons", *names):
        table.add_column(name, justify="right")
    for count in report.counts:
        numbers = [*(count.severity or {}).values(), *(count.slips or {}).values()]
        table.add_row(count.split or "(none)", *(str(number) for number in (count.images, count.persons, *numbers)))
    return table
