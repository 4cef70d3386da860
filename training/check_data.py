"""`python -m training check-data`: reads a whole set once and says what is in it and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from models.errors import RadstreamError
from training.datasets.inspection import ImageFacts, inspect
from training.datasets.labelled import AUTO, LabelledImage, Progress, labelled_image, list_files
from training.datasets.listing import Format, Listing
from training.datasets.problems import (
    Level,
    Problem,
    counted,
    empty_classes,
    find_problems,
    gravest_first,
    telling_shortcuts,
)
from training.datasets.reading import Unreadable, read_each
from training.datasets.shortcuts import Shortcut, measure_shortcuts

_SHOWN_GROUPS: Final = 5
_SHOWN_NAMES: Final = 4
_SHOWN_ENCODINGS: Final = 3
_COLOURS: Final = {Level.ERROR: "bold red", Level.WARNING: "yellow", Level.NOTE: "cyan"}


class DataProblems(RadstreamError):
    """A set has problems that make figures measured on it untrue."""


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How much of one class there is in one split ("" where the set has none). Sizes are rows x columns, pixels."""

    split: str
    label: str
    images: int
    persons: int
    unreadable: int
    smallest: tuple[int, int] | None
    median: tuple[int, int] | None
    largest: tuple[int, int] | None
    encodings: dict[str, int]


@dataclass(frozen=True, slots=True)
class DataReport:
    """What a set holds.

    Attributes:
        directory: where it lies.
        format: by which it was read.
        labels: class names by index.
        counts: by split and class.
        shortcuts: what tells the classes apart beside the disease; empty where a class is.
        problems: gravest first.
    """

    directory: Path
    format: Format
    labels: tuple[str, ...]
    counts: tuple[ClassCount, ...]
    shortcuts: tuple[Shortcut, ...]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> int:
        """Number of problems of the gravest level."""
        return sum(problem.level is Level.ERROR for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Give the whole report, every file named, as a JSON object."""
        return {
            "directory": str(self.directory),
            "format": self.format.value,
            "labels": list(self.labels),
            "counts": [asdict(count) for count in self.counts],
            "shortcuts": [asdict(shortcut) for shortcut in self.shortcuts],
            "problems": [asdict(problem) for problem in self.problems],
        }


def check_data(
    data_dir: Path,
    labels: tuple[str, ...],
    *,
    format: str = AUTO,
    labels_csv: Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    progress: Progress = iter,
) -> DataReport:
    """Read every image of a set, of all its splits unless one is named; arguments as `read_labelled`.

    Raises:
        ConfigurationError: the set is of none of the formats.
    """
    listing = list_files(data_dir, labels, format=format, labels_csv=labels_csv, split=split, limit=limit)
    images: list[LabelledImage] = []
    facts: list[ImageFacts] = []
    unreadable: list[Unreadable] = []
    outcomes = read_each([file.path for file in listing.files], inspect)
    for file, outcome in zip(progress(listing.files), outcomes, strict=True):
        if isinstance(outcome, Unreadable):
            unreadable.append(outcome)
        else:
            images.append(labelled_image(file, outcome.pixels_sha256, outcome.person))
            facts.append(outcome)
    splits = sorted({file.split for file in listing.files}) or [split or ""]
    shortcuts: tuple[Shortcut, ...] = ()
    if len({image.label for image in images}) == len(labels):
        shortcuts = measure_shortcuts([image.label for image in images], facts)
    problems = [
        *empty_classes(images, labels, splits),
        *unread(unreadable, listing.missing, data_dir),
        *_left_out(listing),
        *find_problems(images, facts, labels),
        *telling_shortcuts(shortcuts, labels),
    ]
    counts = tuple(
        _count(name, index, label, images, facts, _unreadable_in(listing, unreadable, name, index))
        for name in splits
        for index, label in enumerate(labels)
    )
    return DataReport(data_dir, listing.format, labels, counts, shortcuts, gravest_first(problems))


def unread(unreadable: Sequence[Unreadable], missing: Sequence[str], data_dir: Path) -> Iterable[Problem]:
    """Warn of files that could not be read, and of those that the table names and the directory lacks."""
    if unreadable:
        files = tuple((f"{each.path.relative_to(data_dir).as_posix()}: {each.reason}",) for each in unreadable)
        message = f"{counted(len(files), 'file')} cannot be read and will be left out. Fetch them again or remove them."
        yield Problem(Level.WARNING, "unreadable", message, files)
    if missing:
        names = tuple((name,) for name in missing)
        message = f"{counted(len(names), 'file')} named by the table of labels cannot be found below the directory."
        yield Problem(Level.WARNING, "missing", message, names)


def _left_out(listing: Listing) -> Iterable[Problem]:
    if listing.left_out:
        message = f"{listing.left_out} rows of the table have other findings than this task asks for, and are left out."
        yield Problem(Level.NOTE, "other_findings", message)


def _unreadable_in(listing: Listing, unreadable: Sequence[Unreadable], split: str, label: int) -> int:
    paths = {each.path for each in unreadable}
    return sum(file.path in paths and (file.split, file.label) == (split, label) for file in listing.files)


def _count(
    split: str,
    index: int,
    label: str,
    images: Sequence[LabelledImage],
    facts: Sequence[ImageFacts],
    unreadable: int,
) -> ClassCount:
    chosen = [i for i, image in enumerate(images) if (image.split, image.label) == (split, index)]
    sizes = sorted(((facts[i].rows, facts[i].columns) for i in chosen), key=lambda size: size[0] * size[1])
    encodings = Counter(facts[i].encoding for i in chosen)
    return ClassCount(
        split,
        label,
        len(chosen),
        len({images[i].person for i in chosen}),
        unreadable,
        smallest=sizes[0] if sizes else None,
        median=sizes[len(sizes) // 2] if sizes else None,
        largest=sizes[-1] if sizes else None,
        encodings=dict(encodings.most_common()),
    )


def print_report(report: DataReport, console: Console) -> None:
    """Write the report for people."""
    images = sum(count.images for count in report.counts)
    console.print(f"{report.directory}: {report.format.value}, {images} images", highlight=False, soft_wrap=True)
    console.print(_count_table(report))
    if report.shortcuts:
        console.print(_shortcut_table(report))
        console.print("AUC: how well it alone tells them apart; 0.5 not at all, 1 always.", highlight=False)
    print_problems(report.problems, console)


def print_problems(problems: Sequence[Problem], console: Console) -> None:
    """Write what is wrong with a set, the first files of each problem, and a last line that counts the problems."""
    for problem in problems:
        console.print(f"\n[{_COLOURS[problem.level]}]{problem.level.value}[/]: {problem.message}", highlight=False)
        for group in problem.groups[:_SHOWN_GROUPS]:
            console.print("  " + _some(group, _SHOWN_NAMES), markup=False, highlight=False, soft_wrap=True)
        if len(problem.groups) > _SHOWN_GROUPS:
            console.print(f"  … and {len(problem.groups) - _SHOWN_GROUPS} more; --json names all")
    console.print("\n" + _verdict(problems), highlight=False)


def _some(names: Sequence[str], most: int) -> str:
    hidden = len(names) - most
    return ", ".join(names) if hidden <= 0 else f"{', '.join(names[:most])} and {hidden} more"


def _verdict(problems: Sequence[Problem]) -> str:
    numbers = Counter(problem.level for problem in problems)
    if not numbers:
        return "Nothing is wrong with this set, as far as can be seen without knowing medicine."
    return ", ".join(f"{numbers[level]} {level.value}{'s' * (numbers[level] != 1)}" for level in Level)


def _count_table(report: DataReport) -> Table:
    table = Table(box=SIMPLE)
    split = any(count.split for count in report.counts)
    for name in (*(["split"] if split else []), "class"):
        table.add_column(name, no_wrap=True)
    for name in ("images", "persons", "unreadable"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("size, rows x columns")
    table.add_column("encodings")
    for count in report.counts:
        cells = [count.label, str(count.images), str(count.persons), str(count.unreadable)]
        cells.append(sizes_in_words(count.smallest, count.median, count.largest))
        encodings = _some([f"{number} {name}" for name, number in count.encodings.items()], _SHOWN_ENCODINGS)
        table.add_row(*([count.split] if split else []), *cells, encodings)
    return table


def sizes_in_words(
    smallest: tuple[int, int] | None, median: tuple[int, int] | None, largest: tuple[int, int] | None
) -> str:
    """Give sizes, rows x columns, as one phrase; empty where there is no image."""
    if smallest is None or median is None or largest is None:
        return ""
    if smallest == largest:
        return "all {} x {}".format(*smallest)
    first, middle, last = (f"{rows} x {columns}" for rows, columns in (smallest, median, largest))
    return f"{first} to {last}, median {middle}"


def _shortcut_table(report: DataReport) -> Table:
    table = Table(title="What tells the classes apart beside the disease", title_justify="left", box=SIMPLE)
    table.add_column("mean of")
    for label in report.labels:
        table.add_column(label, justify="right")
    table.add_column("AUC", justify="right")
    for shortcut in report.shortcuts:
        means = [f"{mean:.4g}" for mean in shortcut.means] or ["", ""]
        style = _COLOURS[Level.WARNING] if shortcut.is_telling else None
        table.add_row(shortcut.name, *means, f"{shortcut.auc:.2f}", style=style)
    return table
