"""`python -m training check-data --task csi`: what a set of zone scores holds and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any, Final

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from models.errors import ConfigurationError
from models.pixels.spec import InputSpec
from models.zones import GRADED, ZONES, Congestion
from training.check_data import print_problems, sizes_in_words, unread
from training.datasets.exclusions import check_exclusions
from training.datasets.listing import spread
from training.datasets.problems import (
    Level,
    Problem,
    copies_of,
    counted,
    differ,
    few_persons,
    gravest_first,
    near_constant,
    persons_unknown,
    problem_of,
    resized_before,
)
from training.datasets.reading import Unreadable, read_each, read_radiograph
from training.datasets.zone_images import AUTO, ZoneFormat, ZoneImage, ZoneImages, read_zone_images
from training.graded_images import grades_of
from training.zone_evaluation import HEADLINES, ZoneAnswers, zone_metrics

Progress = Callable[[Sequence[Path]], Iterable[Path]]
"""Wraps the paths of a set to show how far the reading is."""

_THUMBNAIL: Final = InputSpec(height=64, width=64)
_SMALLEST_SIDE: Final = 384  # pixels: four times what the lungs are looked for on
_SAY_PERSONS: Final = "Give a column patient."


@dataclass(frozen=True, slots=True)
class FilmFacts:
    """What one look at a film tells beside its scores.

    Attributes:
        rows, columns: pixels.
        deviation: standard deviation of the grey levels in [0, 1].
        lungs_found: whether the lung fields were found, which a network is fed.
    """

    rows: int
    columns: int
    deviation: float
    lungs_found: bool


@dataclass(frozen=True, slots=True)
class ZoneCounts:
    """How often the first reader gave each class to a zone, and how well the second agrees; None without a second."""

    zone: str
    classes: dict[str, int]
    kappa_quadratic: float | None
    mae_zone: float | None


@dataclass(frozen=True, slots=True)
class ZoneDataReport:
    """What a set holds. Sizes are rows x columns, pixels.

    Attributes:
        directory: where it lies.
        format: by which it was read.
        images: readable ones.
        persons: of those.
        smallest, median, largest: sizes, by their area.
        counts: by zone, in the fixed order.
        second_reader: how well a second reader agrees with the first, see `training.zone_evaluation.HEADLINES`; `n` is
            the number of images that both have read. None where there is no second reader.
        problems: gravest first.
    """

    directory: Path
    format: ZoneFormat
    images: int
    persons: int
    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    counts: tuple[ZoneCounts, ...]
    second_reader: dict[str, Any] | None
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> int:
        """Number of problems of the gravest level."""
        return sum(problem.level is Level.ERROR for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Give the whole report, every file named, as a JSON object."""
        return {**asdict(self), "directory": str(self.directory), "format": self.format.value}


def check_zones(
    data_dir: Path,
    *,
    format: str = AUTO,
    labels_csv: Path | None = None,
    limit: int | None = None,
    exclude: Sequence[str] = (),
    progress: Progress = iter,
) -> ZoneDataReport:
    """Read every image of a set.

    Args:
        data_dir: directory of the set.
        format: see `training.datasets.zone_images.read_zone_images`.
        labels_csv: the table, where it lies elsewhere or goes by another name.
        limit: at most this many images, spread evenly over the sorted names.
        exclude: FileIDs, or names of files, to leave out.
        progress: wraps the paths while they are read.

    Raises:
        ConfigurationError: the set is of none of the formats, a score is none, no image can be read, or the table has
            not a name that is to be left out.
    """
    found = read_zone_images(
        data_dir, format=format, labels_csv=labels_csv, exclude=frozenset(exclude), progress=progress
    )
    check_exclusions(exclude, found.excluded)
    images, facts, lost = _look_at(spread(found.images, limit))
    if not images:
        raise ConfigurationError(f"{data_dir}: its images cannot be read any more")
    sizes = sorted(((fact.rows, fact.columns) for fact in facts), key=lambda size: size[0] * size[1])
    agreement = _measure_second_reader(images)
    problems = [
        *unread([*found.unreadable, *lost], found.missing, data_dir),
        *find_zone_problems(images, facts),
        *_excluded(found),
    ]
    return ZoneDataReport(
        data_dir,
        found.format,
        len(images),
        len({image.person for image in images}),
        *(sizes[0], sizes[len(sizes) // 2], sizes[-1]),
        _count(images, agreement),
        {name: agreement[name] for name in ("n", *HEADLINES)} if agreement else None,
        gravest_first(problems),
    )


def look_at(path: Path) -> FilmFacts:
    """Read one film for what it tells beside its scores.

    Raises:
        Unprocessable, OSError: it cannot be read.
    """
    radiograph = read_radiograph(path, smallest_side=_SMALLEST_SIDE)
    deviation = float(radiograph.to_input(_THUMBNAIL).std())
    return FilmFacts(radiograph.rows, radiograph.columns, deviation, radiograph.lung_fields.found)


def _look_at(images: Sequence[ZoneImage]) -> tuple[list[ZoneImage], list[FilmFacts], list[Unreadable]]:
    """Give the images that can still be read with their facts, and the others."""
    seen, facts, lost = [], [], []
    for image, outcome in zip(images, read_each([image.path for image in images], look_at), strict=True):
        if isinstance(outcome, Unreadable):
            lost.append(outcome)
        else:
            seen.append(image)
            facts.append(outcome)
    return seen, facts, lost


def _measure_second_reader(images: Sequence[ZoneImage]) -> dict[str, Any] | None:
    both = [image for image in images if len(image.readers) > 1]
    if not both:
        return None
    second = ZoneAnswers.of_reader(grades_of(both, 1))
    return zone_metrics(grades_of(both, 0), second, groups=[image.person for image in both], bootstrap=0)


def _count(images: Sequence[ZoneImage], agreement: dict[str, Any] | None) -> tuple[ZoneCounts, ...]:
    grades = grades_of(images, 0)
    counts = []
    for index, zone in enumerate(ZONES):
        number = np.bincount(grades[:, index], minlength=len(Congestion))
        classes = {grade.name.lower(): int(number[grade]) for grade in Congestion}
        measured = agreement["per_zone"][zone] if agreement else {}
        counts.append(ZoneCounts(zone.value, classes, measured.get("kappa_quadratic"), measured.get("mae_zone")))
    return tuple(counts)


def find_zone_problems(images: Sequence[ZoneImage], facts: Sequence[FilmFacts]) -> list[Problem]:
    """Find what is wrong with readable images; `facts` of each, in the same order."""
    nameless = [image for image in images if image.person in (image.source, *_names_of(image))]
    return [
        *_same_pixels(images),
        *near_constant(images, [fact.deviation for fact in facts]),
        *persons_unknown(images, nameless, _SAY_PERSONS),
        *_rare_grades(images),
        *_lungs_not_found(images, facts),
        *resized_before([(fact.rows, fact.columns) for fact in facts]),
    ]


def _names_of(image: ZoneImage) -> tuple[str, str]:
    """Give what a table calls an image: by its name, or by that without the suffix."""
    name = PurePath(image.source)
    return name.name, name.stem


def _same_pixels(images: Sequence[ZoneImage]) -> Iterator[Problem]:
    copies = copies_of(images)
    conflicts = [group for group in copies if differ(group, lambda image: image.readers)]
    if conflicts:
        message = (
            f"{counted(len(conflicts), 'image')} with the same pixels and different scores. "
            "One row must be wrong: remove or correct it."
        )
        yield problem_of(Level.ERROR, "conflicting_scores", message, conflicts)
    strangers = [group for group in copies if group not in conflicts and differ(group, lambda image: image.person)]
    if strangers:
        message = (
            f"{counted(len(strangers), 'image')} stored under more than one person, with the same scores. A split by "
            "person may put copies on both sides: give them one person, or remove all but one."
        )
        yield problem_of(Level.WARNING, "duplicates_across_persons", message, strangers)
    harmless = [group for group in copies if group not in conflicts and group not in strangers]
    if harmless:
        message = f"{counted(len(harmless), 'image')} stored more than once, with the same scores; each counts."
        yield problem_of(Level.NOTE, "duplicates", message, harmless)


def _rare_grades(images: Sequence[ZoneImage]) -> Iterator[Problem]:
    """Warn of grades that the first reader gave to few persons, and of those that a zone never has."""
    grades = grades_of(images, 0)
    for grade in GRADED:
        rows = np.flatnonzero((grades == grade).any(axis=1))
        yield from few_persons(f"grade {grade.name.lower()}", [images[row].person for row in rows.tolist()])
    never = [
        f"{grade.name.lower()} in {zone}"
        for grade in GRADED
        for index, zone in enumerate(ZONES)
        if not (grades[:, index] == grade).any()
    ]
    if never:
        message = f"Some grades never occur in a zone, so nothing is learnt or measured of them: {', '.join(never)}."
        yield Problem(Level.WARNING, "grades_that_never_occur", message)


def _lungs_not_found(images: Sequence[ZoneImage], facts: Sequence[FilmFacts]) -> Iterator[Problem]:
    lost = [[image] for image, fact in zip(images, facts, strict=True) if not fact.lungs_found]
    if lost:
        message = (
            f"{counted(len(lost), 'image')} on which the lungs were not found; zones are then laid over all of it. "
            "Look whether they are frontal radiographs of a chest."
        )
        yield problem_of(Level.NOTE, "lungs_not_found", message, lost)


def _excluded(images: ZoneImages) -> Iterator[Problem]:
    if images.excluded:
        names = tuple((name,) for name in images.excluded)
        yield Problem(Level.NOTE, "excluded", f"{counted(len(names), 'image')} excluded on request.", names)


def print_report(report: ZoneDataReport, console: Console) -> None:
    """Write the report for people."""
    sizes = sizes_in_words(report.smallest, report.median, report.largest)
    what = f"{counted(report.images, 'image')} of {counted(report.persons, 'person')}, {sizes}"
    console.print(f"{report.directory}: {report.format.value}, {what}", highlight=False, soft_wrap=True)
    console.print(_count_table(report))
    second = report.second_reader
    if second:
        kappa, correlation = _figure(second["kappa_quadratic"]), _figure(second["mean_csi_pearson"])
        console.print(
            f"Two readers of {counted(second['n'], 'image')}: quadratic kappa {kappa}, mean absolute error per zone "
            f"{_figure(second['mae_zone'])}, correlation of the mean CSI {correlation}.",
            highlight=False,
        )
    print_problems(report.problems, console)


def _count_table(report: ZoneDataReport) -> Table:
    title = "What the first reader saw" + (", and how the second agrees" if report.second_reader else "")
    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("zone", no_wrap=True)
    for grade in Congestion:
        table.add_column(grade.name.lower(), justify="right", no_wrap=True)
    if report.second_reader:
        table.add_column("kappa", justify="right", no_wrap=True)
        table.add_column("error", justify="right", no_wrap=True)
    for count in report.counts:
        cells = [str(number) for number in count.classes.values()]
        if report.second_reader:
            cells += [_figure(count.kappa_quadratic), _figure(count.mae_zone)]
        table.add_row(count.zone, *cells)
    total = [str(sum(count.classes[grade.name.lower()] for count in report.counts)) for grade in Congestion]
    table.add_section()
    table.add_row("all", *total)
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
