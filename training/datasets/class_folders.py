"""Class folders: ``<directory>/<CLASS>/*.{png,jpg,jpeg}``, and their split by person.

Persons are read from the file names of the public paediatric pneumonia set; a name that is not of that form is its
own person. Two images of one person, or two files with the same pixels, never stand on both sides of a split.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models.errors import ConfigurationError, Unprocessable
from models.pixels.image_files import IMAGE_SUFFIXES, read_image_file

_PERSON_PATTERNS: Final = (
    re.compile(r"^(person\d+)_(?:bacteria|virus)_"),  # person123_bacteria_4.jpeg
    re.compile(r"^((?:NORMAL\d+-)?IM-\d+)-"),  # IM-0115-0001.jpeg, NORMAL2-IM-0381-0001.jpeg
)


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One readable image of a class folder.

    Attributes:
        path: of the file.
        label: index into the class names.
        person: identity of the person within this set.
        pixels_sha256: hex digest of its pixels, see `pixels_sha256`.
    """

    path: Path
    label: int
    person: str
    pixels_sha256: str


@dataclass(frozen=True, slots=True)
class ClassFolders:
    """What a directory of class folders holds.

    Attributes:
        labels: class names, in the order that was asked for.
        images: readable images, sorted by path.
        unreadable: files that could not be read; they are in no split.
    """

    labels: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    unreadable: tuple[Path, ...]

    @property
    def digest(self) -> str:
        """Hash of every image's pixels and label: says which data a network was trained on, wherever it lay."""
        lines = sorted(f"{image.pixels_sha256} {self.labels[image.label]}" for image in self.images)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Split:
    """Two sides of a set that share no person and no image."""

    train: tuple[LabelledImage, ...]
    validation: tuple[LabelledImage, ...]


def person_of(file_name: str) -> str:
    """Give the person id that a file name carries, or the name's stem."""
    for pattern in _PERSON_PATTERNS:
        match = pattern.match(file_name)
        if match:
            return match.group(1)
    return Path(file_name).stem


def read_class_folders(
    directory: Path,
    labels: tuple[str, ...],
    *,
    limit: int | None = None,
    progress: Callable[[list[tuple[Path, int]]], Iterable[tuple[Path, int]]] = list,
) -> ClassFolders:
    """Read every image once: which are readable, whose they are, and the hash of their pixels.

    Args:
        directory: with one folder per label.
        labels: folder names in the order of the network's outputs.
        limit: at most this many images per class, spread evenly over the sorted names.
        progress: wraps the list of files while it is walked.

    Raises:
        ConfigurationError: a folder is missing or holds no readable image.
    """
    files = [(path, index) for index, label in enumerate(labels) for path in _files_of(directory / label, limit)]
    images: list[LabelledImage] = []
    unreadable: list[Path] = []
    for path, label in progress(files):
        try:
            digest = pixels_sha256(path)
        except (Unprocessable, OSError):
            unreadable.append(path)
            continue
        images.append(LabelledImage(path, label, person_of(path.name), digest))
    counts = Counter(image.label for image in images)
    for index, name in enumerate(labels):
        if not counts[index]:
            raise ConfigurationError(f"{directory / name}: no readable image")
    return ClassFolders(labels, tuple(images), tuple(unreadable))


def _files_of(folder: Path, limit: int | None) -> list[Path]:
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: no such class folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if limit is None or limit >= len(files):
        return files
    return [files[i] for i in np.linspace(0, len(files) - 1, limit).round().astype(int)]


def pixels_sha256(path: Path) -> str:
    """Give the hex digest of an image file's shape, type and gray values.

    Raises:
        Unprocessable, OSError: it cannot be read.
    """
    stored = read_image_file(path).stored
    return hashlib.sha256(f"{stored.shape} {stored.dtype}".encode() + stored.tobytes()).hexdigest()


def split_by_person(images: tuple[LabelledImage, ...], validation_fraction: float, seed: int) -> Split:
    """Hold out whole persons, the same fraction of images of each class.

    Raises:
        ConfigurationError: a class has too few persons to stand on both sides.
    """
    validation: set[int] = set()
    by_label: dict[int, list[list[int]]] = defaultdict(list)
    for group in _connected(images):
        # A person with images of several classes is counted where most of them are.
        label = Counter(images[i].label for i in group).most_common(1)[0][0]
        by_label[label].append(group)
    random = np.random.default_rng(seed)
    for label in sorted(by_label):
        groups = by_label[label]
        if len(groups) < 2:
            raise ConfigurationError(f"class {label}: a split by person needs at least two persons")
        random.shuffle(groups)
        wanted = max(1.0, validation_fraction * sum(map(len, groups)))
        held = 0
        for group in groups[:-1]:
            if held >= wanted:
                break
            validation.update(group)
            held += len(group)
    return Split(
        train=tuple(image for i, image in enumerate(images) if i not in validation),
        validation=tuple(image for i, image in enumerate(images) if i in validation),
    )


def _connected(images: tuple[LabelledImage, ...]) -> list[list[int]]:
    """Group images that share a person or their pixels, directly or through others."""
    parent = list(range(len(images)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first_with: dict[str, int] = {}
    for i, image in enumerate(images):
        for key in (f"person {image.person}", f"pixels {image.pixels_sha256}"):
            parent[root(i)] = root(first_with.setdefault(key, i))
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(images)):
        groups[root(i)].append(i)
    return list(groups.values())
